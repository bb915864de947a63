//! What the datapath asks of a packet, wherever it lies: the kernel's skb or frame, a `Vec<u8>` on the host.

use proxy_abi::{Be16, Tuple};

use crate::packets::{
    crc32c::Change,
    head::{Head, V6_HOPS},
};

/// What the datapath needs of a packet. Offsets count bytes from the Ethernet header.
pub trait Packet {
    /// Length in bytes, Ethernet header included.
    fn length(&self) -> u32;

    /// Whether it stands for several packets that the kernel has merged or is still to cut (GRO, GSO): on the
    /// wire each is shorter than this one.
    fn is_merged(&self) -> bool;

    /// The port of the socket that has sent it, of this node or of a pod here; 0: not known. None: no socket
    /// here has. Programs and rules on the way may have given the packet another.
    fn socket_port(&self) -> Option<Be16>;

    /// `N` bytes at `at`; none where the packet is shorter.
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;

    /// As [`Packet::load`], to where they are wanted.
    fn read<const N: usize>(&self, at: u32, into: &mut [u8; N]) -> Option<()>;

    /// Overwrites bytes whose effect on checksums is made good by the caller; none where the packet is
    /// shorter or the kernel has no memory.
    fn store<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()>;

    /// Overwrites bytes whose effect no checksum in the packet makes good; what the kernel knows of its sum
    /// follows.
    fn store_new<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()>;

    /// Adds `diff` (see `checksum`) to the IPv4 header checksum at `at`.
    fn fix_header_checksum(&mut self, at: u32, diff: u32) -> Option<()>;

    /// Adds both diffs (0: nothing changed) to the transport checksum at `at`.
    ///
    /// `pseudo`: of the pseudo header (RFC 9293 section 3.1), whose sum a packet whose checksum the device
    /// completes already holds. `zero_is_none`: UDP, where 0 means "no checksum" (RFC 768) and stays.
    fn fix_transport_checksum(&mut self, at: u32, pseudo: u32, diff: u32, zero_is_none: bool) -> Option<()>;

    /// Does all rounds of a [`Change`]: in the kernel by `bpf_loop`, since the verifier would walk each round
    /// of a loop.
    fn work_out(&self, change: &mut Change);

    /// Cuts or grows the packet at its end.
    fn resize(&mut self, length: u32) -> Option<()>;

    /// Counts a frame as addressed to this machine that was addressed to none of its devices; the stack would
    /// drop it.
    fn take_in(&mut self) -> Option<()>;

    /// Asks the kernel's routes and neighbours about a packet that is forwarded, of any length.
    fn way_out(&self, tuple: &Tuple, hop: &mut NextHop);

    /// Writes what has changed in a packet's first headers.
    #[inline(always)]
    fn write_head(&mut self, v4: bool, head: &Head) -> Option<()>
    where
        Self: Sized,
    {
        if v4 && head.ip_changed {
            // The header's own checksum makes up for its changes, and none covers the frame's addresses.
            return self.store(0, head.first::<{ Head::V4 }>());
        }
        if head.frame_changed {
            self.store(0, head.first::<12>())?;
        }
        if head.ip_changed {
            // No header checksum makes up for them, as IPv4's does: a sum over the whole packet, where the
            // device made one (CHECKSUM_COMPLETE), has to follow. Fixing the transport checksum took the
            // change out of it; newer kernels can be told not to (BPF_F_IPV6, Linux commit ead7f9b8de65), but
            // putting it back works on all of them.
            self.store_new(V6_HOPS as u32, head.last::<{ Head::V6 - V6_HOPS }>())?;
        }
        Some(())
    }
}

/// How the kernel's routes answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Way {
    /// The device and both Ethernet addresses are known.
    Found = 0,
    /// No route, or a destination on this machine.
    #[default]
    None = 1,
    /// The next hop's link-layer address is not known.
    NoNeighbour = 2,
    /// The packet does not fit the route's MTU.
    TooBig = 3,
}

/// The next station of a forwarded packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NextHop {
    /// Says which of the other fields hold something.
    pub way: Way,
    /// The device that leads there: of [`Way::Found`] and [`Way::NoNeighbour`].
    pub ifindex: u32,
    /// Bytes of an IP packet that fit, where a length was compared with them.
    pub mtu: u32,
    /// Destination and source of the Ethernet header.
    pub macs: [u8; 12],
}

impl NextHop {
    /// The device, where there is one to send to.
    #[inline(always)]
    pub(crate) const fn device(&self) -> Option<u32> {
        match self.way {
            // The neighbour is asked for by who sends.
            Way::Found | Way::NoNeighbour => Some(self.ifindex),
            Way::None | Way::TooBig => None,
        }
    }
}

/// What a program in front of the network stack needs besides: it writes frames itself.
pub trait Frame: Packet {
    /// Makes room for `count` bytes before the Ethernet header; none where the driver keeps no such room. All
    /// offsets count from the new beginning then.
    fn prepend(&mut self, count: u32) -> Option<()>;

    /// Takes `count` bytes before the Ethernet header away; all offsets count from the new beginning then.
    fn strip(&mut self, count: u32) -> Option<()>;

    /// Whether a socket of this machine is connected to the packet's sender, and the packet comes to it.
    fn is_for_connected_socket(&self, tuple: &Tuple) -> bool;

    /// Asks the kernel's routes and neighbours. `length`: bytes of the IP packet to compare with the MTU; 0:
    /// any length.
    fn next_hop(&self, tuple: &Tuple, length: u32, hop: &mut NextHop);
}
