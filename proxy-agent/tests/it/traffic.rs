//! Real packets through the agent's programs and maps, between namespaces.

use std::{
    net::{TcpListener, TcpStream},
    time::Instant,
};

use crate::support::{
    Api, Case, TestNode, Underlay, eventually,
    roles::{Role, Tally},
    scene::Scene,
    trial,
    witness::Witness,
};
use proxy_abi::{Addr, Be16, Endpoint, Facts, Flow, Frontend, FrontendKey, Tuple, Uplink, flow_state, map};
use skerry_kernel::{Direction, Link, Map, MapSpec, Update, map_type};

pub fn trials() -> Vec<Case> {
    vec![
        trial("a_service_answers_from_pods_nodes_and_outside_and_follows_its_endpoints", follows),
        trial(VLAN, on_a_vlan),
        trial("a_second_way_out_serves_node_ports_and_hides_pods_while_it_is_there", second_way_out),
        trial("twenty_restarts_under_load_lose_nothing", || restarts(20, End::Leave)),
        trial("twenty_kills_under_load_lose_nothing", || restarts(20, End::Kill)),
        trial("five_changes_of_version_under_load_lose_nothing", || restarts(5, End::OtherVersion)),
        trial("connections_outlive_a_change_of_their_tables_layout", other_layout),
        trial("ten_thousand_services_fit_into_forty_megabytes_and_a_change_into_milliseconds", many),
        trial("maps_that_grow_under_load_lose_nothing", grows),
        trial("the_api_server_is_reached_through_its_own_service_after_a_restart", own_vip),
        trial("a_memory_limit_that_lets_no_map_be_made_is_named", out_of_memory),
        trial("udp_flow_moves_when_its_backend_is_removed", udp_moves),
    ]
}

const VLAN: &str = "a_vlan_device_serves_as_the_uplink";

/// Its name has a dot, which pins can't have; its packets come with the tag taken off.
fn on_a_vlan() {
    const TAG: u16 = 100;
    let probe = skerry_lab::Netns::unique("vlan").unwrap();
    probe.ip("link add v0 type veth peer name v1").unwrap();
    if probe.ip(&format!("link add link v0 name v0.{TAG} type vlan id {TAG}")).is_err() {
        let why = "in a virtual machine only: this kernel has no VLAN devices (`cargo xtask vm-test`)";
        return skerry_lab::skipped(VLAN, why);
    }
    let scene = Scene::on(Underlay::tagged(TAG), "TCP");
    for direction in [Direction::Ingress, Direction::Egress] {
        assert!(scene.near.at_device("eth0.100", direction).is_some(), "{direction:?}");
        assert_eq!(scene.near.at_device("eth0", direction), None);
    }
    for (who, role) in
        [("pod", scene.in_pod("dial")), ("node", scene.on_node("dial")), ("outside", scene.outside("dial"))]
    {
        let tally = role.for_a_moment();
        assert!(tally.lost.is_empty() && tally.answers.len() == 2, "{who}: {tally:?}");
    }
}

