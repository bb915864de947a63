//! Who hears which answer: the node at a port that is a service's, a client that asks a backend by two
//! addresses, two CPUs that open one flow, and a socket of the node that no hook has translated.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Barrier,
    time::Duration,
};

use aya::programs::XdpMode;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use proxy_abi::{prog, proto};
use skerry_lab::Netns;
use skerry_packet_cases::{Echo, NODE_PORT, Object, VIP, World, ask};

use crate::{
    cases::{State, packet::udp},
    kernel::fill,
};

const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 150;
/// `enum xdp_action` (linux/bpf.h).
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

fn bound(netns: &Netns, at: &str) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Asks with one socket; who answers?
fn asks(socket: &UdpSocket, to: &str) -> io::Result<SocketAddr> {
    socket.send_to(b"x", to)?;
    Ok(socket.recv_from(&mut [0; 128])?.1)
}

#[test]
fn the_node_hears_an_answer_at_a_port_that_is_a_services() {
    for mode in [None, Some(XdpMode::Skb)] {
        let mut world = World::new();
        let _idle = mode.map(|mode| world.with_xdp(mode));
        let _outside = Echo::start(&world.outside, "0.0.0.0:7000", "outside");
        let _pods = [0, 1].map(|node| Echo::start(&world.nodes[node].pod, "0.0.0.0:7000", "pod"));
        world.serve(1, proto::UDP, 53, Some(NODE_PORT), &[(world.nodes[1].pod_address, 7000)]);
        let socket = bound(&world.nodes[0].netns, &format!("192.168.50.1:{NODE_PORT}"));
        for server in ["192.168.50.100:7000", "10.244.1.2:7000", "10.244.2.2:7000"] {
            for _ in 0..2 {
                assert_eq!(asks(&socket, server).unwrap().to_string(), server, "{mode:?}");
            }
        }
        // Who was not asked is a client still.
        let (said, from) = ask(&world.outside, "0.0.0.0:6001", &world.node_port(), "hello").unwrap();
        assert!(
            said.starts_with("pod:") && from.to_string() == world.node_port(),
            "{mode:?}: {said} from {from}"
        );
    }
}

#[test]
fn the_node_and_a_pod_that_share_a_port_hear_their_own_answers() {
    let world = World::new();
    let server = "192.168.50.100:7000";
    let _outside = Echo::start(&world.outside, "0.0.0.0:7000", "outside");
    let asked_as = |socket: &UdpSocket| {
        socket.send_to(b"x", server).unwrap();
        let mut buffer = [0; 128];
        let (length, from) =
            socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{socket:?}: {error}"));
        assert_eq!(from.to_string(), server);
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        said.split(':').take(3).skip(1).collect::<Vec<_>>().join(":")
    };
    let pod = bound(&world.nodes[0].pod, "0.0.0.0:0");
    let given = asked_as(&pod);
    assert!(given.starts_with("192.168.50.1:"), "the pod is masqueraded: {given}");
    let node = bound(&world.nodes[0].netns, &given);
    for _ in 0..3 {
        assert_ne!(asked_as(&node), given, "the pod's answers come there");
        assert_eq!(asked_as(&pod), given);
    }
    let other = bound(&world.nodes[0].netns, "192.168.50.1:0");
    assert_eq!(asked_as(&other), other.local_addr().unwrap().to_string());
}

#[test]
fn a_pod_hears_its_services_backend_under_the_address_that_it_asked() {
    let mut world = World::new();
    let _pods = [0, 1].map(|node| Echo::start(&world.nodes[node].pod, "0.0.0.0:7000", "pod"));
    let _node = Echo::start(&world.nodes[0].netns, "192.168.50.1:7001", "node");
    let [zero, one] = [0, 1].map(|node| world.nodes[node].pod_address);
    for (id, port, backend) in
        [(1, 53, (one, 7000)), (2, 54, (zero, 7000)), (3, 55, (world.nodes[0].address, 7001))]
    {
        world.serve(id, proto::UDP, port, None, &[backend]);
        let (vip, itself) = (format!("{VIP}:{port}"), format!("{}:{}", backend.0, backend.1));
        // A pod is no client of itself by its own address.
        let client = if backend.0 == zero { &world.nodes[1].pod } else { &world.nodes[0].pod };
        let socket = bound(client, "0.0.0.0:0");
        for to in [&vip, &itself, &vip, &itself, &itself] {
            assert_eq!(asks(&socket, to).unwrap().to_string(), *to);
        }
    }
}

