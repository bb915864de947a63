//! Who of a service's endpoints is for whom.

use crate::{
    shown::{backends, backends_outside, endpoints, key, node_port, web},
    world::{LIMITS, World, service, slice},
};
use proxy_abi::{FrontendKey, frontend_flag, proto};
use proxy_state::{Defaults, Limits, ObjectKey, Op, Refusal};
use serde_json::{Value, json};

/// A NodePort service with traffic policy Local for outsiders.
fn external_local(world: &mut World, list: &[(&str, &str, bool, bool, bool)]) {
    let mut web = service("web", "10.96.0.1");
    web["spec"]["type"] = json!("NodePort");
    web["spec"]["ports"][0]["nodePort"] = json!(30080);
    web["spec"]["externalTrafficPolicy"] = json!("Local");
    let mut one = slice("e", "web", &[]);
    endpoints(&mut one, list);
    world.service(web).slice(one).sync();
}

#[test]
fn outsiders_are_bound_by_a_local_policy_and_those_inside_are_not() {
    let mut world = World::new();
    let both = |world: &World| (backends_outside(world, node_port(30080)), backends(world, node_port(30080)));
    let (here, there) = (("10.0.0.1", "here", true, true, false), ("10.0.0.2", "there", true, true, false));
    external_local(&mut world, &[here, there]);
    assert_eq!(both(&world), ("10.0.0.1:8080".into(), "10.0.0.1:8080 10.0.0.2:8080".into()));
    assert_eq!(web(&world), "10.0.0.1:8080 10.0.0.2:8080", "the ClusterIP has no such policy");
    external_local(&mut world, &[there]);
    assert_eq!(both(&world), ("drop".into(), "10.0.0.2:8080".into()));
    // KEP-1669: judged by this node alone for outsiders.
    external_local(&mut world, &[("10.0.0.1", "here", false, true, true), there]);
    assert_eq!(both(&world), ("10.0.0.1:8080-".into(), "10.0.0.2:8080".into()));
    external_local(&mut world, &[]);
    assert_eq!(both(&world), ("reject".into(), "reject".into()));
}

