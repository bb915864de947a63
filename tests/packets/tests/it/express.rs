//! XDP on a node's uplink: what comes for a backend elsewhere turns round before the network stack.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use aya::programs::XdpMode;
use etherparse::PacketBuilder;
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};
use proxy_abi::{Reason, proto};
use skerry_packet_cases::{
    Echo, Greeter, NODE_PORT, Object, VIP, World, ask, dial, exchange, mirror, pattern, tunnelled,
};

const BULK: usize = 8 << 20;
const DIALS: u64 = 40;

/// A world whose first node has the program on its uplink.
fn world(mode: XdpMode) -> (World, Object) {
    let mut world = World::new();
    let idle = world.with_xdp(mode);
    (world, idle)
}

#[test]
fn connections_to_a_backend_elsewhere_turn_round_before_the_stack() {
    for mode in [XdpMode::Skb, XdpMode::Driver] {
        let (mut world, _idle) = world(mode);
        let server = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
        world.serve(2, proto::TCP, 80, Some(NODE_PORT), &[(world.nodes[1].pod_address, 8080)]);
        for _ in 0..DIALS {
            let said = dial(&world.outside, &world.node_port()).unwrap();
            assert!(said.starts_with("pod1:10.244.1.1:"), "{mode:?}: the router address is seen, not {said}");
        }
        let all = world.nodes[0].object.counted(Reason::Encapsulated).unwrap();
        // SYN, ACK and FIN; the greeting's own ACK may go with the FIN.
        assert!(all >= 3 * DIALS, "{mode:?}: {all}");
        // A connection that lasts into another second sends some by the device: on a busy machine many do.
        assert!(tunnelled(&world.nodes[0]) < all / 2, "{mode:?}: by XDP, not by the VXLAN device");
        server.end(&world.nodes[1].pod);
    }
}

#[test]
fn datagrams_keep_their_flow_between_both_programs() {
    let (mut world, _idle) = world(XdpMode::Skb);
    let _echo = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    world.serve(1, proto::UDP, 53, Some(NODE_PORT), &[(world.nodes[1].pod_address, 7000)]);
    let (first, _) = ask(&world.outside, "0.0.0.0:6000", &world.node_port(), "one").unwrap();
    // Too large for one packet: its fragments go by tc, along the same flow.
    let large = "x".repeat(4_000);
    let (second, from) = ask(&world.outside, "0.0.0.0:6000", &world.node_port(), &large).unwrap();
    assert_eq!(first.strip_suffix(":one"), second.strip_suffix(&format!(":{large}")), "one source port");
    assert_eq!(from.to_string(), world.node_port());
    assert!(tunnelled(&world.nodes[0]) > 0);
}

#[test]
fn a_local_backend_gets_its_share_and_the_clients_address() {
    let (mut world, _idle) = world(XdpMode::Skb);
    let servers = [0, 1].map(|node| Greeter::start(&world.nodes[node].pod, "0.0.0.0:8080", "pod"));
    let backends = [0, 1].map(|node| (world.nodes[node].pod_address, 8080));
    world.serve(2, proto::TCP, 80, Some(NODE_PORT), &backends);
    let local = (0..200)
        .map(|_| dial(&world.outside, &world.node_port()).unwrap())
        .filter(|said| said.starts_with("pod:192.168.50.100:"))
        .count();
    // Half of them, and not the quarter that two draws would leave: 5 standard deviations are 35.
    assert!((65..=135).contains(&local), "{local} of 200");
    for (node, server) in servers.into_iter().enumerate() {
        server.end(&world.nodes[node].pod);
    }
}

#[test]
fn bulk_arrives_whole() {
    for mode in [XdpMode::Skb, XdpMode::Driver] {
        let (mut world, _idle) = world(mode);
        world.serve(2, proto::TCP, 80, Some(NODE_PORT), &[(world.nodes[1].pod_address, 8080)]);
        let server = mirror(&world.nodes[1].pod, "0.0.0.0:8080");
        let back = exchange(&world.outside, &world.node_port(), BULK).unwrap();
        assert!(back == pattern(BULK), "{mode:?}: {} bytes came back", back.len());
        assert_eq!(server.join().unwrap().unwrap(), BULK as u64);
        let (all, by_stack) =
            (world.nodes[0].object.counted(Reason::Encapsulated).unwrap(), tunnelled(&world.nodes[0]));
        assert!(by_stack < all / 10, "{mode:?}: {by_stack} of {all} by the stack");
    }
}

