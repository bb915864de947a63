//! Packets between two nodes, their pods and the outside, with hand-written maps.

use proxy_abi::{Reason, proto};
use skerry_packet_cases::{Echo, Greeter, NODE_PORT, VIP, World, ask, dial, exchange, mirror, pattern};

#[test]
fn a_pod_reaches_a_pod_of_the_other_node_through_the_tunnel() {
    let world = World::new();
    let _server = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    let (said, from) = ask(&world.nodes[0].pod, "0.0.0.0:6000", "10.244.2.2:7000", "hello").unwrap();
    assert_eq!((said.as_str(), from.to_string().as_str()), ("pod1:10.244.1.2:6000:hello", "10.244.2.2:7000"));
}

#[test]
fn a_pods_datagram_to_a_cluster_ip_is_answered_by_the_cluster_ip() {
    let mut world = World::new();
    let _server = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    let backend = (world.nodes[1].pod_address, 7000);
    world.serve(1, proto::UDP, 53, None, &[backend]);
    let vip = format!("{VIP}:53");
    for _ in 0..3 {
        let (said, from) = ask(&world.nodes[0].pod, "0.0.0.0:6000", &vip, "hello").unwrap();
        assert_eq!((said.as_str(), from.to_string()), ("pod1:10.244.1.2:6000:hello", vip.clone()));
    }
}

#[test]
fn a_node_port_on_one_node_reaches_a_pod_on_the_other() {
    let mut world = World::new();
    let server = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
    let backend = (world.nodes[1].pod_address, 8080);
    world.serve(2, proto::TCP, 80, Some(NODE_PORT), &[backend]);
    let said = dial(&world.outside, &format!("{}:{NODE_PORT}", world.nodes[0].address)).unwrap();
    assert!(said.starts_with("pod1:10.244.1.1:"), "the pod sees node0's router address, not {said}");
    server.end(&world.nodes[1].pod);
}

#[test]
fn a_node_port_keeps_the_clients_address_for_a_pod_on_the_same_node() {
    let mut world = World::new();
    let server = Greeter::start(&world.nodes[0].pod, "0.0.0.0:8080", "pod0");
    let backend = (world.nodes[0].pod_address, 8080);
    world.serve(2, proto::TCP, 80, Some(NODE_PORT), &[backend]);
    let said = dial(&world.outside, &format!("{}:{NODE_PORT}", world.nodes[0].address)).unwrap();
    assert!(said.starts_with("pod0:192.168.50.100:"), "{said}");
    server.end(&world.nodes[0].pod);
}

#[test]
fn a_pod_reaches_the_outside_under_its_nodes_address() {
    let world = World::new();
    let _server = Echo::start(&world.outside, "0.0.0.0:7000", "outside");
    let (said, from) = ask(&world.nodes[0].pod, "0.0.0.0:6000", "192.168.50.100:7000", "hello").unwrap();
    assert!(said.starts_with("outside:192.168.50.1:"), "{said}");
    assert_eq!(from.to_string(), "192.168.50.100:7000");
    let server = Greeter::start(&world.outside, "0.0.0.0:8080", "outside");
    let said = dial(&world.nodes[0].pod, "192.168.50.100:8080").unwrap();
    assert!(said.starts_with("outside:192.168.50.1:"), "{said}");
    server.end(&world.outside);
}

#[test]
fn a_service_without_endpoints_refuses_pods_and_the_outside() {
    let mut world = World::new();
    world.serve(3, proto::TCP, 80, Some(NODE_PORT), &[]);
    world.serve(4, proto::UDP, 53, None, &[]);
    let refused =
        |done: std::io::Result<String>| done.unwrap_err().kind() == std::io::ErrorKind::ConnectionRefused;
    assert!(refused(dial(&world.nodes[0].pod, &format!("{VIP}:80"))));
    assert!(refused(dial(&world.outside, &format!("{}:{NODE_PORT}", world.nodes[0].address))));
    assert_eq!(world.nodes[0].object.counted(Reason::Rejected).unwrap(), 2);
}