#[test]
fn topology_hints_narrow_the_choice_only_if_all_endpoints_have_them() {
    let mut world = World::new();
    world.service(service("web", "10.96.0.1"));
    let hinted = |hints: &[Value]| {
        let mut one = slice("e", "web", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        for (index, hint) in hints.iter().enumerate() {
            one["endpoints"][index]["hints"] = hint.clone();
        }
        one
    };
    let zone = |name: &str| json!({"forZones": [{"name": name}]});
    let all = "10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080";
    world.slice(hinted(&[zone("a"), zone("b"), zone("a")])).sync();
    assert_eq!(web(&world), all, "this node's zone is not known");
    let mut node = json!({"metadata": {"name": "here", "labels": {"topology.kubernetes.io/zone": "a"}}});
    world.node(node.clone()).sync();
    assert_eq!(web(&world), "10.0.0.1:8080 10.0.0.3:8080");
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("b");
    world.node(node.clone()).sync();
    assert_eq!(web(&world), "10.0.0.2:8080");
    node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("c");
    world.node(node).sync();
    assert_eq!(web(&world), all, "nobody is meant for this zone");
    world.slice(hinted(&[zone("c"), zone("b"), json!({})])).sync();
    assert_eq!(web(&world), all, "one has no hint");
    // PreferSameNode: a node's hint comes before a zone's.
    let node = |name: &str| json!({"forZones": [{"name": "c"}], "forNodes": [{"name": name}]});
    world.slice(hinted(&[node("there"), node("here"), node("there")])).sync();
    assert_eq!(web(&world), "10.0.0.2:8080");
    world.slice(hinted(&[node("there"), node("there"), node("elsewhere")])).sync();
    assert_eq!(web(&world), all, "nobody is meant for this node: the zone decides");
}

#[test]
fn affinity_makes_members_and_its_end_removes_them() {
    let mut world = World::new();
    let mut web = service("web", "10.96.0.1");
    web["spec"]["sessionAffinity"] = json!("ClientIP");
    web["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10}});
    world.service(web.clone()).slice(slice("e", "web", &["10.0.0.1", "10.0.0.2"])).sync();
    let members = |world: &World| {
        let mut list: Vec<String> =
            world.maps.members.keys().map(|m| format!("{}:{}", m.addr, m.port)).collect();
        list.sort();
        list
    };
    assert_eq!(members(&world), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    // The new member is there before it can be drawn, the old one goes after it can't be any more.
    let plan = world.slice(slice("e", "web", &["10.0.0.2", "10.0.0.3"])).sync();
    assert!(
        matches!(
            plan.ops[..],
            [Op::WriteSlots { .. }, Op::SetMember { .. }, Op::SetFrontend { .. }, Op::DeleteMember { .. }]
        ),
        "{:?}",
        plan.ops
    );
    assert_eq!(members(&world), ["10.0.0.2:8080", "10.0.0.3:8080"]);
    web["spec"]["sessionAffinity"] = json!("None");
    world.service(web).sync();
    assert!(world.maps.members.is_empty());
}

#[test]
fn source_ranges_restrict_load_balancer_addresses_and_nothing_else() {
    let mut world = World::new();
    let mut web = service("web", "10.96.0.1");
    web["spec"]["type"] = json!("LoadBalancer");
    web["spec"]["ports"][0]["nodePort"] = json!(30080);
    web["spec"]["loadBalancerSourceRanges"] = json!([" 198.51.100.0/24", "2001:db8::/32", "nonsense"]);
    web["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    world.service(web.clone()).slice(slice("e", "web", &["10.0.0.1"])).sync();
    let ranged = |world: &World, key| world.maps.frontends[&key].flags & frontend_flag::SOURCE_RANGES != 0;
    assert!(ranged(&world, key("192.0.2.1", 80, proto::TCP)));
    assert!(!ranged(&world, key("10.96.0.1", 80, proto::TCP)) && !ranged(&world, node_port(30080)));
    let ranges: Vec<String> =
        world.maps.source_ranges.iter().map(|r| format!("{}/{}", r.of.addr, r.prefix_len - 32)).collect();
    assert_eq!(ranges, ["198.51.100.0/120"]);
    web["spec"]["loadBalancerSourceRanges"] = json!([]);
    world.service(web).sync();
    assert!(!ranged(&world, key("192.0.2.1", 80, proto::TCP)) && world.maps.source_ranges.is_empty());
}

#[test]
fn a_full_table_of_members_is_refused_by_name_and_changes_nothing() {
    let mut world = World::with(Limits { members: 1, ..LIMITS });
    let mut sticky = service("web", "10.96.0.1");
    sticky["spec"]["sessionAffinity"] = json!("ClientIP");
    world.service(sticky).slice(slice("e", "web", &["10.0.0.1"])).sync();
    let plan = world.slice(slice("e", "web", &["10.0.0.2", "10.0.0.3"])).sync();
    assert!(matches!(plan.refused[..], [Refusal::Extras { .. }]), "{:?}", plan.refused);
    assert!(plan.refused[0].to_string().contains("MEMBERS full (1)"), "{}", plan.refused[0]);
    assert_eq!(web(&world), "10.0.0.1:8080");
}

#[test]
fn a_direct_service_is_so_from_outside_alone_and_drawn_by_maglev() {
    let mut world = World::with(Limits { slots: 8192, ..LIMITS });
    let mut web = service("web", "10.96.0.1");
    web["spec"]["type"] = json!("NodePort");
    web["spec"]["ports"][0]["nodePort"] = json!(30080);
    let flags = |world: &World, key: FrontendKey| world.maps.frontends[&key].flags;
    let (inside, outside) = (key("10.96.0.1", 80, proto::TCP), node_port(30080));
    let both = frontend_flag::DIRECT | frontend_flag::MAGLEV;
    world.service(web.clone()).slice(slice("e", "web", &["10.0.0.1", "10.0.0.2"])).sync();
    assert_eq!(flags(&world, outside) & both, 0);
    for (text, balancing, expected) in [
        ("dsr", None, both),
        (" dsr ", Some("random"), frontend_flag::DIRECT),
        ("snat", None, 0),
        ("ipip", None, 0),
    ] {
        web["metadata"]["annotations"] = json!({"service.skerry.io/forwarding-mode": text});
        if let Some(balancing) = balancing {
            web["metadata"]["annotations"]["service.skerry.io/balancing"] = json!(balancing);
        }
        world.service(web.clone()).sync();
        assert_eq!(flags(&world, outside) & both, expected, "{text} {balancing:?}");
        assert_eq!(flags(&world, inside) & frontend_flag::DIRECT, 0, "{text}");
        let warnings = world.state.warnings(&ObjectKey::new("ns", "web"));
        assert_eq!(warnings.is_empty(), text != "ipip", "{warnings:?}");
        for warning in warnings {
            let names = ["forwarding-mode", "`ipip`", "snat or dsr"];
            assert!(names.iter().all(|name| warning.note.contains(name)), "{}", warning.note);
        }
    }
    // Where the configuration says so, a Service need not.
    world.state.set_defaults(Defaults { is_direct: true, ..Defaults::default() });
    web["metadata"]["annotations"] = json!({});
    world.service(web.clone()).sync();
    assert_eq!(flags(&world, outside) & both, both);
    web["metadata"]["annotations"] = json!({"service.skerry.io/forwarding-mode": "snat"});
    world.service(web).sync();
    assert_eq!(flags(&world, outside) & both, 0);
}

#[test]
fn what_a_service_does_not_say_the_configuration_does() {
    let mut world = World::with(Limits { slots: 65_536, ..LIMITS });
    let mut web = service("web", "10.96.0.1");
    world.state.set_defaults(Defaults { is_maglev: true, maglev_size: 4_000, ..Defaults::default() });
    world.slice(slice("e", "web", &["10.0.0.1", "10.0.0.2"]));
    for (annotations, elements) in [
        (json!({}), 4_093),
        (json!({"service.skerry.io/maglev-table-size": "2039"}), 2_039),
        (json!({"service.skerry.io/maglev-table-size": "large"}), 4_093),
        (json!({"service.skerry.io/balancing": "random"}), 2),
        (json!({"service.skerry.io/balancing": "maglev"}), 4_093),
    ] {
        web["metadata"]["annotations"] = annotations.clone();
        world.service(web.clone()).sync();
        let frontend = world.maps.frontends[&key("10.96.0.1", 80, proto::TCP)];
        assert_eq!(frontend.inside.count, elements, "{annotations}");
        let is_told = !world.state.warnings(&ObjectKey::new("ns", "web")).is_empty();
        assert_eq!(is_told, annotations.to_string().contains("large"), "{annotations}");
    }
}

#[test]
fn a_direct_service_of_ipv6_needs_nodes_ranges_that_eight_bytes_tell_apart() {
    let mut world = World::with(Limits { slots: 8192, ..LIMITS });
    let mut web = service("web", "fd00::1");
    web["spec"]["externalIPs"] = json!(["2001:db8::7"]);
    web["metadata"]["annotations"] = json!({"service.skerry.io/forwarding-mode": "dsr"});
    let node = |cidr: &str| json!({"metadata": {"name": "here"}, "spec": {"podCIDRs": [cidr]}});
    world.service(web).sync();
    for (cidr, is_direct) in [("fd01::/64", true), ("fd01::/60", false), ("fd01::/80", true)] {
        world.node(node(cidr)).sync();
        let flags = world.maps.frontends[&key("2001:db8::7", 80, proto::TCP)].flags;
        assert_eq!(flags & frontend_flag::DIRECT != 0, is_direct, "{cidr}");
    }
}

#[test]
fn only_serving_endpoints_stand_in_when_none_is_ready() {
    let mut world = World::new();
    world.service(service("web", "10.96.0.1"));
    let mut one = slice("e", "web", &[]);
    endpoints(
        &mut one,
        &[
            ("10.0.0.1", "there", true, true, false),
            ("10.0.0.2", "there", false, true, true),
            ("10.0.0.3", "there", false, false, false),
        ],
    );
    world.slice(one.clone()).sync();
    assert_eq!(web(&world), "10.0.0.1:8080");
    endpoints(
        &mut one,
        &[("10.0.0.2", "there", false, true, true), ("10.0.0.3", "there", false, false, true)],
    );
    world.slice(one.clone()).sync();
    assert_eq!(web(&world), "10.0.0.2:8080-");
    endpoints(&mut one, &[("10.0.0.3", "there", false, false, true)]);
    world.slice(one.clone()).sync();
    assert_eq!(web(&world), "reject");
    // Absent conditions mean ready.
    one["endpoints"] = json!([{"addresses": ["10.0.0.9"]}]);
    world.slice(one).sync();
    assert_eq!(web(&world), "10.0.0.9:8080");
}

#[test]
fn an_internal_local_policy_binds_the_cluster_ip_only() {
    let mut world = World::new();
    let mut local = service("web", "10.96.0.1");
    local["spec"]["type"] = json!("NodePort");
    local["spec"]["ports"][0]["nodePort"] = json!(30080);
    let mut one = slice("e", "web", &[]);
    local["spec"]["internalTrafficPolicy"] = json!("Local");
    endpoints(&mut one, &[("10.0.0.2", "there", true, true, false)]);
    world.service(local).slice(one).sync();
    assert_eq!((web(&world), backends(&world, node_port(30080))), ("drop".into(), "10.0.0.2:8080".into()));
}
