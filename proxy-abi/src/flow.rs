use crate::{Addr, Be16};
use bytemuck::{Pod, Zeroable};

/// The five numbers that name a flow in one direction. For ICMP echo both ports hold the identifier.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct Tuple {
    /// Who sent the packet.
    pub src: Addr,
    /// Whom it is addressed to.
    pub dst: Addr,
    /// Port of `src`; 0 where the protocol has no ports.
    pub sport: Be16,
    /// Port of `dst`; 0 where the protocol has no ports.
    pub dport: Be16,
    /// IANA's protocol number, see [`crate::proto`]. No flow has 0.
    pub proto: u8,
    /// Always 0: maps compare keys byte by byte.
    pub reserved: [u8; 3],
}

impl Tuple {
    /// From source to destination.
    #[inline(always)]
    pub const fn new(src: Addr, sport: Be16, dst: Addr, dport: Be16, proto: u8) -> Tuple {
        Tuple { src, dst, sport, dport, proto, reserved: [0; 3] }
    }

    /// See [`Addr::same`].
    #[inline(always)]
    pub const fn same(&self, other: &Tuple) -> bool {
        self.src.same(&other.src)
            && self.dst.same(&other.dst)
            && self.sport.raw() == other.sport.raw()
            && self.dport.raw() == other.dport.raw()
            && self.proto == other.proto
    }

    /// Writes the same flow seen from the other end to `other`, without the detour over the stack that a
    /// value takes.
    #[inline(always)]
    pub const fn flip_to(&self, other: &mut Tuple) {
        other.src = self.dst;
        other.dst = self.src;
        other.sport = self.dport;
        other.dport = self.sport;
        other.proto = self.proto;
        other.reserved = [0; 3];
    }

    /// The same flow seen from the other end.
    #[inline(always)]
    pub const fn flip(&self) -> Tuple {
        Tuple::new(self.dst, self.dport, self.src, self.sport, self.proto)
    }
}

/// Value of `FLOWS`, by the [`Tuple`] of the packet as it meets us.
///
/// A translated flow is two entries: forward `K → T` and reverse `T.flip() → K.flip()`, where `T` is the
/// tuple after translation. Each entry names its twin: `entry.to.flip()`. The reverse entry goes in first,
/// with `BPF_NOEXIST`: that insertion *is* the allocation of the SNAT port. Entries hold addresses, never
/// slot numbers.
///
/// A flow that is not established has a seat in `FLOW_QUEUE`, an array that is gone round: who takes the seat
/// next removes the flow that had it, unless that is established by then.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Flow {
    /// What the packet's tuple becomes.
    pub to: Tuple,
    /// The service port this flow was balanced by; 0: masquerade only.
    pub service_id: u32,
    /// `bpf_ktime_get_coarse_ns / 1e9` of the last packet in this direction.
    pub seen_s: u32,
    /// Bits of [`flow_flag`].
    pub flags: u16,
    /// One of [`flow_state`]; kept alike in both entries.
    pub state: u8,
    /// Always 0.
    pub reserved: u8,
    /// Packets in this direction, saturating.
    pub packets: u16,
    /// The element of `FLOW_QUEUE` that was taken last for this flow. Of the forward entry.
    pub seat: u16,
    /// Where its packets go, so that the next one of this second need not ask.
    pub path: Path,
}

/// Where packets of a flow go in one direction, once they are translated: what tables and routes said in the
/// second [`Flow::seen_s`]. The first packet of another second forgets it and asks again.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Path {
    /// The node that a pod elsewhere lives on.
    pub node: Addr,
    /// Destination and source of the Ethernet header; of a pod on this node the destination only.
    pub macs: [u8; 12],
    /// The device that leads there.
    pub ifindex: u32,
    /// Bytes of an IP packet that the route takes; 0: not asked for.
    pub mtu: u16,
    /// What kind of place it is: the datapath's own numbers.
    pub place: u8,
    /// Bits of [`path_known`].
    pub known: u8,
}

/// Bits of [`Path::known`].
pub mod path_known {
    /// `place`, and what belongs to it: `node`, or device and address of a pod on this node.
    pub const PLACE: u8 = 1 << 0;
    /// `ifindex`, `macs` and `mtu` are the next station's.
    pub const NEXT_HOP: u8 = 1 << 1;
}

/// Bits of [`Flow::flags`].
pub mod flow_flag {
    /// Set on the reverse entry.
    pub const REVERSE: u16 = 1 << 0;
    /// Destination (forward) was translated.
    pub const DNAT: u16 = 1 << 1;
    /// Source (forward) was translated.
    pub const SNAT: u16 = 1 << 2;
    /// The client came in through the uplink: answers go back out of it.
    pub const FROM_UPLINK: u16 = 1 << 3;
    /// TCP: a FIN was seen in this direction.
    pub const FIN: u16 = 1 << 4;
    /// The packet goes to its backend inside another, untouched, and the answer goes straight to the client:
    /// there is no reverse entry here (direct server return).
    pub const DIRECT: u16 = 1 << 5;
    /// TCP: an RST was the last that was seen in this direction.
    pub const RESET: u16 = 1 << 6;
    /// Has been established: it is so again when a reset turns out to be nothing.
    pub const SETTLED: u16 = 1 << 7;
}

/// Values of [`Flow::state`].
pub mod flow_state {
    /// Not yet more than first packets: may be evicted.
    pub const EMBRYONIC: u8 = 0;
    /// Never evicted.
    pub const ESTABLISHED: u8 = 1;
    /// TCP: FIN in both directions or RST in one. May be evicted.
    pub const CLOSING: u8 = 2;
}

/// Element of `FLOW_QUEUE`: whose seat it is. All zero: nobody's.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Seat {
    /// Of the forward entry.
    pub key: Tuple,
}

impl Seat {
    /// Elements of `FLOW_QUEUE`: as many as [`Flow::seat`] can name.
    pub const COUNT: u32 = 65_536;

    /// How many of them are used where `FLOWS` has this many elements, a power of two: flows that may be
    /// evicted, of two entries each, get no more than half of the table.
    pub const fn in_use(flows: u32) -> u32 {
        let seats = if flows / 4 < Seat::COUNT { flows / 4 } else { Seat::COUNT };
        if seats == 0 { 0 } else { 1 << seats.ilog2() }
    }
}

/// Key of `FRAGMENTS` (LRU): the pieces of one datagram (RFC 791 section 2.3, RFC 8200 section 4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct FragmentKey {
    /// The addresses as they stand in the packet, before any translation.
    pub src: Addr,
    /// See `src`.
    pub dst: Addr,
    /// As it lies in the packet; 16 bits of it for IPv4.
    pub id: u32,
    /// Of what was cut into pieces: IANA's number, see [`crate::proto`].
    pub proto: u8,
    /// Always 0.
    pub reserved: [u8; 3],
}

/// Value of `FRAGMENTS`: what only the first piece says.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct FragmentPorts {
    /// The source port as it stands in the first piece, of ICMP echo the identifier.
    pub sport: Be16,
    /// The same of their destination.
    pub dport: Be16,
}

const _: () = assert!(size_of::<FragmentKey>() == 40);
const _: () = assert!(size_of::<FragmentPorts>() == 4);
const _: () = assert!(size_of::<Tuple>() == 40);
const _: () = assert!(size_of::<Path>() == 36);
/// With its key and what the kernel adds (56 bytes) an entry fills 192 bytes, the size that the kernel takes
/// for it.
const _: () = assert!(size_of::<Flow>() == 92);
