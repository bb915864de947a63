//! Connections against the odds: resets, half-closed and unknown ones, ones from before the service, ones
//! whose service has changed since.

use proxy_abi::{Be16, Flow, Reason, Tuple, flow_flag, flow_state, proto};

use super::{
    Case, Hook, Packet, State, case, echo,
    packet::{tcp, udp},
    state::{POD_A_MAC, POD_B_MAC, SNAT_PORT, addr, tuple},
};

const CLIENT: &str = "203.0.113.9:5000";
const AT: &str = "192.168.50.1:30080";
const POD: &str = "10.244.1.2:8080";
const OTHER: &str = "10.244.1.3:8080";
const A: &str = "10.244.1.2:6000";
const VIP: &str = "10.96.0.10:53";
const HOUR_S: u32 = 3_600;

pub fn cases() -> Vec<Case> {
    let mut cases = resets();
    cases.extend(unknown());
    cases.extend(half_closed());
    cases.extend(before_the_service());
    cases.extend(after_an_update());
    cases.extend(times());
    cases.extend(pings());
    cases
}

fn web(backend: &str) -> State {
    State::standard().node_port(1, proto::TCP, 30_080, &[backend])
}

/// A connection of the client to a pod behind the NodePort.
fn connected(state: State, pod: &str, age_s: u32, change: impl Fn(&mut Flow)) -> State {
    let established = |flow: &mut Flow| {
        flow.state = flow_state::ESTABLISHED;
        flow.flags = flow_flag::DNAT | flow_flag::FROM_UPLINK;
        change(flow);
    };
    let (key, to) = (tuple(CLIENT, AT, proto::TCP), tuple(CLIENT, pod, proto::TCP));
    state.flow(key, to, established, age_s)
}

fn none(_: &mut Flow) {}

fn inward(flags: &'static str) -> (Packet, Packet) {
    (tcp(CLIENT, AT, flags), tcp(CLIENT, POD, flags).hop().for_mac(POD_A_MAC))
}

fn outward(flags: &'static str) -> (Packet, Packet) {
    (tcp(POD, CLIENT, flags), tcp(AT, CLIENT, flags).hop())
}

impl Case {
    fn comes_in(self, (input, output): (Packet, Packet)) -> Case {
        self.delivers(Hook::FromUplink, input, output)
    }

    fn goes_out(self, (input, output): (Packet, Packet)) -> Case {
        self.sends_out(Hook::FromPod, input, output)
    }
}

fn resets() -> Vec<Case> {
    let to_other = (tcp(CLIENT, AT, "S"), tcp(CLIENT, OTHER, "S").hop().for_mac(POD_B_MAC));
    vec![
        case("after a reset the same ports start anew", connected(web(OTHER), POD, 1, none))
            .goes_out(outward("R"))
            .comes_in(to_other)
            .leaves(&[
                "new 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.3:8080 dnat",
                "new 10.244.1.3:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back",
            ]),
        case(
            "a reset that nobody believed does no harm: the connection goes on",
            connected(web(OTHER), POD, 1, none),
        )
        .comes_in(inward("R"))
        .goes_out(outward("A"))
        .comes_in(inward("A"))
        .goes_out(outward("A"))
        .leaves(&[
            "old 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat",
            "old 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back",
        ]),
        case("a reset that nobody believed, from the backend", connected(web(OTHER), POD, 1, none))
            .goes_out(outward("R"))
            .comes_in(inward("A"))
            .goes_out(outward("A")),
        case("a reset of nothing opens nothing", web(POD))
            .passes(Hook::FromUplink, tcp(CLIENT, AT, "R"))
            .leaves(&[]),
    ]
}

/// What conntrack calls INVALID (its table for the first packet of a flow: nothing but SYN and ACK opens
/// one): nobody is to get a segment under a name that its connection does not know, since it would answer
/// with a reset (kubernetes issue 74839).
fn unknown() -> Vec<Case> {
    let far = |packet: Packet| packet.seq(4_000_000_000, Some(3_000_000_000));
    let (input, output) = inward("A");
    let (back, out) = outward("A");
    let vip = "10.96.0.10:80";
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let service = || State::standard().service(1, proto::TCP, vip, &[OTHER]);
    let dropped = |case: Case, from: &str, to: &str| {
        ["SA", "FA", "R", "RA"]
            .into_iter()
            .fold(case, |case, flags| case.drops(Hook::FromPod, tcp(from, to, flags), Reason::NoFlow))
            .leaves(&[])
    };
    vec![
        case(
            "a segment far outside the window is translated all the same",
            connected(web(POD), POD, 1, none),
        )
        .comes_in((far(input), far(output)))
        .goes_out((far(back), far(out))),
        dropped(
            case("what can open no connection is not given a backend: it would be reset", service()),
            A,
            vip,
        ),
        dropped(
            case("a backend's segment of no connection does not go out in the node's name", web(POD)),
            POD,
            CLIENT,
        ),
        case("a pod's connection that was idle beyond its time is taken up again", service())
            .delivers(Hook::FromPod, tcp(A, vip, "A"), tcp(A, OTHER, "A").hop().for_mac(POD_B_MAC))
            .sends_out(Hook::FromPod, tcp(A, CLIENT, "A"), tcp(&node, CLIENT, "A").hop()),
    ]
}