/// It comes while the agent runs, gets a default route, goes, and comes again.
fn second_way_out() {
    const HERE: &str = "172.32.0.1";
    let scene = Scene::new("TCP");
    let (near, pod) = (&scene.near, &scene.client);
    let other = skerry_lab::Netns::unique("other").unwrap();
    let is_on = |device: &str| near.at_device(device, Direction::Ingress).is_some();
    let ways_out = || {
        let ways: Map<u32, Uplink> = Map::open(&near.pin("maps", map::UPLINKS)).unwrap();
        ways.entries().unwrap().len()
    };
    let is_served = |ip: &str| {
        let own: Map<Addr, Endpoint> = Map::open(&near.pin("maps", map::ENDPOINTS)).unwrap();
        own.lookup(&ip.parse::<std::net::IpAddr>().unwrap().into()).unwrap().is_some()
    };
    let peer_of_a_pods_connection = || {
        let server = other.run(|| TcpListener::bind("172.32.0.200:9000")).unwrap().unwrap();
        let dialled = pod.netns.run(|| TcpStream::connect("172.32.0.200:9000")).unwrap();
        dialled.map(|_| server.accept().unwrap().1.ip().to_string())
    };
    for round in 0..2 {
        let into = other.name();
        near.netns.ip(&format!("link add eth1 type veth peer name eth0 netns {into}")).unwrap();
        other.ip("addr add 172.32.0.200/24 dev eth0").unwrap();
        other.ip("link set eth0 up").unwrap();
        near.netns.ip("link set eth1 up").unwrap();
        // With an address it is one, with or without a route.
        assert!(!is_on("eth1"), "no way out yet: round {round}");
        near.netns.ip(&format!("addr add {HERE}/24 dev eth1")).unwrap();
        near.netns.ip("route add default via 172.32.0.200 dev eth1 metric 500").unwrap();
        eventually("programs on the second way out", || (is_on("eth1") && ways_out() == 2).then_some(()));
        // The last that is written: what clients dial.
        eventually("NodePorts on its address", || is_served(HERE).then_some(()));
        let dialled = Role::start("dial", &[&format!("{HERE}:30080")], |line| {
            let mut command = std::process::Command::new("sh");
            command.arg("-c").arg(format!("exec nsenter --net={} -- {line}", other.path().display()));
            command
        });
        let tally = dialled.for_a_moment();
        assert!(tally.lost.is_empty() && tally.answers.len() == 2, "by the second: {tally:?}");
        assert_eq!(
            peer_of_a_pods_connection().unwrap(),
            HERE,
            "a pod's connection has that device's address"
        );
        let tally = scene.outside("dial").for_a_moment();
        assert!(tally.lost.is_empty() && tally.answers.len() == 2, "by the first: {tally:?}");
        near.netns.ip("link del eth1").unwrap();
        eventually("the second way out is forgotten", || (ways_out() == 1).then_some(()));
        let tally = scene.outside("dial").for_a_moment();
        assert!(tally.lost.is_empty() && tally.answers.len() == 2, "after the second has gone: {tally:?}");
    }
}

fn follows() {
    let scene = Scene::new("TCP");
    for (who, role) in
        [("pod", scene.in_pod("dial")), ("node", scene.on_node("dial")), ("outside", scene.outside("dial"))]
    {
        let tally = role.for_a_moment();
        assert!(tally.lost.is_empty() && tally.answers.len() == 2, "{who}: {tally:?}");
    }
    scene.backends("TCP", &["far"]);
    eventually("only the far one answers", || {
        let tally = scene.in_pod("dial").for_a_moment();
        (tally.lost.is_empty() && tally.answers.keys().eq(["far"])).then_some(())
    });
    let tally = scene.outside("dial").for_a_moment();
    assert!(tally.lost.is_empty() && tally.answers.keys().eq(["far"]), "{tally:?}");
    scene.backends("TCP", &[]);
    eventually("refused", || {
        let tally = scene.in_pod("dial").for_a_moment();
        (tally.total() == 0 && tally.lost.keys().all(|error| error.contains("refused"))).then_some(())
    });
}

/// How an agent ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Leave,
    Kill,
    /// By its own leave; the next one finds maps that another version made: the same programs run on, by maps
    /// that the new one can't use.
    OtherVersion,
}

