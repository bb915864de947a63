//! Random frames: mostly such as travel, some such as nobody should send.

use std::net::{IpAddr, SocketAddr};

use proxy_abi::{Tuple, proto};

use crate::{
    cases::{
        Hook, Packet, echo,
        packet::{Transport, internet_sum, sctp, sctp_unsummed, tcp, udp},
    },
    random::Random,
    tables::{self, NODE, OTHER_NODE, OUTSIDE, OWN_POD, REMOTE_POD, ROUTER, WHO},
};

const PORTS: [u16; 18] = [
    53, 80, 3_868, 8_443, 30_080, 30_053, 30_868, 30_000, 32_767, 29_999, 32_768, 6_000, 7_000, 8_080,
    61_000, 61_001, 61_002, 4_789,
];
const FLAGS: [&str; 10] = ["S", "S", "S", "SA", "A", "A", "FA", "R", "RA", ""];
/// Sources that no host has, and the wrong places for right ones.
const ODD: [[&str; 7]; 2] = [
    ["127.0.0.1", "224.0.0.251", "255.255.255.255", "0.0.0.0", "198.51.100.1", "192.0.2.77", "240.0.0.1"],
    ["::1", "ff02::2", "fe80::2", "::", "2001:db8:5::1", "fe80::9", "::ffff:203.0.113.9"],
];
const PEERS: [&str; 4] = ["192.168.50.2", "192.168.50.2", "192.168.50.3", "192.168.50.200"];

/// A service whose clients come again and again.
#[derive(Clone, Copy)]
pub struct Focus {
    pub from: IpAddr,
    pub to: SocketAddr,
    pub proto: u8,
}

/// A hook and the frame that comes there. `known`: tuples of connections, as their packets look.
pub fn next(random: &mut Random, known: &[Tuple], focus: Option<Focus>) -> (Hook, Vec<u8>) {
    let (hook, packet) = if let Some(focus) = focus
        && random.once_in(3)
    {
        (place_of(random, focus.from), begun(random, &focus))
    } else if !known.is_empty() && random.below(5) < 2 {
        let tuple = random.pick(known);
        (place_of(random, tuple.src.to_ip()), continued(random, &tuple))
    } else {
        fresh(random)
    };
    let mut packet = dress(random, packet);
    let mut hook = hook;
    let is_outsiders = matches!(hook, Hook::FromUplink);
    if is_outsiders && random.once_in(5) {
        hook = overlay(random, "192.168.50.2");
    }
    if matches!(hook, Hook::FromOverlay(..)) && (is_outsiders || random.once_in(20)) {
        let family = usize::from(packet.src.is_ipv6() != random.once_in(50));
        packet = packet.for_backend(&tables::drawn(random, family));
    }
    let mut frame = packet.bytes();
    if packet.src.is_ipv4() && random.once_in(10) {
        may_be_cut(&mut frame);
    }
    if random.once_in(7) {
        spoil(random, &mut frame);
    }
    (hook, frame)
}

fn overlay(random: &mut Random, peer: &'static str) -> Hook {
    Hook::FromOverlay(peer, if random.once_in(30) { 2 } else { 1 })
}

/// Where packets of a source usually come by.
fn place_of(random: &mut Random, src: IpAddr) -> Hook {
    if random.once_in(20) {
        return any_hook(random);
    }
    let who = WHO[usize::from(src.is_ipv6())];
    let is = |index: usize| who[index].parse() == Ok(src);
    if is(OWN_POD) {
        if random.once_in(8) { Hook::ToUplink } else { Hook::FromPod }
    } else if is(REMOTE_POD) || (is(3) && src.is_ipv6()) {
        overlay(random, "192.168.50.2")
    } else if is(3) {
        overlay(random, "192.168.50.3")
    } else if is(NODE) || is(ROUTER) {
        random.pick(&[Hook::ToPod, Hook::ToUplink, Hook::ToOverlay])
    } else {
        Hook::FromUplink
    }
}

