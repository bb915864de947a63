//! The contract between the kernel programs and everything that writes or reads their maps.
//!
//! `no_std`, no dependencies but `bytemuck`. Every key and value is `#[repr(C)]`, derives `Pod` (a layout
//! with padding does not compile) and has its size asserted; byte order is in the type ([`Be16`], [`Addr`]).
//! A change of any layout, map name or meaning is a change of [`ABI_VERSION`].
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod addr;
mod endpoint;
mod facts;
mod flow;
mod frontend;
mod own_ports;
mod pins;
mod reason;
mod socket;
mod timeout;

pub use addr::{Addr, Be16};
pub use endpoint::{Endpoint, Link, PodCidr, PodCidrKey, Uplink, endpoint_flag, pod_cidr_flag};
pub use facts::{Facts, Prefix, facts_flag};
pub use flow::{Flow, FragmentKey, FragmentPorts, Path, Seat, Tuple, flow_flag, flow_state, path_known};
pub use frontend::{
    Affinity, AffinityKey, Frontend, FrontendKey, Member, Slot, SourceOf, SourceRangeKey, Window,
    frontend_flag, frontend_kind, member_of, slot_flag,
};
pub use own_ports::{OwnPort, OwnPorts};
pub use pins::{MAPS, MapSpec, PIN_ROOT, PROGRAMS, map, prog};
pub use reason::{Counter, DropEvent, LOST_EVENTS, Reason};
pub use socket::{Peer, SocketKey, SocketOrigin, socket_flag};
pub use timeout::idle_s;

/// Raised by one with every change of a layout, a map's name or a field's meaning (a meaning that changes
/// without the layout gets a new map). The agent and the CNI plugin compare it with [`Facts::abi_version`] in
/// the pinned `CONFIG` map before they touch anything else.
pub const ABI_VERSION: u32 = 6;

/// IP protocol numbers (IANA) that the tables know.
pub mod proto {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 9260.
    pub const SCTP: u8 = 132;

    /// As people write it; `None` for a protocol that the programs do not know.
    pub const fn name(number: u8) -> Option<&'static str> {
        match number {
            ICMP => Some("icmp"),
            TCP => Some("tcp"),
            UDP => Some("udp"),
            ICMPV6 => Some("icmpv6"),
            SCTP => Some("sctp"),
            _ => None,
        }
    }
}

/// Inner Ethernet addresses on the overlay. Every node's VXLAN device has `OVERLAY_DEV_MAC`, so no node has
/// to learn another's; the sender writes `OVERLAY_SRC_MAC` as source because `vxlan_rcv` drops a frame whose
/// inner source is the device's own address.
pub const OVERLAY_DEV_MAC: [u8; 6] = [0x02, 0x53, 0x6b, 0x65, 0x00, 0x01];
/// See [`OVERLAY_DEV_MAC`].
pub const OVERLAY_SRC_MAC: [u8; 6] = [0x02, 0x53, 0x6b, 0x65, 0x00, 0x02];
/// First byte of both inner Ethernet addresses of a packet on its way to a backend that the sender has drawn
/// (direct server return): unicast, locally administered, and none of the above. The other ten name the
/// backend: the last 8 bytes of its address and its port, in network byte order, so that a direct packet is
/// not longer than any other in the tunnel.
pub const DIRECT_MAC_TAG: u8 = 0x0e;
