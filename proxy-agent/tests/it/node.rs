//! What the agent does to its node, seen from outside.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use crate::support::{Agent, Api, Case, TestNode, Underlay, eventually, named};
use proxy_abi::{Addr, Endpoint, Facts, Frontend, FrontendKey, PodCidr, PodCidrKey, endpoint_flag, map};
use proxy_agent::{Config, XdpChoice};
use serde_json::{Value, json};
use skerry_kernel::{Direction, Link, Map, XdpMode, detach_filter, filter_program, ifindex, xdp_mode};

pub fn trials() -> Vec<Case> {
    named![
        a_service_reaches_the_maps_and_the_node_is_wired,
        service_ranges_are_those_of_service_cidr_objects_and_the_configured_ones_where_there_are_none,
        an_api_server_without_service_cidrs_will_do,
        xdp_on_the_uplink_runs_where_it_was_asked_to_and_moves_at_a_restart,
        an_uplink_that_comes_late_is_waited_for_and_one_that_changes_is_followed,
        what_was_forgotten_while_the_server_was_away_is_found_after_a_new_list,
        programs_and_maps_that_a_third_party_took_away_come_back,
        cleanup_leaves_the_node_as_it_was,
        a_foreign_vxlan_device_and_a_second_agent_are_refused_by_name,
        a_services_owner_is_told_by_events,
        a_full_map_refuses_by_name_and_takes_in_what_fits_later,
        maps_are_as_large_as_the_clusters_services_need,
        a_watch_that_stalls_without_closing_is_given_up_and_nothing_is_missed,
        metrics_and_probes_are_answered,
    ]
}

fn frontends(node: &TestNode) -> Vec<(FrontendKey, Frontend)> {
    Map::open(&node.pin("maps", map::FRONTENDS)).unwrap().entries().unwrap()
}

pub fn ready(node: &TestNode, api: &Api) -> Agent {
    crate::support::log();
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    api.listen_in(&node.netns, &node.kubeconfig());
    let mut agent = Agent::start(node, node.config());
    agent.wait_ready();
    agent
}

