//! The tunnel's device.

use proxy_abi::Reason;

use super::{
    Case, Hook, Packet, State, case,
    packet::{tcp, udp},
    state::{POD_A_MAC, SNAT_PORT},
};

const TWO: Hook = Hook::FromOverlay("192.168.50.2", 1);

pub fn cases() -> Vec<Case> {
    let (a, remote) = ("10.244.1.2:7000", "10.244.2.2:6000");
    let router = format!("10.244.1.1:{SNAT_PORT}");
    vec![
        case("a remote pod's packet is delivered", State::standard()).delivers(
            TWO,
            udp(remote, a),
            udp(remote, a).hop().for_mac(POD_A_MAC),
        ),
        case("answers to the node's own connections are the stack's", State::standard())
            .passes(TWO, tcp("10.244.2.2:8080", "10.244.1.1:40000", "SA"))
            .passes(TWO, tcp("10.244.2.2:8080", "192.168.50.1:40000", "SA")),
        case("a stranger", State::standard()).drops(
            Hook::FromOverlay("192.168.50.200", 1),
            udp(remote, a),
            Reason::UnknownTunnelPeer,
        ),
        case("another network", State::standard()).drops(
            Hook::FromOverlay("192.168.50.2", 2),
            udp(remote, a),
            Reason::WrongVni,
        ),
        case("a node that speaks for another node's pods", State::standard())
            .drops(TWO, udp("10.244.3.2:1", a), Reason::SourceSpoofed)
            .drops(TWO, udp("10.244.1.3:1", a), Reason::SourceSpoofed)
            .drops(TWO, udp("203.0.113.9:1", a), Reason::SourceSpoofed),
        case("no transit for what is not of this node", State::standard())
            .drops(TWO, udp(remote, "10.244.1.77:1"), Reason::UnknownEndpoint)
            .drops(TWO, udp(remote, "10.244.3.2:1"), Reason::UnknownEndpoint)
            .drops(TWO, udp(remote, "203.0.113.9:1"), Reason::UnknownEndpoint)
            .drops(TWO, udp(remote, "10.96.0.10:53"), Reason::UnknownEndpoint),
        case("no ARP in the tunnel", State::standard()).drops(
            TWO,
            Packet::frame(&[[0xff; 6], [2; 6], [8, 6, 0, 1, 8, 0], [0; 6], [0; 6]].concat()),
            Reason::UnknownProtocol,
        ),
        case("the stack's packets get their node", State::standard())
            .keys(Hook::ToOverlay, tcp("10.244.1.1:40000", remote, "S"), tcp("10.244.1.1:40000", remote, "S"))
            .drops(Hook::ToOverlay, tcp("10.244.1.1:40000", "203.0.113.9:1", "S"), Reason::Unroutable)
            .drops(Hook::ToOverlay, tcp("10.244.1.1:40000", "10.244.1.77:1", "S"), Reason::Unroutable)
            .leaves(&[]),
        case("a process bound to the uplink's address speaks as the router", State::standard())
            .keys(Hook::ToOverlay, tcp("192.168.50.1:40000", remote, "S"), tcp(&router, remote, "S"))
            .changes(TWO, tcp(remote, &router, "SA"), tcp(remote, "192.168.50.1:40000", "SA")),
    ]
}