#[test]
fn a_pod_that_uses_anothers_address_is_dropped_and_counted() {
    let mut world = World::new();
    let node = &mut world.nodes[0];
    node.pod.ip("addr add 10.244.1.77/32 dev eth0").unwrap();
    let _server = Echo::start(&node.netns, "0.0.0.0:7000", "node0");
    assert!(ask(&node.pod, "10.244.1.77:6000", "192.168.50.1:7000", "hello").is_err());
    assert_eq!(node.object.counted(Reason::SourceSpoofed).unwrap(), 1);
    let (said, _) = ask(&node.pod, "10.244.1.2:6000", "192.168.50.1:7000", "hello").unwrap();
    assert_eq!(said, "node0:10.244.1.2:6000:hello");
}

#[test]
fn a_pod_reaches_itself_by_datagrams_through_its_own_service() {
    let mut world = World::new();
    let _server = Echo::start(&world.nodes[0].pod, "0.0.0.0:7000", "pod0");
    let backend = (world.nodes[0].pod_address, 7000);
    world.serve(1, proto::UDP, 53, None, &[backend]);
    let (said, from) = ask(&world.nodes[0].pod, "0.0.0.0:6000", &format!("{VIP}:53"), "hello").unwrap();
    assert!(said.starts_with("pod0:10.244.1.1:"), "{said}");
    assert_eq!(from.to_string(), format!("{VIP}:53"));
}

#[test]
fn a_stranger_on_the_wire_can_not_speak_into_the_tunnel() {
    let mut world = World::new();
    // 192.168.50.200 builds what node1 would send: VXLAN, VNI 1, from pod1 to pod0.
    world.wire.ip("link add vx0 type vxlan id 1 remote 192.168.50.1 dstport 4789 dev br0 noudpcsum").unwrap();
    world.wire.ip("link set vx0 up").unwrap();
    world.wire.ip("addr add 10.244.2.2/32 dev vx0").unwrap();
    world.wire.ip("route add 10.244.1.2/32 dev vx0 src 10.244.2.2").unwrap();
    world.wire.ip("neigh add 10.244.1.2 lladdr 02:53:6b:65:00:01 dev vx0 nud permanent").unwrap();
    let _server = Echo::start(&world.nodes[0].pod, "0.0.0.0:7000", "pod0");
    assert!(ask(&world.wire, "10.244.2.2:6000", "10.244.1.2:7000", "hello").is_err());
    // More than one: the stranger's device announces itself too.
    assert!(world.nodes[0].object.counted(Reason::UnknownTunnelPeer).unwrap() > 0);
}

#[test]
fn a_packet_from_a_pods_address_on_the_wire_is_dropped() {
    let mut world = World::new();
    world.wire.ip("addr add 10.244.2.9/32 dev br0").unwrap();
    world.wire.ip("route add 10.244.1.2/32 via 192.168.50.1 dev br0 src 10.244.2.9").unwrap();
    let _server = Echo::start(&world.nodes[0].pod, "0.0.0.0:7000", "pod0");
    assert!(ask(&world.wire, "10.244.2.9:6000", "10.244.1.2:7000", "hello").is_err());
    assert_eq!(world.nodes[0].object.counted(Reason::SourceSpoofed).unwrap(), 1);
}

