//! A pod that sends, from an ordinary socket, what only nodes may say to nodes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use aya::programs::XdpMode;
use proxy_abi::{Reason, proto};
use skerry_lab::Netns;
use skerry_packet_cases::{NODE_PORT, VIP, World};

use crate::cases::packet::udp;

const TUNNEL_PORT: u16 = 4_789;
const TO: &str = "10.244.2.2:7000";

/// A datagram of the tunnel (RFC 7348 section 5) that has another pod's packet inside.
fn frame(from: &str, text: &[u8]) -> Vec<u8> {
    let inner = udp(from, TO).says(text).in_tunnel().bytes();
    [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat()
}

fn send(netns: &Netns, to: SocketAddr, bytes: &[u8]) {
    let sent = netns.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(bytes, to)).unwrap();
    assert_eq!(sent.unwrap(), bytes.len());
}

/// A receiver in the second node's pod.
struct Receiver(UdpSocket);

impl Receiver {
    fn new(world: &World) -> Receiver {
        let socket = world.nodes[1].pod.run(|| UdpSocket::bind(TO)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        Receiver(socket)
    }

    /// The next packet's text, and its source.
    fn next(&self) -> (String, SocketAddr) {
        let mut buffer = [0; 4_096];
        let (length, from) = self.0.recv_from(&mut buffer).unwrap();
        (String::from_utf8_lossy(&buffer[..length]).into_owned(), from)
    }
}

/// What the second node's pod hears is what the node itself says last: nothing of what came before.
fn is_alone(world: &World, receiver: &Receiver, what: &str) {
    send(
        &world.nodes[0].netns,
        (world.nodes[1].address, TUNNEL_PORT).into(),
        &frame("10.244.1.78:6000", b"node"),
    );
    let (said, from) = receiver.next();
    assert_eq!((said.as_str(), from.to_string().as_str()), ("node", "10.244.1.78:6000"), "{what}");
}

fn spoke_as_node(world: &mut World, node: usize) -> u64 {
    world.nodes[node].object.counted(Reason::SpokeAsNode).unwrap()
}

#[test]
fn a_pods_datagram_to_another_nodes_tunnel_is_dropped_and_counted_and_the_nodes_own_is_not() {
    let mut world = World::new();
    let receiver = Receiver::new(&world);
    let other: SocketAddr = (world.nodes[1].address, TUNNEL_PORT).into();
    let forged = frame("10.244.1.77:6000", b"forged");
    for _ in 0..5 {
        send(&world.nodes[0].pod, other, &forged);
    }
    // In fragments, too; and to its own node.
    send(&world.nodes[0].pod, other, &frame("10.244.1.77:6000", &[b'x'; 4_000]));
    send(&world.nodes[0].pod, (world.nodes[0].address, TUNNEL_PORT).into(), &forged);
    send(&world.nodes[0].pod, (world.nodes[1].router, TUNNEL_PORT).into(), &forged);
    is_alone(&world, &receiver, "by its own socket");
    // The fragments are three.
    assert_eq!(spoke_as_node(&mut world, 0), 9);
    assert_eq!(spoke_as_node(&mut world, 1), 1, "what comes for its router address");
    // VXLAN to somebody else.
    let outside = world.outside.run(|| UdpSocket::bind(("0.0.0.0", TUNNEL_PORT))).unwrap().unwrap();
    outside.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    send(&world.nodes[0].pod, (world.outside_address(), TUNNEL_PORT).into(), &forged);
    assert_eq!(outside.recv(&mut [0; 4_096]).unwrap(), forged.len());
}

#[test]
fn a_service_whose_endpoint_is_a_nodes_tunnel_leads_nobody_there() {
    for mode in [None, Some(XdpMode::Skb)] {
        let mut world = World::new();
        let _idle = mode.map(|mode| world.with_xdp(mode));
        let receiver = Receiver::new(&world);
        let backend: (Ipv4Addr, u16) = (world.nodes[1].address, TUNNEL_PORT);
        world.serve(1, proto::UDP, 53, Some(NODE_PORT), &[backend]);
        let forged = frame("10.244.1.77:6000", b"forged");
        let node_port = |node: usize| (world.nodes[node].address, NODE_PORT).into();
        // By address and by NodePort; from outside; from a pod by its own node and by the other one, which is
        // the endpoint's.
        for (netns, to) in [
            (&world.nodes[0].pod, (VIP, 53).into()),
            (&world.nodes[0].pod, node_port(0)),
            (&world.nodes[0].pod, node_port(1)),
            (&world.outside, node_port(0)),
        ] {
            send(netns, to, &forged);
        }
        is_alone(&world, &receiver, &format!("through a service, {mode:?}"));
        assert_eq!((spoke_as_node(&mut world, 0), spoke_as_node(&mut world, 1)), (3, 1), "{mode:?}");
    }
}
