//! The balancer in front of nodes: translated both ways, wrapped for a direct answer, too long for that.

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, NetSlice, SlicedPacket};
use proxy_abi::{Addr, Flow, Reason, Tuple, flow_flag, frontend_flag, proto};
use proxy_datapath::{Action, Frame, NextHop, Verdict, Way, from_wire};

use crate::{
    cases::{
        State,
        packet::{tcp, udp},
        state::{addr, tuple},
    },
    memory::{Bytes, Maps},
};

const VIP: &str = "203.0.113.10:80";
const BACKEND: &str = "192.168.50.7:80";
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 8];
const MTU: u32 = 1_500;

impl Frame for Bytes {
    fn prepend(&mut self, count: u32) -> Option<()> {
        self.data.splice(0..0, vec![0; count as usize]);
        Some(())
    }

    fn strip(&mut self, count: u32) -> Option<()> {
        self.data.drain(..count as usize);
        Some(())
    }

    /// The machine has asked one server from each port.
    fn is_for_connected_socket(&self, tuple: &Tuple) -> bool {
        tuple.src == addr("198.51.100.53")
    }

    fn next_hop(&self, _: &Tuple, length: u32, hop: &mut NextHop) {
        let way = if length > MTU { Way::TooBig } else { Way::Found };
        *hop = NextHop { way, ifindex: self.uplink, mtu: MTU, macs: MACS };
    }
}

fn maps(flags: u32) -> Maps {
    let state = State::standard().service(1, proto::TCP, VIP, &[BACKEND]);
    Maps::new(&state.frontends(|frontend| frontend.flags = flags))
}

fn balance(maps: &Maps, data: Vec<u8>) -> (Verdict, Vec<u8>) {
    balance_when(7, maps, data)
}

/// While the routes lead out of a device.
fn balance_when(uplink: u32, maps: &Maps, data: Vec<u8>) -> (Verdict, Vec<u8>) {
    let mut packet = Bytes { data, uplink };
    let verdict = from_wire(&mut packet, maps, &mut maps.scratch.borrow_mut());
    (verdict, packet.data)
}

#[test]
fn a_client_is_sent_to_a_backend_and_its_answer_back() {
    let maps = maps(frontend_flag::LOAD_BALANCER);
    let (verdict, sent) = balance(&maps, tcp("198.51.100.9:4000", VIP, "S").bytes());
    assert_eq!((verdict.action, verdict.ifindex, &sent[..12]), (Action::Out, 7, &MACS[..]));
    let port = u16::from_be_bytes([sent[34], sent[35]]);
    assert_eq!(sent[14..], tcp(&format!("192.168.50.1:{port}"), BACKEND, "S").hop().bytes()[14..]);
    let answer = tcp(BACKEND, &format!("192.168.50.1:{port}"), "SA");
    let (verdict, back) = balance(&maps, answer.bytes());
    assert_eq!((verdict.action, verdict.reason), (Action::Out, Reason::SentOut));
    assert_eq!(back[14..], tcp(VIP, "198.51.100.9:4000", "SA").hop().bytes()[14..]);
}

#[test]
fn a_direct_packet_travels_unchanged_inside_another() {
    let maps = maps(frontend_flag::DIRECT);
    let client = tcp("198.51.100.9:4000", VIP, "S");
    let (verdict, sent) = balance(&maps, client.bytes());
    assert_eq!((verdict.action, verdict.reason), (Action::Out, Reason::Encapsulated));
    assert_eq!((&sent[..12], &sent[34..]), (&MACS[..], &client.hop().bytes()[14..]));
    let (outer, _) = Ipv4Header::from_slice(&sent[14..]).unwrap();
    assert_eq!((outer.source, outer.destination), ([192, 168, 50, 1], [192, 168, 50, 7]));
    assert_eq!((outer.protocol, outer.header_checksum), (IpNumber(4), outer.calc_header_checksum()));
    assert_eq!(usize::from(outer.total_len), sent.len() - 14);
}

