//! Comparing what the datapath made of a frame with what should have come of it. Checksums are not worked out
//! anew, but looked at: a sum that was right must be right afterwards, and one that was wrong just as wrong.

use std::net::SocketAddr;

use proxy_abi::{Addr, Be16, OVERLAY_DEV_MAC, OVERLAY_SRC_MAC, Reason, Tuple, proto};
use proxy_datapath::{Action, Verdict};

use crate::{
    cases::{
        Packet, echo,
        packet::{Transport, tcp},
    },
    connections::{ACK, FIN, SYN},
    read::{Body, Ip, Quote, word},
};

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Pod(u32, [u8; 6]),
    Node(Addr),
    Out(u32),
    /// The stack's own, into the tunnel device.
    Keyed(Addr),
    /// To a node, for the backend that the frame names.
    Backend(Addr, Addr, Be16),
}

/// What should become of a frame.
#[derive(Clone, Debug)]
pub enum Fate {
    /// The stack's, untouched.
    Same,
    /// The stack's, translated.
    Changed(Tuple),
    Dropped(Reason),
    Sent(Way, Option<Tuple>),
    /// Turned into this.
    Answered(Reason, Vec<u8>),
    /// Turned into this, and back to the node's stack.
    TakenIn(Reason, Vec<u8>),
    /// An answer cannot be made of it, or is not worth it: any drop or answer will do.
    Refused(Reason),
    /// Nobody may rely on anything.
    Anything,
}

