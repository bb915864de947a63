use crate::Tuple;
use bytemuck::{Pod, Zeroable};

macro_rules! reasons {
    ($($name:ident = $number:literal, $label:literal, $text:literal;)*) => {
        /// What became of a packet. One enum for the verdict, the index into `COUNTERS`, the metric's label,
        /// the flow log's text and the row in the documentation.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Reason { $(#[doc = $text] $name = $number,)* }

        impl Reason {
            /// All of them, by number.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The value of the metric's `reason` label.
            pub const fn label(self) -> &'static str {
                match self { $(Reason::$name => $label,)* }
            }

            /// One sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    Passed = 0, "passed", "handed to the kernel's own stack";
    Delivered = 1, "delivered", "delivered to a pod on this node";
    Encapsulated = 2, "encapsulated", "sent through the tunnel";
    SentOut = 3, "sent_out", "sent out through the uplink";
    Rejected = 4, "rejected", "answered with RST or ICMP unreachable: the service has no endpoints";
    SourceSpoofed = 8, "source_spoofed", "a pod used a source address that is not its own";
    MacSpoofed = 9, "mac_spoofed", "a pod used a source MAC that is not its own";
    UnknownLink = 10, "unknown_link", "the veth is not registered: the pod was not set up by the CNI plugin";
    UnknownEndpoint = 11, "unknown_endpoint", "an address of this node's pod CIDR that no pod has";
    UnknownTunnelPeer = 12, "unknown_tunnel_peer", "a VXLAN packet from an address that is no node";
    WrongVni = 13, "wrong_vni", "a VXLAN packet of another network";
    UnallocatedService = 14, "unallocated_service", "an address of the service range that no service has";
    NoLocalEndpoint = 15, "no_local_endpoint", "traffic policy Local and no endpoint on this node";
    StaleSlot = 16, "stale_slot", "the backend slot was recycled twice under the reader";
    Malformed = 17, "malformed", "a header is cut short or contradicts itself";
    SnatExhausted = 18, "snat_exhausted", "no free source port towards this destination";
    FlowTableFull = 19, "flow_table_full", "the flow could not be recorded";
    TunnelDown = 20, "tunnel_down", "a remote pod and no tunnel device";
    RewriteFailed = 21, "rewrite_failed", "the kernel refused to change the packet";
    LoopbackSource = 22, "loopback_source", "127.0.0.0/8 or ::1 arrived on a device (CVE-2020-8558)";
    MappedOnWire = 23, "mapped_on_wire", "a v4-mapped IPv6 address on the wire";
    TtlExpired = 24, "ttl_expired", "the hop limit ran out";
    Unroutable = 25, "unroutable", "the kernel has no route to the destination";
    UnknownProtocol = 26, "unknown_protocol", "neither IPv4, IPv6 nor ARP";
    FragmentUnknown = 27, "fragment_unknown", "a later fragment whose first one was not seen";
    NoFlow = 28, "no_flow", "an ICMP error about a flow that is not known";
    SourceRange = 29, "source_range", "the client is in none of the service's loadBalancerSourceRanges";
    NeighbourUnknown = 30, "neighbour_unknown", "the next hop's link-layer address is not known yet: the kernel is asking for it";
    TooBig = 31, "too_big", "does not fit the way's MTU";
    UnwrappedStray = 32, "unwrapped_stray", "came inside a balancer's packet and is for no service of this node";
    SpokeAsNode = 33, "spoke_as_node", "what only nodes say to nodes: to the tunnel's port of one, or a packet inside a packet to one";
}

impl Reason {
    /// Size of `COUNTERS`.
    pub const COUNT: u32 = 64;
    /// Numbers below are not drops.
    pub const FIRST_DROP: u8 = 8;

    /// Whether a packet ended here for this reason: it then has a [`DropEvent`] as well as its count.
    pub const fn is_drop(self) -> bool {
        self as u8 >= Reason::FIRST_DROP
    }

    /// `None`: a number that this version does not know, as in a record of a newer program.
    pub fn from_number(number: u8) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|r| *r as u8 == number)
    }
}

/// The element of `COUNTERS` that counts records lost to a full `EVENTS` ring; no [`Reason`] has this number.
pub const LOST_EVENTS: u32 = Reason::COUNT - 1;

/// Element of the per-CPU array `COUNTERS`, by [`Reason`] as u32.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct Counter {
    /// Since the map was made, of this CPU.
    pub packets: u64,
    /// Their lengths with Ethernet headers, as they reached the hook; one that GRO has merged counts once.
    pub bytes: u64,
}

/// Record in the ring buffer `EVENTS`. A full ring loses records, never packets; the counters stay exact.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
pub struct DropEvent {
    /// `bpf_ktime_get_ns`.
    pub time_ns: u64,
    /// The packet as it met us, as far as it could be read; what could not is 0.
    pub tuple: Tuple,
    /// The device whose hook dropped it.
    pub ifindex: u32,
    /// Bytes, Ethernet header included.
    pub length: u32,
    /// A [`Reason`]'s number.
    pub reason: u8,
    /// Always 0.
    pub reserved: [u8; 7],
}

const _: () = assert!(size_of::<DropEvent>() == 64);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn every_reason_to_drop_has_its_entry_in_the_documentation() {
        let text = include_str!("../../docs/troubleshooting.md");
        let entries: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
        let drops = Reason::ALL.iter().filter(|reason| reason.is_drop()).map(|reason| reason.label());
        assert_eq!(
            entries,
            drops.collect::<Vec<_>>(),
            "docs/troubleshooting.md, in the order of the numbers"
        );
    }
}