#[test]
fn a_packet_that_does_not_fit_is_answered_with_what_would() {
    let maps = maps(frontend_flag::DIRECT);
    let mut long = tcp("198.51.100.9:4000", VIP, "A").says(&[7; 1_450]).bytes();
    // Don't fragment; the header's checksum follows.
    let (mut header, _) = Ipv4Header::from_slice(&long[14..]).unwrap();
    header.dont_fragment = true;
    header.header_checksum = header.calc_header_checksum();
    long.splice(14..34, header.to_bytes());
    let (verdict, answer) = balance(&maps, long);
    assert_eq!((verdict.action, verdict.reason), (Action::Answer, Reason::TooBig));
    let parsed = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(NetSlice::Ipv4(ip)) = parsed.net else { panic!("no IPv4") };
    assert_eq!(ip.header().destination(), [198, 51, 100, 9]);
    assert_eq!(answer[34..36], [3, 4]);
    assert_eq!(u16::from_be_bytes([answer[40], answer[41]]), 1_480);
    assert_eq!(answer.len(), 14 + 20 + 36);
}

#[test]
fn a_flow_asks_for_its_way_in_its_first_two_packets_of_a_second() {
    for (mode, flags) in [(frontend_flag::LOAD_BALANCER, "S"), (frontend_flag::DIRECT, "A")] {
        let maps = maps(mode);
        let leaves_by = |uplink, says: usize| {
            let packet = tcp("198.51.100.9:4000", VIP, flags).says(&vec![7; says]);
            let (verdict, _) = balance_when(uplink, &maps, packet.bytes());
            assert_eq!(verdict.action, Action::Out);
            verdict.ifindex
        };
        let devices = [7, 8, 9, 7].map(|uplink| leaves_by(uplink, 0));
        assert_eq!(devices, [7, 8, 8, 8], "the second packet's answer holds for those after it");
        maps.now_s.set(maps.now_s.get() + 1);
        let devices = [9, 7, 8, 9].map(|uplink| leaves_by(uplink, 0));
        assert_eq!(devices, [9, 7, 7, 7], "for no longer than a second");
    }
}

#[test]
fn a_long_packet_is_refused_by_a_flow_whose_way_is_kept() {
    let maps = maps(frontend_flag::DIRECT);
    for _ in 0..3 {
        let (verdict, _) = balance(&maps, tcp("198.51.100.9:4000", VIP, "A").bytes());
        assert_eq!(verdict.reason, Reason::Encapsulated);
    }
    let long = tcp("198.51.100.9:4000", VIP, "A").says(&[7; 1_450]);
    assert_eq!(balance(&maps, long.bytes()).0.reason, Reason::TooBig);
    let (verdict, _) = balance(&maps, tcp("198.51.100.9:4000", VIP, "A").bytes());
    assert_eq!(verdict.reason, Reason::Encapsulated);
}

#[test]
fn who_is_in_no_range_of_the_address_is_dropped_in_both_modes() {
    for (mode, sent) in
        [(frontend_flag::LOAD_BALANCER, Reason::SentOut), (frontend_flag::DIRECT, Reason::Encapsulated)]
    {
        let state =
            State::standard().service(1, proto::TCP, VIP, &[BACKEND]).source_range(1, "198.51.100.0", 24);
        let maps =
            Maps::new(&state.frontends(|frontend| frontend.flags = mode | frontend_flag::SOURCE_RANGES));
        let (verdict, _) = balance(&maps, tcp("198.51.100.9:4000", VIP, "S").bytes());
        assert_eq!((verdict.action, verdict.reason), (Action::Out, sent));
        let (verdict, _) = balance(&maps, tcp("198.51.101.9:4000", VIP, "S").bytes());
        assert_eq!((verdict.action, verdict.reason), (Action::Drop, Reason::SourceRange));
    }
}

#[test]
fn an_answer_to_the_machines_own_connected_socket_is_not_balanced() {
    let own = "192.168.50.1:40000";
    for mode in [frontend_flag::LOAD_BALANCER, frontend_flag::DIRECT] {
        let state = State::standard()
            .service(1, proto::UDP, own, &[BACKEND])
            .service(2, proto::TCP, own, &[BACKEND])
            .service(3, proto::UDP, VIP, &[BACKEND]);
        let maps = Maps::new(&state.frontends(|frontend| frontend.flags = mode | frontend_flag::MAGLEV));
        let server = "198.51.100.53:53";
        for answer in [udp(server, own), tcp(server, own, "SA"), tcp(server, own, "A")] {
            assert_eq!(balance(&maps, answer.bytes()).0.action, Action::Pass);
        }
        assert!(maps.flow_lines().is_empty());
        // Who was not asked is a client, and so is the server at an address that is not the machine's.
        for request in [udp("198.51.100.9:53", own), tcp("198.51.100.9:53", own, "S"), udp(server, VIP)] {
            assert_eq!(balance(&maps, request.bytes()).0.action, Action::Out);
        }
    }
}