fn a_service_reaches_the_maps_and_the_node_is_wired() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("alone", 1);
    api.node("other", "172.31.0.2", "10.244.2.0/24");
    api.service("web", "10.96.0.10", "TCP", 80, 30080);
    api.endpoints("web", "TCP", 8080, &[("10.244.1.5", "alone"), ("10.244.2.5", "other")]);
    let mut agent = ready(&node, &api);

    let there = frontends(&node);
    assert_eq!(there.len(), 3, "ClusterIP, its mark, NodePort: {there:?}");
    assert!(
        there.iter().filter(|(key, _)| key.port.get() != 0).all(|(_, frontend)| frontend.inside.count == 2)
    );
    let facts = Map::<u32, Facts>::open(&node.pin("maps", map::CONFIG)).unwrap().lookup(&0).unwrap().unwrap();
    assert_eq!(facts.abi_version, proxy_abi::ABI_VERSION);
    assert_eq!((facts.node_v4.to_ip(), facts.router_v4.to_ip()), (node.ip().into(), node.router().into()));
    assert_eq!(facts.pod_mtu, 1450);
    let endpoints = Map::<Addr, Endpoint>::open(&node.pin("maps", map::ENDPOINTS)).unwrap();
    let flags = |ip: std::net::Ipv4Addr| endpoints.lookup(&ip.into()).unwrap().map(|endpoint| endpoint.flags);
    assert_eq!(flags(node.ip()), Some(endpoint_flag::NODE | endpoint_flag::NODE_PORT));
    assert_eq!(flags(node.router()), Some(endpoint_flag::ROUTER));
    let cidrs =
        Map::<PodCidrKey, PodCidr>::open(&node.pin("maps", map::POD_CIDRS)).unwrap().entries().unwrap();
    assert_eq!(cidrs.len(), 2);

    let link = node.netns.ip("-d link show skerry0").unwrap();
    for part in ["mtu 1450", "NOARP", "UP", "external", "dstport 4789", "02:53:6b:65:00:01"] {
        assert!(link.contains(part), "{part} in {link}");
    }
    assert!(node.netns.ip("addr show skerry0").unwrap().contains("10.244.1.1/32"));
    let routes = node.netns.ip("route").unwrap();
    assert!(routes.contains("10.244.2.0/24 dev skerry0") && routes.contains("src 10.244.1.1"), "{routes}");
    assert_eq!(node.netns.sh("cat /proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
    let conflist = std::fs::read_to_string(node.path("net.d").join("10-skerry.conflist")).unwrap();
    assert!(conflist.contains("10.244.1.0/24") && conflist.contains("1450"), "{conflist}");

    // Changes follow.
    api.endpoints("web", "TCP", 8080, &[("10.244.2.5", "other")]);
    eventually("one backend", || {
        frontends(&node).iter().any(|(_, frontend)| frontend.inside.count == 1).then_some(())
    });
    api.delete("services", "default/web");
    eventually("no frontend", || frontends(&node).is_empty().then_some(()));
    api.delete("nodes", "other");
    eventually("no route", || (!node.netns.ip("route").unwrap().contains("10.244.2.0")).then_some(()));
    agent.wait("told", |progress| progress.services == 0);
    agent.stop().unwrap();
}

/// The ranges that CONFIG names, as text.
fn service_ranges(node: &TestNode) -> Vec<String> {
    let facts = Map::<u32, Facts>::open(&node.pin("maps", map::CONFIG)).unwrap().lookup(&0).unwrap().unwrap();
    let named = facts.service_ranges.iter().take_while(|range| range.len != 0);
    named
        .map(|range| format!("{}/{}", range.addr, range.len - if range.addr.is_v4() { 96 } else { 0 }))
        .collect()
}

fn service_ranges_are_those_of_service_cidr_objects_and_the_configured_ones_where_there_are_none() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("ranges", 1);
    let cidr = |name: &str, cidrs: &[&str]| json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
    let agent = ready(&node, &api);
    assert_eq!(service_ranges(&node), ["10.96.0.0/12"]);
    api.apply("servicecidrs", cidr("kubernetes", &["10.43.0.0/16", "fd00:43::/112"]));
    eventually("the first object", || {
        (service_ranges(&node) == ["10.43.0.0/16", "fd00:43::/112"]).then_some(())
    });
    api.apply("servicecidrs", cidr("more", &["10.50.0.0/24"]));
    api.apply("servicecidrs", cidr("within", &["10.43.7.0/24"]));
    let all = ["10.43.0.0/16", "fd00:43::/112", "10.50.0.0/24"];
    eventually("another", || (service_ranges(&node) == all).then_some(()));
    for n in 0..8 {
        api.apply("servicecidrs", cidr(&format!("many{n}"), &[&format!("10.60.{n}.0/25")]));
    }
    eventually("as many as there is room for, the widest first", || {
        let ranges = service_ranges(&node);
        (ranges.len() == Facts::SERVICE_RANGES && ranges[0] == "10.43.0.0/16").then_some(())
    });
    for name in (0..8).map(|n| format!("many{n}")).chain(["more".into(), "kubernetes".into()]) {
        api.delete("servicecidrs", &name);
    }
    eventually("the rest", || (service_ranges(&node) == ["10.43.7.0/24"]).then_some(()));
    agent.stop().unwrap();
}

fn an_api_server_without_service_cidrs_will_do() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("older", 1);
    api.forget_kind("servicecidrs");
    let agent = ready(&node, &api);
    assert_eq!(service_ranges(&node), ["10.96.0.0/12"]);
    agent.stop().unwrap();
}

fn xdp_on_the_uplink_runs_where_it_was_asked_to_and_moves_at_a_restart() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("moves", 1);
    ready(&node, &api).stop().unwrap();
    let mode = || node.netns.run(|| xdp_mode(ifindex("eth0").unwrap()).unwrap()).unwrap();
    assert_eq!(mode(), None);
    for (choice, wanted) in [
        (Some(XdpChoice::Generic), Some(XdpMode::Generic)),
        // What runs already will do.
        (Some(XdpChoice::Auto), Some(XdpMode::Generic)),
        (Some(XdpChoice::Native), Some(XdpMode::Native)),
        (Some(XdpChoice::Auto), Some(XdpMode::Native)),
        (Some(XdpChoice::Generic), Some(XdpMode::Generic)),
        (None, None),
    ] {
        let mut config = node.config();
        config.uplink_xdp = choice;
        let mut agent = Agent::start(&node, config);
        agent.wait_ready();
        // The kernel lets go of a link a moment after its last pin is gone.
        eventually(&format!("{choice:?}"), || (mode() == wanted).then_some(()));
        agent.stop().unwrap();
        assert_eq!(mode(), wanted, "{choice:?}, and stays");
    }
}

