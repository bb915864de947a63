//! What a client of each kind of service meets.

use crate::{
    shown::{backends, key, web},
    world::{LIMITS, World, service, slice},
};
use proxy_abi::{Addr, Be16, Flow, FrontendKey, Tuple, endpoint_flag, flow_flag, pod_cidr_flag, proto};
use proxy_state::{Actual, Limits, ObjectKey, Op, Refusal, plan};
use serde_json::{Value, json};
use std::net::IpAddr;

#[test]
fn named_ports_are_joined_by_name_and_protocol_and_duplicates_count_once() {
    let mut world = World::new();
    let mut two = service("web", "10.96.0.1");
    two["spec"]["ports"] = json!([
        {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 80, "protocol": "UDP"},
        {"name": "none", "port": 81, "protocol": "TCP"},
    ]);
    world.service(two);
    for (name, port) in [("a", 8080), ("b", 9090)] {
        let mut one = slice(name, "web", &["10.0.0.1", "10.0.0.2", "10.0.0.1"]);
        one["ports"] = json!([{"name": "http", "port": port, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        world.slice(one);
    }
    world.sync();
    assert_eq!(web(&world), "10.0.0.1:8080 10.0.0.1:9090 10.0.0.2:8080 10.0.0.2:9090");
    assert_eq!(backends(&world, key("10.96.0.1", 80, proto::UDP)), "10.0.0.1:53 10.0.0.2:53");
    assert_eq!(backends(&world, key("10.96.0.1", 81, proto::TCP)), "reject");
}

#[test]
fn what_a_proxy_must_ignore_leaves_no_trace() {
    let mut world = World::new();
    let mut headless = service("headless", "None");
    headless["spec"]["clusterIPs"] = json!(["None"]);
    let mut external_name = service("name", "10.96.0.2");
    external_name["spec"]["type"] = json!("ExternalName");
    let mut foreign = service("foreign", "10.96.0.3");
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    world.service(headless).service(external_name).service(foreign).service(service("pending", ""));
    let mut names = slice("fqdn", "web", &[]);
    names["addressType"] = json!("FQDN");
    names["endpoints"] = json!([{"addresses": ["example.org"]}]);
    world.slice(names);
    assert!(world.sync().ops.is_empty());
    // A type change removes the old path.
    world.service(service("web", "10.96.0.1")).sync();
    assert_eq!(web(&world), "reject");
    let mut renamed = service("web", "10.96.0.1");
    renamed["spec"]["type"] = json!("ExternalName");
    world.service(renamed).sync();
    assert!(world.maps.frontends.is_empty());
}

#[test]
fn a_label_takes_a_service_or_a_slice_from_this_proxy_and_gives_it_back() {
    for label in ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"] {
        let mut world = World::new();
        let (web_service, web_slice) = (service("web", "10.96.0.1"), slice("e", "web", &["10.0.0.1"]));
        let labelled = |mut object: Value| {
            // Whatever the value: kube-proxy asks whether the label is there.
            object["metadata"]["labels"][label] = json!("");
            object
        };
        world.service(labelled(web_service.clone())).slice(web_slice.clone());
        assert!(world.sync().ops.is_empty(), "{label}");
        world.service(web_service.clone()).sync();
        assert_eq!(web(&world), "10.0.0.1:8080", "{label}");
        world.slice(labelled(web_slice.clone())).sync();
        assert_eq!(web(&world), "reject", "{label}");
        world.slice(web_slice).sync();
        assert_eq!(web(&world), "10.0.0.1:8080", "{label}");
        world.service(labelled(web_service)).sync();
        assert!(world.maps.frontends.is_empty(), "{label}");
    }
}

#[test]
fn endpoints_that_point_at_the_node_itself_are_refused() {
    let mut world = World::new();
    world.service(service("web", "10.96.0.1"));
    world
        .slice(slice("e", "web", &["127.0.0.1", "169.254.169.254", "0.0.0.0", "fd00::1", " 010.0.0.7 "]))
        .sync();
    assert_eq!(web(&world), "10.0.0.7:8080");
}

#[test]
fn each_family_has_its_own_run() {
    let mut world = World::new();
    let mut dual = service("web", "10.96.0.1");
    dual["spec"]["clusterIPs"] = json!(["10.96.0.1", "fd00:96::1"]);
    let mut six = slice("six", "web", &["fd00::7"]);
    six["addressType"] = json!("IPv6");
    world.service(dual).slice(slice("four", "web", &["10.0.0.7"])).slice(six).sync();
    assert_eq!(web(&world), "10.0.0.7:8080");
    assert_eq!(backends(&world, key("fd00:96::1", 80, proto::TCP)), "fd00::7:8080");
}

#[test]
fn external_and_load_balancer_addresses_are_served_but_not_those_in_proxy_mode() {
    let mut world = World::new();
    let mut balanced = service("web", "10.96.0.1");
    balanced["spec"]["type"] = json!("LoadBalancer");
    balanced["spec"]["externalIPs"] = json!(["192.0.2.1", "127.0.0.1"]);
    balanced["spec"]["sessionAffinity"] = json!("ClientIP");
    balanced["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"ip": "192.0.2.3", "ipMode": "Proxy"}, {"hostname": "lb"}]}});
    world.service(balanced).slice(slice("e", "web", &["10.0.0.1"])).sync();
    for (ip, expected) in [
        ("192.0.2.1", "10.0.0.1:8080"),
        ("192.0.2.2", "10.0.0.1:8080"),
        ("192.0.2.3", "nothing"),
        ("127.0.0.1", "nothing"),
    ] {
        assert_eq!(backends(&world, key(ip, 80, proto::TCP)), expected, "{ip}");
    }
    assert_eq!(world.maps.frontends[&key("192.0.2.1", 80, proto::TCP)].affinity_s, 10_800);
    // An address in use is marked: its other ports are rejected, not dropped.
    let mark = FrontendKey { proto: 0, ..key("192.0.2.2", 0, 0) };
    assert!(world.maps.frontends.contains_key(&mark));
}

#[test]
fn of_two_services_with_one_external_address_the_older_has_it() {
    let mut world = World::new();
    let claim = |name: &str, cluster_ip: &str, created: &str| {
        let mut claim = service(name, cluster_ip);
        claim["spec"]["externalIPs"] = json!(["192.0.2.1"]);
        claim["metadata"]["creationTimestamp"] = json!(created);
        claim
    };
    world
        .service(claim("young", "10.96.0.2", "2026-02-02T00:00:00Z"))
        .slice(slice("y", "young", &["10.0.0.2"]))
        .sync();
    let shared = key("192.0.2.1", 80, proto::TCP);
    assert_eq!(backends(&world, shared), "10.0.0.2:8080");
    world
        .service(claim("old", "10.96.0.1", "2026-01-01T23:00:00Z"))
        .slice(slice("o", "old", &["10.0.0.1"]))
        .sync();
    assert_eq!(backends(&world, shared), "10.0.0.1:8080");
    world.state.delete_service(&ObjectKey::new("ns", "old"));
    world.sync();
    assert_eq!(backends(&world, shared), "10.0.0.2:8080");
}

#[test]
fn one_change_touches_one_service_and_flips_with_one_write() {
    let mut world = World::new();
    for n in 0..100 {
        world.service(service(&format!("s{n}"), &format!("10.96.1.{n}")));
        world.slice(slice(&format!("e{n}"), &format!("s{n}"), &["10.0.0.1", "10.0.0.2"]));
    }
    world.sync();
    let before = world.maps.frontends[&key("10.96.1.7", 80, proto::TCP)];
    let plan = world.slice(slice("e7", "s7", &["10.0.0.1", "10.0.0.3"])).sync();
    assert!(matches!(plan.ops[..], [Op::WriteSlots { .. }, Op::SetFrontend { .. }]), "{:?}", plan.ops);
    let after = world.maps.frontends[&key("10.96.1.7", 80, proto::TCP)];
    assert_eq!((after.service_id, after.generation), (before.service_id, before.generation + 1));
    assert_ne!(after.inside.first, before.inside.first, "the new run lies in fresh slots");
    // An update that changes nothing that matters costs nothing.
    let mut annotated = slice("e7", "s7", &["10.0.0.1", "10.0.0.3"]);
    annotated["metadata"]["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": "now"});
    world.slice(annotated);
    assert!(!world.state.is_dirty());
    // The old run rests before it is erased.
    assert!(world.plan().ops.is_empty());
    world.now_ms = plan.due_ms.unwrap();
    assert_eq!(world.plan().ops, [Op::ClearSlots { first: before.inside.first, count: 2 }]);
}

#[test]
fn a_full_map_refuses_by_name_and_serves_what_it_served_before() {
    let mut world = World::with(Limits { slots: 4, frontends: 4, ..LIMITS });
    world.service(service("web", "10.96.0.1")).slice(slice("e", "web", &["10.0.0.1", "10.0.0.2"])).sync();
    let plan = world.slice(slice("e", "web", &["10.0.0.1", "10.0.0.2", "10.0.0.3"])).sync();
    let [refusal @ Refusal::Slots { source, .. }] = &plan.refused[..] else { panic!("{:?}", plan.refused) };
    assert_eq!(refusal.to_string(), "service ns/web");
    assert!(source.to_string().starts_with("map SLOTS full (4): a run of 3 does not fit"), "{source}");
    assert_eq!(web(&world), "10.0.0.1:8080 10.0.0.2:8080");
    // It is tried again with every plan, and fits once something else went.
    world.slice(slice("e", "web", &["10.0.0.9"])).sync();
    assert_eq!(web(&world), "10.0.0.9:8080");
    world.service(service("other", "10.96.0.2")).sync();
    let plan = world.service(service("third", "10.96.0.3")).sync();
    assert_eq!(
        plan.refused[0].to_string(),
        "service ns/third: map FRONTENDS full (4): raise the size of FRONTENDS"
    );
    world.state.delete_service(&ObjectKey::new("ns", "other"));
    world.sync();
    assert_eq!(world.sync().refused, []);
    assert_eq!(backends(&world, key("10.96.0.3", 80, proto::TCP)), "reject");
}

#[test]
fn ids_survive_a_restart_and_an_agent_that_knows_nothing_yet_plans_nothing() {
    let mut world = World::new();
    world.service(service("a", "10.96.0.1")).slice(slice("e", "a", &["10.0.0.1"]));
    world.service(service("b", "10.96.0.2")).slice(slice("f", "b", &["10.0.0.1"])).sync();
    let before = world.maps.frontends.clone();
    world.actual = Actual::restore(LIMITS, world.maps.clone(), 0);
    world.slice(slice("e", "a", &["10.0.0.1", "10.0.0.2"]));
    for op in plan(&mut world.state, &mut world.actual, 0).ops {
        world.maps.execute(&op);
    }
    for ip in ["10.96.0.1", "10.96.0.2"] {
        let key = key(ip, 80, proto::TCP);
        assert_eq!(world.maps.frontends[&key].service_id, before[&key].service_id, "{ip}");
    }
    // A service that comes later never gets an id that flows may still hold.
    world.service(service("c", "10.96.0.3")).sync();
    let highest = before.values().map(|frontend| frontend.service_id).max().unwrap();
    assert!(world.maps.frontends[&key("10.96.0.3", 80, proto::TCP)].service_id > highest);
}

#[test]
fn a_number_that_connections_may_know_is_given_to_no_other_service() {
    let mut world = World::with(Limits { ids_until: 41, ..LIMITS });
    let id = |world: &World, ip: &str| world.maps.frontends[&key(ip, 80, proto::TCP)].service_id;
    world.service(service("a", "10.96.0.1")).slice(slice("e", "a", &["10.0.0.1"])).sync();
    assert_eq!(id(&world, "10.96.0.1"), 42);
    world.state.delete_service(&ObjectKey::new("ns", "a"));
    world.sync();
    // Another agent finds nothing of it in the maps, but in the connections.
    assert_eq!(world.actual.last_service_id(), 42);
    let mut again = World::with(Limits { ids_until: 42, ..LIMITS });
    again.service(service("b", "10.96.0.2")).sync();
    assert_eq!(id(&again, "10.96.0.2"), 43);
}

#[test]
fn udp_flows_are_current_only_while_they_would_be_balanced_alike() {
    let mut world = World::new();
    let mut dns = service("dns", "10.96.0.10");
    dns["spec"]["ports"] = json!([{"port": 53, "protocol": "UDP"}]);
    let mut one = slice("e", "dns", &["10.0.0.1", "10.0.0.2"]);
    one["ports"] = json!([{"name": "", "port": 5353, "protocol": "UDP"}]);
    assert!(world.service(dns.clone()).slice(one.clone()).sync().udp_changed);
    let service_id = world.maps.frontends[&key("10.96.0.10", 53, proto::UDP)].service_id;
    let tuple = |dst: &str, port: u16, protocol: u8| {
        let ip = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        Tuple::new(ip("10.0.9.9"), Be16::new(999), ip(dst), Be16::new(port), protocol)
    };
    let forward = tuple("10.96.0.10", 53, proto::UDP);
    let to = |backend: &str| Flow { to: tuple(backend, 5353, proto::UDP), service_id, ..Flow::default() };
    let current = |world: &World, key: &Tuple, flow: Flow| world.actual.udp_flow_is_current(key, &flow);
    assert!(current(&world, &forward, to("10.0.0.1")));
    assert!(!current(&world, &forward, to("10.0.0.3")));
    assert!(!current(&world, &forward, Flow { service_id: service_id + 1, ..to("10.0.0.1") }));
    assert!(
        current(&world, &forward, Flow { flags: flow_flag::REVERSE, ..to("10.0.0.3") }),
        "its twin decides"
    );
    // Masqueraded before the service existed, TCP: not ours to end.
    let masqueraded = Flow { service_id: 0, ..to("10.0.0.3") };
    assert!(!current(&world, &forward, masqueraded), "a flow must not pin the time before the service");
    assert!(current(&world, &tuple("198.51.100.1", 53, proto::UDP), masqueraded));
    assert!(current(&world, &tuple("10.96.0.10", 53, proto::TCP), to("10.0.0.3")));
    // The backend goes, the last endpoint goes, the service goes.
    one["endpoints"] = json!([{"addresses": ["10.0.0.2"]}]);
    assert!(world.slice(one.clone()).sync().udp_changed);
    assert!(!current(&world, &forward, to("10.0.0.1")) && current(&world, &forward, to("10.0.0.2")));
    one["endpoints"] = json!([]);
    assert!(world.slice(one).sync().udp_changed);
    assert!(!current(&world, &forward, to("10.0.0.2")));
    world.state.delete_service(&ObjectKey::new("ns", "dns"));
    assert!(world.sync().udp_changed);
    assert!(!current(&world, &forward, to("10.0.0.2")));
}

#[test]
fn nodes_become_cidrs_peers_and_our_own_addresses() {
    let node = |name: &str, cidr: &str, ip: &str, created: &str| {
        json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": {"podCIDR": cidr},
               "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]}})
    };
    let mut world = World::new();
    world.node(node("here", "10.244.0.0/24", "172.16.0.1", "2026-01-01T00:00:00Z"));
    world.node(node("b", "10.244.1.0/24", "172.16.0.2", "2026-01-01T00:00:00Z"));
    world.node(node("late", "10.244.1.0/24", "172.16.0.3", "2026-02-01T00:00:00Z"));
    world.node(node("new", "", "172.16.0.4", "2026-02-01T00:00:00Z"));
    let ip = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
    world.state.set_own_addresses([(ip("172.16.0.1"), endpoint_flag::NODE)]);
    world.sync();
    let mut cidrs: Vec<_> =
        world.maps.pod_cidrs.iter().map(|(k, v)| (k.addr, k.prefix_len, v.node, v.flags)).collect();
    cidrs.sort();
    assert_eq!(
        cidrs,
        [
            (ip("10.244.0.0"), 120, ip("172.16.0.1"), pod_cidr_flag::LOCAL),
            (ip("10.244.1.0"), 120, ip("172.16.0.2"), 0),
        ]
    );
    assert_eq!(
        world.maps.tunnel_peers.iter().copied().collect::<Vec<_>>(),
        ["172.16.0.2", "172.16.0.3", "172.16.0.4"].map(ip)
    );
    let tables = world.state.node_tables();
    assert_eq!(tables.own, ["10.244.0.0/24".parse().unwrap()]);
    assert_eq!(tables.remote.into_iter().collect::<Vec<_>>(), ["10.244.1.0/24".parse().unwrap()]);
    assert_eq!(world.maps.endpoints[&ip("172.16.0.1")].flags, endpoint_flag::NODE);
    // Pods' entries in the same map are the CNI plugin's.
    let mut pod = world.maps.endpoints[&ip("172.16.0.1")];
    pod.flags = endpoint_flag::POD;
    world.maps.endpoints.insert(ip("10.244.0.7"), pod);
    world.actual = Actual::restore(LIMITS, world.maps.clone(), 0);
    assert_eq!(world.actual.divergence(&world.maps), 0);
    assert!(world.sync().ops.is_empty());
}

#[test]
fn external_ips_outside_of_the_allowed_ranges_are_not_served() {
    let mut world = World::new();
    world.state.limit_external_ips(&["192.0.2.0/24".parse().unwrap()]);
    let mut web = service("web", "10.96.0.1");
    web["spec"]["externalIPs"] = json!(["192.0.2.1", "8.8.8.8"]);
    world.service(web).slice(slice("e", "web", &["10.0.0.1"])).sync();
    assert_eq!(backends(&world, key("192.0.2.1", 80, proto::TCP)), "10.0.0.1:8080");
    assert_eq!(backends(&world, key("8.8.8.8", 80, proto::TCP)), "nothing");
}

#[test]
fn thousands_of_ports_in_one_service_lead_each_to_its_own() {
    const PORTS: u16 = 3_000;
    let ports = |count: u16| {
        let mut many = service("web", "10.96.0.1");
        many["spec"]["ports"] = (0..count)
            .map(|n| json!({"name": format!("p{n}"), "port": 1_000 + n, "protocol": "TCP"}))
            .collect();
        many
    };
    let behind = |ips: &[&str]| {
        let mut one = slice("e", "web", ips);
        one["ports"] = (0..PORTS)
            .map(|n| json!({"name": format!("p{n}"), "port": 20_000 + n, "protocol": "TCP"}))
            .collect();
        one
    };
    let limits = Limits { frontends: 4_096, slots: 16_384, members: 16_384, ..LIMITS };
    let mut world = World::with(limits);
    world.service(ports(PORTS)).slice(behind(&["10.0.0.1", "10.0.0.2"])).sync();
    assert_eq!(world.maps.frontends.len(), usize::from(PORTS) + 1);
    for n in [0, 1, 1_777, PORTS - 1] {
        let (port, target) = (1_000 + n, 20_000 + n);
        let both = format!("10.0.0.1:{target} 10.0.0.2:{target}");
        assert_eq!(backends(&world, key("10.96.0.1", port, proto::TCP)), both);
    }
    world.slice(behind(&["10.0.0.2"])).sync();
    assert_eq!(backends(&world, key("10.96.0.1", 3_999, proto::TCP)), "10.0.0.2:22999");
    world.service(ports(10)).sync();
    assert_eq!(world.maps.frontends.len(), 11);

    // Where not all of them fit those that were served stay, and the Service is named for the rest.
    let mut small = World::with(Limits { frontends: 2_048, ..limits });
    small.service(ports(10)).slice(behind(&["10.0.0.1"])).sync();
    let refused = small.service(ports(PORTS)).sync().refused;
    let ours = ObjectKey::new("ns", "web");
    assert!(refused.iter().all(|refusal| refusal.of() == ours), "another Service is named");
    assert_eq!((small.maps.frontends.len(), refused.len()), (2_048, usize::from(PORTS) + 1 - 2_048));
    assert_eq!(backends(&small, key("10.96.0.1", 1_009, proto::TCP)), "10.0.0.1:20009");
}