fn any_hook(random: &mut Random) -> Hook {
    let peer = random.pick(&PEERS);
    random.pick(&[
        Hook::FromPod,
        Hook::ToPod,
        Hook::FromOverlay(peer, 1),
        Hook::ToOverlay,
        Hook::FromUplink,
        Hook::ToUplink,
    ])
}

/// A first packet, from any port.
fn begun(random: &mut Random, focus: &Focus) -> Packet {
    let from = SocketAddr::new(focus.from, 1_024 + random.below(60_000) as u16);
    match focus.proto {
        proto::TCP => tcp(&from.to_string(), &focus.to.to_string(), "S"),
        other => packet(random, from, focus.to, other),
    }
}

/// What a pod's kernel says by itself on its link, and what only routers say (RFC 4861, RFC 2710, RFC 3810).
fn on_the_link(random: &mut Random) -> (Hook, Packet) {
    let mut packet = echo("fe80::2", "ff02::2", 0, false);
    packet.transport = Transport::Error { kind: 130 + random.below(15) as u8, code: 0, mtu: 0 };
    (Hook::FromPod, packet)
}

fn fresh(random: &mut Random) -> (Hook, Packet) {
    if random.once_in(80) {
        return on_the_link(random);
    }
    let family = usize::from(random.once_in(2));
    let src = if random.once_in(12) {
        random.pick(&ODD[family])
    } else if random.once_in(12) {
        random.pick(&WHO[family])
    } else {
        WHO[family]
            [random.pick(&[OWN_POD, OWN_POD, REMOTE_POD, 3, ROUTER, NODE, OTHER_NODE, OUTSIDE, OUTSIDE])]
    };
    let dst = if random.once_in(20) { random.pick(&ODD[family]) } else { random.pick(&WHO[family]) };
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let hook = place_of(random, src);
    let from = SocketAddr::new(src, random.pick(&PORTS));
    let to = SocketAddr::new(dst, random.pick(&PORTS));
    let protocol =
        random.pick(&[proto::TCP, proto::TCP, proto::UDP, proto::UDP, proto::SCTP, proto::ICMP, 47, 4]);
    (hook, packet(random, from, to, protocol))
}

fn packet(random: &mut Random, from: SocketAddr, to: SocketAddr, protocol: u8) -> Packet {
    let (a, b) = (from.to_string(), to.to_string());
    match protocol {
        proto::TCP => tcp(&a, &b, random.pick(&FLAGS)),
        proto::UDP if random.once_in(8) => udp(&a, &b).without_checksum(),
        proto::UDP => udp(&a, &b),
        proto::SCTP if random.once_in(6) => sctp_unsummed(&a, &b),
        proto::SCTP => sctp(&a, &b),
        proto::ICMP | proto::ICMPV6 if random.once_in(5) => complaint(random, from, to),
        proto::ICMP | proto::ICMPV6 => {
            echo(&from.ip().to_string(), &to.ip().to_string(), from.port(), random.once_in(3))
        }
        other => udp(&a, &b).protocol(other),
    }
}

/// A packet of a connection, or an ICMP error about what its other end had sent.
fn continued(random: &mut Random, tuple: &Tuple) -> Packet {
    let from = SocketAddr::new(tuple.src.to_ip(), tuple.sport.get());
    let to = SocketAddr::new(tuple.dst.to_ip(), tuple.dport.get());
    if !random.once_in(6) {
        return packet(random, from, to, tuple.proto);
    }
    let about = packet(random, to, from, tuple.proto);
    let from = if random.once_in(3) {
        let hop = if from.is_ipv4() { "192.0.2.77" } else { "2001:db8:5::1" };
        SocketAddr::new(hop.parse().unwrap(), 0)
    } else {
        from
    };
    report(random, from.ip(), &about, about.src)
}

/// An ICMP error about a packet that nobody may have sent.
fn complaint(random: &mut Random, from: SocketAddr, to: SocketAddr) -> Packet {
    let protocol = random.pick(&[proto::TCP, proto::UDP, proto::SCTP, 47]);
    let about = packet(random, to, from, protocol);
    let receiver = if random.once_in(4) { from.ip() } else { to.ip() };
    report(random, from.ip(), &about, receiver)
}

