//! Answers: to what the node itself has said, and to who asks a backend by two addresses.

use proxy_abi::{Flow, Reason, flow_flag, flow_state, frontend_flag, proto};

use super::{
    Case, Hook, State, case,
    packet::{tcp, udp},
    quoting,
    state::{POD_A_MAC, POD_B_MAC, SNAT_PORT, tuple},
};

const A: &str = "10.244.1.2:6000";
const VIP: &str = "10.96.0.10:53";
const REMOTE: &str = "10.244.2.2:7000";
const LOCAL: &str = "10.244.1.3:7000";
const SERVER: &str = "203.0.113.9:53";
const CLIENT: &str = "203.0.113.9:5000";
const NODE_PORT: &str = "192.168.50.1:30080";
const HIDDEN: u16 = flow_flag::DNAT | flow_flag::SNAT | flow_flag::FROM_UPLINK;
const TWO: Hook = Hook::FromOverlay("192.168.50.2", 1);

pub fn cases() -> Vec<Case> {
    let mut cases = own();
    cases.extend(shared_ports());
    cases.extend(two_addresses());
    cases.extend(unhooked());
    cases
}

/// A process of the node is bound to a port that a service has on the node's address.
fn own() -> Vec<Case> {
    let (at, at6) = ("192.168.50.1:40000", "[2001:db8::1]:40000");
    let node_port = "192.168.50.1:30080";
    let external = |protocol| State::standard().service(1, protocol, at, &[REMOTE]);
    let maglev = external(proto::TCP).frontends(|frontend| frontend.flags |= frontend_flag::MAGLEV);
    let router = format!("10.244.1.1:{SNAT_PORT}");
    let hears = |name, state, at: &str, from: &str| {
        case(name, state)
            .passes(Hook::ToUplink, udp(at, from))
            .passes(Hook::FromUplink, udp(from, at))
            .passes(Hook::ToUplink, udp(at, from))
    };
    vec![
        hears("the node hears an answer at a port that is a service's", external(proto::UDP), at, SERVER)
            .leaves(&[
                "new 192.168.50.1:40000>203.0.113.9:53/17 => 192.168.50.1:40000>203.0.113.9:53",
                "new 203.0.113.9:53>192.168.50.1:40000/17 => 203.0.113.9:53>192.168.50.1:40000 back",
            ]),
        hears(
            "the node hears an answer at a port that is a service's, v6",
            State::standard().service(1, proto::UDP, at6, &["[fd00:2::2]:7000"]),
            at6,
            "[2001:db8:9::9]:53",
        ),
        hears(
            "the node hears an answer at a NodePort",
            State::standard().node_port(1, proto::UDP, 30_080, &[REMOTE]),
            node_port,
            SERVER,
        )
        // Who was not asked is a client.
        .tunnels(Hook::FromUplink, udp("203.0.113.9:54", node_port), udp(&router, REMOTE).hop()),
        case("the node hears a pod's answer at a port that is a service's", external(proto::UDP))
            .passes(Hook::ToPod, udp(at, A))
            .passes(Hook::FromPod, udp(A, at)),
        case("a connection of the node's own from a service's port is not taken up by Maglev", maglev)
            .passes(Hook::ToUplink, tcp(at, SERVER, "S"))
            .passes(Hook::FromUplink, tcp(SERVER, at, "SA"))
            .passes(Hook::ToUplink, tcp(at, SERVER, "A"))
            .passes(Hook::FromUplink, tcp(SERVER, at, "A")),
        case("what the node sends from other ports leaves nothing behind", external(proto::UDP))
            .passes(Hook::ToUplink, udp("192.168.50.1:40001", SERVER))
            .passes(Hook::FromUplink, udp(SERVER, "192.168.50.1:40001"))
            .leaves(&[]),
    ]
}

