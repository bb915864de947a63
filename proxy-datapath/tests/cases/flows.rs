//! How connections live and end.

use proxy_abi::{Reason, flow_flag, flow_state, proto};

use super::{
    Case, Hook, State, case,
    packet::{tcp, udp},
    state::{POD_A_MAC, SNAT_PORT, tuple},
};

const TWO: Hook = Hook::FromOverlay("192.168.50.2", 1);

pub fn cases() -> Vec<Case> {
    let mut cases = tcp_cases();
    cases.extend(udp_cases());
    cases
}

fn tcp_cases() -> Vec<Case> {
    let (client, at, pod) = ("203.0.113.9:5000", "192.168.50.1:30080", "10.244.1.2:8080");
    let web = || State::standard().node_port(1, proto::TCP, 30_080, &[pod]);
    let key = || tuple(client, at, proto::TCP);
    let to = || tuple(client, pod, proto::TCP);
    let inward = |flags| (tcp(client, at, flags), tcp(client, pod, flags).hop().for_mac(POD_A_MAC));
    let outward = |flags| (tcp(pod, client, flags), tcp(at, client, flags).hop());
    let established = || {
        let change = |flow: &mut proxy_abi::Flow| {
            flow.state = flow_state::ESTABLISHED;
            flow.flags = flow_flag::DNAT;
        };
        web().flow(key(), to(), change, 5)
    };
    let with = |case: Case, (input, output): (super::Packet, super::Packet)| {
        case.delivers(Hook::FromUplink, input, output)
    };
    let back = |case: Case, (input, output): (super::Packet, super::Packet)| {
        case.sends_out(Hook::FromPod, input, output)
    };

    let half_open = case(
        "an answer alone does not establish: a flood of SYNs with made-up sources stays evictable",
        web(),
    );
    let half_open = back(with(half_open, inward("S")), outward("SA")).leaves(&[
        "new 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat",
        "new 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back",
    ]);
    let closing = case("a FIN each way closes", established());
    let closing = back(with(closing, inward("FA")), outward("FA")).leaves(&[
        "old 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat fin closing",
        "old 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back fin closing",
    ]);
    let one_fin =
        with(case("one FIN leaves the other direction open", established()), inward("FA")).leaves(&[
            "old 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat fin",
            "old 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back",
        ]);
    let reset = back(case("a reset closes at once", established()), outward("R")).leaves(&[
        "old 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat closing",
        "old 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back closing",
    ]);
    let survives = with(
        case("a connection outlives its service", {
            let mut state = established();
            state.frontends.clear();
            state
        }),
        inward("A"),
    );
    let old_backend = "10.244.2.2:8080";
    let moved = |state: u8, age_s: u32| {
        web().flow(
            key(),
            tuple(&format!("10.244.1.1:{SNAT_PORT}"), old_backend, proto::TCP),
            move |flow| flow.state = state,
            age_s,
        )
    };
    let reused = with(
        case("a SYN on ports whose connection is over starts anew", moved(flow_state::CLOSING, 1)),
        inward("S"),
    )
    .leaves(&[
        "new 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat",
        "new 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back",
    ]);
    let crashed = with(
        case(
            "a SYN on a connection long idle: the client has forgotten it",
            moved(flow_state::ESTABLISHED, 61),
        ),
        inward("S"),
    );
    let retried = case("a SYN sent again goes to the same backend", moved(flow_state::EMBRYONIC, 1)).tunnels(
        Hook::FromUplink,
        tcp(client, at, "S"),
        tcp(&format!("10.244.1.1:{SNAT_PORT}"), old_backend, "S").hop(),
    );
    let closed = {
        let (node, outside) = (format!("192.168.50.1:{SNAT_PORT}"), "203.0.113.9:80");
        let (key, to) = (tuple("10.244.1.3:1", outside, proto::TCP), tuple(&node, outside, proto::TCP));
        let change =
            |flow: &mut proxy_abi::Flow| (flow.state, flow.flags) = (flow_state::CLOSING, flow_flag::SNAT);
        let state = State::standard().flow(key, to, change, 5);
        let (input, output) = (tcp("10.244.1.2:6000", outside, "S"), tcp(&node, outside, "S").hop());
        case("the port of a closed connection is used again when no other is free", state).sends_out(
            Hook::FromPod,
            input,
            output,
        )
    };
    vec![closed, half_open, closing, one_fin, reset, survives, reused, crashed, retried]
}

/// The one source port is held by another pod's flow that is over.
fn taken(state: u8, age_s: u32) -> Case {
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let outside = "203.0.113.9:53";
    let (mine, other) = ("10.244.1.2:6000", tuple("10.244.1.3:1", outside, proto::UDP));
    let change = move |flow: &mut proxy_abi::Flow| (flow.state, flow.flags) = (state, flow_flag::SNAT);
    case("", State::standard().flow(other, tuple(&node, outside, proto::UDP), change, age_s))
        .sends_out(Hook::FromPod, udp(mine, outside), udp(&node, outside).hop())
        .leaves(&[
            "new 10.244.1.2:6000>203.0.113.9:53/17 => 192.168.50.1:61000>203.0.113.9:53 snat",
            "new 203.0.113.9:53>192.168.50.1:61000/17 => 203.0.113.9:53>10.244.1.2:6000 snat back",
        ])
}

