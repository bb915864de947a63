//! Turns one packet into another: addresses, ports, and every checksum that they are part of.

use proxy_abi::{Addr, Reason, Tuple, proto};

use crate::packets::{
    addresses::pair,
    checksum::{add, changed_addresses, changed_port},
    crc32c::Change,
    head::Head,
    packet::Packet,
    view::{ETH, Kind, View},
};

/// Turns the packet's tuple `view.tuple` into `to`: addresses (in `head`, still to be written), ports and
/// every checksum they are part of. For an ICMP error the reported packet is turned too, so that its receiver
/// recognises it (RFC 5508 section 4.2).
///
/// # Errors
/// [`Reason::RewriteFailed`] when the kernel could not make the headers writable.
#[inline(always)]
pub(crate) fn rewrite<P: Packet>(
    packet: &mut P,
    view: &mut View,
    head: &mut Head,
    to: &Tuple,
) -> Result<(), Reason> {
    if matches!(view.kind, Kind::Error) {
        rewrite_error(packet, view, head, to).ok_or(Reason::RewriteFailed)
    } else {
        rewrite_plain(packet, view, head, to).ok_or(Reason::RewriteFailed)
    }
}

#[inline(always)]
fn rewrite_plain<P: Packet>(packet: &mut P, view: &mut View, head: &mut Head, to: &Tuple) -> Option<()> {
    let l4 = view.l4 as u32;
    let addresses = changed_addresses(view.v4, (&view.src, &view.dst), (&to.src, &to.dst));
    if let Some(at) = transport_checksum(view) {
        let pseudo = if view.proto == proto::ICMP { 0 } else { addresses };
        let from = &view.tuple;
        let mut ports = 0;
        // An echo's two ports are one field, and nobody else has any.
        if matches!(view.kind, Kind::Ports | Kind::Echo) {
            ports = changed_port(from.sport, to.sport);
            if matches!(view.kind, Kind::Ports) {
                ports += changed_port(from.dport, to.dport);
            }
        }
        packet.fix_transport_checksum(at, pseudo, ports, view.proto == proto::UDP)?;
    }
    if view.proto == proto::SCTP && matches!(view.kind, Kind::Ports) {
        fix_sctp(packet, view, to)?;
    }
    set_addresses(view, head, addresses, &to.src, &to.dst);
    match view.kind {
        // No Internet checksum makes up for them.
        Kind::Ports if view.proto == proto::SCTP => {
            packet.store_new(l4, &join(to.sport.raw(), to.dport.raw()))?
        }
        Kind::Ports => packet.store(l4, &join(to.sport.raw(), to.dport.raw()))?,
        Kind::Echo => packet.store(l4 + 4, &to.sport.raw().to_ne_bytes())?,
        _ => {}
    }
    view.tuple = *to;
    Some(())
}

/// SCTP's checksum covers its own packet only, not the addresses. One of 0 is still to be made: the device
/// will.
#[inline(always)]
fn fix_sctp<P: Packet>(packet: &mut P, view: &View, to: &Tuple) -> Option<()> {
    let [a, b, c, d] = join(view.tuple.sport.raw(), view.tuple.dport.raw());
    let [e, f, g, h] = join(to.sport.raw(), to.dport.raw());
    let x = [a ^ e, b ^ f, c ^ g, d ^ h];
    if x == [0; 4] {
        return Some(());
    }
    let at = view.l4 as u32 + 8;
    let old: [u8; 4] = packet.load(at)?;
    if old == [0; 4] {
        return Some(());
    }
    // The sum of a datagram's pieces can't be made good in the first one.
    if view.fragment {
        return None;
    }
    let length = (view.length as u32 + ETH).wrapping_sub(view.l4 as u32) as u16;
    let mut change = Change::new(x, length);
    packet.work_out(&mut change);
    let [i, j, k, l] = change.result();
    packet.store_new(at, &[old[0] ^ i, old[1] ^ j, old[2] ^ k, old[3] ^ l])
}

/// Offset of the checksum that covers what we change, if the packet has one.
#[inline(always)]
fn transport_checksum(view: &View) -> Option<u32> {
    let l4 = view.l4 as u32;
    if matches!(view.kind, Kind::Fragment) {
        return None;
    }
    match view.proto {
        proto::TCP => Some(l4 + 16),
        proto::UDP => Some(l4 + 6),
        proto::ICMP | proto::ICMPV6 => Some(l4 + 2),
        _ => None,
    }
}

#[inline(always)]
fn set_addresses(view: &mut View, head: &mut Head, diff: u32, src: &Addr, dst: &Addr) {
    head.set_addresses(view.v4, diff, src, dst);
    view.src = *src;
    view.dst = *dst;
}

/// An ICMP error travels along a flow from its receiving end: `view.tuple` → `to`, and quotes the flow's
/// other direction.
#[inline(always)]
fn rewrite_error<P: Packet>(packet: &mut P, view: &mut View, head: &mut Head, to: &Tuple) -> Option<()> {
    let (l3, l4) = (view.inner_l3 as u32, view.inner_l4 as u32);
    let from = view.tuple;
    let ports = changed_port(from.dport, to.dport) + changed_port(from.sport, to.sport);
    let inner = changed_addresses(view.v4, (&from.dst, &from.src), (&to.dst, &to.src));
    // The client knows no backend: whatever on the way complained, the service did. Where only the source was
    // translated the router on the way is told by name.
    let src = if from.src.same(&to.src) { view.src } else { to.src };
    let outer = changed_addresses(view.v4, (&view.src, &view.dst), (&src, &to.dst));
    let at = view.l4 as u32 + 2;
    // What the changes below do to the sum over the quote.
    let mut quote = ports;
    if view.v4 {
        // The quoted header's own checksum makes up for its addresses.
        packet.fix_header_checksum(l3 + 10, inner)?;
        packet.store(l3 + 12, &pair(&to.dst, &to.src))?;
    } else {
        packet.fix_transport_checksum(at, outer, 0, false)?;
        packet.store(l3 + 8, &to.dst.octets())?;
        packet.store(l3 + 24, &to.src.octets())?;
        quote = add(quote, inner);
    }
    if from.proto == proto::TCP || from.proto == proto::UDP || from.proto == proto::SCTP {
        packet.store(l4, &join(to.dport.raw(), to.sport.raw()))?;
        // The quote of a datagram holds its checksum too; of a segment it ends before that.
        let checksum = if from.proto == proto::UDP { packet.load::<2>(l4 + 6) } else { None };
        if matches!(checksum, Some(sum) if sum != [0, 0]) {
            let datagram = add(inner, ports);
            packet.fix_transport_checksum(l4 + 6, 0, datagram, true)?;
            quote = add(quote, !datagram);
        }
    } else {
        // The identifier, and the quoted echo's own checksum which makes up for it.
        packet.store(l4 + 4, &to.sport.raw().to_ne_bytes())?;
        let mut change = changed_port(from.sport, to.sport);
        quote = add(quote, !ports);
        if from.proto == proto::ICMPV6 {
            // Its checksum covers addresses too (RFC 4443 section 2.3).
            change = add(change, inner);
            quote = add(quote, !inner);
        }
        packet.fix_header_checksum(l4 + 2, change)?;
    }
    packet.fix_transport_checksum(at, 0, quote, false)?;
    set_addresses(view, head, outer, &src, &to.dst);
    view.tuple = *to;
    Some(())
}

#[inline(always)]
const fn join(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}