#[test]
fn a_host_network_backend_answers_pods_and_the_outside_as_the_service() {
    let mut world = World::new();
    let _zero = Echo::start(&world.nodes[0].netns, "0.0.0.0:7000", "node0");
    let zero = (world.nodes[0].address, 7000);
    world.serve(1, proto::UDP, 53, Some(NODE_PORT), &[zero]);
    let vip = format!("{VIP}:53");
    // Its own pod, a pod of the other node, the outside through its node and through the other one.
    let (said, from) = ask(&world.nodes[0].pod, "0.0.0.0:6000", &vip, "a").unwrap();
    assert_eq!((said.as_str(), from.to_string()), ("node0:10.244.1.2:6000:a", vip.clone()));
    let (said, from) = ask(&world.nodes[1].pod, "0.0.0.0:6000", &vip, "b").unwrap();
    assert!(said.starts_with("node0:192.168.50.2:") && from.to_string() == vip, "{said} from {from}");
    for (node, source) in [(0, "node0:192.168.50.100:"), (1, "node0:192.168.50.2:")] {
        let node_port = format!("{}:{NODE_PORT}", world.nodes[node].address);
        let (said, from) = ask(&world.outside, &format!("0.0.0.0:600{node}"), &node_port, "c").unwrap();
        assert!(said.starts_with(source) && from.to_string() == node_port, "{said} from {from}");
    }
}

#[test]
fn a_process_bound_to_its_nodes_address_reaches_a_remote_pod() {
    let world = World::new();
    let _server = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    let (said, _) = ask(&world.nodes[0].netns, "192.168.50.1:6000", "10.244.2.2:7000", "hello").unwrap();
    assert!(said.starts_with("pod1:10.244.1.1:"), "{said}");
}

/// More than fits one window, so that large merged segments (GSO, GRO) take the way too.
const BULK: usize = 24 << 20;

#[test]
fn bulk_transfers_arrive_whole_on_every_way() {
    let mut world = World::new();
    world.serve(2, proto::TCP, 80, Some(NODE_PORT), &[(world.nodes[1].pod_address, 8080)]);
    let node_port = format!("{}:{NODE_PORT}", world.nodes[0].address);
    let vip = format!("{VIP}:80");
    let [zero, one] = &world.nodes;
    let ways = [
        ("pod to remote pod", &zero.pod, "10.244.2.2:8080"),
        ("pod through a service", &zero.pod, vip.as_str()),
        ("node to remote pod", &zero.netns, "10.244.2.2:8080"),
        ("outside through a NodePort of the other node", &world.outside, node_port.as_str()),
    ];
    for (way, from, to) in ways {
        let server = mirror(&one.pod, "0.0.0.0:8080");
        let back = exchange(from, to, BULK).unwrap_or_else(|error| panic!("{way}: {error}"));
        assert!(back == pattern(BULK), "{way}: {} bytes came back", back.len());
        assert_eq!(server.join().unwrap().unwrap(), BULK as u64);
    }
    let server = mirror(&world.outside, "0.0.0.0:8080");
    let back = exchange(&zero.pod, "192.168.50.100:8080", BULK).unwrap();
    assert!(back == pattern(BULK), "pod to the outside: {} bytes came back", back.len());
    server.join().unwrap().unwrap();
}

#[test]
fn datagrams_larger_than_the_mtu_travel_in_fragments_through_a_service() {
    let mut world = World::new();
    let _server = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    world.serve(1, proto::UDP, 53, Some(NODE_PORT), &[(world.nodes[1].pod_address, 7000)]);
    let large = "x".repeat(8_000);
    let (said, from) = ask(&world.nodes[0].pod, "0.0.0.0:6000", &format!("{VIP}:53"), &large).unwrap();
    assert!(said.ends_with(&large) && from.to_string() == format!("{VIP}:53"));
    let node_port = format!("{}:{NODE_PORT}", world.nodes[0].address);
    let (said, from) = ask(&world.outside, "0.0.0.0:6000", &node_port, &large).unwrap();
    assert!(said.ends_with(&large) && from.to_string() == node_port);
}

#[test]
fn a_closed_port_of_a_backend_is_reported_to_the_client_in_the_services_name() {
    let mut world = World::new();
    world.serve(1, proto::UDP, 53, None, &[(world.nodes[1].pod_address, 7999)]);
    // A connected socket hears of an error only if the quoted packet is its own.
    let refused = world.nodes[0].pod.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:6000")?;
        socket.connect((VIP, 53))?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
        socket.send(b"hello")?;
        socket.recv(&mut [0; 64])
    });
    assert_eq!(refused.unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}