fn an_uplink_that_comes_late_is_waited_for_and_one_that_changes_is_followed() {
    crate::support::log();
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("late", 1);
    api.node(&node.name, "172.31.5.1", &node.pod_cidr());
    api.listen_in(&node.netns, &node.kubeconfig());
    let mut agent = Agent::start(&node, Config { uplink: Some("late0".to_owned()), ..node.config() });
    node.netns.ip("link add late0 type veth peer name late1").unwrap();
    node.netns.ip("link set late1 up").unwrap();
    node.netns.ip("link set late0 up").unwrap();
    assert!(!node.pin("maps", map::CONFIG).exists(), "it has no address yet");
    node.netns.ip("addr add 172.31.5.1/24 dev late0").unwrap();
    agent.wait_ready();
    let facts = Map::<u32, Facts>::open(&node.pin("maps", map::CONFIG)).unwrap();
    let fact = || facts.lookup(&0).unwrap().unwrap();
    assert_eq!((fact().node_v4.to_ip().to_string(), fact().pod_mtu), ("172.31.5.1".to_owned(), 1450));
    node.netns.ip("link set late0 mtu 9000").unwrap();
    eventually("the larger MTU", || (fact().pod_mtu == 8950).then_some(()));
    eventually("the tunnel's, too", || {
        node.netns.ip("link show skerry0").unwrap().contains("mtu 8950").then_some(())
    });
    node.netns.ip("addr add 172.31.6.2/24 dev late0").unwrap();
    node.netns.ip("addr del 172.31.5.1/24 dev late0").unwrap();
    eventually("the new address", || (fact().node_v4.to_ip().to_string() == "172.31.6.2").then_some(()));
    agent.stop().unwrap();
}

fn what_was_forgotten_while_the_server_was_away_is_found_after_a_new_list() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("away", 1);
    api.service("old", "10.96.0.10", "TCP", 80, 30080);
    let _agent = ready(&node, &api);
    api.set_away(true);
    api.delete("services", "default/old");
    api.service("new", "10.96.0.11", "TCP", 80, 30081);
    assert_eq!(frontends(&node).len(), 3, "the last state stays in force");
    api.compact();
    api.set_away(false);
    eventually("the new service alone", || {
        let there = frontends(&node);
        let ports: Vec<u16> =
            there.iter().filter(|(key, _)| key.kind == 1).map(|(key, _)| key.port.get()).collect();
        (ports == [30081]).then_some(())
    });
}

fn programs_and_maps_that_a_third_party_took_away_come_back() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("thief", 1);
    api.service("web", "10.96.0.10", "TCP", 80, 30080);
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    api.listen_in(&node.netns, &node.kubeconfig());
    let config = proxy_agent::Config {
        verify_interval: std::time::Duration::from_millis(50),
        resync_interval: std::time::Duration::from_millis(50),
        ..node.config()
    };
    let mut agent = Agent::start(&node, config);
    agent.wait_ready();
    let pod = node.pod(5);
    for (device, direction) in [("eth0", Direction::Ingress), ("skerry0", Direction::Egress)] {
        let before = node.at_device(device, direction).unwrap();
        node.detach_from(device, direction);
        eventually(device, || {
            node.at_device(device, direction).filter(|now| now.program_id == before.program_id)
        });
    }
    let path = node.pin("links", "sock_connect4-cgroup");
    let id = || Link::open(&path).ok()?.info().ok();
    let before = id().unwrap();
    Link::open(&path).unwrap().detach().unwrap();
    eventually("the socket hook", || id().filter(|now| now.id != before.id && now.target == before.target));
    let filter =
        || node.netns.run(|| filter_program(ifindex(&pod.device).ok()?, Direction::Ingress).ok()?).unwrap();
    let before = filter().unwrap();
    node.netns.run(|| detach_filter(ifindex(&pod.device).unwrap(), Direction::Ingress)).unwrap().unwrap();
    eventually("the pod's filter", || filter().filter(|now| *now == before));
    let map = Map::<FrontendKey, Frontend>::open(&node.pin("maps", map::FRONTENDS)).unwrap();
    let before = frontends(&node);
    map.delete(&before[0].0).unwrap();
    eventually("the frontend", || (frontends(&node).len() == before.len()).then_some(()));
    node.netns.ip("link del skerry0").unwrap();
    eventually("the device with its programs", || node.at_device("skerry0", Direction::Ingress));
    eventually("its address", || {
        node.netns.ip("addr show skerry0").ok()?.contains("10.244.1.1").then_some(())
    });
}

