use crate::{Addr, Be16};
use bytemuck::{Pod, Zeroable};

/// Key of `FRONTENDS`: what a client dials.
///
/// `port` 0 with `proto` 0 and kind `ADDRESS` marks an address as in use: a packet to one of its other ports
/// is rejected (RST, ICMP port unreachable) where an address of the service range that is not in use is
/// dropped.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct FrontendKey {
    /// [`Addr::UNSPECIFIED`] for kind `NODE_PORT`.
    pub addr: Addr,
    /// Never 0, but for the mark of an address in use.
    pub port: Be16,
    /// IANA's number, see [`crate::proto`].
    pub proto: u8,
    /// One of [`frontend_kind`].
    pub kind: u8,
}

/// Values of [`FrontendKey::kind`].
pub mod frontend_kind {
    /// ClusterIP, ExternalIP, LoadBalancer IP.
    pub const ADDRESS: u8 = 0;
    /// A NodePort on the addresses of this node that serve them (`ENDPOINTS` entries flagged `NODE_PORT`).
    /// IPv4.
    pub const NODE_PORT_V4: u8 = 1;
    /// The same for IPv6 (a NodePort's backends differ by family).
    pub const NODE_PORT_V6: u8 = 2;
}

/// A stretch of consecutive elements of `SLOTS`, out of which a backend is drawn.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Window {
    /// Index of its first element in `SLOTS`.
    pub first: u32,
    /// 0: no endpoints. Clients are refused, unless the frontend is flagged `DROP_IF_EMPTY`.
    pub count: u32,
}

impl Window {
    /// The element after the last.
    pub const fn end(&self) -> u32 {
        self.first.wrapping_add(self.count)
    }
}

/// Value of `FRONTENDS`: two windows onto one contiguous run of elements of `SLOTS`, which they cover
/// together. One write of this value moves a frontend from one set of backends to the next.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Frontend {
    /// Never 0 for a real service port.
    pub service_id: u32,
    /// Raised with every new run of this service port; each slot repeats it.
    pub generation: u32,
    /// For clients outside of the cluster.
    pub outside: Window,
    /// For pods and nodes. Differs from `outside` where the policy `Local` binds outsiders only.
    pub inside: Window,
    /// Bits of [`frontend_flag`].
    pub flags: u32,
    /// ClientIP affinity in seconds; 0: none.
    pub affinity_s: u32,
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flag {
    /// What kind of Service address it is, one of the four: for people (`skerry service list`), the programs
    /// do not ask.
    pub const CLUSTER_IP: u32 = 1 << 0;
    /// See `CLUSTER_IP`. The port on the node's own addresses.
    pub const NODE_PORT: u32 = 1 << 1;
    /// See `CLUSTER_IP`. One of `spec.externalIPs`.
    pub const EXTERNAL_IP: u32 = 1 << 2;
    /// See `CLUSTER_IP`. One of `status.loadBalancer.ingress`, or a balancer's virtual address.
    pub const LOAD_BALANCER: u32 = 1 << 3;
    /// Outsiders get only this node's endpoints, and the client's address is kept (externalTrafficPolicy:
    /// Local).
    pub const LOCAL_ONLY: u32 = 1 << 4;
    /// An empty window drops instead of rejecting (a Local policy with endpoints elsewhere).
    pub const DROP_IF_EMPTY: u32 = 1 << 5;
    /// Only sources in `SOURCE_RANGES` are served (loadBalancerSourceRanges).
    pub const SOURCE_RANGES: u32 = 1 << 6;
    /// The windows are Maglev tables: the client's address and port name the element.
    pub const MAGLEV: u32 = 1 << 7;
    /// Direct server return: packets go to the backend inside another packet, and the answer goes straight to
    /// the client. On a node it is the tunnel's (see `DIRECT_MAC_TAG`), and backends of this node are reached
    /// as ever; the balancer in front of nodes makes one of its own (RFC 2003, RFC 2473).
    pub const DIRECT: u32 = 1 << 8;
}