/// The agent of the near node runs as a process of its own and is ended and started again many times, while
/// new and long-lived connections run through a ClusterIP from a pod's socket hooks and through a NodePort
/// from outside.
fn restarts(times: u32, end: End) {
    let mut scene = Scene::new("TCP");
    // The first agent of this node has set it up; from here on it is a child.
    scene.agents.remove(0).stop().unwrap();
    let role = if end == End::OtherVersion { "hasty agent" } else { "agent" };
    let start = || Role::agent(role, &scene.near);
    let mut agent = start();
    let look = || Witness::of(&scene.near, &[("client", &scene.underlay.client)]);
    let counters_before = look();
    let load = [
        ("new, ClusterIP from a pod", scene.in_pod("dial")),
        ("new, ClusterIP from the node", scene.on_node("dial")),
        ("new, NodePort from outside", scene.outside("dial")),
        ("kept, ClusterIP from a pod", scene.in_pod("keep")),
        ("kept, NodePort from outside", scene.outside("keep")),
    ];
    let filter = || {
        let find = || {
            let index = skerry_kernel::ifindex(&scene.client.device).unwrap();
            skerry_kernel::filter_program(index, Direction::Ingress).unwrap()
        };
        scene.near.netns.run(find).unwrap()
    };
    let running = || {
        let uplink = scene.near.at_device("eth0", Direction::Ingress).unwrap();
        let hook = Link::open(&scene.near.pin("links", "sock_connect4-cgroup")).unwrap().info().unwrap();
        [(uplink.link_id, uplink.program_id), (hook.id, hook.program_id)]
    };
    for _ in 0..times {
        let (before, filter_before) = (running(), filter());
        match end {
            End::Kill => agent.kill(),
            End::Leave => drop(agent.end()),
            End::OtherVersion => {
                drop(agent.end());
                of_another_version(&scene.near);
            }
        }
        agent = start();
        for ((link, program), (link_before, program_before)) in running().into_iter().zip(before) {
            assert!(
                link == link_before && program != program_before,
                "the link stays, the program is a new one"
            );
        }
        assert!(filter().is_some() && filter() != filter_before, "the pod's filter has the new program");
    }
    drop(agent);
    let tallies = load.map(|(what, role)| (what, role.tally()));
    for (what, tally) in &tallies {
        println!("{what}: {} answers, {:?} lost", tally.total(), tally.lost);
    }
    let is_good = |tally: &Tally| tally.lost.is_empty() && tally.total() > 100;
    if !tallies.iter().all(|(_, tally)| is_good(tally)) {
        look().report(&counters_before, &scene.near);
        panic!("connections were lost: {tallies:?}");
    }
}

/// Pins maps in the layout of ABI version 1: frontends had 24 bytes, members and source ranges did not exist.
fn of_another_version(node: &TestNode) {
    let config = Map::<u32, Facts>::open(&node.pin("maps", map::CONFIG)).unwrap();
    let facts = Facts { abi_version: 1, ..config.lookup(&0).unwrap().unwrap() };
    config.update(&0, &facts, Update::Any).unwrap();
    for name in [map::FRONTENDS, map::MEMBERS, map::SOURCE_RANGES] {
        std::fs::remove_file(node.pin("maps", name)).unwrap();
    }
    let spec = MapSpec { name: "FRONTENDS", map_type: map_type::HASH, max_entries: 64, flags: 0 };
    let old = Map::<FrontendKey, [u8; 24]>::create(&spec).unwrap();
    old.pin(&node.pin("maps", map::FRONTENDS)).unwrap();
}

/// Up to ABI 5 a flow's record ended before its path.
fn other_layout() {
    type OldFlow = [u64; 7];
    let mut scene = Scene::new("TCP");
    scene.agents.remove(0).stop().unwrap();
    let start = || Role::agent("agent", &scene.near);
    let agent = start();
    let load =
        [("NodePort from outside", scene.outside("keep")), ("ClusterIP from a pod", scene.in_pod("keep"))];
    let flows = || Map::<Tuple, Flow>::open(&scene.near.pin("maps", map::FLOWS)).unwrap().entries().unwrap();
    let is_kept = |flow: &Flow| flow.state == flow_state::ESTABLISHED;
    eventually("the kept connections are established", || {
        (flows().iter().filter(|(_, flow)| is_kept(flow)).count() >= 2).then_some(())
    });
    drop(agent.end());
    let before: Vec<(Tuple, Flow)> = flows().into_iter().filter(|(_, flow)| is_kept(flow)).collect();
    let spec = MapSpec { name: "FLOWS", map_type: map_type::HASH, max_entries: 1_024, flags: 0 };
    let old = Map::<Tuple, OldFlow>::create(&spec).unwrap();
    for (key, flow) in &before {
        let flow: OldFlow = bytemuck::pod_read_unaligned(&bytemuck::bytes_of(flow)[..size_of::<OldFlow>()]);
        old.update(key, &flow, Update::Any).unwrap();
    }
    let config = Map::<u32, Facts>::open(&scene.near.pin("maps", map::CONFIG)).unwrap();
    let facts = Facts { abi_version: 5, ..config.lookup(&0).unwrap().unwrap() };
    config.update(&0, &facts, Update::Any).unwrap();
    std::fs::remove_file(scene.near.pin("maps", map::FLOWS)).unwrap();
    old.pin(&scene.near.pin("maps", map::FLOWS)).unwrap();

    let agent = start();
    eventually("the older table is gone", || {
        (!scene.near.pin("maps", map::FLOWS_OLD).exists()).then_some(())
    });
    let after = flows();
    for (key, _) in &before {
        assert!(after.iter().any(|(known, flow)| known == key && is_kept(flow)), "{key:?} came along");
    }
    // They go on by the new table, and new ones are made.
    let tally = scene.outside("dial").for_a_moment();
    assert!(tally.lost.is_empty() && tally.total() > 0, "{tally:?}");
    for (what, role) in load {
        let tally = role.tally();
        assert!(tally.lost.is_empty() && tally.total() > 100, "{what}: {tally:?}");
    }
    drop(agent);
}