/// What a balancer in front of nodes sends: the client's own packet, inside another one.
#[test]
fn what_a_balancer_sends_inside_other_packets_reaches_backends_here_and_elsewhere() {
    for (mode, backend) in [(XdpMode::Skb, 0), (XdpMode::Skb, 1), (XdpMode::Driver, 0), (XdpMode::Driver, 1)]
    {
        let (mut world, _idle) = world(mode);
        let _echo = Echo::start(&world.nodes[backend].pod, "0.0.0.0:7000", "pod");
        world.serve(1, proto::UDP, 53, None, &[(world.nodes[backend].pod_address, 7000)]);
        let (outside, node) = (world.outside_address(), world.nodes[0].address);
        let client = world.outside.run(|| UdpSocket::bind((outside, 6000))).unwrap().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let inner = datagram((outside, 6000), (VIP, 53), b"hello");
        let heard = |client: &UdpSocket| {
            let mut buffer = [0; 100];
            let (length, from) = client.recv_from(&mut buffer).ok()?;
            Some((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
        };
        world.outside.run(|| send_inside(node, &inner)).unwrap().unwrap();
        client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(heard(&client), None, "{mode:?}: nobody is a balancer yet");
        world.unwrap_from(outside);
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for _ in 0..3 {
            world.outside.run(|| send_inside(node, &inner)).unwrap().unwrap();
            let (said, from) =
                heard(&client).unwrap_or_else(|| panic!("{mode:?}: no answer of pod {backend}"));
            assert!(said.starts_with("pod:") && said.ends_with(":hello"), "{said}");
            assert_eq!(from, SocketAddr::from((VIP, 53)));
        }
        let stray = datagram((outside, 6000), (VIP, 54), b"hello");
        world.outside.run(|| send_inside(node, &stray)).unwrap().unwrap();
        assert_eq!(world.nodes[0].object.counted(Reason::UnwrappedStray).unwrap(), 1, "{mode:?}");
    }
}

/// A whole IPv4 packet.
fn datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), text: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(from.0.octets(), to.0.octets(), 64).udp(from.1, to.1);
    builder.write(&mut packet, text).unwrap();
    packet
}

/// Lets the kernel write the outer header: a raw socket of protocol 4 (IP inside IP).
fn send_inside(to: Ipv4Addr, inner: &[u8]) -> io::Result<usize> {
    // SAFETY: plain numbers.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_IPIP) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
    Ok(sendto(socket.as_raw_fd(), inner, &to, MsgFlags::empty())?)
}

#[test]
fn what_is_not_for_elsewhere_passes_as_it_came() {
    let (mut world, _idle) = world(XdpMode::Driver);
    // The node's own server, a service without endpoints, a pod's answer from outside.
    let server = Greeter::start(&world.nodes[0].netns, "0.0.0.0:9000", "node0");
    let said = dial(&world.outside, &format!("{}:9000", world.nodes[0].address)).unwrap();
    assert!(said.starts_with("node0:192.168.50.100:"), "{said}");
    server.end(&world.nodes[0].netns);
    world.serve(3, proto::TCP, 81, Some(NODE_PORT), &[]);
    let refused = dial(&world.outside, &world.node_port()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let _echo = Echo::start(&world.outside, "0.0.0.0:7000", "outside");
    let (said, _) = ask(&world.nodes[0].pod, "0.0.0.0:6000", "192.168.50.100:7000", "hello").unwrap();
    assert!(said.starts_with("outside:192.168.50.1:"), "{said}");
    let _echo = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    world.serve(1, proto::UDP, 53, None, &[(world.nodes[1].pod_address, 7000)]);
    let (said, _) = ask(&world.nodes[0].pod, "0.0.0.0:6000", &format!("{VIP}:53"), "hello").unwrap();
    assert!(said.starts_with("pod1:"), "{said}");
}
