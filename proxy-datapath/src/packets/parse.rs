//! Reads headers, down to those that an ICMP error quotes.

use proxy_abi::{Addr, Be16, Reason, Tuple, proto};

use crate::packets::{
    head::Head,
    packet::Packet,
    view::{ETH, ETHERTYPE_ARP, ETHERTYPE_V4, ETHERTYPE_V6, Kind, Shape, View, is_error},
};

/// IPv6 extension headers looked through before a packet is called malformed.
const MAX_EXTENSIONS: u32 = 5;

/// Reads a packet's headers into `view`, and keeps the first of them in `head`.
///
/// # Errors
/// [`Reason::Malformed`] for headers that are cut short or contradict themselves; [`Reason::MappedOnWire`].
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, view: &mut View, head: &mut Head) -> Result<Shape, Reason> {
    view.has_addresses = false;
    if !read_first(packet, head) {
        return short(packet, head);
    }
    let eth = &head.bytes;
    view.kind = Kind::Other;
    view.flags = 0;
    view.fragment = false;
    match [eth[12], eth[13]] {
        ETHERTYPE_V4 => parse_v4(packet, view, head).ok_or(Reason::Malformed)?,
        ETHERTYPE_V6 => parse_v6(packet, view, head)?,
        ETHERTYPE_ARP => return Ok(Shape::Arp),
        _ => return Ok(Shape::Foreign),
    }
    Ok(Shape::Ip)
}

/// What both families have. False: the packet is shorter.
#[inline(always)]
fn read_first<P: Packet>(packet: &P, head: &mut Head) -> bool {
    head.begin::<{ Head::V4 }>().is_some_and(|first| packet.read(0, first).is_some())
}

/// A frame that is too short for an IP packet.
#[inline(always)]
fn short<P: Packet>(packet: &P, head: &mut Head) -> Result<Shape, Reason> {
    let eth = head.begin::<14>().ok_or(Reason::Malformed)?;
    packet.read(0, eth).ok_or(Reason::Malformed)?;
    match [eth[12], eth[13]] {
        ETHERTYPE_V4 | ETHERTYPE_V6 => Err(Reason::Malformed),
        ETHERTYPE_ARP => Ok(Shape::Arp),
        _ => Ok(Shape::Foreign),
    }
}

#[inline(always)]
fn parse_v4<P: Packet>(packet: &P, view: &mut View, head: &Head) -> Option<()> {
    let header = head.ip();
    let header_length = (header[0] & 0x0f) as u32 * 4;
    let carried = packet.length() - ETH;
    let mut length = u16::from_be_bytes([header[2], header[3]]) as u32;
    if length == 0 && packet.is_merged() {
        // Beyond 64 KiB (BIG TCP) it says 0.
        length = carried;
    }
    if header[0] >> 4 != 4 || header_length < 20 || length < header_length || length > carried {
        return None;
    }
    view.v4 = true;
    view.length = if length > 0xffff { 0xffff } else { length as u16 };
    view.ttl = header[8];
    view.proto = header[9];
    view.src = Addr::from_v4([header[12], header[13], header[14], header[15]]);
    view.dst = Addr::from_v4([header[16], header[17], header[18], header[19]]);
    view.has_addresses = true;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    view.fragment = fragment & 0x3fff != 0;
    view.whole = fragment & 0x4000 != 0;
    view.fragment_id = u16::from_ne_bytes([header[4], header[5]]) as u32;
    transport(packet, view, ETH + header_length, fragment & 0x1fff != 0)
}

#[inline(always)]
fn parse_v6<P: Packet>(packet: &P, view: &mut View, head: &mut Head) -> Result<(), Reason> {
    let rest = head.rest_of_v6().ok_or(Reason::Malformed)?;
    packet.read(Head::V4 as u32, rest).ok_or(Reason::Malformed)?;
    let header = head.ip();
    let payload = u16::from_be_bytes([header[4], header[5]]) as u32;
    let carried = packet.length() - ETH;
    if header[0] >> 4 != 6 || payload + 40 > carried {
        return Err(Reason::Malformed);
    }
    let length = if payload == 0 && packet.is_merged() { carried } else { payload + 40 };
    view.v4 = false;
    view.whole = true;
    view.length = if length > 0xffff { 0xffff } else { length as u16 };
    view.ttl = header[7];
    view.src = address([
        header[8], header[9], header[10], header[11], header[12], header[13], header[14], header[15],
        header[16], header[17], header[18], header[19], header[20], header[21], header[22], header[23],
    ]);
    view.dst = address([
        header[24], header[25], header[26], header[27], header[28], header[29], header[30], header[31],
        header[32], header[33], header[34], header[35], header[36], header[37], header[38], header[39],
    ]);
    view.has_addresses = true;
    // In our tables a mapped address *is* the IPv4 address: such a packet would pass for another's.
    if view.src.is_v4() || view.dst.is_v4() {
        return Err(Reason::MappedOnWire);
    }
    let (next, at, later) = extensions(packet, view, header[6], ETH + 40).ok_or(Reason::Malformed)?;
    view.proto = next;
    transport(packet, view, at, later).ok_or(Reason::Malformed)
}

#[inline(always)]
pub(crate) const fn address(octets: [u8; 16]) -> Addr {
    Addr::from_v6(octets)
}

