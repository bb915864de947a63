//! What another CPU, or the agent, does meanwhile. Two CPUs that open one flow at the same moment: the later
//! one takes over what the earlier has chosen, and all that follows from it.

use std::cell::Cell;

use proxy_abi::{Flow, Frontend, FrontendKey, Reason, flow_flag, flow_state, frontend_flag, proto};
use proxy_datapath::{Action, Place, Verdict, from_nic, from_wire};

use crate::{
    cases::{
        Hook, Packet, State,
        packet::{tcp, udp},
        state::{POD_A_MAC, POD_B_MAC, addr, tuple},
    },
    memory::{Bytes, Maps, run},
};

const CLIENT: &str = "203.0.113.9:5000";
const NODE_PORT: &str = "192.168.50.1:30080";
const LOCAL: &str = "10.244.1.2:8080";
const REMOTE: &str = "10.244.2.2:8080";
/// What the other CPU has chosen for a backend on another node.
const ROUTER: &str = "10.244.1.1:61000";

/// Tables that give a NodePort `drawn`, while another CPU has just recorded `from` → `to` as what becomes of
/// the client's flow.
fn tables(drawn: &str, (from, to): (&str, &str), change: impl Fn(&mut Flow)) -> Maps {
    let key = tuple(CLIENT, NODE_PORT, proto::UDP);
    let other = State::standard().flow(key, tuple(from, to, proto::UDP), change, 0);
    let maps = Maps::new(&State::standard().node_port(1, proto::UDP, 30_080, &[drawn]).facts(|facts| {
        // Ports enough for the loser's own choice.
        facts.snat_max += 100;
    }));
    let rows = other.flows.iter().map(|row| (row.key, Flow { seen_s: maps.now_s.get(), ..row.flow }));
    maps.just_before.borrow_mut().insert(key, rows.collect());
    maps
}

fn translated(flow: &mut Flow) {
    flow.flags |= flow_flag::DNAT | flow_flag::FROM_UPLINK;
}

fn through(hook: Hook, maps: &Maps, packet: &Packet) -> (Verdict, Vec<u8>) {
    let mut bytes = Bytes { data: packet.bytes(), uplink: 7 };
    let verdict = run(hook, &mut bytes, maps);
    (verdict, bytes.data)
}

#[test]
fn who_adopts_anothers_backend_goes_where_that_lives() {
    let asked = udp(CLIENT, NODE_PORT);
    let to_remote = udp(ROUTER, REMOTE).hop().in_tunnel().bytes();
    let to_local = udp(CLIENT, LOCAL).hop().for_mac(POD_A_MAC).bytes();
    for (drawn, chosen, action, sent) in [
        (LOCAL, (ROUTER, REMOTE), Action::Tunnel, &to_remote),
        (REMOTE, (CLIENT, LOCAL), Action::Deliver, &to_local),
        ("192.168.50.1:8080", (ROUTER, REMOTE), Action::Tunnel, &to_remote),
        ("192.168.50.2:8080", (CLIENT, LOCAL), Action::Deliver, &to_local),
    ] {
        let maps = tables(drawn, chosen, translated);
        // The second and third packet meet what the first has left in the flow.
        for number in 1..=3 {
            let (verdict, left) = through(Hook::FromUplink, &maps, &asked);
            assert_eq!((verdict.action, &left), (action, sent), "{drawn} was drawn, packet {number}");
        }
        assert_eq!(maps.flow_lines().len(), 2, "{drawn}: nothing of the own choice is left behind");
    }
}

#[test]
fn a_flow_that_another_cpu_has_recorded_keeps_its_own_way() {
    let maps = tables(LOCAL, (ROUTER, REMOTE), translated);
    through(Hook::FromUplink, &maps, &udp(CLIENT, NODE_PORT));
    let scratch = maps.scratch.borrow();
    assert!(matches!(scratch.hop.place, Place::Remote));
    assert_eq!(scratch.hop.node, addr("192.168.50.2"));
}

#[test]
fn who_adopts_a_direct_flow_hands_it_on_and_who_adopts_a_translated_one_does_not() {
    let asked = udp(CLIENT, NODE_PORT);
    let maps = tables(LOCAL, (CLIENT, REMOTE), |flow| flow.flags |= flow_flag::DNAT | flow_flag::DIRECT);
    let (verdict, left) = through(Hook::FromUplink, &maps, &asked);
    assert_eq!((verdict.action, left), (Action::Tunnel, asked.clone().hop().for_backend(REMOTE).bytes()));
    let mut maps = tables(REMOTE, (CLIENT, LOCAL), translated);
    maps.frontends.values_mut().for_each(|frontend| frontend.flags |= frontend_flag::DIRECT);
    let (verdict, left) = through(Hook::FromUplink, &maps, &asked);
    assert_eq!(verdict.action, Action::Deliver);
    assert_eq!(left, udp(CLIENT, LOCAL).hop().for_mac(POD_A_MAC).bytes());
}

