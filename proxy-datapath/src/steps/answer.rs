//! A refused packet becomes its own answer: RST for TCP (RFC 9293 section 3.5.2), "port unreachable" for the
//! rest (RFC 1122 section 3.2.2.1, RFC 4443 section 3.1).

use proxy_abi::{Addr, Reason, proto};

use crate::{
    packets::{
        checksum::{add, add_addr, add_bytes, finish},
        ip::{self},
        packet::Packet,
        view::{ACK, ETH, FIN, Kind, RST, SYN, View},
    },
    state::verdict::Verdict,
};

#[inline(always)]
pub(crate) fn reject<P: Packet>(packet: &mut P, view: &View) -> Verdict {
    let answered = match (view.proto, view.kind) {
        // Never an answer to a reset or to an ICMP error: two of us would talk for ever.
        (proto::TCP, Kind::Ports) if view.flags & RST != 0 => return Verdict::drop(Reason::Rejected),
        (proto::TCP, Kind::Ports) => reset_tcp(packet, view),
        _ if !may_be_told(view) => return Verdict::drop(Reason::Rejected),
        // Port unreachable.
        _ => tell(packet, view, &view.dst, &[3, 3, 0, 0, 0, 0, 0, 0], &[1, 4, 0, 0, 0, 0, 0, 0]),
    };
    if answered { Verdict::ANSWER } else { Verdict::drop(Reason::RewriteFailed) }
}

/// Tells the sender that `mtu` bytes would fit: "fragmentation needed and DF set" (RFC 1191 section 4),
/// "packet too big" (RFC 4443 section 3.2).
#[inline(always)]
pub(crate) fn too_big<P: Packet>(packet: &mut P, view: &View, mtu: u32) -> Verdict {
    let [a, b, c, d] = mtu.to_be_bytes();
    let answered = may_be_told(view)
        && tell(packet, view, &view.dst, &[3, 4, 0, 0, 0, 0, c, d], &[2, 0, 0, 0, a, b, c, d]);
    if answered { Verdict::answer(Reason::TooBig) } else { Verdict::drop(Reason::TooBig) }
}

/// Tells the sender that the packet was on its last hop here, at `from`: "time exceeded in transit" (RFC 792,
/// RFC 4443 section 3.3).
#[inline(always)]
pub(crate) fn expired<P: Packet>(packet: &mut P, view: &View, from: &Addr) -> Verdict {
    let answered = !from.is_unspecified()
        && may_be_told(view)
        && tell(packet, view, from, &[11, 0, 0, 0, 0, 0, 0, 0], &[3, 0, 0, 0, 0, 0, 0, 0]);
    if answered { Verdict::answer(Reason::TtlExpired) } else { Verdict::drop(Reason::TtlExpired) }
}

/// No message is about a later fragment, and none about another.
#[inline(always)]
fn may_be_told(view: &View) -> bool {
    !matches!(view.kind, Kind::Fragment) && !view.is_icmp_error()
}

/// Turns the packet into a message from `from` about it: the first 8 bytes of the family's, without their
/// checksum.
#[inline(always)]
fn tell<P: Packet>(packet: &mut P, view: &View, from: &Addr, v4: &[u8; 8], v6: &[u8; 8]) -> bool {
    let told = if view.v4 { tell_v4(packet, view, from, v4) } else { tell_v6(packet, view, from, v6) };
    told.is_some()
}

/// Not inlined: its arrays need a stack frame of their own, and few packets come here.
#[inline(never)]
fn reset_tcp<P: Packet>(packet: &mut P, view: &View) -> bool {
    reset(packet, view).is_some()
}