/// A process of the node is bound to a port that flows are given, or a rule of the machine chose it.
fn shared_ports() -> Vec<Case> {
    let own = format!("192.168.50.1:{SNAT_PORT}");
    let other = format!("192.168.50.1:{}", SNAT_PORT + 1);
    let (router, other_router) = (format!("10.244.1.1:{SNAT_PORT}"), format!("10.244.1.1:{}", SNAT_PORT + 1));
    let two_ports = || State::standard().facts(|facts| facts.snat_max = SNAT_PORT + 1);
    let held = |protocol, state| {
        let hidden = |flow: &mut Flow| (flow.state, flow.flags) = (state, flow_flag::SNAT);
        two_ports().flow(tuple(A, SERVER, protocol), tuple(&own, SERVER, protocol), hidden, 1)
    };
    let steps_aside = |name, state| {
        case(name, state)
            .changes(Hook::ToUplink, tcp(&own, SERVER, "S"), tcp(&other, SERVER, "S"))
            .changes(Hook::FromUplink, tcp(SERVER, &other, "SA"), tcp(SERVER, &own, "SA"))
            .changes(Hook::ToUplink, tcp(&own, SERVER, "A"), tcp(&other, SERVER, "A"))
    };
    vec![
        steps_aside(
            "the node opens from a port that a pod's connection has been given",
            held(proto::TCP, flow_state::ESTABLISHED),
        )
        .delivers(
            Hook::FromUplink,
            tcp(SERVER, &own, "A"),
            tcp(SERVER, A, "A").hop().for_mac(POD_A_MAC),
        ),
        steps_aside(
            "the node opens from a port whose connection of a pod ended a moment ago",
            held(proto::TCP, flow_state::CLOSING),
        ),
        case("the node asks from a port that a pod's question has been given", {
            held(proto::UDP, flow_state::ESTABLISHED)
        })
        .changes(Hook::ToUplink, udp(&own, SERVER), udp(&other, SERVER))
        .changes(Hook::FromUplink, udp(SERVER, &other), udp(SERVER, &own))
        .delivers(Hook::FromUplink, udp(SERVER, &own), udp(SERVER, A).hop().for_mac(POD_A_MAC)),
        case("a port that the node has opened something from is given to no pod", two_ports())
            .passes(Hook::ToUplink, tcp(&own, SERVER, "S"))
            .passes(Hook::FromUplink, tcp(SERVER, &own, "SA"))
            .sends_out(Hook::FromPod, tcp(A, SERVER, "S"), tcp(&other, SERVER, "S").hop())
            .passes(Hook::FromUplink, tcp(SERVER, &own, "A")),
        case("the node opens from the router's port that a client's connection has been given", {
            let hidden = |flow: &mut Flow| (flow.state, flow.flags) = (flow_state::ESTABLISHED, HIDDEN);
            let (key, to) = (tuple(CLIENT, NODE_PORT, proto::TCP), tuple(&router, REMOTE, proto::TCP));
            two_ports().flow(key, to, hidden, 1)
        })
        .keys(Hook::ToOverlay, tcp(&router, REMOTE, "S"), tcp(&other_router, REMOTE, "S"))
        .changes(TWO, tcp(REMOTE, &other_router, "SA"), tcp(REMOTE, &router, "SA"))
        .keys(Hook::ToOverlay, tcp(&router, REMOTE, "A"), tcp(&other_router, REMOTE, "A"))
        .sends_out(TWO, tcp(REMOTE, &router, "A"), tcp(NODE_PORT, CLIENT, "A").hop()),
        case("without another port the node's own goes out as it is", {
            held(proto::TCP, flow_state::ESTABLISHED).facts(|facts| facts.snat_max = SNAT_PORT)
        })
        .passes(Hook::ToUplink, tcp(&own, SERVER, "S")),
        case("what the node's servers answer from such a port leaves nothing behind", two_ports())
            .passes(Hook::FromUplink, tcp(SERVER, &own, "S"))
            .passes(Hook::ToUplink, tcp(&own, SERVER, "SA"))
            .passes(Hook::ToUplink, udp(&own, SERVER))
            .leaves(&[]),
    ]
}

