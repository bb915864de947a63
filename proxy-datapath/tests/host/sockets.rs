//! The socket hooks over made-up sockets.

use crate::cases::{State, state::addr};
use crate::memory::Maps;
use proxy_abi::{Addr, Be16, Endpoint, endpoint_flag, facts_flag, frontend_flag, proto};
use proxy_datapath::{Socket, SocketVerdict, sock_connect, sock_peername, sock_recvmsg, sock_sendmsg};

const HOST: u64 = 1;
const POD: u64 = 2;

#[derive(Clone, Copy)]
struct Fake {
    addr: Addr,
    port: Be16,
    protocol: u8,
    netns: u64,
    cookie: u64,
}

impl Socket for Fake {
    fn address(&self) -> (Addr, Be16) {
        (self.addr, self.port)
    }
    fn set_address(&mut self, addr: &Addr, port: Be16) {
        (self.addr, self.port) = (*addr, port);
    }
    fn protocol(&self) -> u8 {
        self.protocol
    }
    fn cookie(&self) -> u64 {
        self.cookie
    }
    fn netns_cookie(&self) -> u64 {
        self.netns
    }
}

fn socket(to: &str, protocol: u8, netns: u64) -> Fake {
    let to: std::net::SocketAddr = to.parse().unwrap();
    Fake { addr: to.ip().into(), port: Be16::new(to.port()), protocol, netns, cookie: 7 }
}

fn names(socket: &Fake) -> String {
    std::net::SocketAddr::new(socket.addr.to_ip(), socket.port.get()).to_string()
}

fn maps() -> Maps {
    let state = State::standard()
        .service(1, proto::TCP, "10.96.0.10:80", &["10.244.2.2:8080"])
        .service(2, proto::UDP, "10.96.0.10:53", &["10.244.2.2:7000", "10.244.2.3:7000", "10.244.2.4:7000"])
        .service(3, proto::TCP, "[fd00:96::10]:80", &["[fd00:2::2]:8080"])
        .service(4, proto::TCP, "10.96.0.11:80", &[])
        .node_port(1, proto::TCP, 30_080, &["10.244.2.2:8080"]);
    Maps::new(&state)
}

#[test]
fn a_tcp_connection_goes_to_the_backend_and_its_peer_is_the_service() {
    for (dialled, backend) in [
        ("10.96.0.10:80", "10.244.2.2:8080"),
        ("[fd00:96::10]:80", "[fd00:2::2]:8080"),
        ("192.168.50.1:30080", "10.244.2.2:8080"),
    ] {
        let maps = maps();
        let mut socket = socket(dialled, proto::TCP, POD);
        assert_eq!(sock_connect(&mut socket, &maps), SocketVerdict::Allow);
        assert_eq!(names(&socket), backend);
        sock_peername(&mut socket, &maps);
        assert_eq!(names(&socket), dialled);
    }
}

#[test]
fn what_is_no_service_is_left_alone() {
    let maps = maps();
    // The loopback is no node address, another node's NodePort is that node's, a node's other ports are its
    // own.
    for to in [
        "127.0.0.1:30080",
        "192.168.50.2:30080",
        "192.168.50.1:22",
        "10.244.2.2:8080",
        "10.96.0.10:81",
        "0.0.0.0:30080",
    ] {
        let mut socket = socket(to, proto::TCP, POD);
        assert_eq!(sock_connect(&mut socket, &maps), SocketVerdict::Allow);
        assert_eq!(names(&socket), to);
    }
    assert!(maps.sockets.borrow().is_empty());
}

#[test]
fn localhost_serves_node_ports_to_the_node_alone_where_it_was_asked_for() {
    let mut state = State::standard().node_port(1, proto::TCP, 30_080, &["10.244.2.2:8080"]);
    let flags = endpoint_flag::NODE | endpoint_flag::NODE_PORT;
    state.endpoints.push((addr("127.0.0.1"), Endpoint { flags, ..Endpoint::default() }));
    let maps = Maps::new(&state);
    for (netns, becomes) in [(HOST, "10.244.2.2:8080"), (POD, "127.0.0.1:30080")] {
        let mut socket = socket("127.0.0.1:30080", proto::TCP, netns);
        assert_eq!(sock_connect(&mut socket, &maps), SocketVerdict::Allow);
        assert_eq!(names(&socket), becomes);
        sock_peername(&mut socket, &maps);
        assert_eq!(names(&socket), "127.0.0.1:30080");
    }
}

