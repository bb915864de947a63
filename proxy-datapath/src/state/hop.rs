//! Where a packet goes.

use proxy_abi::Addr;

/// Where an address lives, seen from this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Place {
    /// Neither this node nor any pod.
    #[default]
    Outside = 0,
    /// A pod of this node.
    Pod = 1,
    /// The node itself: one of its addresses or its router address.
    Node = 2,
    /// A pod of another node, through the tunnel.
    Remote = 3,
    /// In this node's pod CIDR, but no pod has it.
    Nobody = 4,
    /// A remote pod without the tunnel: the kernel's routes know the way.
    Routed = 5,
}

impl Place {
    /// By its number; what is none passes for [`Place::Nobody`].
    #[inline(always)]
    pub(crate) const fn of(number: u8) -> Place {
        match number {
            0 => Place::Outside,
            1 => Place::Pod,
            2 => Place::Node,
            3 => Place::Remote,
            5 => Place::Routed,
            _ => Place::Nobody,
        }
    }
}

/// A place and what it takes to get there.
#[derive(Clone, Copy, Default, Debug)]
pub struct Hop {
    /// Says which of the other fields hold something.
    pub place: Place,
    /// [`Place::Pod`]: the host side of its veth pair.
    pub ifindex: u32,
    /// [`Place::Pod`]: its own address.
    pub mac: [u8; 6],
    /// [`Place::Remote`]: outer destination.
    pub node: Addr,
}