fn half_closed() -> Vec<Case> {
    let fin_inward = |flow: &mut Flow| {
        if flow.flags & flow_flag::REVERSE == 0 {
            flow.flags |= flow_flag::FIN;
        }
    };
    let state = || connected(web(OTHER), POD, HOUR_S, fin_inward);
    vec![
        case("a half-closed connection waits an hour for the other side (CLOSE_WAIT)", state())
            .goes_out(outward("A"))
            .comes_in(inward("A"))
            .goes_out(outward("FA"))
            .leaves(&[
                "old 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat fin closing",
                "old 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back fin closing",
            ]),
        case(
            "the last acknowledgement of a closed connection finds its way",
            connected(web(OTHER), POD, 1, |flow| {
                flow.flags |= flow_flag::FIN;
                flow.state = flow_state::CLOSING;
            }),
        )
        .comes_in(inward("A"))
        .goes_out(outward("A")),
    ]
}

/// A flow that was masqueraded, or dropped, before its destination became a service.
fn before_the_service() -> Vec<Case> {
    let lb = "198.51.101.1:53";
    let node = format!("192.168.50.1:{SNAT_PORT}");
    let masqueraded = || {
        let change = |flow: &mut Flow| {
            (flow.state, flow.flags, flow.service_id) = (flow_state::ESTABLISHED, flow_flag::SNAT, 0)
        };
        State::standard().service(1, proto::TCP, lb, &["10.244.1.3:8080"]).flow(
            tuple(A, lb, proto::TCP),
            tuple(&node, lb, proto::TCP),
            change,
            1,
        )
    };
    vec![
        case("what is dropped for want of a service leaves no trace that could pin it", State::standard())
            .drops(Hook::FromPod, udp(A, VIP), Reason::UnallocatedService)
            .passes(Hook::FromUplink, udp(CLIENT, AT))
            .leaves(&[]),
        case("a connection that went out before its destination became a service stays", masqueraded())
            .sends_out(Hook::FromPod, tcp(A, lb, "A"), tcp(&node, lb, "A").hop()),
    ]
}

/// A rolling update that changes the targetPort: the table already has the new one.
fn after_an_update() -> Vec<Case> {
    let new_port = "10.244.1.2:9090";
    let syn = tcp("203.0.113.9:5001", AT, "S");
    let translated = tcp("203.0.113.9:5001", new_port, "S").hop().for_mac(POD_A_MAC);
    let datagrams = |age_s: u32| {
        let change = |flow: &mut Flow| (flow.state, flow.flags) = (flow_state::ESTABLISHED, flow_flag::DNAT);
        State::standard().service(1, proto::UDP, VIP, &["10.244.1.3:7001"]).flow(
            tuple(A, VIP, proto::UDP),
            tuple(A, "10.244.1.3:7000", proto::UDP),
            change,
            age_s,
        )
    };
    vec![
        case(
            "after a change of targetPort old connections stay on the old port and new ones get the new",
            connected(web(new_port), POD, 1, none),
        )
        .comes_in(inward("A"))
        .comes_in((syn, translated))
        .goes_out(outward("A"))
        .leaves(&[
            "old 203.0.113.9:5000>192.168.50.1:30080/6 => 203.0.113.9:5000>10.244.1.2:8080 dnat",
            "old 10.244.1.2:8080>203.0.113.9:5000/6 => 192.168.50.1:30080>203.0.113.9:5000 dnat back",
            "new 203.0.113.9:5001>192.168.50.1:30080/6 => 203.0.113.9:5001>10.244.1.2:9090 dnat",
            "new 10.244.1.2:9090>203.0.113.9:5001/6 => 192.168.50.1:30080>203.0.113.9:5001 dnat back",
        ]),
        case("after a change of targetPort an idle datagram flow gets the new port", datagrams(121))
            .delivers(Hook::FromPod, udp(A, VIP), udp(A, "10.244.1.3:7001").hop().for_mac(POD_B_MAC)),
    ]
}

