use bytemuck::{Pod, Zeroable};

use crate::Be16;

/// Value of `OWN_PORTS`, an array: which ports of the node's own addresses translated flows have ever had.
/// What has no mark here is the stack's alone, and told by one look. Marks are set by the programs and never
/// taken away: one too many costs a look into the flow tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct OwnPorts {
    /// 1: marked. One byte each, so that CPUs need not agree on a word.
    pub marks: [u8; OwnPorts::EACH as usize],
}

/// What a port was to a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum OwnPort {
    /// Clients outside dial it at the node: a NodePort, or a service's port on an address that is the node's,
    /// too.
    Asked = 0,
    /// What comes from it may be an answer to a translated flow: a backend in the host's network listens to
    /// it, or one that a pod was sent to, or the node itself has opened something from it while a service had
    /// it, or while it was among the ports that flows are given.
    Answers = 1,
}

impl OwnPorts {
    /// Ports in one element; a power of two.
    pub const EACH: u32 = 64;
    /// Elements of the map.
    pub const COUNT: u32 = 2 * (1 << 16) / OwnPorts::EACH;

    /// The element, and the place in it. Of all protocols together.
    #[inline(always)]
    pub const fn place(kind: OwnPort, port: Be16) -> (u32, usize) {
        let port = port.get() as u32;
        (kind as u32 * ((1 << 16) / OwnPorts::EACH) + port / OwnPorts::EACH, (port % OwnPorts::EACH) as usize)
    }
}

const _: () = assert!(size_of::<OwnPorts>() == 64);
