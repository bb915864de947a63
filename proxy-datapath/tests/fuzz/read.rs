//! A reader of frames by the book (RFC 791, 8200, 9293, 768, 9260, 792, 4443), on slices: nothing beyond the
//! packet's own end is looked at.

use proxy_abi::{Addr, Be16, Tuple, proto};

const ETHERNET: usize = 14;
const EXTENSIONS: [u8; 3] = [0, 43, 60];
const FRAGMENT: u8 = 44;
/// So many extension headers a packet may have.
const MOST_EXTENSIONS: usize = 5;

#[derive(Debug)]
pub enum Frame {
    Broken,
    /// IPv6 with a mapped address in it.
    Mapped,
    Arp,
    Foreign,
    Ip(Ip),
}

/// An IP packet. Offsets count from the frame's start.
#[derive(Clone, Debug)]
pub struct Ip {
    pub v4: bool,
    pub src: Addr,
    pub dst: Addr,
    pub ttl: u8,
    pub proto: u8,
    pub header: usize,
    pub l4: usize,
    /// Behind the packet's last byte; what follows is the frame's padding.
    pub end: usize,
    /// It may not be cut into fragments on its way.
    pub whole: bool,
    pub piece: Option<Piece>,
    /// SCTP whose sum a device is still to make.
    pub unsummed: bool,
    pub body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    pub id: u32,
}