/// How long flows are remembered that say nothing: by protocol and state. A flow that is over is balanced
/// anew.
fn times() -> Vec<Case> {
    let old = "10.244.1.3:7000";
    let state = |protocol, flow_state, age_s| {
        let change = move |flow: &mut Flow| (flow.state, flow.flags) = (flow_state, flow_flag::DNAT);
        let state = State::standard().service(1, protocol, VIP, &["10.244.1.3:7001"]);
        state.flow(tuple(A, VIP, protocol), tuple(A, old, protocol), change, age_s)
    };
    let goes = |case: Case, packet: fn(&str, &str) -> Packet, to: &str| {
        case.delivers(Hook::FromPod, packet(A, VIP), packet(A, to).hop().for_mac(POD_B_MAC))
    };
    let ack: fn(&str, &str) -> Packet = |from, to| tcp(from, to, "A");
    let mut cases = Vec::new();
    for (lives, over, protocol, flow_state, limit_s, packet) in [
        (
            "an opening of TCP lives for a minute",
            "an opening of TCP is over after a minute",
            proto::TCP,
            flow_state::EMBRYONIC,
            60,
            ack,
        ),
        (
            "an established connection lives for two hours",
            "an established connection is over after two hours",
            proto::TCP,
            flow_state::ESTABLISHED,
            7_200,
            ack,
        ),
        (
            "a closed connection's last segments find their way",
            "a closed connection is over",
            proto::TCP,
            flow_state::CLOSING,
            45,
            ack,
        ),
        (
            "a question's answer may take half a minute",
            "a question is over after half a minute",
            proto::UDP,
            flow_state::EMBRYONIC,
            30,
            udp,
        ),
        (
            "a stream of datagrams may pause for two minutes",
            "a stream of datagrams is over after two minutes",
            proto::UDP,
            flow_state::ESTABLISHED,
            120,
            udp,
        ),
    ] {
        cases.push(goes(case(lives, state(protocol, flow_state, limit_s)), packet, old));
        cases.push(goes(case(over, state(protocol, flow_state, limit_s + 1)), packet, "10.244.1.3:7001"));
    }
    let forever = state(proto::UDP, flow_state::ESTABLISHED, HOUR_S).facts(|facts| facts.udp_stream_s = 0);
    cases.push(goes(case("a time of 0 is for ever", forever), udp, old));
    let syn: fn(&str, &str) -> Packet = |from, to| tcp(from, to, "S");
    let silent = |age_s| state(proto::TCP, flow_state::ESTABLISHED, age_s);
    cases.push(goes(
        case("an opening after a minute of silence uses the ports anew", silent(61)),
        syn,
        "10.244.1.3:7001",
    ));
    cases.push(goes(
        case("an opening of a connection that spoke a minute ago is a part of it", silent(60)),
        syn,
        old,
    ));
    let never = silent(HOUR_S).facts(|facts| facts.tcp_syn_s = 0);
    cases.push(goes(case("without that minute no opening uses ports anew", never), syn, old));
    cases
}

/// Echoes have a time of their own, and a type where TCP has flags.
fn pings() -> Vec<Case> {
    let outside = "203.0.113.9";
    let (key, to) = (echo_tuple("10.244.1.2", 77, outside), echo_tuple("192.168.50.1", SNAT_PORT, outside));
    let known = |age_s| State::standard().flow(key, to, |flow| flow.flags = flow_flag::SNAT, age_s);
    let reply = echo(outside, "192.168.50.1", SNAT_PORT, true);
    let (pod, node, v6) = ("fd00:1::2", "2001:db8::1", "2001:db8:9::9");
    vec![
        case("an answer to a ping finds its way for its time", known(20)).delivers(
            Hook::FromUplink,
            reply.clone(),
            echo(outside, "10.244.1.2", 77, true).hop().for_mac(POD_A_MAC),
        ),
        case("an answer to a ping that is over is the stack's", known(21)).passes(Hook::FromUplink, reply),
        // 129 has the bit that is FIN in TCP.
        case("an echo's type is no flag of TCP", State::standard())
            .sends_out(Hook::FromPod, echo(pod, v6, 77, false), echo(node, v6, SNAT_PORT, false).hop())
            .delivers(
                Hook::FromUplink,
                echo(v6, node, SNAT_PORT, true),
                echo(v6, pod, 77, true).hop().for_mac(POD_A_MAC),
            )
            .leaves(&[
                "new [2001:db8:9::9]:61000>[2001:db8::1]:61000/58 => [2001:db8:9::9]:77>[fd00:1::2]:77 snat back",
                "new [fd00:1::2]:77>[2001:db8:9::9]:77/58 => [2001:db8::1]:61000>[2001:db8:9::9]:61000 snat",
            ]),
    ]
}

fn echo_tuple(from: &str, id: u16, to: &str) -> Tuple {
    let id = Be16::new(id);
    Tuple::new(addr(from), id, addr(to), id, proto::ICMP)
}
