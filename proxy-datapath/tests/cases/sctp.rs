//! SCTP: its checksum covers the ports, not the addresses.

use proxy_abi::{Reason, proto};

use super::{
    Case, Hook, State, case,
    packet::{sctp, sctp_unsummed},
    quoting,
    state::{POD_A_MAC, POD_B_MAC, SNAT_PORT},
};

pub fn cases() -> Vec<Case> {
    let (pod, vip, remote, here) =
        ("10.244.1.2:6000", "10.96.0.10:3868", "10.244.2.2:13868", "10.244.1.3:13868");
    let (client, at) = ("203.0.113.9:5000", "192.168.50.1:30868");
    let service = |backend| State::standard().service(1, proto::SCTP, vip, &[backend]);
    let node_port = |backend| State::standard().node_port(1, proto::SCTP, 30_868, &[backend]);
    let router = format!("10.244.1.1:{SNAT_PORT}");
    vec![
        case(
            "SCTP to a ClusterIP gets another port and a right sum, its answer the service's",
            service(remote),
        )
        .tunnels(Hook::FromPod, sctp(pod, vip), sctp(pod, remote).hop())
        .delivers(
            Hook::FromOverlay("192.168.50.2", 1),
            sctp(remote, pod),
            sctp(vip, pod).hop().for_mac(POD_A_MAC),
        )
        .tunnels(Hook::FromPod, sctp(pod, vip), sctp(pod, remote).hop())
        .leaves(&[
            "old 10.244.1.2:6000>10.96.0.10:3868/132 => 10.244.1.2:6000>10.244.2.2:13868 dnat",
            "old 10.244.2.2:13868>10.244.1.2:6000/132 => 10.96.0.10:3868>10.244.1.2:6000 dnat back",
        ]),
        case("SCTP through a NodePort: both ports change", node_port(remote))
            .tunnels(Hook::FromUplink, sctp(client, at), sctp(&router, remote).hop())
            .sends_out(Hook::FromOverlay("192.168.50.2", 1), sctp(remote, &router), sctp(at, client).hop()),
        case("SCTP whose sum the device makes keeps an empty one", service(here)).delivers(
            Hook::FromPod,
            sctp_unsummed(pod, vip),
            sctp_unsummed(pod, here).hop().for_mac(POD_B_MAC),
        ),
        case(
            "SCTP to a ClusterIP, v6",
            State::standard().service(1, proto::SCTP, "[fd00:96::10]:3868", &["[fd00:2::2]:1"]),
        )
        .tunnels(
            Hook::FromPod,
            sctp("[fd00:1::2]:6000", "[fd00:96::10]:3868"),
            sctp("[fd00:1::2]:6000", "[fd00:2::2]:1").hop(),
        ),
        case("SCTP is masqueraded", State::standard()).sends_out(
            Hook::FromPod,
            sctp(pod, "203.0.113.9:3868"),
            sctp(&format!("192.168.50.1:{SNAT_PORT}"), "203.0.113.9:3868").hop(),
        ),
        case(
            "SCTP to a service without endpoints is told so",
            State::standard().service(1, proto::SCTP, vip, &[]),
        )
        .answers(Hook::FromPod, sctp(pod, vip), quoting("10.96.0.10", &sctp(pod, vip), 3, 3)),
        case("an SCTP header that is cut short", service(remote)).drops(
            Hook::FromPod,
            sctp(pod, vip).says(&[0; 11]),
            Reason::Malformed,
        ),
        case("an SCTP service is not a TCP one", service(remote)).answers(
            Hook::FromPod,
            super::packet::tcp(pod, vip, "S"),
            super::packet::tcp(vip, pod, "RA").seq(0, Some(1_001)),
        ),
    ]
}
