//! Who gets a packet that several could have: a pod with a kernel of its own, a process of the node on a
//! NodePort's number.

use proxy_abi::{Addr, Be16, FrontendKey, Reason, frontend_kind, proto};
use skerry_lab::Netns;
use skerry_packet_cases::{Echo, Greeter, NODE_PORT, VIP, World, ask, dial};

const OUTSIDE: &str = "192.168.50.100:8080";

fn says(from: &Netns, to: &str, expected: &str) {
    let said = dial(from, to).unwrap_or_else(|error| panic!("{to}: {error}"));
    assert!(said.starts_with(expected), "{to} says {said}, not {expected}");
}

/// Nothing here is attached to a cgroup: to the programs each pod is what a virtual machine behind a veth
/// would be.
#[test]
fn a_pod_with_a_kernel_of_its_own_gets_everything_at_its_device() {
    let mut world = World::new();
    let here = Greeter::start(&world.nodes[0].pod, "0.0.0.0:8080", "pod0");
    let there = Greeter::start(&world.nodes[1].pod, "0.0.0.0:8080", "pod1");
    let node = Greeter::start(&world.nodes[1].netns, "0.0.0.0:8081", "node1");
    let own_node = Greeter::start(&world.nodes[0].netns, "0.0.0.0:8081", "node0");
    let outside = Greeter::start(&world.outside, "0.0.0.0:8080", "outside");
    let echo = Echo::start(&world.nodes[1].pod, "0.0.0.0:7000", "pod1");
    let [zero, one] = [0, 1].map(|index| world.nodes[index].pod_address);
    let nodes = [0, 1].map(|index| world.nodes[index].address);
    for (id, port, backend) in
        [(1, 80, (one, 8080)), (2, 81, (zero, 8080)), (3, 82, (nodes[1], 8081)), (4, 83, (nodes[0], 8081))]
    {
        world.serve(id, proto::TCP, port, Some(NODE_PORT + port), &[backend]);
    }
    world.serve(5, proto::TCP, 84, None, &[]);
    world.serve(6, proto::UDP, 53, None, &[(one, 7000)]);
    let pod = &world.nodes[0].pod;
    // By ClusterIP, and by the NodePort of either node; the pod itself is met under its router's address.
    for (port, expected) in [
        (80, "pod1:10.244.1.2:"),
        (81, "pod0:10.244.1.1:"),
        (82, "node1:192.168.50.1:"),
        (83, "node0:10.244.1.2:"),
    ] {
        says(pod, &format!("{VIP}:{port}"), expected);
        says(pod, &format!("192.168.50.1:{}", NODE_PORT + port), expected);
    }
    for (port, expected) in
        [(80, "pod1:192.168.50.1:"), (81, "pod0:10.244.2.1:"), (82, "node1:192.168.50.1:")]
    {
        says(pod, &format!("192.168.50.2:{}", NODE_PORT + port), expected);
    }
    says(pod, &format!("{one}:8080"), "pod1:10.244.1.2:");
    says(pod, OUTSIDE, "outside:192.168.50.1:");
    let (said, from) = ask(pod, "0.0.0.0:6000", &format!("{VIP}:53"), "hello").unwrap();
    assert_eq!((said.as_str(), from.to_string()), ("pod1:10.244.1.2:6000:hello", format!("{VIP}:53")));
    let refused = dial(pod, &format!("{VIP}:84")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop(echo);
    for (server, netns) in [
        (here, &world.nodes[0].pod),
        (there, &world.nodes[1].pod),
        (node, &world.nodes[1].netns),
        (own_node, &world.nodes[0].netns),
        (outside, &world.outside),
    ] {
        server.end(netns);
    }
}

#[test]
fn a_process_of_the_node_on_a_node_ports_number_waits_until_the_service_goes() {
    let mut world = World::new();
    let pod = Greeter::start(&world.nodes[0].pod, "0.0.0.0:8080", "pod0");
    let process = Greeter::start(&world.nodes[0].netns, &format!("0.0.0.0:{NODE_PORT}"), "process");
    let at = format!("192.168.50.1:{NODE_PORT}");
    says(&world.outside, &at, "process:192.168.50.100:");
    world.serve(1, proto::TCP, 80, Some(NODE_PORT), &[(world.nodes[0].pod_address, 8080)]);
    says(&world.outside, &at, "pod0:192.168.50.100:");
    says(&world.nodes[1].pod, &at, "pod0:192.168.50.2:");
    // The loopback is never a NodePort's.
    says(&world.nodes[0].netns, &format!("127.0.0.1:{NODE_PORT}"), "process:127.0.0.1:");
    let key = FrontendKey {
        addr: Addr::UNSPECIFIED,
        port: Be16::new(NODE_PORT),
        proto: proto::TCP,
        kind: frontend_kind::NODE_PORT_V4,
    };
    world.nodes[0].object.remove_frontend(key).unwrap();
    says(&world.outside, &at, "process:192.168.50.100:");
    pod.end(&world.nodes[0].pod);
    process.end(&world.nodes[0].netns);
}

#[test]
fn a_pod_is_served_from_the_moment_it_is_known() {
    let mut world = World::new();
    let server = Greeter::start(&world.nodes[0].pod, "0.0.0.0:8080", "pod0");
    let pod = world.nodes[0].pod_address;
    let endpoint = world.nodes[0].object.forget_endpoint(pod.into()).unwrap();
    world.serve(1, proto::TCP, 80, Some(NODE_PORT), &[(pod, 8080)]);
    let at = format!("192.168.50.1:{NODE_PORT}");
    assert_eq!(dial(&world.outside, &at).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    assert!(world.nodes[0].object.counted(Reason::UnknownEndpoint).unwrap() > 0);
    // One SYN is on its way when the plugin writes the pod down: the next one, a second later, arrives.
    let said = std::thread::scope(|scope| {
        let outside = &world.outside;
        let client = scope.spawn(|| dial(outside, &at));
        let object = &mut world.nodes[0].object;
        let before = object.counted(Reason::UnknownEndpoint).unwrap();
        while object.counted(Reason::UnknownEndpoint).unwrap() == before {
            std::thread::yield_now();
        }
        object.set_endpoint(pod.into(), endpoint).unwrap();
        client.join().unwrap()
    });
    assert!(said.unwrap().starts_with("pod0:192.168.50.100:"));
    server.end(&world.nodes[0].pod);
}