fn cleanup_leaves_the_node_as_it_was() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("clean", 1);
    let look = || {
        let sysctls =
            "for f in ip_forward conf/all/rp_filter conf/eth0/rp_filter; do cat /proc/sys/net/ipv4/$f; done";
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(node.path("bpf").to_str().unwrap())).count();
        (
            node.netns.ip("addr").unwrap(),
            node.netns.ip("route").unwrap(),
            node.netns.sh(sysctls).unwrap(),
            mounts,
        )
    };
    let before = look();
    let agent = ready(&node, &api);
    let during = look();
    assert!(during.0.contains("skerry0") && during.3 == 1);
    agent.stop().unwrap();
    assert!(look().0.contains("skerry0"), "a stop takes nothing away");
    for _ in 0..2 {
        let errors = node
            .netns
            .run(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(proxy_agent::cleanup(&node.config()))
            })
            .unwrap();
        assert!(errors.is_empty(), "{errors:?}");
    }
    let after = look();
    assert_eq!(after.1, before.1);
    assert_eq!((after.2, after.3), (before.2, before.3));
    assert!(!after.0.contains("skerry0"));
    assert_eq!(node.at_device("eth0", Direction::Ingress), None);
    assert!(!node.path("run").exists());
    assert_eq!(std::fs::read_dir(node.path("net.d")).unwrap().count(), 0);
}

fn a_foreign_vxlan_device_and_a_second_agent_are_refused_by_name() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("foreign", 1);
    node.netns.ip("link add flannel.1 type vxlan id 1 dev eth0 dstport 4789").unwrap();
    api.listen_in(&node.netns, &node.kubeconfig());
    let error = Agent::start(&node, node.config()).result().unwrap_err().to_string();
    assert!(error.contains("4789") && error.contains("flannel.1"), "{error}");
    node.netns.ip("link del flannel.1").unwrap();
    let _first = ready(&node, &api);
    let error = Agent::start(&node, node.config()).result().unwrap_err().to_string();
    assert!(error.contains("another proxy runs") && error.contains("proxy.lock"), "{error}");
}

/// The younger of two with one address, an endpoint on the loopback: told once, counted on, and over when it
/// is over.
fn a_services_owner_is_told_by_events() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("tells", 1);
    let service = |name: &str, ip: &str, created: &str| {
        api.apply(
            "services",
            json!({"metadata": {"name": name, "namespace": "shop", "creationTimestamp": created,
                                "uid": "0a6f8d7e-1111-4222-8333-444455556666"},
                   "spec": {"clusterIP": ip, "externalIPs": ["192.0.2.1"], "ports": [{"port": 80, "protocol": "TCP"}]}}),
        );
    };
    service("old", "10.96.0.1", "2026-01-01T00:00:00Z");
    service("young", "10.96.0.2", "2026-02-01T00:00:00Z");
    let agent = ready(&node, &api);
    let events = |reason: &str| -> Vec<Value> {
        api.all("events").into_iter().filter(|event| event["reason"] == reason).collect()
    };
    let event = eventually("an event", || events("AddressTaken").pop());
    assert_eq!(event["regarding"]["name"], "young");
    assert_eq!(event["regarding"]["uid"], "0a6f8d7e-1111-4222-8333-444455556666");
    assert_eq!(
        (event["type"].as_str(), event["reportingInstance"].as_str()),
        (Some("Warning"), Some("tells"))
    );
    assert!(
        event["note"].as_str().unwrap().contains("192.0.2.1 belongs to the older Service shop/old"),
        "{event}"
    );
    let counted =
        eventually("the count grows", || events("AddressTaken").pop().filter(|e| e["series"].is_object()));
    assert_eq!((counted["series"]["count"].as_u64(), events("AddressTaken").len()), (Some(2), 1));
    api.apply(
        "endpointslices",
        json!({"metadata": {"name": "old-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "old"}},
               "addressType": "IPv4", "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
               "endpoints": [{"addresses": ["127.0.0.1"]}, {"addresses": ["10.0.0.1"]}]}),
    );
    let refused = eventually("an event of the endpoint", || events("EndpointRefused").pop());
    assert!(refused["note"].as_str().unwrap().starts_with("endpoint 127.0.0.1 is loopback: "), "{refused}");
    assert_eq!(api.all("events").len(), 2);
    agent.stop().unwrap();
}

