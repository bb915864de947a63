//! Services without endpoints and addresses without services.

use proxy_abi::{Reason, proto};

use super::{
    Case, Hook, State, case, echo,
    packet::{tcp, udp},
    quoting,
};

pub fn cases() -> Vec<Case> {
    let (a, vip) = ("10.244.1.2:6000", "10.96.0.10:80");
    let empty = |proto| State::standard().service(1, proto, vip, &[]);
    let data = || tcp(a, vip, "A").says(b"twelve bytes");
    vec![
        case("a SYN to a service without endpoints is reset", empty(proto::TCP))
            .answers(Hook::FromPod, tcp(a, vip, "S"), tcp(vip, a, "RA").seq(0, Some(1_001)))
            .leaves(&[]),
        case("so is one with data and options long gone", empty(proto::TCP))
            .answers(Hook::FromPod, data(), tcp(vip, a, "R").seq(7_000, None).says(b""))
            .answers(
                Hook::FromPod,
                tcp(a, vip, "S").says(b"fast open!"),
                tcp(vip, a, "RA").seq(0, Some(1_011)).says(b""),
            )
            .drops(Hook::FromPod, tcp(a, vip, "R"), Reason::Rejected),
        case(
            "a SYN to a service without endpoints is reset, v6",
            State::standard().service(1, proto::TCP, "[fd00:96::10]:80", &[]),
        )
        .answers(
            Hook::FromPod,
            tcp("[fd00:1::2]:6000", "[fd00:96::10]:80", "S"),
            tcp("[fd00:96::10]:80", "[fd00:1::2]:6000", "RA").seq(0, Some(1_001)),
        ),
        case("a datagram to a service without endpoints is told so", empty(proto::UDP)).answers(
            Hook::FromPod,
            udp(a, vip),
            quoting("10.96.0.10", &udp(a, vip), 3, 3),
        ),
        case("a long datagram's answer quotes its headers only", empty(proto::UDP)).answers(
            Hook::FromPod,
            udp(a, vip).says(&[7; 900]),
            quoting("10.96.0.10", &udp(a, vip).says(&[7; 900]), 3, 3),
        ),
        case(
            "a datagram to a service without endpoints, v6",
            State::standard().service(1, proto::UDP, "[fd00:96::10]:80", &[]),
        )
        .answers(
            Hook::FromPod,
            udp("[fd00:1::2]:6000", "[fd00:96::10]:80"),
            quoting("fd00:96::10", &udp("[fd00:1::2]:6000", "[fd00:96::10]:80"), 1, 4),
        ),
        case(
            "a port that the service does not have",
            State::standard().service(1, proto::TCP, vip, &["10.244.2.2:1"]),
        )
        .answers(
            Hook::FromPod,
            tcp(a, "10.96.0.10:81", "S"),
            tcp("10.96.0.10:81", a, "RA").seq(0, Some(1_001)),
        )
        .answers(Hook::FromPod, udp(a, vip), quoting("10.96.0.10", &udp(a, vip), 3, 3)),
        case("an address of the service range that no service has", State::standard())
            .drops(Hook::FromPod, tcp(a, "10.96.0.99:80", "S"), Reason::UnallocatedService)
            .drops(Hook::FromPod, echo("10.244.1.2", "10.96.0.99", 1, false), Reason::UnallocatedService)
            .drops(Hook::FromUplink, tcp("203.0.113.9:1", "10.96.0.99:80", "S"), Reason::UnallocatedService)
            .drops(Hook::FromPod, udp("[fd00:1::2]:6000", "[fd00:96::99]:1"), Reason::UnallocatedService),
        case(
            "the outside is refused at a NodePort without endpoints",
            State::standard().node_port(1, proto::TCP, 30_080, &[]),
        )
        .answers(
            Hook::FromUplink,
            tcp("203.0.113.9:1", "192.168.50.1:30080", "S"),
            tcp("192.168.50.1:30080", "203.0.113.9:1", "RA").seq(0, Some(1_001)),
        ),
        case(
            "policy Local without an endpoint here drops",
            State::standard().node_port(1, proto::TCP, 30_080, &[]).drop_if_empty(),
        )
        .drops(
            Hook::FromUplink,
            tcp("203.0.113.9:1", "192.168.50.1:30080", "S"),
            Reason::NoLocalEndpoint,
        ),
        case(
            "a slot recycled twice under the reader",
            State::standard().service(1, proto::TCP, vip, &["10.244.2.2:1"]).recycled(),
        )
        .drops(Hook::FromPod, tcp(a, vip, "S"), Reason::StaleSlot),
    ]
}