pub fn agrees(
    fate: &Fate,
    ip: Option<&Ip>,
    input: &[u8],
    verdict: &Verdict,
    output: &[u8],
) -> Result<(), String> {
    let is = |action, reason| {
        let right = verdict.action == action && verdict.reason == reason;
        right.then_some(()).ok_or_else(|| format!("{verdict:?} instead of {fate:?}"))
    };
    match fate {
        Fate::Anything => Ok(()),
        Fate::Same => {
            is(Action::Pass, Reason::Passed)?;
            (input == output).then_some(()).ok_or_else(|| "passed, but changed".to_owned())
        }
        Fate::Dropped(reason) => is(Action::Drop, *reason),
        Fate::Refused(reason) => is(Action::Drop, *reason)
            .or_else(|_| is(Action::Drop, Reason::RewriteFailed))
            .or_else(|_| is(Action::Answer, *reason))
            .or_else(|_| is(Action::TakenIn, *reason)),
        Fate::Answered(reason, bytes) | Fate::TakenIn(reason, bytes) => {
            let action = if matches!(fate, Fate::Answered(..)) { Action::Answer } else { Action::TakenIn };
            is(action, *reason)?;
            (bytes == output)
                .then_some(())
                .ok_or_else(|| format!("answer is\n  {}\n  {}", hex(output), hex(bytes)))
        }
        Fate::Changed(to) => {
            is(Action::Pass, Reason::Passed)?;
            translated(ip, input, output, Some(to), None)
        }
        Fate::Sent(way, to) => {
            match way {
                Way::Pod(..) => is(Action::Deliver, Reason::Delivered)?,
                Way::Node(_) | Way::Backend(..) => is(Action::Tunnel, Reason::Encapsulated)?,
                Way::Out(_) => is(Action::Out, Reason::SentOut)?,
                Way::Keyed(_) => is(Action::Keyed, Reason::Encapsulated)?,
            }
            let right = match way {
                Way::Pod(ifindex, _) | Way::Out(ifindex) => verdict.ifindex == *ifindex,
                Way::Node(node) | Way::Keyed(node) | Way::Backend(node, ..) => verdict.node == *node,
            };
            if !right {
                return Err(format!("{verdict:?} instead of {way:?}"));
            }
            translated(ip, input, output, to.as_ref(), Some(way))
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sum of 16-bit words, as it stands (RFC 1071); an odd byte at the end counts as the high half.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn address(frame: &mut [u8], at: usize, addr: &Addr) {
    let octets = addr.octets();
    let octets = if addr.is_v4() { &octets[12..] } else { &octets[..] };
    frame[at..at + octets.len()].copy_from_slice(octets);
}

/// Offsets of source and destination behind the start of an IP header.
fn addresses_at(v4: bool) -> (usize, usize) {
    if v4 { (12, 16) } else { (8, 24) }
}

fn translated(
    ip: Option<&Ip>,
    input: &[u8],
    output: &[u8],
    to: Option<&Tuple>,
    way: Option<&Way>,
) -> Result<(), String> {
    let ip = ip.ok_or("a frame that is no IP packet was sent on")?;
    let mut want = input.to_vec();
    match way {
        Some(Way::Pod(_, mac)) => want[..6].copy_from_slice(mac),
        Some(Way::Node(_) | Way::Keyed(_)) => {
            want[..6].copy_from_slice(&OVERLAY_DEV_MAC);
            want[6..12].copy_from_slice(&OVERLAY_SRC_MAC);
        }
        Some(Way::Backend(_, addr, port)) => {
            let low = &addr.octets()[8..];
            want[0] = 0x0e;
            want[1..6].copy_from_slice(&low[..5]);
            want[6] = 0x0e;
            want[7..10].copy_from_slice(&low[5..]);
            want[10..12].copy_from_slice(&port.get().to_be_bytes());
        }
        Some(Way::Out(_)) | None => {}
    }
    if matches!(way, Some(Way::Pod(..) | Way::Node(_) | Way::Backend(..) | Way::Out(_))) {
        want[14 + if ip.v4 { 8 } else { 7 }] -= 1;
    }
    if let Some(to) = to {
        rename(&mut want, ip, to);
    }
    let sums = Sums::of(ip, input);
    for at in &sums.at {
        if let (Some(into), Some(from)) = (want.get_mut(*at..at + 2), output.get(*at..at + 2)) {
            into.copy_from_slice(from);
        }
    }
    if want != output {
        return Err(format!("the packet, sums aside, is\n  {}\n  not\n  {}", hex(output), hex(&want)));
    }
    sums.hold(ip, input, output)
}

/// Writes the translated addresses and ports.
fn rename(frame: &mut [u8], ip: &Ip, to: &Tuple) {
    let (src_at, dst_at) = addresses_at(ip.v4);
    let port =
        |frame: &mut [u8], at: usize, port: u16| frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
    match ip.body {
        Body::Report(quote) => {
            // Whoever complained speaks as the connection's other end, unless only the receiver is known by
            // another name.
            if quote.dst != to.src {
                address(frame, 14 + src_at, &to.src);
            }
            address(frame, 14 + dst_at, &to.dst);
            address(frame, quote.l3 + src_at, &to.dst);
            address(frame, quote.l3 + dst_at, &to.src);
            if matches!(quote.proto, proto::ICMP | proto::ICMPV6) {
                port(frame, quote.l4 + 4, to.sport.get());
            } else {
                port(frame, quote.l4, to.dport.get());
                port(frame, quote.l4 + 2, to.sport.get());
            }
            return;
        }
        Body::Ports { .. } => {
            port(frame, ip.l4, to.sport.get());
            port(frame, ip.l4 + 2, to.dport.get());
        }
        Body::Echo { .. } => port(frame, ip.l4 + 4, to.sport.get()),
        Body::Later | Body::Other { .. } => {}
    }
    address(frame, 14 + src_at, &to.src);
    address(frame, 14 + dst_at, &to.dst);
}

/// Where the checksums of a packet are, two bytes each (SCTP's twice two).
struct Sums {
    at: Vec<usize>,
}

impl Sums {
    fn of(ip: &Ip, frame: &[u8]) -> Sums {
        let mut at = Vec::new();
        if ip.v4 {
            at.push(24);
        }
        match (ip.body, ip.proto) {
            (Body::Later, _) => {}
            (_, proto::TCP) => at.push(ip.l4 + 16),
            (_, proto::UDP) => at.push(ip.l4 + 6),
            (_, proto::ICMP | proto::ICMPV6) => at.push(ip.l4 + 2),
            (Body::Ports { .. }, proto::SCTP) => {
                at.push(ip.l4 + 8);
                at.push(ip.l4 + 10);
            }
            _ => {}
        }
        if let Body::Report(quote) = ip.body {
            if ip.v4 {
                at.push(quote.l3 + 10);
            }
            at.extend(quoted_sum(&quote));
        }
        at.retain(|at| at + 2 <= frame.len());
        Sums { at }
    }

    fn hold(&self, ip: &Ip, input: &[u8], output: &[u8]) -> Result<(), String> {
        let alike = |what: &str, before: u64, after: u64| {
            let same = before % 0xffff == after % 0xffff;
            same.then_some(()).ok_or_else(|| {
                format!(
                    "{what} is wrong, {before:x} before, {after:x} now:\n  {}\n  {}",
                    hex(input),
                    hex(output)
                )
            })
        };
        if ip.v4 {
            let header = |frame: &[u8]| sum(&frame[14..14 + ip.header]);
            alike("the header's checksum", header(input), header(output))?;
        }
        if let Body::Report(quote) = ip.body {
            quote_holds(ip, &quote, input, output, alike)?;
        }
        if matches!(ip.body, Body::Later) {
            return Ok(());
        }
        let whole = |frame: &[u8], pseudo: bool| {
            let (src, dst) = addresses_at(ip.v4);
            let length = if ip.v4 { 4 } else { 16 };
            let ends = sum(&frame[14 + src..14 + src + length]) + sum(&frame[14 + dst..14 + dst + length]);
            sum(&frame[ip.l4..ip.end]) + if pseudo { ends } else { 0 }
        };
        match ip.proto {
            proto::UDP if word(input, ip.l4 + 6) == 0 => (word(output, ip.l4 + 6) == 0)
                .then_some(())
                .ok_or("a datagram without a checksum got one".to_owned()),
            proto::UDP if word(output, ip.l4 + 6) == 0 => {
                Err("a datagram's checksum has become none".to_owned())
            }
            proto::TCP | proto::UDP | proto::ICMPV6 => {
                alike("the transport's checksum", whole(input, true), whole(output, true))
            }
            proto::ICMP => alike("the ICMP checksum", whole(input, false), whole(output, false)),
            proto::SCTP if matches!(ip.body, Body::Ports { .. }) && ip.piece.is_none() => {
                sctp_holds(ip, input, output)
            }
            _ => Ok(()),
        }
    }
}

/// Offset of a checksum in what an ICMP error quotes that changes with it.
fn quoted_sum(quote: &Quote) -> Option<usize> {
    match quote.proto {
        proto::UDP => Some(quote.l4 + 6),
        proto::ICMP | proto::ICMPV6 => Some(quote.l4 + 2),
        _ => None,
    }
}

fn quote_holds(
    ip: &Ip,
    quote: &Quote,
    input: &[u8],
    output: &[u8],
    alike: impl Fn(&str, u64, u64) -> Result<(), String>,
) -> Result<(), String> {
    let (l3, l4) = (quote.l3, quote.l4);
    if ip.v4 {
        let header = |frame: &[u8]| sum(&frame[l3..l4]);
        alike("the quoted header's checksum", header(input), header(output))?;
    }
    let (src, dst) = addresses_at(ip.v4);
    let length = if ip.v4 { 4 } else { 16 };
    let ends =
        |frame: &[u8]| sum(&frame[l3 + src..l3 + src + length]) + sum(&frame[l3 + dst..l3 + dst + length]);
    match quote.proto {
        proto::UDP if word(input, l4 + 6) == 0 => {
            (word(output, l4 + 6) == 0).then_some(()).ok_or("a quoted datagram got a checksum".to_owned())
        }
        proto::UDP => alike(
            "the quoted datagram's checksum",
            ends(input) + sum(&input[l4..l4 + 8]),
            ends(output) + sum(&output[l4..l4 + 8]),
        ),
        // Its addresses are part of ICMPv6's sum (RFC 4443 section 2.3), not of ICMP's.
        proto::ICMP => alike("the quoted echo's checksum", sum(&input[l4..l4 + 8]), sum(&output[l4..l4 + 8])),
        proto::ICMPV6 => alike(
            "the quoted echo's checksum",
            ends(input) + sum(&input[l4..l4 + 8]),
            ends(output) + sum(&output[l4..l4 + 8]),
        ),
        _ => Ok(()),
    }
}

/// 0: still to be made, by a device.
fn sctp_holds(ip: &Ip, input: &[u8], output: &[u8]) -> Result<(), String> {
    let stored = |frame: &[u8]| {
        u32::from_le_bytes([frame[ip.l4 + 8], frame[ip.l4 + 9], frame[ip.l4 + 10], frame[ip.l4 + 11]])
    };
    if stored(input) == 0 {
        return (stored(output) == 0).then_some(()).ok_or("an SCTP sum was made".to_owned());
    }
    let made = |frame: &[u8]| {
        let mut packet = frame[ip.l4..ip.end].to_vec();
        packet[8..12].fill(0);
        crate::cases::packet::crc32c(&packet)
    };
    let right = stored(input) ^ made(input) == stored(output) ^ made(output);
    right.then_some(()).ok_or_else(|| format!("the SCTP sum is wrong:\n  {}\n  {}", hex(input), hex(output)))
}

/// An answer goes back the way the packet came.
fn back(mut packet: Packet, input: &[u8]) -> Vec<u8> {
    packet.macs.0.copy_from_slice(&input[..6]);
    packet.macs.1.copy_from_slice(&input[6..12]);
    packet.bytes()
}

/// RST for a segment (RFC 9293 section 3.10.7.1).
pub fn reset(ip: &Ip, input: &[u8]) -> Vec<u8> {
    let number = |at: usize| u32::from_be_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
    let flags = ip.flags();
    let t = ip.tuple();
    let end = |addr: &Addr, port: u16| SocketAddr::new(addr.to_ip(), port).to_string();
    let (from, to) = (end(&t.dst, t.dport.get()), end(&t.src, t.sport.get()));
    let data = ip.end - ip.l4 - usize::from(input[ip.l4 + 12] >> 4) * 4;
    let length = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let packet = if flags & ACK != 0 {
        tcp(&from, &to, "R").seq(number(ip.l4 + 8), None)
    } else {
        tcp(&from, &to, "RA").seq(0, Some(number(ip.l4 + 4).wrapping_add(length)))
    };
    back(packet, input)
}

/// An ICMP error about a packet, from the address it was sent to, with its header and 8 bytes.
pub fn told(ip: &Ip, input: &[u8], kind: (u8, u8), mtu: u32) -> Vec<u8> {
    told_by(ip, input, &ip.dst, kind, mtu)
}

/// As [`told`], by somebody else.
pub fn told_by(ip: &Ip, input: &[u8], from: &Addr, (kind, code): (u8, u8), mtu: u32) -> Vec<u8> {
    let mut packet = echo(&from.to_ip().to_string(), &ip.src.to_ip().to_string(), 0, false);
    packet.transport = Transport::Error { kind, code, mtu };
    packet.payload = input[14..14 + ip.header + 8].to_vec();
    back(packet, input)
}