fn udp_cases() -> Vec<Case> {
    let (a, vip, old, new) = ("10.244.1.2:6000", "10.96.0.10:53", "10.244.2.2:7000", "10.244.2.3:7000");
    let dns = || State::standard().service(1, proto::UDP, vip, &[new]);
    let key = || tuple(a, vip, proto::UDP);
    let to = || tuple(a, old, proto::UDP);
    let dnat = |state: u8| {
        move |flow: &mut proxy_abi::Flow| {
            flow.state = state;
            flow.flags = flow_flag::DNAT;
        }
    };
    let one_way = {
        let mut state = dns().flow(key(), to(), dnat(flow_state::ESTABLISHED), 5);
        // The answers stopped long ago, the questions did not.
        for row in &mut state.flows {
            if row.flow.flags & flow_flag::REVERSE != 0 {
                row.age_s = 500;
            }
        }
        state
    };
    vec![
        case(
            "a live datagram flow stays with its backend while the service changes",
            dns().flow(key(), to(), dnat(flow_state::ESTABLISHED), 5),
        )
        .tunnels(Hook::FromPod, udp(a, vip), udp(a, old).hop()),
        case(
            "an idle datagram flow is drawn anew",
            dns().flow(key(), to(), dnat(flow_state::ESTABLISHED), 121),
        )
        .tunnels(Hook::FromPod, udp(a, vip), udp(a, new).hop())
        .leaves(&[
            "new 10.244.1.2:6000>10.96.0.10:53/17 => 10.244.1.2:6000>10.244.2.3:7000 dnat",
            "new 10.244.2.3:7000>10.244.1.2:6000/17 => 10.96.0.10:53>10.244.1.2:6000 dnat back",
        ]),
        case(
            "an unanswered datagram flow is drawn anew sooner",
            dns().flow(key(), to(), dnat(flow_state::EMBRYONIC), 31),
        )
        .tunnels(Hook::FromPod, udp(a, vip), udp(a, new).hop()),
        case("a late answer finds the flow that only its questions kept alive", one_way).delivers(
            TWO,
            udp(old, a),
            udp(vip, a).hop().for_mac(POD_A_MAC),
        ),
        case("a flow whose answer entry is gone is drawn anew, or its answers would find nothing", {
            let mut state = dns().flow(key(), to(), dnat(flow_state::EMBRYONIC), 1);
            state.flows.retain(|row| row.flow.flags & flow_flag::REVERSE == 0);
            state
        })
        .tunnels(Hook::FromPod, udp(a, vip), udp(a, new).hop())
        .leaves(&[
            "new 10.244.1.2:6000>10.96.0.10:53/17 => 10.244.1.2:6000>10.244.2.3:7000 dnat",
            "new 10.244.2.3:7000>10.244.1.2:6000/17 => 10.96.0.10:53>10.244.1.2:6000 dnat back",
        ]),
        case(
            "a datagram flow that was answered and goes on is established",
            dns().flow(key(), to(), dnat(flow_state::EMBRYONIC), 5),
        )
        .tunnels(Hook::FromPod, udp(a, vip), udp(a, old).hop())
        .leaves(&[
            "old 10.244.1.2:6000>10.96.0.10:53/17 => 10.244.1.2:6000>10.244.2.2:7000 dnat",
            "old 10.244.2.2:7000>10.244.1.2:6000/17 => 10.96.0.10:53>10.244.1.2:6000 dnat back",
        ]),
        taken(flow_state::EMBRYONIC, 31).named("the port of an unanswered flow is free after its time"),
        taken(flow_state::ESTABLISHED, 121).named("the port of a silent flow is free after its time"),
        taken(flow_state::EMBRYONIC, 0)
            .named("the port of a flow that is not established is taken where there is no other"),
        case("no free source port towards a destination", {
            let taken = tuple(&format!("192.168.50.1:{SNAT_PORT}"), "203.0.113.9:53", proto::UDP);
            let other = tuple("10.244.1.3:1", "203.0.113.9:53", proto::UDP);
            State::standard().flow(other, taken, dnat(flow_state::ESTABLISHED), 1)
        })
        .drops(Hook::FromPod, udp(a, "203.0.113.9:53"), Reason::SnatExhausted),
        case("without a range no source port is free", State::standard().facts(|c| c.snat_min = 0)).drops(
            Hook::FromPod,
            udp(a, "203.0.113.9:53"),
            Reason::SnatExhausted,
        ),
    ]
}