/// Walks over IPv6 extension headers; returns the transport protocol, its offset and whether this is a later
/// fragment.
#[inline(always)]
fn extensions<P: Packet>(packet: &P, view: &mut View, first: u8, start: u32) -> Option<(u8, u32, bool)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let (mut next, mut at) = (first, start);
    // One more round, for what follows them.
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let header: [u8; 2] = packet.load(at)?;
                next = header[0];
                at += (header[1] as u32 + 1) * 8;
            }
            FRAGMENT => {
                let header: [u8; 8] = packet.load(at)?;
                next = header[0];
                at += 8;
                view.fragment = true;
                view.fragment_id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                    return Some((next, at, true));
                }
            }
            _ => return Some((next, at, false)),
        }
    }
    None
}

#[inline(always)]
fn transport<P: Packet>(packet: &P, view: &mut View, l4: u32, later_fragment: bool) -> Option<()> {
    view.l4 = l4 as u16;
    view.tuple = Tuple::new(view.src, Be16::ZERO, view.dst, Be16::ZERO, view.proto);
    let end = ETH + view.length as u32;
    if l4 > end {
        return None;
    }
    if later_fragment {
        view.kind = Kind::Fragment;
        return Some(());
    }
    match view.proto {
        proto::TCP => {
            let header: [u8; 14] = packet.load(l4)?;
            // Data offset, in words (RFC 9293 section 3.1).
            let header_length = (header[12] >> 4) as u32 * 4;
            if header_length < 20 || l4 + header_length > end {
                return None;
            }
            ports(&mut view.tuple, [header[0], header[1], header[2], header[3]]);
            view.flags = header[13];
            view.kind = Kind::Ports;
        }
        proto::UDP => {
            let header: [u8; 8] = packet.load(l4)?;
            if l4 + 8 > end {
                return None;
            }
            ports(&mut view.tuple, [header[0], header[1], header[2], header[3]]);
            view.kind = Kind::Ports;
        }
        proto::SCTP => {
            let header: [u8; 12] = packet.load(l4)?;
            if l4 + 12 > end {
                return None;
            }
            ports(&mut view.tuple, [header[0], header[1], header[2], header[3]]);
            view.kind = Kind::Ports;
        }
        proto::ICMP | proto::ICMPV6 => {
            let header: [u8; 8] = packet.load(l4)?;
            if l4 + 8 > end {
                return None;
            }
            view.flags = header[0];
            if is_echo(view.proto, header[0]) {
                ports(&mut view.tuple, [header[4], header[5], header[4], header[5]]);
                view.kind = Kind::Echo;
            } else if is_error(view.proto, header[0]) {
                reported(packet, view, l4 + 8)?;
            }
        }
        _ => {}
    }
    Some(())
}

#[inline(always)]
pub(crate) fn ports(tuple: &mut Tuple, raw: [u8; 4]) {
    tuple.sport = Be16::from_raw(u16::from_ne_bytes([raw[0], raw[1]]));
    tuple.dport = Be16::from_raw(u16::from_ne_bytes([raw[2], raw[3]]));
}

/// Echo request or reply (RFC 792, RFC 4443 section 4).
#[inline(always)]
const fn is_echo(protocol: u8, kind: u8) -> bool {
    match protocol {
        proto::ICMP => kind == 8 || kind == 0,
        _ => kind == 128 || kind == 129,
    }
}

/// Reads the packet that an ICMP error quotes. A quote we can't use (a fragment, an unknown protocol, cut
/// short) leaves the kind at [`Kind::Other`].
#[inline(always)]
fn reported<P: Packet>(packet: &P, view: &mut View, at: u32) -> Option<()> {
    let (inner, l4) = if view.v4 {
        let Some(header) = packet.load::<20>(at) else { return Some(()) };
        let header_length = (header[0] & 0x0f) as u32 * 4;
        let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
        if header[0] >> 4 != 4 || header_length < 20 || later {
            return Some(());
        }
        let src = Addr::from_v4([header[12], header[13], header[14], header[15]]);
        let dst = Addr::from_v4([header[16], header[17], header[18], header[19]]);
        (Tuple::new(src, Be16::ZERO, dst, Be16::ZERO, header[9]), at + header_length)
    } else {
        let Some(header) = packet.load::<40>(at) else { return Some(()) };
        if header[0] >> 4 != 6 {
            return Some(());
        }
        let src = address([
            header[8], header[9], header[10], header[11], header[12], header[13], header[14], header[15],
            header[16], header[17], header[18], header[19], header[20], header[21], header[22], header[23],
        ]);
        let dst = address([
            header[24], header[25], header[26], header[27], header[28], header[29], header[30], header[31],
            header[32], header[33], header[34], header[35], header[36], header[37], header[38], header[39],
        ]);
        if src.is_v4() || dst.is_v4() {
            return Some(());
        }
        (Tuple::new(src, Be16::ZERO, dst, Be16::ZERO, header[6]), at + 40)
    };
    let mut inner = inner;
    match inner.proto {
        proto::TCP | proto::UDP | proto::SCTP => {
            let Some(raw) = packet.load::<4>(l4) else { return Some(()) };
            ports(&mut inner, raw);
        }
        proto::ICMP | proto::ICMPV6 => {
            let Some(raw) = packet.load::<8>(l4) else { return Some(()) };
            if !is_echo(inner.proto, raw[0]) {
                return Some(());
            }
            ports(&mut inner, [raw[4], raw[5], raw[4], raw[5]]);
        }
        _ => return Some(()),
    }
    view.tuple = inner.flip();
    view.inner_l3 = at as u16;
    view.inner_l4 = l4 as u16;
    view.kind = Kind::Error;
    Some(())
}