/// From 1,024 frontends on, twice: the agent starts over inside, and its programs change to other maps.
fn grows() {
    let scene = Scene::new("TCP");
    let load = [
        ("new, ClusterIP from a pod", scene.in_pod("dial")),
        ("new, ClusterIP from the node", scene.on_node("dial")),
        ("new, NodePort from outside", scene.outside("dial")),
        ("kept, NodePort from outside", scene.outside("keep")),
    ];
    let look = || Witness::of(&scene.near, &[("client", &scene.underlay.client)]);
    let counters_before = look();
    let capacity = || {
        let path = scene.near.pin("maps", map::FRONTENDS);
        skerry_kernel::pinned_map_info(&path).unwrap().max_entries
    };
    let held = || {
        let map = Map::<FrontendKey, Frontend>::open(&scene.near.pin("maps", map::FRONTENDS)).unwrap();
        map.entries().unwrap().len()
    };
    let mut capacities = vec![capacity()];
    for (from, to) in [(0_u32, 1_000), (1_000, 4_000)] {
        for n in from..to {
            scene.api.service(&format!("s{n}"), &format!("10.97.{}.{}", n / 200, n % 200 + 1), "TCP", 80, 0);
        }
        eventually("all of them", || (held() == 3 + 2 * to as usize).then_some(()));
        capacities.push(capacity());
    }
    let tallies = load.map(|(what, role)| (what, role.tally()));
    println!("frontends that fit: {capacities:?}");
    for (what, tally) in &tallies {
        println!("{what}: {} answers, {:?} lost", tally.total(), tally.lost);
    }
    assert!(capacities.is_sorted() && capacities[0] == 1024 && capacities[2] >= 8003, "{capacities:?}");
    if !tallies.iter().all(|(_, tally)| tally.lost.is_empty() && tally.total() > 100) {
        look().report(&counters_before, &scene.near);
        panic!("connections were lost: {tallies:?}");
    }
}

/// Row 65: the agent's own way to the API server is a ClusterIP that only its programs know.
fn own_vip() {
    let mut scene = Scene::new("TCP");
    scene.agents.remove(0).stop().unwrap();
    let server = scene.api.listen_at(&scene.near.netns, &scene.near.ip().to_string());
    scene.api.service("kubernetes", "10.96.0.1", "TCP", 443, 0);
    scene.api.endpoints("kubernetes", "TCP", server.port(), &[(&scene.near.ip().to_string(), "near")]);
    let start = || Role::agent("agent", &scene.near);
    start().kill();
    Api::write_kubeconfig(&scene.near.kubeconfig(), "10.96.0.1:443");
    for _ in 0..3 {
        start().kill();
    }
    let agent = start();
    // And what changes is heard through it.
    scene.backends("TCP", &["far"]);
    eventually("only the far one answers", || {
        let tally = scene.in_pod("dial").for_a_moment();
        (tally.lost.is_empty() && tally.answers.keys().eq(["far"])).then_some(())
    });
    drop(agent);
}

fn out_of_memory() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("tight", 1);
    api.listen_in(&node.netns, &node.kubeconfig());
    let (group, limit) = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
        .iter()
        .map(|root| std::path::Path::new(root).join(format!("{}-tight", node.netns.name())))
        .zip(["memory.limit_in_bytes", "memory.max"])
        .find(|(group, limit)| {
            std::fs::create_dir(group).is_ok() && std::fs::write(group.join(limit), "33554432").is_ok()
        })
        .expect("a memory controller, of version 1 or 2");
    let (dir, cgroup) = (node.dir().display().to_string(), node.cgroup.dir().display().to_string());
    let program = std::env::current_exe().unwrap();
    let line = format!(
        "sh -c 'echo $$ > {}/cgroup.procs && exec {} {} {dir} {cgroup}'",
        group.display(),
        program.display(),
        node.name
    );
    let ended = node
        .command(&line)
        .env(crate::support::roles::ROLE, "big agent")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    println!("{limit} of 32 MiB: {said}");
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("make map ") && said.contains("memory limit"), "{said}");
    assert!(said.contains("Cannot allocate memory"), "{said}");
    eventually("nobody is in the group", || std::fs::remove_dir(&group).ok());
}

