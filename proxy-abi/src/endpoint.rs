use crate::Addr;
use bytemuck::{Pod, Zeroable};

/// Value of `ENDPOINTS`, by [`Addr`]: what on this node answers to an address. Pods' entries are written by
/// the CNI plugin, the node's own by the agent.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Endpoint {
    /// The host side of the pod's veth pair; 0 for the node's own addresses.
    pub ifindex: u32,
    /// The address of the pod's own end of the pair.
    pub mac: [u8; 6],
    /// Bits of [`endpoint_flag`].
    pub flags: u16,
    /// Always 0.
    pub reserved: u32,
}

/// Bits of [`Endpoint::flags`].
pub mod endpoint_flag {
    /// A pod's, reached through `ifindex` and `mac`.
    pub const POD: u16 = 1 << 0;
    /// An address of the node itself.
    pub const NODE: u16 = 1 << 1;
    /// The router address of a pod CIDR of this node.
    pub const ROUTER: u16 = 1 << 2;
    /// NodePorts are served on this address of the node.
    pub const NODE_PORT: u16 = 1 << 3;
}

/// Value of `LINKS`, by ifindex (u32) of the host side of a pod's veth pair: who may speak on it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Link {
    /// [`Addr::UNSPECIFIED`] where the pod has no address of the family.
    pub v4: Addr,
    /// As `v4`.
    pub v6: Addr,
    /// The address of the pod's own end of the pair, the only Ethernet source that it may use.
    pub mac: [u8; 6],
    /// Always 0: no bit has a meaning yet.
    pub flags: u16,
}

/// Value of `UPLINKS`, by ifindex (u32): a device that leads out of the node, and the node's addresses on it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Uplink {
    /// [`Addr::UNSPECIFIED`] where the device has no address of the family.
    pub v4: Addr,
    /// As `v4`.
    pub v6: Addr,
}

impl Uplink {
    /// The address of a family.
    #[inline(always)]
    pub const fn node(&self, v4: bool) -> &Addr {
        if v4 { &self.v4 } else { &self.v6 }
    }
}

/// Key of the LPM trie `POD_CIDRS`. `prefix_len` counts bits of the 128-bit form (an IPv4 /24 is 120).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Pod, Zeroable)]
pub struct PodCidrKey {
    /// 0 to 128; of an IPv4 range 96 or more.
    pub prefix_len: u32,
    /// Bits behind `prefix_len` are 0.
    pub addr: Addr,
}

/// Value of `POD_CIDRS`: the node that a pod CIDR belongs to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct PodCidr {
    /// Outer destination. `TUNNEL_PEERS` holds the same addresses as keys (value u32, reserved).
    pub node: Addr,
    /// Bits of [`pod_cidr_flag`].
    pub flags: u32,
}

/// Bits of [`PodCidr::flags`].
pub mod pod_cidr_flag {
    /// This node's own pod CIDR: an address in it that is no endpoint is dropped.
    pub const LOCAL: u32 = 1 << 0;
}

const _: () = assert!(size_of::<Endpoint>() == 16);
const _: () = assert!(size_of::<Link>() == 40);
const _: () = assert!(size_of::<Uplink>() == 32);
const _: () = assert!(size_of::<PodCidrKey>() == 20);
const _: () = assert!(size_of::<PodCidr>() == 20);