fn report(random: &mut Random, from: IpAddr, about: &Packet, to: IpAddr) -> Packet {
    let bytes = about.bytes();
    let quoted = &bytes[14..];
    let header = if from.is_ipv4() { 20 } else { 40 };
    let length = match random.below(4) {
        0 => quoted.len(),
        1 if random.once_in(4) => random.below(quoted.len() + 1),
        _ => (header + 8).min(quoted.len()),
    };
    let (kind, code) = if from.is_ipv4() {
        random.pick(&[(3, 3), (3, 4), (11, 0), (12, 0), (5, 1)])
    } else {
        random.pick(&[(1, 4), (2, 0), (3, 0), (4, 1), (137, 0)])
    };
    let mut packet = echo(&from.to_string(), &to.to_string(), 0, false);
    packet.transport = Transport::Error { kind, code, mtu: 1_400 };
    packet.payload = quoted[..length].to_vec();
    packet
}

/// Sizes, hop limits, options, extension headers, fragments.
fn dress(random: &mut Random, mut packet: Packet) -> Packet {
    if random.once_in(10) {
        let ttl = random.below(4) as u8;
        packet = packet.ttl(ttl);
    }
    if random.once_in(60) {
        packet = packet.by_mac([2, 0, 0, 0, 0, 0xee]);
    }
    let plain =
        matches!(packet.transport, Transport::Udp { .. } | Transport::Tcp { .. } | Transport::Echo { .. });
    if plain && random.once_in(4) {
        // About as much as a tunnel takes, with each of the headers.
        let length = if random.once_in(4) { 1_385 + random.below(45) } else { random.below(60) };
        let payload = random.bytes(length);
        packet = packet.says(&payload);
    }
    let v4 = packet.src.is_ipv4();
    if v4 && random.once_in(10) {
        let words = 1 + random.below(10);
        packet = packet.options(&vec![1; words * 4]);
    }
    if !v4 && random.once_in(10) {
        let most = if random.once_in(5) { 8 } else { 2 };
        for _ in 0..1 + random.below(most) {
            let units = random.below(3);
            let mut body = vec![0; units * 8 + 7];
            (body[0], body[1], body[2]) = (units as u8, 1, (units * 8 + 4) as u8);
            packet = packet.extension(random.pick(&[0, 60]), &body);
        }
    }
    if plain && random.once_in(10) {
        packet = piece(random, packet, v4);
    }
    packet
}

fn piece(random: &mut Random, packet: Packet, v4: bool) -> Packet {
    let id = random.below(3) as u16;
    let later = random.once_in(2);
    let protocol = match packet.transport {
        Transport::Udp { .. } => proto::UDP,
        Transport::Tcp { .. } => proto::TCP,
        _ if v4 => proto::ICMP,
        _ => proto::ICMPV6,
    };
    let (packet, offset, more) =
        if later { (packet.rest(protocol), 48, random.once_in(2)) } else { (packet, 0, true) };
    if v4 { packet.piece(id, offset, more) } else { packet.piece6(u32::from(id), offset, more) }
}

/// Clears DF; the header's checksum follows.
fn may_be_cut(frame: &mut [u8]) {
    let header = 14..14 + usize::from(frame[14] & 15) * 4;
    frame[20] &= !0x40;
    frame[24..26].fill(0);
    let sum = !internet_sum(&frame[header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn spoil(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..1 + random.below(3) {
        if frame.is_empty() {
            return;
        }
        // Mostly headers.
        let at =
            if random.once_in(3) { random.below(frame.len()) } else { random.below(frame.len().min(70)) };
        match random.below(6) {
            0 => frame[at] = random.next() as u8,
            1 => frame[at] ^= 1 << random.below(8),
            2 => frame.truncate(at),
            3 => frame.insert(at, random.next() as u8),
            4 => frame[at] = 0,
            _ => {
                let padding = random.bytes(8);
                frame.extend(padding);
            }
        }
    }
}
