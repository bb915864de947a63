use crate::{Addr, Be16};
use bytemuck::{Pod, Zeroable};

/// Key of `FRONTENDS`: what a client dials.
///
/// `port` 0 with `proto` 0 and kind `ADDRESS` marks an address as in use: a packet to one of its other ports is
/// rejected (RST, ICMP port unreachable) where an address of the service range that is not in use is dropped.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Pod, Zeroable)]
pub struct FrontendKey {
    /// [`Addr::UNSPECIFIED`] for kind `NODE_PORT`.
    pub addr: Addr,
    pub port: Be16,
    pub proto: u8,
    pub kind: u8,
}

/// Values of [`FrontendKey::kind`].
pub mod frontend_kind {
    /// ClusterIP, ExternalIP, LoadBalancer IP.
    pub const ADDRESS: u8 = 0;
    /// A NodePort on every address of this node (`ENDPOINTS` entries flagged `NODE`). IPv4.
    pub const NODE_PORT_V4: u8 = 1;
    /// The same for IPv6 (a NodePort's backends differ by family).
    pub const NODE_PORT_V6: u8 = 2;
}

/// Value of `FRONTENDS`: a contiguous run of `count` elements of `SLOTS`. One write of this value moves a frontend from
/// one set of backends to the next.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Frontend {
    /// Never 0 for a real service port.
    pub service_id: u32,
    /// Raised with every new run of this service port; each slot repeats it.
    pub generation: u32,
    pub first: u32,
    /// 0: no endpoints. Clients are refused, unless flagged `DROP_IF_EMPTY`.
    pub count: u32,
    pub flags: u32,
    /// ClientIP affinity in seconds; 0: none.
    pub affinity_s: u32,
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flag {
    pub const CLUSTER_IP: u32 = 1 << 0;
    pub const NODE_PORT: u32 = 1 << 1;
    pub const EXTERNAL_IP: u32 = 1 << 2;
    pub const LOAD_BALANCER: u32 = 1 << 3;
    /// Only this node's endpoints are in the run and the client's address is kept (externalTrafficPolicy: Local).
    pub const LOCAL_ONLY: u32 = 1 << 4;
    /// An empty run drops instead of rejecting (a Local policy with endpoints elsewhere).
    pub const DROP_IF_EMPTY: u32 = 1 << 5;
}

/// Element of the array `SLOTS`, by index (u32): a backend. `service_id` 0: free. A reader whose frontend's
/// `service_id` or `generation` differs has met a recycled slot: it reads the frontend again, once.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Slot {
    pub addr: Addr,
    pub port: Be16,
    pub flags: u16,
    pub service_id: u32,
    pub generation: u32,
}

/// Bits of [`Slot::flags`].
pub mod slot_flag {
    /// Terminating but still serving (KEP-1669).
    pub const TERMINATING: u16 = 1 << 0;
}

const _: () = assert!(size_of::<FrontendKey>() == 20);
const _: () = assert!(size_of::<Frontend>() == 24);
const _: () = assert!(size_of::<Slot>() == 28);