/// Element of the array `SLOTS`, by index (u32): a backend. `service_id` 0: free. A reader whose frontend's
/// `service_id` or `generation` differs has met a recycled slot: it reads the frontend again, once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Slot {
    /// The backend's address, of the frontend's family.
    pub addr: Addr,
    /// The port that the backend listens to (targetPort).
    pub port: Be16,
    /// Bits of [`slot_flag`].
    pub flags: u16,
    /// Of the service port whose run it stands in; 0: free.
    pub service_id: u32,
    /// As [`Frontend::generation`] of the run it was written for.
    pub generation: u32,
}

/// Bits of [`Slot::flags`].
pub mod slot_flag {
    /// Terminating but still serving (KEP-1669).
    pub const TERMINATING: u16 = 1 << 0;
}

const _: () = assert!(size_of::<FrontendKey>() == 20);
/// Key of `AFFINITY` (LRU): a client of a service port with sessionAffinity ClientIP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct AffinityKey {
    /// The client's address; for sockets, whose source is not known when they dial,
    /// [`AffinityKey::of_netns`].
    pub client: Addr,
    /// [`Frontend::service_id`]: each service port has its own clients.
    pub service_id: u32,
}

impl AffinityKey {
    /// A network namespace in the place of an address: in a range that is no unicast address (`ff00::/8`).
    #[inline(always)]
    pub const fn of_netns(cookie: u64) -> Addr {
        Addr([u32::MAX, 0, cookie as u32, (cookie >> 32) as u32])
    }
}

/// Value of `AFFINITY`: the backend that the client's next connections go to, while it is a member of its
/// service port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Affinity {
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port.
    pub port: Be16,
    /// Always 0.
    pub reserved: u16,
    /// `bpf_ktime_get_coarse_ns / 1e9` of the client's last new connection.
    pub seen_s: u32,
}

/// Key of `MEMBERS`: a backend of a service port with affinity, so that one look tells whether a client may
/// go on using it. The value (u32) has the bits of [`member_of`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct Member {
    /// [`Frontend::service_id`].
    pub service_id: u32,
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port.
    pub port: Be16,
    /// Always 0: maps compare keys byte by byte.
    pub reserved: u16,
}

impl Member {
    /// With `reserved` 0, as all who look it up have it.
    #[inline(always)]
    pub const fn new(service_id: u32, addr: Addr, port: Be16) -> Member {
        Member { service_id, addr, port, reserved: 0 }
    }
}

/// The windows that a [`Member`] stands in.
pub mod member_of {
    /// [`outside`](crate::Frontend::outside).
    pub const OUTSIDE: u32 = 1 << 0;
    /// [`inside`](crate::Frontend::inside).
    pub const INSIDE: u32 = 1 << 1;
}

/// Who may use a service port's load-balancer addresses.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct SourceOf {
    /// [`Frontend::service_id`], in the machine's byte order: looked up whole, never by a prefix of it.
    pub service_id: u32,
    /// The client's address, or the range's with the bits behind its prefix 0.
    pub addr: Addr,
}

/// Key of the LPM trie `SOURCE_RANGES` (value u32, reserved). `prefix_len` counts the service id's 32 bits
/// and those of the 128-bit form of the address (an IPv4 /24 is 152).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct SourceRangeKey {
    /// 32 (every client) to 160 (one address).
    pub prefix_len: u32,
    /// Whose range it is, and its address.
    pub of: SourceOf,
}

impl SourceRangeKey {
    /// `len`: bits of the 128-bit form.
    pub const fn new(service_id: u32, addr: Addr, len: u32) -> SourceRangeKey {
        SourceRangeKey { prefix_len: u32::BITS + len, of: SourceOf { service_id, addr } }
    }
}

const _: () = assert!(size_of::<Frontend>() == 32);
const _: () = assert!(size_of::<AffinityKey>() == 20);
const _: () = assert!(size_of::<Affinity>() == 24);
const _: () = assert!(size_of::<Member>() == 24);
const _: () = assert!(size_of::<SourceRangeKey>() == 24);
const _: () = assert!(size_of::<Slot>() == 28);