/// Services beyond what the map holds are refused one by one, told, counted, and taken in when there is room.
fn a_full_map_refuses_by_name_and_takes_in_what_fits_later() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("full", 1);
    for n in 0..40 {
        api.service(&format!("s{n:02}"), &format!("10.96.1.{}", n + 1), "TCP", 80, 30100 + n);
    }
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    api.listen_in(&node.netns, &node.kubeconfig());
    // Three keys each: ClusterIP, its mark, NodePort.
    let mut config = node.config();
    config.map_sizes.frontends = 32;
    config.max_service_bytes = 0;
    let address = node.netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).unwrap();
    config.metrics_bind = Some(address);
    let mut agent = Agent::start(&node, config);
    agent.wait_ready();
    assert_eq!(frontends(&node).len(), 32);
    let told = eventually("events", || Some(api.all("events")).filter(|events| events.len() >= 25));
    assert!(told.iter().all(|event| event["reason"] == "DoesNotFit"), "{told:?}");
    assert!(
        told[0]["note"].as_str().unwrap().contains("map FRONTENDS is full (32 entries)"),
        "{:?}",
        told[0]
    );
    let metrics = node.netns.run(|| get(address, "/metrics").unwrap()).unwrap();
    let line = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{metrics}"));
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let refused = line("skerry_proxy_service_warnings{cause=\"does_not_fit\"}");
    assert!((28..=30).contains(&refused), "{refused}");
    assert!(line("skerry_proxy_refused ") >= refused);
    for n in 0..34 {
        api.delete("services", &format!("default/s{n:02}"));
    }
    eventually("the rest", || {
        let ports: Vec<u16> =
            frontends(&node).iter().filter(|(key, _)| key.kind == 1).map(|(key, _)| key.port.get()).collect();
        (ports.len() == 6 && ports.iter().all(|port| *port >= 30134)).then_some(())
    });
    agent.stop().unwrap();
}

/// What a map holds at most.
fn capacity(node: &TestNode, name: &str) -> u32 {
    skerry_kernel::pinned_map_info(&node.pin("maps", name)).unwrap().max_entries
}

fn maps_are_as_large_as_the_clusters_services_need() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("grows", 1);
    let services = |range: std::ops::Range<u16>| {
        for n in range {
            api.service(
                &format!("s{n:03}"),
                &format!("10.96.{}.{}", 1 + n / 200, n % 200 + 1),
                "TCP",
                80,
                30100 + n,
            );
        }
    };
    services(0..40);
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    api.listen_in(&node.netns, &node.kubeconfig());
    let mut config = node.config();
    config.map_sizes.frontends = 32;
    let mut agent = Agent::start(&node, config.clone());
    agent.wait_ready();
    assert_eq!(frontends(&node).len(), 120);
    assert_eq!(capacity(&node, map::FRONTENDS), 256, "computed before the first is written");
    // More than 1024 hold: however few of them are known when the map grows, it grows to the same size in the
    // end.
    services(40..345);
    eventually("they grew while it ran", || (frontends(&node).len() == 1035).then_some(()));
    assert_eq!(capacity(&node, map::FRONTENDS), 2048);
    agent.stop().unwrap();
    // What has grown stays, whatever the next one is told.
    let mut agent = Agent::start(&node, config);
    agent.wait_ready();
    assert_eq!((capacity(&node, map::FRONTENDS), frontends(&node).len()), (2048, 1035));
    assert!(api.all("events").is_empty(), "nobody needs to be told: {:?}", api.all("events"));
    agent.stop().unwrap();
}