#[test]
fn two_cpus_that_open_one_flow_lose_no_datagram() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let mut world = World::new();
    let _pods = [0, 1].map(|node| Echo::start(&world.nodes[node].pod, "0.0.0.0:7000", "pod"));
    let backends = [0, 1].map(|node| (world.nodes[node].pod_address, 7000));
    world.serve(1, proto::UDP, 53, Some(NODE_PORT), &backends);
    let at = world.node_port();
    let lost = world.outside.run(|| {
        (0..ROUNDS)
            .filter(|_| {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let together = Barrier::new(2);
                std::thread::scope(|scope| {
                    for cpu in 0..2 {
                        let (socket, at, together) = (&socket, &at, &together);
                        scope.spawn(move || {
                            let mut set = CpuSet::new();
                            set.set(cpu % cpus).unwrap();
                            sched_setaffinity(Pid::from_raw(0), &set).unwrap();
                            together.wait();
                            socket.send_to(b"q", at).unwrap();
                        });
                    }
                });
                !(0..2).all(|_| socket.recv(&mut [0; 128]).is_ok())
            })
            .count()
    });
    assert_eq!(lost.unwrap(), 0, "of {ROUNDS} pairs");
}

#[test]
fn a_connected_socket_of_the_node_outlives_a_service_without_endpoints() {
    let mut world = World::new();
    let _pods = [0, 1].map(|node| Echo::start(&world.nodes[node].pod, "0.0.0.0:7000", "pod"));
    // A service's address has no route of its own.
    world.nodes[0].netns.ip("route add default via 192.168.50.200").unwrap();
    world.serve(1, proto::UDP, 53, None, &[]);
    let socket = bound(&world.nodes[0].netns, "0.0.0.0:0");
    let answer = || {
        let mut buffer = [0; 128];
        socket.send(b"hello")?;
        socket.recv(&mut buffer).map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    socket.connect((VIP, 53)).unwrap();
    assert_eq!(answer().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    // Its endpoints come, and it is answered as who is connected from then on.
    world.serve(1, proto::UDP, 53, None, &[(world.nodes[1].pod_address, 7000)]);
    assert!(answer().unwrap().starts_with("pod:10.244.1.1:"));
    assert!(answer().unwrap().starts_with("pod:10.244.1.1:"));
    let other = bound(&world.nodes[0].netns, "0.0.0.0:0");
    world.serve(2, proto::UDP, 54, None, &[(world.nodes[0].pod_address, 7000)]);
    assert_eq!(asks(&other, &format!("{VIP}:54")).unwrap().to_string(), format!("{VIP}:54"));
}

/// A machine in front of nodes: its own connected socket's port is a virtual address's, too.
#[test]
fn a_balancers_machine_hears_its_own_answers() {
    let netns = Netns::unique("balancer").unwrap();
    for line in [
        "link set lo up",
        "link add up0 type veth peer name up1",
        "link set up1 up",
        "link set up0 up",
        "addr add 192.168.50.1/24 dev up0",
        "addr add 2001:db8::1/64 dev up0 nodad",
        "neigh add 192.168.50.7 lladdr 02:00:00:00:00:07 dev up0 nud permanent",
        "-6 neigh add 2001:db8::7 lladdr 02:00:00:00:00:07 dev up0 nud permanent",
        "route add default via 192.168.50.7",
        "-6 route add default via 2001:db8::7 dev up0",
    ] {
        netns.ip(line).unwrap();
    }
    netns.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").unwrap();
    let mut object = Object::load().unwrap();
    netns
        .run(|| {
            let uplink = nix::net::if_::if_nametoindex("up0").unwrap();
            for (own, server, client, backend) in [
                ("192.168.50.1:40000", "198.51.100.9:53", "198.51.100.9:54", "192.168.50.7:53"),
                ("[2001:db8::1]:40000", "[2001:db8:9::9]:53", "[2001:db8:9::9]:54", "[2001:db8::7]:53"),
            ] {
                let state = State::standard().service(1, proto::UDP, own, &[backend]);
                let mut becomes = |from: &str| {
                    fill(&mut object, &state, uplink);
                    object.test_run_xdp(prog::LB_XDP, uplink, &udp(from, own).bytes()).unwrap()
                };
                let socket = UdpSocket::bind(own).unwrap();
                assert_eq!(becomes(server), XDP_TX, "{own}: a server's socket has no peer");
                socket.connect(server).unwrap();
                assert_eq!(becomes(server), XDP_PASS, "{own}");
                assert_eq!(becomes(client), XDP_TX, "{own}: nobody has asked this one");
            }
        })
        .unwrap();
}