/// A client asks a service, and then its backend itself, from one port.
fn two_addresses() -> Vec<Case> {
    let dns = |backend: &str| State::standard().service(1, proto::UDP, VIP, &[backend]);
    let other = format!("10.244.1.2:{SNAT_PORT}");
    let (node, client) = ("192.168.50.1:7000", "203.0.113.9:5000");
    let node_port = "192.168.50.1:30080";
    let other_client = format!("203.0.113.9:{SNAT_PORT}");
    let host = State::standard().node_port(1, proto::UDP, 30_080, &[node]);
    vec![
        case("a direct answer bears the backend's address, the service's answer the service's", dns(REMOTE))
            .tunnels(Hook::FromPod, udp(A, VIP), udp(A, REMOTE).hop())
            .tunnels(Hook::FromPod, udp(A, REMOTE), udp(&other, REMOTE).hop())
            .delivers(TWO, udp(REMOTE, &other), udp(REMOTE, A).hop().for_mac(POD_A_MAC))
            .delivers(TWO, udp(REMOTE, A), udp(VIP, A).hop().for_mac(POD_A_MAC))
            .tunnels(Hook::FromPod, udp(A, REMOTE), udp(&other, REMOTE).hop()),
        case("a backend that is asked directly first keeps its client's port", dns(LOCAL))
            .delivers(Hook::FromPod, udp(A, LOCAL), udp(A, LOCAL).hop().for_mac(POD_B_MAC))
            .delivers(Hook::FromPod, udp(A, VIP), udp(A, LOCAL).hop().for_mac(POD_B_MAC))
            .delivers(Hook::FromPod, udp(A, LOCAL), udp(&other, LOCAL).hop().for_mac(POD_B_MAC)),
        case("a direct connection of a pod that the socket hooks leave out bears the backend's address", {
            State::standard().service(1, proto::TCP, VIP, &[REMOTE])
        })
        .tunnels(Hook::FromPod, tcp(A, VIP, "S"), tcp(A, REMOTE, "S").hop())
        .tunnels(Hook::FromPod, tcp(A, REMOTE, "S"), tcp(&other, REMOTE, "S").hop())
        .delivers(TWO, tcp(REMOTE, &other, "SA"), tcp(REMOTE, A, "SA").hop().for_mac(POD_A_MAC)),
        case("a direct answer of a backend in the node's own network bears the node's address", dns(node))
            .changes(Hook::FromPod, udp(A, VIP), udp(A, node))
            .changes(Hook::FromPod, udp(A, node), udp(&other, node))
            .changes(Hook::ToPod, udp(node, &other), udp(node, A))
            .changes(Hook::ToPod, udp(node, A), udp(VIP, A)),
        case("a client outside that dials a host-network backend itself has a second connection", {
            State::standard().node_port(1, proto::TCP, 30_080, &[node])
        })
        .changes(Hook::FromUplink, tcp(client, node_port, "S"), tcp(client, node, "S"))
        .changes(Hook::FromUplink, tcp(client, node, "S"), tcp(&other_client, node, "S"))
        .changes(Hook::ToUplink, tcp(node, &other_client, "SA"), tcp(node, client, "SA"))
        .changes(Hook::ToUplink, tcp(node, client, "SA"), tcp(node_port, client, "SA")),
        case("a client outside that dials a host-network backend itself hears the backend's address", host)
            .changes(Hook::FromUplink, udp(client, node_port), udp(client, node))
            .changes(Hook::FromUplink, udp(client, node), udp(&other_client, node))
            .changes(Hook::ToUplink, udp(node, &other_client), udp(node, client))
            .changes(Hook::ToUplink, udp(node, client), udp(node_port, client)),
    ]
}

/// Datagrams of the node to a service's address that no socket hook has translated.
fn unhooked() -> Vec<Case> {
    let own = "192.168.50.1:40000";
    let refused = |to: &str| quoting(to.split(':').next().unwrap(), &udp(own, to), 3, 3);
    let router = format!("10.244.1.1:{SNAT_PORT}");
    let (own6, vip6) = ("[2001:db8::1]:40000", "[fd00:96::10]:53");
    vec![
        case(
            "the node's datagram to a service without endpoints is refused by a packet",
            State::standard().service(1, proto::UDP, VIP, &[]),
        )
        .refuses_own(udp(own, VIP), refused(VIP))
        .refuses_own(udp(own, "10.96.0.10:54"), refused("10.96.0.10:54"))
        .drops(Hook::ToUplink, udp(own, "10.96.0.99:53"), Reason::UnallocatedService)
        .leaves(&[]),
        case(
            "the node's datagram to a service without endpoints is refused by a packet, v6",
            State::standard().service(1, proto::UDP, vip6, &[]),
        )
        .refuses_own(udp(own6, vip6), quoting("fd00:96::10", &udp(own6, vip6), 1, 4)),
        case(
            "the node's datagram to a service whose endpoints are elsewhere vanishes",
            State::standard().service(1, proto::UDP, VIP, &[]).drop_if_empty(),
        )
        .drops(Hook::ToUplink, udp(own, VIP), Reason::NoLocalEndpoint),
        case(
            "the node's datagram to a service is balanced though no socket hook has seen it, and so is its answer",
            State::standard().service(1, proto::UDP, VIP, &[REMOTE]),
        )
        .takes_in(Hook::ToUplink, udp(own, VIP))
        .tunnels(Hook::FromUplink, udp(own, VIP), udp(&router, REMOTE).hop())
        .changes(TWO, udp(REMOTE, &router), udp(VIP, own))
        .takes_in(Hook::ToUplink, udp(own, VIP))
        .tunnels(Hook::FromUplink, udp(own, VIP), udp(&router, REMOTE).hop()),
        case(
            "the node's datagram to a service with a backend here is balanced though no socket hook has seen it",
            State::standard().service(1, proto::UDP, VIP, &[LOCAL]),
        )
        .takes_in(Hook::ToUplink, udp(own, VIP))
        .delivers(Hook::FromUplink, udp(own, VIP), udp(own, LOCAL).hop().for_mac(POD_B_MAC)),
        case(
            "the node's datagram to a service of its own is refused where no socket hook has seen it",
            State::standard().service(1, proto::UDP, VIP, &["192.168.50.1:7000"]),
        )
        .refuses_own(udp(own, VIP), refused(VIP)),
    ]
}