#[test]
fn an_ipv6_packet_travels_inside_another_of_its_family() {
    let (vip, backend, client) = ("[2001:db8:10::10]:80", "[2001:db8::7]:80", "[2001:db8:9::9]:4000");
    let state = State::standard().service(1, proto::TCP, vip, &[backend]);
    let maps = Maps::new(&state.frontends(|frontend| frontend.flags = frontend_flag::DIRECT));
    let mut asked = tcp(client, vip, "S").bytes();
    // Class and flow label: the way is to treat both alike.
    asked[14..18].copy_from_slice(&[0x6a, 0xbc, 0xde, 0xf0]);
    let (verdict, sent) = balance(&maps, asked.clone());
    assert_eq!((verdict.action, verdict.reason), (Action::Out, Reason::Encapsulated));
    assert_eq!((&sent[..12], &sent[12..14]), (&MACS[..], &[0x86, 0xdd][..]));
    let (outer, inner) = Ipv6Header::from_slice(&sent[14..]).unwrap();
    assert_eq!(sent[14..18], asked[14..18]);
    assert_eq!(outer.source_addr(), "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap());
    assert_eq!(outer.destination_addr(), "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap());
    assert_eq!((outer.next_header, outer.hop_limit), (IpNumber(41), 64));
    assert_eq!(usize::from(outer.payload_length), inner.len());
    // One hop less, and else as it came.
    asked[21] -= 1;
    assert_eq!(inner, &asked[14..]);
}

#[test]
fn what_fits_with_its_outer_header_goes_and_a_byte_more_does_not() {
    let direct = maps(frontend_flag::DIRECT);
    let says = |count: usize| tcp("198.51.100.9:4000", VIP, "A").says(&vec![7; count]).bytes();
    let most = MTU as usize - 20 - 20 - 20;
    assert_eq!(balance(&direct, says(most)).0.reason, Reason::Encapsulated);
    let mut long = says(most + 1);
    // It may be cut, which nobody does here: its sender is told nothing.
    long[20] &= !0x40;
    let (verdict, _) = balance(&direct, long);
    assert_eq!((verdict.action, verdict.reason), (Action::Drop, Reason::TooBig));
    // The record names what came, not what it was to become.
    assert_eq!(direct.scratch.borrow().view.tuple, tuple("198.51.100.9:4000", VIP, proto::TCP));
}

#[test]
fn without_an_address_of_its_family_nothing_is_wrapped() {
    let direct = |vip: &str, backend: &str| {
        let state = State::standard().service(1, proto::TCP, vip, &[backend]);
        state.frontends(|frontend| frontend.flags = frontend_flag::DIRECT)
    };
    let none = direct(VIP, BACKEND).facts(|facts| facts.node_v4 = Addr::UNSPECIFIED);
    let other = direct(VIP, "[2001:db8::7]:80");
    for state in [none, other] {
        let (verdict, _) = balance(&Maps::new(&state), tcp("198.51.100.9:4000", VIP, "S").bytes());
        assert_eq!((verdict.action, verdict.reason), (Action::Drop, Reason::Unroutable));
    }
}

/// Its service was asked for in one way when another CPU recorded the flow, and in the other when this one
/// drew.
#[test]
fn a_flow_that_another_cpu_has_recorded_in_the_other_way_costs_the_packet() {
    for (mode, flag) in [(frontend_flag::DIRECT, 0), (frontend_flag::LOAD_BALANCER, flow_flag::DIRECT)] {
        let maps = maps(mode);
        let (key, to) =
            (tuple("198.51.100.9:4000", VIP, proto::TCP), tuple("192.168.50.1:61000", BACKEND, proto::TCP));
        let other = State::standard().flow(key, to, |flow| flow.flags = flow_flag::DNAT | flag, 0);
        let rows = other.flows.iter().map(|row| (row.key, Flow { seen_s: maps.now_s.get(), ..row.flow }));
        maps.just_before.borrow_mut().insert(key, rows.collect());
        let (verdict, _) = balance(&maps, tcp("198.51.100.9:4000", VIP, "S").bytes());
        assert_eq!((verdict.action, verdict.reason), (Action::Drop, Reason::FlowTableFull), "{mode}");
    }
}