fn udp_moves() {
    let scene = Scene::new("UDP");
    scene.backends("UDP", &["near"]);
    let wait_for = |name: &str| {
        eventually(name, || {
            let tally = scene.in_pod("ask").for_a_moment();
            (tally.lost.is_empty() && tally.answers.keys().eq([name])).then_some(())
        });
    };
    wait_for("near");
    // Sockets that stay open while the backend moves: in a pod, on the node, outside.
    let asking =
        [("pod", scene.in_pod("ask")), ("node", scene.on_node("ask")), ("outside", scene.outside("ask"))];
    std::thread::sleep(std::time::Duration::from_millis(100));
    scene.backends("UDP", &["far"]);
    wait_for("far");
    std::thread::sleep(std::time::Duration::from_millis(1000));
    for (who, role) in asking {
        let tally = role.tally();
        println!("{who}: {tally:?}");
        assert!(tally.answers.contains_key("far") && tally.answers["far"] > 100, "{who}: {tally:?}");
    }
    assert_eq!(scene.servers.len(), 2);
}

/// Budgets P4 and P5 in a debug build on a busy machine: the bounds here are for what is grossly wrong, the
/// figures are printed.
fn many() {
    const SERVICES: u16 = 10_000;
    crate::support::log();
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("many", 1);
    api.node(&node.name, &node.ip().to_string(), &node.pod_cidr());
    let backends = |n: u16, last: u8| -> Vec<String> {
        (1..=5)
            .map(|i| format!("10.{}.{}.{}", 100 + n / 250, n % 250, if i == 5 { last } else { i }))
            .collect()
    };
    let endpoints = |n: u16, last: u8| {
        let ips = backends(n, last);
        let list: Vec<(&str, &str)> = ips.iter().map(|ip| (ip.as_str(), "elsewhere")).collect();
        api.endpoints(&format!("service-{n}"), "TCP", 8080, &list);
    };
    for n in 0..SERVICES {
        api.service(
            &format!("service-{n}"),
            &format!("10.{}.{}.{}", 97 + n / 65000, n / 250, 1 + n % 250),
            "TCP",
            80,
            0,
        );
        endpoints(n, 5);
    }
    api.listen_in(&node.netns, &node.kubeconfig());
    let started = Instant::now();
    let agent = Role::agent("big agent", &node);
    let first_sync = started.elapsed();
    let table = Map::<FrontendKey, Frontend>::open(&node.pin("maps", map::FRONTENDS)).unwrap();
    assert_eq!(table.entries().unwrap().len(), 2 * usize::from(SERVICES));
    let backend = || {
        let addr = std::net::Ipv4Addr::new(10, 97, 28, 78).into();
        let key = FrontendKey { addr, port: Be16::new(80), proto: 6, kind: 0 };
        table.lookup(&key).unwrap().unwrap().generation
    };
    let (before, changed) = (backend(), Instant::now());
    endpoints(7077, 99);
    eventually("the change", || (backend() != before).then_some(()));
    let change = changed.elapsed();
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", agent.pid())).unwrap();
    let kib = |name: &str| -> u64 {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let (pss_kib, anonymous_kib) = (kib("Pss:"), kib("Pss_Anon:"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    let event_to_maps_us: u64 = agent.end().trim().parse().unwrap();
    println!(
        "start to first sync {first_sync:?}; change to maps {change:?}, of which in the agent {event_to_maps_us} µs; \
         PSS {pss_kib} KiB, {anonymous_kib} of it anonymous; {peak}"
    );
    // The rest is the program's own text, several times as large without optimisation.
    assert!(anonymous_kib < 30 << 10, "{anonymous_kib} KiB");
    assert!(event_to_maps_us < 50_000, "{event_to_maps_us} µs");
}
