//! ICMP errors about flows of ours: turned with the packet they quote.

use proxy_abi::{Reason, flow_flag, flow_state, proto};

use super::{
    Case, Hook, Packet, State, case, echo,
    packet::{quoting, tcp, udp},
    state::{POD_A_MAC, SNAT_PORT, tuple},
};

const TWO: Hook = Hook::FromOverlay("192.168.50.2", 1);

pub fn cases() -> Vec<Case> {
    let (a, vip, pod) = ("10.244.1.2:6000", "10.96.0.10:53", "10.244.2.2:7000");
    let (client, at) = ("203.0.113.9:5000", "192.168.50.1:30080");
    let router = format!("10.244.1.1:{SNAT_PORT}");
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let flow = |key, to, flags: u16| {
        let change = move |flow: &mut proxy_abi::Flow| {
            flow.state = flow_state::ESTABLISHED;
            flow.flags = flags;
        };
        State::standard().flow(key, to, change, 1)
    };
    let dns = || flow(tuple(a, vip, proto::UDP), tuple(a, pod, proto::UDP), flow_flag::DNAT);
    let web = || {
        let flags = flow_flag::DNAT | flow_flag::SNAT;
        flow(tuple(client, at, proto::TCP), tuple(&router, "10.244.2.2:8080", proto::TCP), flags)
    };
    let out = || {
        let outside = "203.0.113.9:53";
        flow(tuple(a, outside, proto::UDP), tuple(&node, outside, proto::UDP), flow_flag::SNAT)
    };
    // The quoted header begins after 14, 20 and 8 bytes.
    let about_changed = |at: usize, byte: u8| {
        let mut bytes = quoting("192.0.2.77", &udp(&node, "203.0.113.9:53"), 11, 0).bytes();
        bytes[42 + at] = byte;
        Packet::frame(&bytes)
    };
    let (a6, vip6, pod6) = ("[fd00:1::2]:6000", "[fd00:96::10]:53", "[fd00:2::2]:7000");
    vec![
        case("a backend's complaint comes from the service, about what the client had sent", dns()).delivers(
            TWO,
            quoting("10.244.2.2", &udp(a, pod), 3, 3),
            quoting("10.96.0.10", &udp(a, vip), 3, 3).hop().for_mac(POD_A_MAC),
        ),
        case(
            "a backend's complaint, v6",
            flow(tuple(a6, vip6, proto::UDP), tuple(a6, pod6, proto::UDP), flow_flag::DNAT),
        )
        .delivers(
            TWO,
            quoting("fd00:2::2", &udp(a6, pod6), 1, 4),
            quoting("fd00:96::10", &udp(a6, vip6), 1, 4).hop().for_mac(POD_A_MAC),
        ),
        case("what a router in the cluster says reaches the client as the NodePort's word", web()).sends_out(
            TWO,
            quoting("10.244.2.1", &tcp(&router, "10.244.2.2:8080", "A"), 3, 4),
            quoting("192.168.50.1", &tcp(client, at, "A"), 3, 4).hop(),
        ),
        case("a router outside is told by name, to the pod that had sent", out()).delivers(
            Hook::FromUplink,
            quoting("192.0.2.77", &udp(&node, "203.0.113.9:53"), 11, 0),
            quoting("192.0.2.77", &udp(a, "203.0.113.9:53"), 11, 0).hop().for_mac(POD_A_MAC),
        ),
        case("what is said of a packet that can't be told is the stack's", out())
            // A later fragment has no ports, and nobody knows where those of a header that is too short would
            // be.
            .passes(Hook::FromUplink, about_changed(7, 1))
            .passes(Hook::FromUplink, about_changed(0, 0x44))
            .passes(Hook::FromUplink, about_changed(0, 0x65)),
        case("a client's complaint reaches the backend", web()).tunnels(
            Hook::FromUplink,
            quoting("203.0.113.9", &tcp(at, client, "SA"), 3, 3),
            quoting("10.244.1.1", &tcp("10.244.2.2:8080", &router, "SA"), 3, 3).hop(),
        ),
        case("a complaint about a ping", {
            let key = proxy_abi::Tuple::new(
                super::state::addr("10.244.1.2"),
                proxy_abi::Be16::new(77),
                super::state::addr("203.0.113.9"),
                proxy_abi::Be16::new(77),
                proto::ICMP,
            );
            let mut to = key;
            to.src = super::state::addr("192.168.50.1");
            (to.sport, to.dport) = (proxy_abi::Be16::new(SNAT_PORT), proxy_abi::Be16::new(SNAT_PORT));
            flow(key, to, flow_flag::SNAT)
        })
        .delivers(
            Hook::FromUplink,
            quoting("192.0.2.77", &echo("192.168.50.1", "203.0.113.9", SNAT_PORT, false), 11, 0),
            quoting("192.0.2.77", &echo("10.244.1.2", "203.0.113.9", 77, false), 11, 0)
                .hop()
                .for_mac(POD_A_MAC),
        ),
        case("a complaint leaves the flow's state alone", dns())
            .delivers(
                TWO,
                quoting("10.244.2.2", &udp(a, pod), 3, 3),
                quoting("10.96.0.10", &udp(a, vip), 3, 3).hop().for_mac(POD_A_MAC),
            )
            .leaves(&[
                "old 10.244.1.2:6000>10.96.0.10:53/17 => 10.244.1.2:6000>10.244.2.2:7000 dnat",
                "old 10.244.2.2:7000>10.244.1.2:6000/17 => 10.96.0.10:53>10.244.1.2:6000 dnat back",
            ]),
        case("a complaint about nothing we know", State::standard())
            .drops(Hook::FromPod, quoting("10.244.1.2", &udp("203.0.113.9:53", a), 3, 3), Reason::NoFlow)
            .passes(
                Hook::FromUplink,
                quoting("192.0.2.77", &udp("192.168.50.1:40000", "203.0.113.9:53"), 3, 3),
            ),
    ]
}
