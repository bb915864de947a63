//! IP fragments: only the first has ports.

use proxy_abi::{Reason, proto};

use super::{
    Case, Hook, State, case,
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
    ]
}