#[inline(always)]
fn reset<P: Packet>(packet: &mut P, view: &View) -> Option<()> {
    let l4 = view.l4 as u32;
    let old: [u8; 20] = packet.load(l4)?;
    let header_length = (old[12] >> 4) as u32 * 4;
    let payload = (view.length as u32 + ETH).wrapping_sub(l4).wrapping_sub(header_length);
    let sequence = u32::from_be_bytes([old[4], old[5], old[6], old[7]]);
    let (seq, ack, flags) = if view.flags & ACK != 0 {
        ([old[8], old[9], old[10], old[11]], 0, RST)
    } else {
        let bits = (view.flags & SYN != 0) as u32 + (view.flags & FIN != 0) as u32;
        ([0; 4], sequence.wrapping_add(payload).wrapping_add(bits), RST | ACK)
    };
    let [a, b, c, d] = ack.to_be_bytes();
    let mut header = [
        old[2], old[3], old[0], old[1], seq[0], seq[1], seq[2], seq[3], a, b, c, d, 0x50, flags, 0, 0, 0, 0,
        0, 0,
    ];
    let [e, f] = finish(add_bytes(pseudo(view, &view.dst, 20, proto::TCP), &header)).to_ne_bytes();
    header[16] = e;
    header[17] = f;
    let at = frame(packet, view, &view.dst, 20, proto::TCP)?;
    packet.store_new(at, &header)
}

/// Not inlined, as its twin: the three messages of a family share it.
#[inline(never)]
fn tell_v4<P: Packet>(packet: &mut P, view: &View, from: &Addr, icmp: &[u8; 8]) -> Option<()> {
    let mut icmp = *icmp;
    // A header with options is not quoted: nobody sends them.
    if view.l4 as u32 != ETH + 20 {
        return None;
    }
    let quoted: [u8; 28] = packet.load(ETH)?;
    let [a, b] = finish(add_bytes(add_bytes(0, &icmp), &quoted)).to_ne_bytes();
    icmp[2] = a;
    icmp[3] = b;
    let at = frame(packet, view, from, 36, proto::ICMP)?;
    packet.store_new(at, &icmp)?;
    packet.store_new(at + 8, &quoted)
}

#[inline(never)]
fn tell_v6<P: Packet>(packet: &mut P, view: &View, from: &Addr, icmp: &[u8; 8]) -> Option<()> {
    let mut icmp = *icmp;
    if view.l4 as u32 != ETH + 40 {
        return None;
    }
    let quoted: [u8; 48] = packet.load(ETH)?;
    let sum = add_bytes(add_bytes(pseudo(view, from, 56, proto::ICMPV6), &icmp), &quoted);
    let [a, b] = finish(sum).to_ne_bytes();
    icmp[2] = a;
    icmp[3] = b;
    let at = frame(packet, view, from, 56, proto::ICMPV6)?;
    packet.store_new(at, &icmp)?;
    packet.store_new(at + 8, &quoted)
}

/// Sum of the pseudo header of an answer from `from` with `length` bytes after the IP header.
#[inline(always)]
fn pseudo(view: &View, from: &Addr, length: u16, protocol: u8) -> u32 {
    let sum = add(add_addr(0, &view.src), 0);
    let sum = add_addr(sum, from);
    add(add(sum, length.to_be() as u32), (protocol as u16).to_be() as u32)
}

/// Resizes the packet and writes Ethernet and IP headers of the answer, which comes from `from`; returns
/// where its transport header goes.
#[inline(always)]
fn frame<P: Packet>(packet: &mut P, view: &View, from: &Addr, payload: u16, protocol: u8) -> Option<u32> {
    let header = ip::length(view.v4);
    packet.resize(ETH + header + payload as u32)?;
    let dst: [u8; 6] = packet.load(0)?;
    let src: [u8; 6] = packet.load(6)?;
    packet.store_new(0, &src)?;
    packet.store_new(6, &dst)?;
    if view.v4 {
        let fields = ip::Fields { class: 0, payload, id: [0, 0], flags: ip::DF, protocol };
        ip::write_v4(packet, fields, from, &view.src)?;
    } else {
        ip::write_v6(packet, [0x60, 0, 0, 0], payload, protocol, (from, &view.src))?;
    }
    Some(ETH + header)
}