#[test]
fn a_pods_packet_goes_where_the_adopted_backend_lives() {
    let (pod, vip, local, remote) =
        ("10.244.1.2:6000", "10.96.0.10:53", "10.244.1.3:7000", "10.244.2.2:7000");
    let to_local = udp(pod, local).hop().for_mac(POD_B_MAC).bytes();
    let to_remote = udp(pod, remote).hop().in_tunnel().bytes();
    for (drawn, chosen, action, sent) in
        [(local, remote, Action::Tunnel, to_remote), (remote, local, Action::Deliver, to_local)]
    {
        let key = tuple(pod, vip, proto::UDP);
        let change = |flow: &mut Flow| flow.flags |= flow_flag::DNAT;
        let other = State::standard().flow(key, tuple(pod, chosen, proto::UDP), change, 0);
        let maps = Maps::new(&State::standard().service(1, proto::UDP, vip, &[drawn]));
        let rows = other.flows.iter().map(|row| (row.key, Flow { seen_s: maps.now_s.get(), ..row.flow }));
        maps.just_before.borrow_mut().insert(key, rows.collect());
        let (verdict, left) = through(Hook::FromPod, &maps, &udp(pod, vip));
        assert_eq!((verdict.action, left), (action, sent), "{drawn} was drawn");
    }
}

#[test]
fn programs_in_front_of_the_stack_adopt_alike() {
    let maps = tables(LOCAL, (ROUTER, REMOTE), translated);
    let mut packet = Bytes { data: udp(CLIENT, NODE_PORT).bytes(), uplink: 7 };
    let verdict = from_nic(&mut packet, &maps, &mut maps.scratch.borrow_mut());
    // One in sixteen new flows is left to the stack, which meets the flow that is there.
    if verdict.action == Action::Out {
        assert_eq!(packet.data[64..], udp(ROUTER, REMOTE).hop().bytes()[14..]);
    } else {
        let (verdict, _) = through(Hook::FromUplink, &maps, &udp(CLIENT, NODE_PORT));
        assert_eq!(verdict.action, Action::Tunnel);
    }
    let key = tuple(CLIENT, "203.0.113.10:80", proto::UDP);
    let to = tuple("192.168.50.1:61000", "192.168.50.8:80", proto::UDP);
    let other = State::standard().flow(key, to, translated, 0);
    let maps = Maps::new(&State::standard().service(1, proto::UDP, "203.0.113.10:80", &["192.168.50.7:80"]));
    let rows = other.flows.iter().map(|row| (row.key, Flow { seen_s: maps.now_s.get(), ..row.flow }));
    maps.just_before.borrow_mut().insert(key, rows.collect());
    let mut packet = Bytes { data: udp(CLIENT, "203.0.113.10:80").bytes(), uplink: 7 };
    let verdict = from_wire(&mut packet, &maps, &mut maps.scratch.borrow_mut());
    assert_eq!(verdict.action, Action::Out);
    assert_eq!(packet.data[14..], udp("192.168.50.1:61000", "192.168.50.8:80").hop().bytes()[14..]);
}

/// The agent has replaced a Service's run between two looks of a reader, `times` in a row: its slots are of
/// another generation.
#[test]
fn a_frontend_is_read_again_once_when_its_slots_were_given_away() {
    let (pod, vip) = ("10.244.1.2:6000", "10.96.0.10:53");
    for (times, action, reason) in
        [(1, Action::Deliver, Reason::Delivered), (2, Action::Drop, Reason::StaleSlot)]
    {
        let mut maps = Maps::new(&State::standard().service(1, proto::UDP, vip, &["10.244.1.3:53"]));
        let outdated = |(key, now): (&FrontendKey, &Frontend)| {
            (*key, Frontend { generation: now.generation.wrapping_sub(1), ..*now })
        };
        maps.outdated = (maps.frontends.iter().map(outdated).collect(), Cell::new(times));
        let (verdict, _) = through(Hook::FromPod, &maps, &udp(pod, vip));
        assert_eq!((verdict.action, verdict.reason), (action, reason), "{times} times");
        assert_eq!(maps.outdated.1.get(), 0, "{times} times");
    }
}

#[test]
fn a_flow_that_a_cpu_with_a_clock_ahead_has_seen_last_lives() {
    let (pod, vip, old) = ("10.244.1.2:6000", "10.96.0.10:53", "10.244.1.3:7000");
    for (flags, protocol) in [("A", proto::TCP), ("S", proto::TCP), ("", proto::UDP)] {
        let state = State::standard().service(1, protocol, vip, &["10.244.1.3:7001"]);
        let established = |flow: &mut Flow| {
            (flow.state, flow.flags) = (flow_state::ESTABLISHED, flow_flag::DNAT);
        };
        let maps =
            Maps::new(&state.flow(tuple(pod, vip, protocol), tuple(pod, old, protocol), established, 0));
        maps.now_s.set(maps.now_s.get() - 1);
        let packet = |to: &str| if flags.is_empty() { udp(pod, to) } else { tcp(pod, to, flags) };
        let (_, left) = through(Hook::FromPod, &maps, &packet(vip));
        assert_eq!(left, packet(old).hop().for_mac(POD_B_MAC).bytes(), "{protocol} {flags}");
    }
}
