//! What a balancer in front of nodes sends inside other packets.

use etherparse::{IpNumber, Ipv4Header, Ipv6Header};
use proxy_abi::{Prefix, Reason, proto};
use proxy_datapath::{Action, Verdict, from_nic};

use crate::{
    cases::{self, State, packet::tcp, state::addr},
    memory::{Bytes, Maps},
};

const VIP: &str = "203.0.113.10:80";
const CLIENT: &str = "198.51.100.9:4000";
const LOCAL: &str = "10.244.1.3:8080";
const REMOTE: &str = "10.244.2.2:8080";
const BALANCER: [u8; 4] = [192, 168, 50, 200];
const NODE: [u8; 4] = [192, 168, 50, 1];

fn state(vip: &str, backend: &str) -> State {
    State::standard().service(1, proto::TCP, vip, &[backend]).facts(|facts| {
        let ranges = [("192.168.50.200", 128), ("2001:db8::200", 128)];
        facts.balancers = Prefix::list(&ranges.map(|(first, len)| Prefix { addr: addr(first), len }));
    })
}

fn receive(state: &State, data: Vec<u8>) -> (Verdict, Vec<u8>) {
    let mut packet = Bytes { data, uplink: 7 };
    let maps = Maps::new(state);
    let verdict = from_nic(&mut packet, &maps, &mut maps.scratch.borrow_mut());
    (verdict, packet.data)
}

fn wrap(frame: &[u8], from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let inner = &frame[14..];
    let mut header = Ipv4Header::new(inner.len() as u16, 64, IpNumber(4), from, to).unwrap();
    header.header_checksum = header.calc_header_checksum();
    [&frame[..14], &header.to_bytes(), inner].concat()
}

fn wrap_v6(frame: &[u8], next_header: u8) -> Vec<u8> {
    let inner = &frame[14..];
    let (source, destination) = (addr("2001:db8::200").octets(), addr("2001:db8::1").octets());
    let header = Ipv6Header {
        payload_length: inner.len() as u16,
        next_header: IpNumber(next_header),
        hop_limit: 64,
        source,
        destination,
        ..Ipv6Header::default()
    };
    [&frame[..12], &[0x86, 0xdd], &header.to_bytes()[..], inner].concat()
}

#[test]
fn a_wrapped_packet_goes_on_as_the_client_sent_it() {
    let client = tcp(CLIENT, VIP, "S").bytes();
    // The backend here is the tc program's: the packet passes unwrapped.
    let local = state(VIP, LOCAL);
    let (verdict, left) = receive(&local, wrap(&client, BALANCER, NODE));
    assert_eq!((verdict.action, &left), (Action::Pass, &client));
    // The backend elsewhere: as without the wrapping.
    let remote = state(VIP, REMOTE);
    assert_eq!(receive(&remote, wrap(&client, BALANCER, NODE)), receive(&remote, client.clone()));
    // Inside IPv6, of either family.
    let (verdict, left) = receive(&local, wrap_v6(&client, 4));
    assert_eq!((verdict.action, &left), (Action::Pass, &client));
    let client = tcp("[2001:db8:9::9]:4000", "[2001:db8:5::10]:80", "S").bytes();
    let local = state("[2001:db8:5::10]:80", "[fd00:1::3]:8080");
    let (verdict, left) = receive(&local, wrap_v6(&client, 41));
    assert_eq!((verdict.action, &left), (Action::Pass, &client));
}

#[test]
fn only_what_a_balancer_sent_to_this_node_is_unwrapped() {
    let client = tcp(CLIENT, VIP, "S").bytes();
    let local = state(VIP, LOCAL);
    let cut = |mut frame: Vec<u8>| {
        frame[20] |= 0x20;
        frame
    };
    for stranger in [
        wrap(&client, [192, 168, 50, 201], NODE),
        wrap(&client, BALANCER, [192, 168, 50, 2]),
        cut(wrap(&client, BALANCER, NODE)),
    ] {
        let (verdict, left) = receive(&local, stranger.clone());
        assert_eq!((verdict.action, &left), (Action::Pass, &stranger));
    }
    let nobody = local.facts(|facts| facts.balancers = Default::default());
    let wrapped = wrap(&client, BALANCER, NODE);
    assert_eq!(receive(&nobody, wrapped.clone()).1, wrapped);
}

#[test]
fn what_is_inside_must_be_a_packet_to_a_service() {
    let state = state(VIP, LOCAL);
    for (inner, reason) in [
        (tcp(CLIENT, "203.0.113.10:81", "S").bytes(), Reason::UnwrappedStray),
        (tcp(CLIENT, "192.168.50.1:22", "S").bytes(), Reason::UnwrappedStray),
        (tcp(CLIENT, LOCAL, "S").bytes(), Reason::UnwrappedStray),
        (tcp(CLIENT, VIP, "S").bytes()[..40].to_vec(), Reason::Malformed),
        ([&tcp(CLIENT, VIP, "S").bytes()[..14], &[0x55; 40][..]].concat(), Reason::Malformed),
    ] {
        let (verdict, _) = receive(&state, wrap(&inner, BALANCER, NODE));
        assert_eq!((verdict.action, verdict.reason), (Action::Drop, reason), "{inner:02x?}");
    }
}

#[test]
fn whatever_is_inside_is_survived() {
    let state = state(VIP, REMOTE);
    let mut random = 0x5eed_0000_0000_0003_u64;
    let mut below = |limit: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) as usize % limit.max(1)
    };
    for case in cases::all() {
        for passage in &case.passages {
            if passage.input.len() < 14 {
                continue;
            }
            let mut data = wrap(&passage.input, BALANCER, NODE);
            for _ in 0..20 {
                let at = below(data.len());
                match below(3) {
                    0 => data[at] ^= 1 << below(8),
                    1 => data.truncate(at.max(34)),
                    _ => data.insert(at, below(256) as u8),
                }
                receive(&state, data.clone());
            }
        }
    }
}