#[test]
fn pods_sockets_are_left_alone_where_their_packets_are_translated() {
    let state = State::standard().service(1, proto::TCP, "10.96.0.10:80", &["10.244.2.2:8080"]);
    let maps = Maps::new(&state.facts(|facts| facts.flags |= facts_flag::PODS_BY_PACKET));
    for (netns, becomes) in [(POD, "10.96.0.10:80"), (HOST, "10.244.2.2:8080")] {
        let mut socket = socket("10.96.0.10:80", proto::TCP, netns);
        assert_eq!(sock_connect(&mut socket, &maps), SocketVerdict::Allow);
        assert_eq!(names(&socket), becomes);
        sock_peername(&mut socket, &maps);
        assert_eq!(names(&socket), "10.96.0.10:80");
    }
}

#[test]
fn a_namespace_that_is_left_out_keeps_what_it_dials() {
    const OTHER_POD: u64 = 3;
    let maps = maps();
    maps.left_out.borrow_mut().insert(POD);
    for (dialled, netns, becomes) in [
        ("10.96.0.10:80", POD, "10.96.0.10:80"),
        ("[fd00:96::10]:80", POD, "[fd00:96::10]:80"),
        ("10.96.0.10:80", OTHER_POD, "10.244.2.2:8080"),
        ("10.96.0.10:80", HOST, "10.244.2.2:8080"),
    ] {
        let mut socket = socket(dialled, proto::TCP, netns);
        assert_eq!(sock_connect(&mut socket, &maps), SocketVerdict::Allow);
        assert_eq!(names(&socket), becomes, "{netns}");
    }
    // Refusal is the packet's to find out, too.
    let mut socket = socket("10.96.0.11:80", proto::TCP, POD);
    assert_eq!(sock_connect(&mut socket, &maps), SocketVerdict::Allow);
}

#[test]
fn a_service_without_endpoints_refuses() {
    let mut socket = socket("10.96.0.11:80", proto::TCP, POD);
    assert_eq!(sock_connect(&mut socket, &maps()), SocketVerdict::Refuse);
}

/// A packet is to vanish, which only a packet can: a pod's connection is left to its device. The node's own
/// has none before it.
#[test]
fn what_must_be_dropped_is_left_to_a_pods_device_and_refused_to_the_node() {
    let state = State::standard()
        .service(1, proto::TCP, "10.96.0.11:80", &[])
        .frontends(|frontend| frontend.flags = frontend_flag::DROP_IF_EMPTY);
    let maps = Maps::new(&state);
    for (netns, verdict) in [(POD, SocketVerdict::Allow), (HOST, SocketVerdict::Refuse)] {
        let mut socket = socket("10.96.0.11:80", proto::TCP, netns);
        assert_eq!(sock_connect(&mut socket, &maps), verdict);
        assert_eq!(names(&socket), "10.96.0.11:80");
    }
}

#[test]
fn a_pods_datagrams_are_left_to_its_device() {
    let maps = maps();
    let mut socket = socket("10.96.0.10:53", proto::UDP, POD);
    assert_eq!(sock_connect(&mut socket, &maps), SocketVerdict::Allow);
    assert_eq!(sock_sendmsg(&mut socket, &maps), SocketVerdict::Allow);
    assert_eq!(names(&socket), "10.96.0.10:53");
}

#[test]
fn the_nodes_datagrams_stick_to_one_backend_and_answers_name_the_service() {
    let maps = maps();
    let mut first = socket("10.96.0.10:53", proto::UDP, HOST);
    assert_eq!(sock_sendmsg(&mut first, &maps), SocketVerdict::Allow);
    for _ in 0..20 {
        let mut next = socket("10.96.0.10:53", proto::UDP, HOST);
        sock_sendmsg(&mut next, &maps);
        assert_eq!(names(&next), names(&first));
    }
    sock_recvmsg(&mut first, &maps);
    assert_eq!(names(&first), "10.96.0.10:53");
}

