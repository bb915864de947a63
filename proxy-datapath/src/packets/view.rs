//! What a packet's headers say: plain data, which [`parse`](crate::parse) fills in.

use proxy_abi::{Addr, Be16, Tuple, proto};

pub(crate) const ETH: u32 = 14;
pub(crate) const ETHERTYPE_V4: [u8; 2] = [0x08, 0x00];
pub(crate) const ETHERTYPE_V6: [u8; 2] = [0x86, 0xdd];
pub(crate) const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// TCP flag bits (RFC 9293 section 3.1).
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// What kind of frame it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Shape {
    /// IPv4 or IPv6, read to the end of its transport header or to where that is missing.
    Ip = 0,
    /// Passed on as it is; IPv6's neighbour discovery is [`Shape::Ip`].
    Arp = 1,
    /// Some other EtherType.
    Foreign = 2,
    /// None that can be read: [`steps::parse`](crate::steps::parse) says so, `packets::parse` by an error.
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
    /// An ICMP error about a flow of ours. The tuple is the reported packet's, seen from its receiver: it
    /// names the flow that the error travels along.
    Error = 3,
    /// A fragment without a transport header.
    Fragment = 4,
}

/// A parsed packet: where things lie and what they say.
#[derive(Clone, Copy, Default, Debug)]
pub struct View {
    /// Names the flow. The addresses are the packet's own, except for [`Kind::Error`].
    pub tuple: Tuple,
    /// The packet's own source, of [`Kind::Error`] too.
    pub src: Addr,
    /// The packet's own destination, of [`Kind::Error`] too.
    pub dst: Addr,
    /// IPv4, not IPv6.
    pub v4: bool,
    /// `src` and `dst` are this packet's.
    pub has_addresses: bool,
    /// What stands behind the IP header: whether the tuple's ports mean something.
    pub kind: Kind,
    /// Offset of the transport header.
    pub l4: u16,
    /// Length of the IP packet in bytes, its header included.
    pub length: u16,
    /// [`Kind::Error`]: offsets of the reported packet's headers.
    pub inner_l3: u16,
    /// See `inner_l3`.
    pub inner_l4: u16,
    /// Hops that are left: TTL or hop limit, before this node has taken one off.
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
    /// About another packet, whether or not that could be read: never answered by an error (RFC 1122 section
    /// 3.2.2, RFC 4443 section 2.4).
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

    /// A TCP segment that belongs to a connection, and tells nothing of whether that lives (conntrack's
    /// INVALID).
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

/// Unreachable, time exceeded, parameter problem; packet too big (RFC 792, RFC 4443 section 3).
#[inline(always)]
pub(crate) const fn is_error(protocol: u8, kind: u8) -> bool {
    match protocol {
        proto::ICMP => kind == 3 || kind == 11 || kind == 12,
        _ => kind >= 1 && kind <= 4,
    }
}
