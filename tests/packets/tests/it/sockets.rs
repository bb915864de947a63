//! The socket hooks: processes of a node and of its pods dial service addresses.

use std::{os::unix::process::CommandExt, process::Command};

use proxy_abi::{Facts, facts_flag, proto};
use skerry_lab::{Cgroup, Netns};
use skerry_packet_cases::{Echo, Greeter, NODE_PORT, Node, VIP, World};

/// A node's cgroup, removed with its value.
struct Folder(Cgroup);

impl Folder {
    fn new(name: &str) -> Folder {
        Folder(Cgroup::create(&format!("skerry-packets-{}-{name}", std::process::id())).unwrap())
    }

    /// Runs the probe inside this cgroup and a namespace.
    fn probe(&self, netns: &Netns, arguments: &[&str]) -> String {
        let procs = self.0.dir().join("cgroup.procs");
        let mut command: Command = netns.command(env!("CARGO_BIN_EXE_probe"));
        command.args(arguments);
        // SAFETY: between fork and exec only a write to an open path happens, which allocates nothing shared.
        unsafe {
            command.pre_exec(move || std::fs::write(&procs, "0"));
        }
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove() {
            eprintln!("{error:#}");
        }
    }
}

/// A world whose first node's processes are hooked.
fn hooked(name: &str) -> (World, Folder) {
    let mut world = World::new();
    let folder = Folder::new(name);
    world.nodes[0].object.attach_to_cgroup(&folder.0.dir()).unwrap();
    (world, folder)
}

#[test]
fn a_pods_tcp_connection_is_direct_and_shows_the_service_as_its_peer() {
    let (mut world, folder) = hooked("tcp");
    let server = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
    let backend = (world.nodes[1].pod_address, 8080);
    world.serve(1, proto::TCP, 80, Some(NODE_PORT), &[backend]);
    let vip = format!("{VIP}:80");
    let said = folder.probe(&world.nodes[0].pod, &["tcp", &vip]);
    assert!(said.starts_with(&format!("peer {vip} said pod1:10.244.1.2:")), "{said}");
    let flows = world.nodes[0].object.flows().unwrap();
    assert_eq!(flows, [], "translated at the socket: no packet needed a flow");
    let node_port = format!("192.168.50.1:{NODE_PORT}");
    let said = folder.probe(&world.nodes[0].pod, &["tcp", &node_port]);
    assert!(said.starts_with(&format!("peer {node_port} said pod1:")), "{said}");
    server.end(&world.nodes[1].pod);
}

#[test]
fn where_pods_are_left_alone_a_sidecar_sees_what_its_pod_dialled() {
    a_sidecar_sees("all", |node| {
        let flags = node.facts.flags | facts_flag::PODS_BY_PACKET;
        node.object.set_facts(Facts { flags, ..node.facts }).unwrap();
    });
}

#[test]
fn a_pod_that_is_left_out_has_a_sidecar_that_sees_what_it_dialled() {
    a_sidecar_sees("one", |node| {
        let cookie = node.pod.run(skerry_kernel::netns_cookie).unwrap().unwrap();
        node.object.leave_out(cookie).unwrap();
    });
}

fn a_sidecar_sees(name: &str, leave_alone: impl Fn(&mut Node)) {
    let (mut world, folder) = hooked(name);
    leave_alone(&mut world.nodes[0]);
    let server = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
    world.serve(1, proto::TCP, 80, None, &[(world.nodes[1].pod_address, 8080)]);
    let vip = format!("{VIP}:80");
    let said = folder.probe(&world.nodes[0].pod, &["tcp", &vip]);
    assert!(said.starts_with(&format!("peer {vip} said pod1:10.244.1.2:")), "{said}");
    let flows = world.nodes[0].object.flows().unwrap();
    assert_eq!(flows.len(), 2, "translated on the pod's device: {flows:?}");
    // What such a sidecar has done: the pod's own rules take all connections to a process of the pod.
    let pod = &world.nodes[0].pod;
    let sidecar = Greeter::start(pod, "127.0.0.1:15001", "sidecar");
    pod.sh("iptables -t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 15001").unwrap();
    let said = folder.probe(pod, &["tcp", &vip]);
    assert!(said.contains("said sidecar:"), "{said}");
    sidecar.end(pod);
    server.end(&world.nodes[1].pod);
}

#[test]
fn a_mapped_destination_on_an_ipv6_socket_is_translated() {
    let (mut world, folder) = hooked("mapped");
    let server = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
    let backend = (world.nodes[1].pod_address, 8080);
    world.serve(1, proto::TCP, 80, None, &[backend]);
    let mapped = format!("[::ffff:{VIP}]:80");
    let said = folder.probe(&world.nodes[0].pod, &["tcp", &mapped]);
    assert!(said.starts_with(&format!("peer {mapped} said pod1:")), "{said}");
    server.end(&world.nodes[1].pod);
}