#[test]
fn an_answer_from_elsewhere_keeps_its_sender() {
    let maps = maps();
    let mut socket = socket("10.244.9.9:53", proto::UDP, HOST);
    sock_recvmsg(&mut socket, &maps);
    assert_eq!(names(&socket), "10.244.9.9:53");
}

/// One socket's call, and whom it reaches.
fn sends(maps: &Maps, to: &str) -> String {
    let mut socket = socket(to, proto::UDP, HOST);
    assert_eq!(sock_sendmsg(&mut socket, maps), SocketVerdict::Allow);
    names(&socket)
}

/// Under which address the socket hears a peer.
fn hears(maps: &Maps, from: &str) -> String {
    let mut socket = socket(from, proto::UDP, HOST);
    sock_recvmsg(&mut socket, maps);
    names(&socket)
}

#[test]
fn an_answer_bears_the_address_that_the_nodes_socket_asked_last() {
    let maps = maps();
    let backend = sends(&maps, "10.96.0.10:53");
    assert_eq!(hears(&maps, &backend), "10.96.0.10:53");
    for _ in 0..3 {
        assert_eq!(sends(&maps, &backend), backend);
        assert_eq!(hears(&maps, &backend), backend);
        assert_eq!(hears(&maps, &backend), backend, "as often as it answers");
        assert_eq!(sends(&maps, "10.96.0.10:53"), backend, "the socket keeps its backend");
        assert_eq!(hears(&maps, &backend), "10.96.0.10:53");
    }
}

#[test]
fn of_two_services_with_one_backend_the_answer_bears_the_one_that_was_asked() {
    let state = State::standard().service(1, proto::UDP, "10.96.0.10:53", &["10.244.2.2:7000"]).service(
        2,
        proto::UDP,
        "10.96.0.11:53",
        &["10.244.2.2:7000"],
    );
    let maps = Maps::new(&state);
    for _ in 0..3 {
        for service in ["10.96.0.10:53", "10.96.0.11:53", "10.244.2.2:7000"] {
            assert_eq!(sends(&maps, service), "10.244.2.2:7000");
            assert_eq!(hears(&maps, "10.244.2.2:7000"), service);
        }
    }
}

#[test]
fn a_socket_that_is_connected_to_the_backend_itself_shows_the_backend() {
    let maps = maps();
    for (protocol, service, netns) in [
        (proto::UDP, "10.96.0.10:53", HOST),
        (proto::TCP, "10.96.0.10:80", HOST),
        (proto::TCP, "10.96.0.10:80", POD),
    ] {
        let mut dials = socket(service, protocol, netns);
        sock_connect(&mut dials, &maps);
        let backend = names(&dials);
        sock_peername(&mut dials, &maps);
        assert_eq!(names(&dials), service);
        let mut again = socket(&backend, protocol, netns);
        sock_connect(&mut again, &maps);
        sock_peername(&mut again, &maps);
        assert_eq!(names(&again), backend, "the socket was connected anew");
        let mut back = socket(service, protocol, netns);
        sock_connect(&mut back, &maps);
        sock_peername(&mut back, &maps);
        assert_eq!(names(&back), service);
    }
}

#[test]
fn no_datagrams_socket_is_refused() {
    let nobody = State::standard().service(1, proto::UDP, "10.96.0.10:53", &[]);
    let elsewhere = nobody.clone().drop_if_empty();
    for state in [nobody, elsewhere] {
        let maps = Maps::new(&state);
        for netns in [HOST, POD] {
            let mut socket = socket("10.96.0.10:53", proto::UDP, netns);
            assert_eq!(sock_connect(&mut socket, &maps), SocketVerdict::Allow);
            assert_eq!(sock_sendmsg(&mut socket, &maps), SocketVerdict::Allow);
            assert_eq!(names(&socket), "10.96.0.10:53");
        }
    }
}