#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// `flags`: TCP's, else 0.
    Ports {
        sport: u16,
        dport: u16,
        flags: u8,
    },
    Echo {
        id: u16,
    },
    /// An ICMP error and what it quotes.
    Report(Quote),
    /// A fragment behind the first one.
    Later,
    /// `report`: an ICMP error about something that can't be made out. `doubtful`: the quote is shorter than
    /// RFC 792 asks for.
    Other {
        report: bool,
        doubtful: bool,
        icmp: Option<u8>,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Quote {
    pub l3: usize,
    pub l4: usize,
    pub src: Addr,
    pub dst: Addr,
    pub sport: u16,
    pub dport: u16,
    pub proto: u8,
}

pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn v4_at(bytes: &[u8], at: usize) -> Addr {
    Addr::from_v4([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn v6_at(bytes: &[u8], at: usize) -> Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    Addr::from_v6(octets)
}

pub fn frame(bytes: &[u8]) -> Frame {
    if bytes.len() < ETHERNET {
        return Frame::Broken;
    }
    match word(bytes, 12) {
        0x0800 => v4(bytes).map_or(Frame::Broken, Frame::Ip),
        0x86dd => v6(bytes),
        0x0806 => Frame::Arp,
        _ => Frame::Foreign,
    }
}

fn v4(bytes: &[u8]) -> Option<Ip> {
    let packet = &bytes[ETHERNET..];
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return None;
    }
    let (header, length) = (usize::from(packet[0] & 15) * 4, usize::from(word(packet, 2)));
    if header < 20 || length < header || length > packet.len() {
        return None;
    }
    let (bits, id) = (word(packet, 6), word(packet, 4));
    let piece = (bits & 0x3fff != 0).then(|| Piece { id: u32::from(id.to_be()) });
    let mut ip = Ip {
        v4: true,
        src: v4_at(packet, 12),
        dst: v4_at(packet, 16),
        ttl: packet[8],
        proto: packet[9],
        header,
        l4: ETHERNET + header,
        end: ETHERNET + length,
        whole: bits & 0x4000 != 0,
        piece,
        unsummed: false,
        body: Body::Later,
    };
    if bits & 0x1fff == 0 {
        ip.body = body(&bytes[..ip.end], &ip)?;
    }
    ip.unsummed = is_unsummed(bytes, &ip);
    Some(ip)
}

fn v6(bytes: &[u8]) -> Frame {
    let packet = &bytes[ETHERNET..];
    if packet.len() < 40 || packet[0] >> 4 != 6 || usize::from(word(packet, 4)) + 40 > packet.len() {
        return Frame::Broken;
    }
    let (src, dst) = (v6_at(packet, 8), v6_at(packet, 24));
    if src.is_v4() || dst.is_v4() {
        return Frame::Mapped;
    }
    let mut ip = Ip {
        v4: false,
        src,
        dst,
        ttl: packet[7],
        proto: packet[6],
        header: 40,
        l4: ETHERNET + 40,
        end: ETHERNET + 40 + usize::from(word(packet, 4)),
        whole: true,
        piece: None,
        unsummed: false,
        body: Body::Later,
    };
    match rest_of_v6(&bytes[..ip.end], &mut ip) {
        Some(()) => {
            ip.unsummed = is_unsummed(bytes, &ip);
            Frame::Ip(ip)
        }
        None => Frame::Broken,
    }
}

fn rest_of_v6(bytes: &[u8], ip: &mut Ip) -> Option<()> {
    for _ in 0..=MOST_EXTENSIONS {
        if EXTENSIONS.contains(&ip.proto) {
            let header = bytes.get(ip.l4..ip.l4 + 2)?;
            (ip.proto, ip.l4) = (header[0], ip.l4 + (usize::from(header[1]) + 1) * 8);
        } else if ip.proto == FRAGMENT {
            let header = bytes.get(ip.l4..ip.l4 + 8)?;
            let id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
            (ip.proto, ip.l4, ip.piece) = (header[0], ip.l4 + 8, Some(Piece { id }));
            if word(header, 2) >> 3 != 0 {
                return Some(());
            }
        } else {
            if ip.l4 > bytes.len() {
                return None;
            }
            ip.body = body(bytes, ip)?;
            return Some(());
        }
    }
    None
}

fn is_unsummed(bytes: &[u8], ip: &Ip) -> bool {
    ip.proto == proto::SCTP && matches!(ip.body, Body::Ports { .. }) && bytes[ip.l4 + 8..ip.l4 + 12] == [0; 4]
}

/// What the transport header says; none where it is cut short or contradicts itself.
fn body(bytes: &[u8], ip: &Ip) -> Option<Body> {
    let at = bytes.get(ip.l4..)?;
    let ports = |flags| Body::Ports { sport: word(at, 0), dport: word(at, 2), flags };
    let enough = |length| at.len() >= length;
    match ip.proto {
        proto::TCP => {
            let header = enough(20).then(|| usize::from(at[12] >> 4) * 4)?;
            (header >= 20 && enough(header)).then(|| ports(at[13]))
        }
        proto::UDP => enough(8).then(|| ports(0)),
        proto::SCTP => enough(12).then(|| ports(0)),
        proto::ICMP | proto::ICMPV6 => enough(8).then(|| icmp(bytes, ip, at)),
        _ => Some(Body::Other { report: false, doubtful: false, icmp: None }),
    }
}

fn is_echo(protocol: u8, kind: u8) -> bool {
    if protocol == proto::ICMP { [0, 8].contains(&kind) } else { [128, 129].contains(&kind) }
}

fn icmp(bytes: &[u8], ip: &Ip, at: &[u8]) -> Body {
    let kind = at[0];
    let report = if ip.proto == proto::ICMP { [3, 11, 12].contains(&kind) } else { (1..=4).contains(&kind) };
    if is_echo(ip.proto, kind) {
        return Body::Echo { id: word(at, 4) };
    }
    let other = |doubtful| Body::Other { report, doubtful, icmp: Some(kind) };
    if !report {
        return other(false);
    }
    // The wrong ICMP for the family quotes nobody knows what.
    if (ip.proto == proto::ICMP) != ip.v4 {
        return other(true);
    }
    match quote(bytes, ip.l4 + 8, ip.v4) {
        Some(Some(quote)) => Body::Report(quote),
        Some(None) => other(true),
        None => other(false),
    }
}

/// None: can't be made out. Some(None): shorter than it must be, so that nobody may rely on what becomes of
/// it.
fn quote(bytes: &[u8], l3: usize, v4: bool) -> Option<Option<Quote>> {
    let packet = bytes.get(l3..)?;
    let (l4, src, dst, protocol) = if v4 {
        if packet.len() < 20 {
            return Some(None);
        }
        let header = usize::from(packet[0] & 15) * 4;
        if packet[0] >> 4 != 4 || header < 20 || word(packet, 6) & 0x1fff != 0 {
            return None;
        }
        (l3 + header, v4_at(packet, 12), v4_at(packet, 16), packet[9])
    } else {
        if packet.len() < 40 {
            return Some(None);
        }
        let (src, dst) = (v6_at(packet, 8), v6_at(packet, 24));
        if packet[0] >> 4 != 6 || src.is_v4() || dst.is_v4() {
            return None;
        }
        (l3 + 40, src, dst, packet[6])
    };
    let known = [proto::TCP, proto::UDP, proto::SCTP, proto::ICMP, proto::ICMPV6].contains(&protocol);
    if !known {
        return None;
    }
    let Some(at) = bytes.get(l4..).filter(|at| at.len() >= 8) else { return Some(None) };
    let (sport, dport) = match protocol {
        proto::ICMP | proto::ICMPV6 if !is_echo(protocol, at[0]) => return None,
        proto::ICMP | proto::ICMPV6 => (word(at, 4), word(at, 4)),
        _ => (word(at, 0), word(at, 2)),
    };
    Some(Some(Quote { l3, l4, src, dst, sport, dport, proto: protocol }))
}

impl Ip {
    /// Names the connection that the packet belongs to, in its direction; an ICMP error's goes the other way
    /// than what it quotes.
    pub fn tuple(&self) -> Tuple {
        let of =
            |sport, dport| Tuple::new(self.src, Be16::new(sport), self.dst, Be16::new(dport), self.proto);
        match self.body {
            Body::Ports { sport, dport, .. } => of(sport, dport),
            Body::Echo { id } => of(id, id),
            Body::Later | Body::Other { .. } => of(0, 0),
            Body::Report(q) => Tuple::new(q.dst, Be16::new(q.dport), q.src, Be16::new(q.sport), q.proto),
        }
    }

    pub fn flags(&self) -> u8 {
        match self.body {
            Body::Ports { flags, .. } => flags,
            _ => 0,
        }
    }

    pub fn is_report(&self) -> bool {
        matches!(self.body, Body::Report(_) | Body::Other { report: true, .. })
    }
}
