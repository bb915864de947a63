//! Direct server return between two nodes: by the tc programs, and by XDP on the first one's uplink.

use aya::programs::XdpMode;
use proxy_abi::{Reason, proto};
use skerry_packet_cases::{
    Echo, Greeter, NODE_PORT, Object, Segments, World, ask, dial, dial_counted, exchange, mirror, pattern,
    tunnelled,
};

const BULK: usize = 8 << 20;

/// Nodes that answer directly. `xdp`: the first takes what comes before its stack does.
fn world(xdp: Option<XdpMode>) -> (World, Option<Object>) {
    let mut world = World::new();
    world.answer_directly();
    let idle = xdp.map(|mode| world.with_xdp(mode));
    (world, idle)
}

/// Packets that the first node sent out of its uplink in the service's name.
fn answered_by_the_first(world: &mut World) -> u64 {
    world.nodes[0].object.counted(Reason::SentOut).unwrap()
}

#[test]
fn the_backend_sees_the_client_and_its_node_answers() {
    for xdp in [None, Some(XdpMode::Skb), Some(XdpMode::Driver)] {
        let (mut world, _idle) = world(xdp);
        let server = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
        world.serve(2, proto::TCP, 80, Some(NODE_PORT), &[(world.nodes[1].pod_address, 8080)]);
        let mut segments = Segments::default();
        for _ in 0..40 {
            let (said, took) = dial_counted(&world.outside, &world.node_port()).unwrap();
            assert!(said.starts_with("pod1:192.168.50.100:"), "{xdp:?}: {said}");
            segments.sent += took.sent;
            segments.received += took.received;
        }
        println!("{xdp:?}: {segments:?}");
        // How many a connection takes is the two stacks' own affair (an acknowledgement may go with what is
        // sent anyway), but the first node hands on each one that the client has sent, once, and the second
        // sends each one that it gets.
        let handed_on = world.nodes[0].object.counted(Reason::Encapsulated).unwrap();
        assert_eq!(handed_on, segments.sent, "{xdp:?}");
        // SYN, ACK and FIN of each.
        assert!(handed_on >= 3 * 40, "{xdp:?}: {handed_on}");
        if xdp.is_some() {
            assert!(tunnelled(&world.nodes[0]) < handed_on / 2, "{xdp:?}: by XDP, not by the VXLAN device");
        }
        assert_eq!(answered_by_the_first(&mut world), 0, "{xdp:?}");
        let answered = world.nodes[1].object.counted(Reason::SentOut).unwrap();
        assert_eq!(answered, segments.received, "{xdp:?}");
        server.end(&world.nodes[1].pod);
    }
}

#[test]
fn bulk_arrives_whole_both_ways() {
    for xdp in [None, Some(XdpMode::Driver)] {
        let (mut world, _idle) = world(xdp);
        world.serve(2, proto::TCP, 80, Some(NODE_PORT), &[(world.nodes[1].pod_address, 8080)]);
        let server = mirror(&world.nodes[1].pod, "0.0.0.0:8080");
        let back = exchange(&world.outside, &world.node_port(), BULK).unwrap();
        assert!(back == pattern(BULK), "{xdp:?}: {} bytes came back", back.len());
        assert_eq!(server.join().unwrap().unwrap(), BULK as u64);
        assert_eq!(answered_by_the_first(&mut world), 0, "{xdp:?}");
    }
}

#[test]
fn datagrams_travel_in_fragments_too() {
    for xdp in [None, Some(XdpMode::Skb)] {
        let (mut world, _idle) = world(xdp);
        let _echo = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
        world.serve(1, proto::UDP, 53, Some(NODE_PORT), &[(world.nodes[1].pod_address, 7000)]);
        for text in ["one".to_owned(), "x".repeat(4_000), "two".to_owned()] {
            let (said, from) = ask(&world.outside, "0.0.0.0:6000", &world.node_port(), &text).unwrap();
            assert_eq!(said, format!("pod1:192.168.50.100:6000:{text}"), "{xdp:?}");
            assert_eq!(from.to_string(), world.node_port(), "{xdp:?}");
        }
        assert_eq!(answered_by_the_first(&mut world), 0, "{xdp:?}");
    }
}

#[test]
fn a_backend_on_the_first_node_gets_its_share() {
    let (mut world, _) = world(None);
    let servers =
        [0, 1].map(|node| Greeter::start(&world.nodes[node].pod, "0.0.0.0:8080", &format!("pod{node}")));
    let backends = [0, 1].map(|node| (world.nodes[node].pod_address, 8080));
    world.serve(2, proto::TCP, 80, Some(NODE_PORT), &backends);
    let local = (0..200)
        .map(|_| dial(&world.outside, &world.node_port()).unwrap())
        .inspect(|said| assert!(said.contains(":192.168.50.100:"), "{said}"))
        .filter(|said| said.starts_with("pod0"))
        .count();
    // 5 standard deviations are 35.
    assert!((65..=135).contains(&local), "{local} of 200");
    for (node, server) in servers.into_iter().enumerate() {
        server.end(&world.nodes[node].pod);
    }
}

/// Pods can name nobody's backend: their frames' addresses are checked, and written anew on the way.
#[test]
fn a_pod_can_not_speak_as_a_first_node() {
    let (mut world, _) = world(None);
    let _echo = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    let pod = &world.nodes[0].pod;
    pod.ip("link set eth0 address 0e:02:02:1b:58:00").unwrap();
    assert!(ask(pod, "0.0.0.0:6000", "10.244.2.2:7000", "hello").is_err());
    let node = &mut world.nodes[0];
    assert!(node.object.counted(Reason::MacSpoofed).unwrap() > 0);
}