#[test]
fn the_nodes_own_processes_reach_a_remote_pod_through_tcp_and_udp() {
    let (mut world, folder) = hooked("host");
    let server = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
    let _echo = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    let pod = world.nodes[1].pod_address;
    world.serve(1, proto::TCP, 80, None, &[(pod, 8080)]);
    world.serve(2, proto::UDP, 53, None, &[(pod, 7000)]);
    let said = folder.probe(&world.nodes[0].netns, &["tcp", &format!("{VIP}:80")]);
    assert!(said.starts_with(&format!("peer {VIP}:80 said pod1:10.244.1.1:")), "{said}");
    let said = folder.probe(&world.nodes[0].netns, &["udp", &format!("{VIP}:53")]);
    assert!(said.starts_with(&format!("from {VIP}:53 said pod1:10.244.1.1:")), "{said}");
    let said = folder.probe(&world.nodes[0].netns, &["udp-connected", &format!("{VIP}:53")]);
    assert!(said.starts_with(&format!("peer {VIP}:53 said pod1:10.244.1.1:")), "{said}");
    server.end(&world.nodes[1].pod);
}

#[test]
fn an_unconnected_socket_sticks_to_one_backend() {
    let (mut world, folder) = hooked("sticky");
    let _zero = Echo::start(&world.nodes[0].pod, "0.0.0.0:7000", "pod0");
    let _one = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    let backends = [(world.nodes[0].pod_address, 7000), (world.nodes[1].pod_address, 7000)];
    world.serve(2, proto::UDP, 53, None, &backends);
    for _ in 0..8 {
        let said = folder.probe(&world.nodes[0].netns, &["udp", &format!("{VIP}:53")]);
        let (first, second) = said.split_once(" then ").unwrap_or_else(|| panic!("{said}"));
        let both = ["pod0", "pod1"]
            .iter()
            .any(|pod| first.contains(&format!("said {pod}")) && second.starts_with(pod));
        assert!(both, "two datagrams of one socket went two ways: {said}");
    }
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let (mut world, folder) = hooked("refused");
    world.serve(3, proto::TCP, 80, Some(NODE_PORT), &[]);
    assert_eq!(folder.probe(&world.nodes[0].pod, &["tcp", &format!("{VIP}:80")]), "error ConnectionRefused");
    let node_port = format!("192.168.50.1:{NODE_PORT}");
    assert_eq!(folder.probe(&world.nodes[0].netns, &["tcp", &node_port]), "error ConnectionRefused");
}

#[test]
fn a_datagrams_socket_is_not_refused_but_its_packets_are() {
    let (mut world, folder) = hooked("datagrams");
    world.nodes[0].netns.ip("route add default via 192.168.50.200").unwrap();
    world.serve(3, proto::UDP, 53, Some(NODE_PORT), &[]);
    let vip = format!("{VIP}:53");
    for client in [&world.nodes[0].netns, &world.nodes[0].pod] {
        assert_eq!(folder.probe(client, &["udp-connected", &vip]), "error ConnectionRefused");
    }
    // Nobody tells a socket that is not connected.
    assert_eq!(folder.probe(&world.nodes[0].netns, &["udp", &vip]), "error WouldBlock");
}

#[test]
fn a_socket_of_the_node_hears_its_services_backend_under_the_address_that_it_asked() {
    let (mut world, folder) = hooked("both");
    let _pods = [0, 1].map(|node| Echo::start(&world.nodes[node].pod, "0.0.0.0:7000", "pod"));
    for (id, port, node) in [(1, 53, 0), (2, 54, 1)] {
        let pod = world.nodes[node].pod_address;
        world.serve(id, proto::UDP, port, None, &[(pod, 7000)]);
        let (vip, backend) = (format!("{VIP}:{port}"), format!("{pod}:7000"));
        let said = folder.probe(&world.nodes[0].netns, &["udp-both", &vip, &backend]);
        assert_eq!(said, format!("{vip} {backend} {vip} {backend} {backend}"));
    }
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() {
    let (mut world, folder) = hooked("self");
    let server = Greeter::start(&world.nodes[0].pod, "0.0.0.0:8080", "pod0");
    let backend = (world.nodes[0].pod_address, 8080);
    world.serve(1, proto::TCP, 80, None, &[backend]);
    let said = folder.probe(&world.nodes[0].pod, &["tcp", &format!("{VIP}:80")]);
    assert!(said.starts_with(&format!("peer {VIP}:80 said pod0:10.244.1.2:")), "{said}");
    server.end(&world.nodes[0].pod);
}

/// The TCP sockets of an MPTCP one are the kernel's own, as those of a mount of NFS or SMB are. Their connect
/// meets the hook as any other; only getpeername, which asks the outer socket, shows the backend.
#[test]
fn a_socket_that_the_kernel_makes_itself_is_translated_at_connect() {
    let (mut world, folder) = hooked("mptcp");
    let server = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
    let backend = (world.nodes[1].pod_address, 8080);
    world.serve(1, proto::TCP, 80, Some(NODE_PORT), &[backend]);
    for at in [format!("{VIP}:80"), format!("192.168.50.1:{NODE_PORT}")] {
        for (client, source) in [(&world.nodes[0].pod, "10.244.1.2"), (&world.nodes[0].netns, "10.244.1.1")] {
            let said = folder.probe(client, &["mptcp", &at]);
            assert!(said.contains(&format!("said pod1:{source}:")), "{at} from {source}: {said}");
        }
    }
    let flows = world.nodes[0].object.flows().unwrap();
    assert_eq!(flows, [], "translated at the socket: no packet needed a flow");
    server.end(&world.nodes[1].pod);
}
