//! Direct server return: the node that a client has reached, and the node of the backend that it drew.

use proxy_abi::{Reason, frontend_flag, proto};

use super::{
    Case, Hook, Packet, State, case,
    packet::{quoting, tcp, udp},
    state::{POD_A_MAC, SNAT_PORT},
};

/// The client reached node two.
const TWO: Hook = Hook::FromOverlay("192.168.50.2", 1);
const UP: Hook = Hook::FromUplink;

const CLIENT: &str = "203.0.113.9:5000";
const AT: &str = "192.168.50.1:30080";
const AT_TWO: &str = "192.168.50.2:30080";
const LOCAL: &str = "10.244.1.2:8080";
const REMOTE: &str = "10.244.2.2:8080";

pub fn cases() -> Vec<Case> {
    [at_the_first_node(), at_the_backends_node(), refused()].into_iter().flatten().collect()
}

fn with(proto: u8, backends: &[&str], flags: u32) -> State {
    let state = State::standard().node_port(1, proto, 30_080, backends);
    state.frontends(|frontend| frontend.flags |= frontend_flag::DIRECT | flags)
}

fn web(backend: &str) -> State {
    with(proto::TCP, &[backend], 0)
}

fn at_the_first_node() -> Vec<Case> {
    let entry = "203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.2.2:8080 dnat direct";
    let (client6, at6, remote6) = ("[2001:db8:9::9]:5000", "[2001:db8::1]:30080", "[fd00:2::2]:8080");
    let first = |to: &str| udp(CLIENT, to).says(&[1; 40]).piece(9, 0, true);
    let later = |to: &str| udp(CLIENT, to).says(&[2; 30]).rest(proto::UDP).piece(9, 48, false);
    vec![
        case("a direct NodePort's packets go to the backend's node as they came", web(REMOTE))
            .hands_on(UP, tcp(CLIENT, AT, "S"), REMOTE)
            .hands_on(UP, tcp(CLIENT, AT, "A"), REMOTE)
            .leaves(&[&format!("new {entry}")]),
        case("a direct connection's end is noted, and its ports are used again", web(REMOTE))
            .hands_on(UP, tcp(CLIENT, AT, "S"), REMOTE)
            .hands_on(UP, tcp(CLIENT, AT, "FA"), REMOTE)
            .hands_on(UP, tcp(CLIENT, AT, "A"), REMOTE)
            .leaves(&[&format!("new {entry} closing")]),
        case("a direct NodePort, v6", with(proto::TCP, &[remote6], 0)).hands_on(
            UP,
            tcp(client6, at6, "S"),
            remote6,
        ),
        case("a direct load-balancer address", {
            let state = State::standard().service(1, proto::UDP, "198.51.100.7:53", &[REMOTE]);
            state.frontends(|frontend| frontend.flags |= frontend_flag::DIRECT)
        })
        .hands_on(UP, udp(CLIENT, "198.51.100.7:53"), REMOTE),
        case("a direct NodePort's backend on this node is reached as ever", web(LOCAL))
            .delivers(UP, tcp(CLIENT, AT, "S"), tcp(CLIENT, LOCAL, "S").hop().for_mac(POD_A_MAC))
            .sends_out(Hook::FromPod, tcp(LOCAL, CLIENT, "SA"), tcp(AT, CLIENT, "SA").hop()),
        case("a node, or a pod behind it, is answered the way that it came", web(REMOTE)).tunnels(
            UP,
            tcp("192.168.50.2:5000", AT, "S"),
            tcp(&format!("10.244.1.1:{SNAT_PORT}"), REMOTE, "S").hop(),
        ),
        case("direct fragments follow their first", with(proto::UDP, &[REMOTE], 0))
            .hands_on(UP, first(AT), REMOTE)
            .hands_on(UP, later(AT), REMOTE),
        case("what a direct packet's answer met on its way is told to the backend's node", web(REMOTE))
            .hands_on(UP, tcp(CLIENT, AT, "S"), REMOTE)
            .hands_on(UP, quoting("203.0.113.1", &tcp(AT, CLIENT, "A"), 3, 4), REMOTE),
        case("a direct packet that does not fit the tunnel is told so", with(proto::UDP, &[REMOTE], 0))
            .tells(
                UP,
                udp(CLIENT, AT).says(&[7; 1_423]),
                quoting("192.168.50.1", &udp(CLIENT, AT).says(&[7; 1_423]), 3, 4).about(1_450),
            ),
        case("a direct connection is joined midway by Maglev only", web(REMOTE))
            .passes(UP, tcp(CLIENT, AT, "A"))
            .leaves(&[]),
        case(
            "a direct connection that another node had is taken up by Maglev",
            with(proto::TCP, &[REMOTE], frontend_flag::MAGLEV),
        )
        .hands_on(UP, tcp(CLIENT, AT, "A"), REMOTE),
    ]
}

/// As the first node hands it on.
fn drawn(packet: Packet, backend: &str) -> Packet {
    packet.for_backend(backend)
}