/// A watch whose connection is there and says nothing: what is known stays in force, and what was missed is
/// found.
fn a_watch_that_stalls_without_closing_is_given_up_and_nothing_is_missed() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("stalls", 1);
    api.service("old", "10.96.0.10", "TCP", 80, 30080);
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    api.listen_in(&node.netns, &node.kubeconfig());
    let address = node.netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).unwrap();
    let config = proxy_agent::Config {
        watch_lasts: std::time::Duration::from_secs(2),
        metrics_bind: Some(address),
        ..node.config()
    };
    let mut agent = Agent::start(&node, config);
    agent.wait_ready();
    api.stall();
    api.delete("services", "default/old");
    api.service("new", "10.96.0.11", "TCP", 80, 30081);
    assert_eq!(frontends(&node).len(), 3, "the last state stays in force");
    eventually("the new service alone", || {
        let there = frontends(&node);
        let ports: Vec<u16> =
            there.iter().filter(|(key, _)| key.kind == 1).map(|(key, _)| key.port.get()).collect();
        (ports == [30081]).then_some(())
    });
    let metrics = node.netns.run(|| get(address, "/metrics").unwrap()).unwrap();
    let failures = metrics.lines().find_map(|line| line.strip_prefix("skerry_proxy_watch_failures_total "));
    assert!(failures.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");
    agent.stop().unwrap();
}

pub fn get(address: std::net::SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn metrics_and_probes_are_answered() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("probe", 1);
    api.service("web", "10.96.0.10", "TCP", 80, 30080);
    // A namespace of our own: the port is nobody else's a moment later.
    let address = node.netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()).unwrap();
    let get = |path: &str| node.netns.run(|| get(address, path)).unwrap();
    api.set_away(true);
    api.listen_in(&node.netns, &node.kubeconfig());
    let mut agent = Agent::start(&node, proxy_agent::Config { metrics_bind: Some(address), ..node.config() });
    let not_ready = eventually("an answer", || get("/readyz").ok());
    assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("not ready"), "{not_ready}");
    assert!(get("/healthz").unwrap().starts_with("HTTP/1.1 200"));
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    api.set_away(false);
    agent.wait_ready();
    assert!(get("/readyz").unwrap().starts_with("HTTP/1.1 200"));
    let metrics = eventually("the flows are looked through", || {
        get("/metrics").ok().filter(|metrics| metrics.contains("skerry_proxy_flow_entries{"))
    });
    for line in [
        "skerry_proxy_services 1",
        "skerry_proxy_map_entries{map=\"FRONTENDS\"} 3",
        "skerry_proxy_map_capacity{map=\"FRONTENDS\"} 1024",
        "skerry_proxy_map_capacity{map=\"FLOWS\"} 65536",
        "skerry_proxy_flow_entries{state=\"established\"} ",
        "skerry_proxy_divergence_total 0",
        "skerry_proxy_packets_total{reason=\"unallocated_service\"} ",
        "skerry_proxy_event_to_maps_seconds_count ",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(get("/").unwrap().starts_with("HTTP/1.1 404"));
    // Where tools look for kube-proxy: it waits for the port, if need be.
    agent.stop().unwrap();
    let tools = std::net::SocketAddr::from(([127, 0, 0, 1], 10249));
    let held = node.netns.run(|| TcpListener::bind(tools).unwrap()).unwrap();
    let mut agent = Agent::start(&node, node.config());
    agent.wait_ready();
    drop(held);
    let ask = |path: &str| node.netns.run(|| self::get(tools, path)).unwrap();
    let mode = eventually("the port is free", || ask("/proxyMode").ok());
    assert!(mode.starts_with("HTTP/1.1 200") && mode.ends_with("\r\n\r\nebpf"), "{mode}");
    assert!(ask("/metrics").unwrap().contains("skerry_proxy_services 1"));
}
