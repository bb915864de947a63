//! IP fragments: only the first has ports.

use proxy_abi::{Reason, proto};

use super::{
    Case, Hook, Packet, State, case,
    packet::udp,
    state::{POD_A_MAC, POD_B_MAC, SNAT_PORT},
};

pub fn cases() -> Vec<Case> {
    let (a, vip, pod) = ("10.244.1.2:6000", "10.96.0.10:53", "10.244.2.2:7000");
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let dns = || State::standard().service(1, proto::UDP, vip, &[pod]);
    let first = |from: &str, to: &str| udp(from, to).says(&[1; 40]).piece(9, 0, true);
    let later = |from: &str, to: &str| udp(from, to).says(&[2; 30]).rest(proto::UDP).piece(9, 48, false);
    vec![
        case("later fragments of a datagram to a service follow the first", dns())
            .tunnels(Hook::FromPod, first(a, vip), first(a, pod).hop())
            .tunnels(Hook::FromPod, later(a, vip), later(a, pod).hop())
            .delivers(
                Hook::FromOverlay("192.168.50.2", 1),
                first(pod, a),
                first(vip, a).hop().for_mac(POD_A_MAC),
            )
            .delivers(
                Hook::FromOverlay("192.168.50.2", 1),
                later(pod, a),
                later(vip, a).hop().for_mac(POD_A_MAC),
            ),
        case("later fragments to the outside follow the first", State::standard())
            .sends_out(Hook::FromPod, first(a, "203.0.113.9:53"), first(&node, "203.0.113.9:53").hop())
            .sends_out(Hook::FromPod, later(a, "203.0.113.9:53"), later(&node, "203.0.113.9:53").hop()),
        case("a later fragment whose first was not seen", dns())
            .drops(Hook::FromPod, later(a, vip), Reason::FragmentUnknown)
            .drops(Hook::FromPod, later(a, "203.0.113.9:53"), Reason::FragmentUnknown),
        case("between pods addresses suffice", State::standard()).delivers(
            Hook::FromPod,
            later(a, "10.244.1.3:1"),
            later(a, "10.244.1.3:1").hop().for_mac(POD_B_MAC),
        ),
        case("a later fragment ahead of its first is lost, what follows the first is not", dns())
            .drops(Hook::FromPod, later(a, vip), Reason::FragmentUnknown)
            .tunnels(Hook::FromPod, first(a, vip), first(a, pod).hop())
            .tunnels(Hook::FromPod, later(a, vip), later(a, pod).hop()),
        late_from_outside(),
        by_extension_header(),
        late_by_extension_header(),
    ]
}

/// At the uplink nobody knows whose it is: the stack is handed it, and finds no use for it.
fn late_from_outside() -> Case {
    let (client, at, pod) = ("203.0.113.9:5000", "192.168.50.1:30080", "10.244.1.2:8080");
    let state = State::standard().node_port(1, proto::UDP, 30_080, &[pod]);
    let first = |to: &str| udp(client, to).says(&[1; 40]).piece(9, 0, true);
    let later = |to: &str| udp(client, to).says(&[2; 30]).rest(proto::UDP).piece(9, 48, false);
    case("a NodePort's later fragment ahead of its first is lost, what follows the first is not", state)
        .passes(Hook::FromUplink, later(at))
        .delivers(Hook::FromUplink, first(at), first(pod).hop().for_mac(POD_A_MAC))
        .delivers(Hook::FromUplink, later(at), later(pod).hop().for_mac(POD_A_MAC))
}

const A6: &str = "[fd00:1::2]:6000";
const VIP6: &str = "[fd00:96::10]:53";
const POD6: &str = "[fd00:2::2]:7000";

fn dns6() -> State {
    State::standard().service(1, proto::UDP, VIP6, &[POD6])
}

fn first6(from: &str, to: &str) -> Packet {
    udp(from, to).says(&[1; 40]).piece6(9, 0, true)
}

fn later6(from: &str, to: &str) -> Packet {
    udp(from, to).says(&[2; 30]).rest(proto::UDP).piece6(9, 48, false)
}

fn by_extension_header() -> Case {
    case("later fragments of a datagram to a service follow the first, v6", dns6())
        .tunnels(Hook::FromPod, first6(A6, VIP6), first6(A6, POD6).hop())
        .tunnels(Hook::FromPod, later6(A6, VIP6), later6(A6, POD6).hop())
        .delivers(
            Hook::FromOverlay("192.168.50.2", 1),
            first6(POD6, A6),
            first6(VIP6, A6).hop().for_mac(POD_A_MAC),
        )
        .delivers(
            Hook::FromOverlay("192.168.50.2", 1),
            later6(POD6, A6),
            later6(VIP6, A6).hop().for_mac(POD_A_MAC),
        )
}

fn late_by_extension_header() -> Case {
    case("a later fragment ahead of its first is lost, what follows the first is not, v6", dns6())
        .drops(Hook::FromPod, later6(A6, VIP6), Reason::FragmentUnknown)
        .tunnels(Hook::FromPod, first6(A6, VIP6), first6(A6, POD6).hop())
        .tunnels(Hook::FromPod, later6(A6, VIP6), later6(A6, POD6).hop())
}
