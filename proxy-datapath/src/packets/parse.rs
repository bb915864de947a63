use proxy_abi::{Addr, Be16, Reason, Tuple, proto};

use crate::packets::{head::Head, packet::Packet};

pub(crate) const ETH: u32 = 14;
pub(crate) const ETHERTYPE_V4: [u8; 2] = [0x08, 0x00];
pub(crate) const ETHERTYPE_V6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// IPv6 extension headers looked through before a packet is called malformed.
const MAX_EXTENSIONS: u32 = 5;

/// TCP flag bits (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// What kind of frame it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Shape {
    Ip = 0,
    Arp = 1,
    /// Some other EtherType.
    Foreign = 2,
    /// None that can be read: [`steps::parse`](crate::steps::parse) says so, [`parse`] by an error.
    Broken = 3,
}

/// What can be done with a packet's transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    /// No ports that we know: the tuple's are 0.
    #[default]
    Other = 0,
    /// TCP, UDP or SCTP.
    Ports = 1,
    /// ICMP echo request or reply: both ports of the tuple hold the identifier.
    Echo = 2,
    /// An ICMP error about a flow of ours. The tuple is the reported packet's, seen from its receiver: it names the flow
    /// that the error travels along.
    Error = 3,
    /// A fragment without a transport header.
    Fragment = 4,
}

/// A parsed packet: where things lie and what they say.
#[derive(Clone, Copy, Default, Debug)]
pub struct View {
    /// Names the flow. The addresses are the packet's own, except for [`Kind::Error`].
    pub tuple: Tuple,
    pub src: Addr,
    pub dst: Addr,
    pub v4: bool,
    /// `src` and `dst` are this packet's.
    pub has_addresses: bool,
    pub kind: Kind,
    /// Offset of the transport header.
    pub l4: u16,
    /// Length of the IP packet in bytes, its header included.
    pub length: u16,
    /// [`Kind::Error`]: offsets of the reported packet's headers.
    pub inner_l3: u16,
    pub inner_l4: u16,
    pub ttl: u8,
    /// Protocol of the packet itself.
    pub proto: u8,
    /// ICMP: its type. TCP: its flags.
    pub flags: u8,
    /// It must not be cut on its way: DF is set, or it is IPv6.
    pub whole: bool,
    /// A fragment, the first one included.
    pub fragment: bool,
    /// Which datagram it is a piece of.
    pub fragment_id: u32,
}

impl View {
    /// About another packet, whether or not that could be read: never answered by an error (RFC 1122 section 3.2.2, RFC 4443
    /// section 2.4).
    #[inline(always)]
    pub(crate) const fn is_icmp_error(&self) -> bool {
        (self.proto == proto::ICMP || self.proto == proto::ICMPV6) && is_error(self.proto, self.flags)
    }

    /// A TCP segment that can open no connection.
    #[inline(always)]
    pub(crate) const fn is_midway(&self) -> bool {
        self.proto == proto::TCP && self.flags & (SYN | ACK | FIN | RST) != SYN
    }

    /// Names a packet that could not be read to its end by its addresses, as far as it was read.
    #[inline(always)]
    pub(crate) fn name_addresses(&mut self) {
        self.tuple = match self.has_addresses {
            true => Tuple::new(self.src, Be16::ZERO, self.dst, Be16::ZERO, 0),
            false => Tuple::default(),
        };
    }

    /// What could be the first packet of a flow between ports.
    #[inline(always)]
    pub(crate) const fn opens(&self) -> bool {
        matches!(self.kind, Kind::Ports) && !self.is_midway()
    }

    /// A TCP segment that belongs to a connection, and tells nothing of whether that lives (conntrack's INVALID).
    #[inline(always)]
    pub(crate) const fn is_stray(&self) -> bool {
        let opening_answered = self.flags & (SYN | ACK) == SYN | ACK;
        self.proto == proto::TCP && (opening_answered || self.flags & (FIN | RST) != 0)
    }

    /// What the packet's sender dialled.
    #[inline(always)]
    pub(crate) const fn destination(&self) -> (&Addr, Be16, u8) {
        (&self.dst, self.tuple.dport, self.proto)
    }
}

/// Reads a packet's headers into `view`, and keeps the first of them in `head`.
///
/// # Errors
/// [`Reason::Malformed`] for headers that are cut short or contradict themselves; [`Reason::MappedOnWire`].
#[inline(always)]
pub fn parse<P: Packet>(packet: &P, view: &mut View, head: &mut Head) -> Result<Shape, Reason> {
    view.has_addresses = false;
    if !head.read(packet) {
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

/// A frame that is too short for an IP packet.
#[inline(always)]
fn short<P: Packet>(packet: &P, head: &mut Head) -> Result<Shape, Reason> {
    let eth = head.read_frame(packet).ok_or(Reason::Malformed)?;
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
    if !head.read_v6(packet) {
        return Err(Reason::Malformed);
    }
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

/// Walks over IPv6 extension headers; returns the transport protocol, its offset and whether this is a later fragment.
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

/// Unreachable, time exceeded, parameter problem; packet too big (RFC 792, RFC 4443 section 3).
#[inline(always)]
const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        proto::ICMP => kind == 3 || kind == 11 || kind == 12,
        _ => kind >= 1 && kind <= 4,
    }
}

/// Reads the packet that an ICMP error quotes. A quote we can't use (a fragment, an unknown protocol, cut short) leaves the
/// kind at [`Kind::Other`].
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