fn at_the_backends_node() -> Vec<Case> {
    let (client6, two6, local6) = ("[2001:db8:9::9]:5000", "[2001:db8::2]:30080", "[fd00:1::2]:8080");
    // The frame's source address stays as it came.
    let delivered = |packet: Packet, drawn: &str| packet.hop().for_backend(drawn).for_mac(POD_A_MAC);
    let pod = |packet: Packet| delivered(packet, LOCAL);
    let first = |to: &str| udp(CLIENT, to).says(&[1; 40]).piece(9, 0, true);
    let later = |to: &str| udp(CLIENT, to).says(&[2; 30]).rest(proto::UDP).piece(9, 48, false);
    vec![
        case("a direct packet reaches its backend, which answers the client itself", web(LOCAL))
            .delivers(TWO, drawn(tcp(CLIENT, AT_TWO, "S"), LOCAL), pod(tcp(CLIENT, LOCAL, "S")))
            .sends_out(Hook::FromPod, tcp(LOCAL, CLIENT, "SA"), tcp(AT_TWO, CLIENT, "SA").hop())
            .delivers(TWO, drawn(tcp(CLIENT, AT_TWO, "A"), LOCAL), pod(tcp(CLIENT, LOCAL, "A")))
            .leaves(&[
                "old 203.0.113.9:5000>192.168.50.2:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat",
                "old 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.2:30080>203.0.113.9:5000 dnat back",
            ]),
        case("a direct packet reaches its backend, v6", with(proto::TCP, &[local6], 0))
            .delivers(
                TWO,
                drawn(tcp(client6, two6, "S"), local6),
                delivered(tcp(client6, local6, "S"), local6),
            )
            .sends_out(Hook::FromPod, tcp(local6, client6, "SA"), tcp(two6, client6, "SA").hop()),
        case("a direct packet of a service that this node does not know yet", State::standard())
            .delivers(TWO, drawn(udp(CLIENT, AT_TWO), LOCAL), pod(udp(CLIENT, LOCAL)))
            .sends_out(Hook::FromPod, udp(LOCAL, CLIENT), udp(AT_TWO, CLIENT).hop()),
        case("a connection stays with its backend whatever the first node draws later", web(LOCAL))
            .delivers(TWO, drawn(tcp(CLIENT, AT_TWO, "S"), LOCAL), pod(tcp(CLIENT, LOCAL, "S")))
            .delivers(
                TWO,
                drawn(tcp(CLIENT, AT_TWO, "A"), "10.244.1.3:8080"),
                delivered(tcp(CLIENT, LOCAL, "A"), "10.244.1.3:8080"),
            ),
        case("a client that comes by another node now is that node's, whatever was drawn here", {
            with(proto::TCP, &[REMOTE], frontend_flag::MAGLEV)
        })
        .hands_on(UP, tcp(CLIENT, AT, "S"), REMOTE)
        .delivers(TWO, drawn(tcp(CLIENT, AT, "A"), LOCAL), pod(tcp(CLIENT, LOCAL, "A")))
        .delivers(UP, tcp(CLIENT, AT, "A"), tcp(CLIENT, LOCAL, "A").hop().for_mac(POD_A_MAC))
        .leaves(&[
            "new 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat",
            "new 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back",
        ]),
        case("direct fragments reach their backend", with(proto::UDP, &[LOCAL], 0))
            .delivers(TWO, drawn(first(AT_TWO), LOCAL), pod(first(LOCAL)))
            .delivers(TWO, drawn(later(AT_TWO), LOCAL), pod(later(LOCAL))),
        case("what a router says of a direct answer reaches the pod that had sent", web(LOCAL))
            .delivers(TWO, drawn(tcp(CLIENT, AT_TWO, "S"), LOCAL), pod(tcp(CLIENT, LOCAL, "S")))
            .delivers(
                TWO,
                drawn(quoting("203.0.113.1", &tcp(AT_TWO, CLIENT, "A"), 3, 4), LOCAL),
                pod(quoting("203.0.113.1", &tcp(LOCAL, CLIENT, "A"), 3, 4)),
            ),
    ]
}

fn refused() -> Vec<Case> {
    vec![
        case("a direct packet from a pod's address", web(LOCAL))
            .drops(TWO, drawn(tcp("10.244.2.9:1", AT_TWO, "S"), LOCAL), Reason::SourceSpoofed)
            .drops(TWO, drawn(tcp("10.244.1.3:1", AT_TWO, "S"), LOCAL), Reason::SourceSpoofed)
            .drops(TWO, drawn(tcp("127.0.0.1:1", AT_TWO, "S"), LOCAL), Reason::SourceSpoofed),
        case("a direct packet from who is no node", web(LOCAL)).drops(
            Hook::FromOverlay("192.168.50.200", 1),
            drawn(tcp(CLIENT, AT_TWO, "S"), LOCAL),
            Reason::UnknownTunnelPeer,
        ),
        case("a direct packet to a pod that is gone, or to the node itself", web(LOCAL))
            .drops(TWO, drawn(tcp(CLIENT, AT_TWO, "S"), "10.244.1.77:8080"), Reason::UnknownEndpoint)
            .drops(TWO, drawn(tcp(CLIENT, AT_TWO, "S"), "192.168.50.1:22"), Reason::UnknownEndpoint)
            .drops(TWO, drawn(tcp(CLIENT, AT_TWO, "S"), REMOTE), Reason::UnknownEndpoint)
            .leaves(&[]),
        case("a direct packet that opens nothing", web(LOCAL))
            .drops(TWO, drawn(tcp(CLIENT, AT_TWO, "R"), LOCAL), Reason::NoFlow)
            .drops(TWO, drawn(quoting("203.0.113.1", &tcp(AT_TWO, CLIENT, "A"), 3, 4), LOCAL), Reason::NoFlow)
            .leaves(&[]),
        case("a direct packet whose frame names the backend by half", web(LOCAL)).drops(
            TWO,
            tcp(CLIENT, AT_TWO, "S").by_mac([0x0e, 1, 2, 3, 4, 5]),
            Reason::Malformed,
        ),
    ]
}
