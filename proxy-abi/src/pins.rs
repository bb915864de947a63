use crate::{
    Addr, Affinity, AffinityKey, Counter, Endpoint, Facts, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Link, Member, OwnPorts, Peer, PodCidr, PodCidrKey, Reason, Seat, Slot, SocketKey,
    SocketOrigin, SourceRangeKey, Tuple, Uplink,
};

/// Folder on bpffs that everything of ours is pinned below: `maps/NAME`, `progs/NAME`, `links/HOOK-DEVICE`.
pub const PIN_ROOT: &str = "/sys/fs/bpf/skerry";

/// Names of the maps, as in the object and below `PIN_ROOT/maps`.
pub mod map {
    /// Array of one element: [`crate::Facts`]. Agent.
    pub const CONFIG: &str = "CONFIG";
    /// [`crate::FrontendKey`] → [`crate::Frontend`]. Agent.
    pub const FRONTENDS: &str = "FRONTENDS";
    /// Array of [`crate::Slot`]. Agent.
    pub const SLOTS: &str = "SLOTS";
    /// LPM trie: [`crate::SourceRangeKey`] → u32, reserved. Agent.
    pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
    /// LRU: [`crate::AffinityKey`] → [`crate::Affinity`]. Programs.
    pub const AFFINITY: &str = "AFFINITY";
    /// [`crate::Member`] → u32, bits of [`crate::member_of`]. Agent.
    pub const MEMBERS: &str = "MEMBERS";
    /// [`crate::Addr`] → [`crate::Endpoint`]. Plugin and agent.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// u32, ifindex → [`crate::Link`]. Plugin.
    pub const LINKS: &str = "LINKS";
    /// u32, ifindex → [`crate::Uplink`]. Agent.
    pub const UPLINKS: &str = "UPLINKS";
    /// LPM trie: [`crate::PodCidrKey`] → [`crate::PodCidr`]. Agent.
    pub const POD_CIDRS: &str = "POD_CIDRS";
    /// [`crate::Addr`] of a node → u32, reserved. Agent.
    pub const TUNNEL_PEERS: &str = "TUNNEL_PEERS";
    /// [`crate::Tuple`] → [`crate::Flow`]. Programs; the agent clears away what is silent.
    pub const FLOWS: &str = "FLOWS";
    /// Array of [`crate::Seat`], gone round. Programs.
    pub const FLOW_QUEUE: &str = "FLOW_QUEUE";
    /// Array of one element: u64, seats taken since the map was made. Programs.
    pub const FLOW_QUEUE_HEAD: &str = "FLOW_QUEUE_HEAD";
    /// Of versions with ABI 3 or less: flows that were not yet answered.
    pub const FLOWS_NEW: &str = "FLOWS_NEW";
    /// Where `FLOWS` of another layout waits until all programs use the new one.
    pub const FLOWS_OLD: &str = "FLOWS_OLD";
    /// Array of [`crate::OwnPorts`]. Programs.
    pub const OWN_PORTS: &str = "OWN_PORTS";
    /// LRU: [`crate::FragmentKey`] → [`crate::FragmentPorts`]. Programs.
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// LRU: [`crate::SocketKey`] → [`crate::SocketOrigin`]. Programs.
    pub const SOCKETS: &str = "SOCKETS";
    /// Array of [`crate::Peer`]. Programs.
    pub const PEERS: &str = "PEERS";
    /// LRU: u64, cookie of a network namespace that the socket hooks leave alone → u32, reserved. Plugin.
    pub const LEFT_OUT: &str = "LEFT_OUT";
    /// Per-CPU array of [`crate::Counter`], by [`crate::Reason`]. Programs.
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring of [`crate::DropEvent`]. Programs.
    pub const EVENTS: &str = "EVENTS";
}

/// Names of the programs, as in the object and below `PIN_ROOT/progs`.
pub mod prog {
    /// connect(2) on an IPv4 socket, of the whole cgroup tree, as all that begin with `sock_`.
    pub const CONNECT4: &str = "sock_connect4";
    /// connect(2) on an IPv6 socket, with v4-mapped destinations as well.
    pub const CONNECT6: &str = "sock_connect6";
    /// sendmsg(2) with a destination, on an unconnected UDP socket of IPv4.
    pub const SENDMSG4: &str = "sock_sendmsg4";
    /// The same of IPv6.
    pub const SENDMSG6: &str = "sock_sendmsg6";
    /// recvmsg(2) on a UDP socket of IPv4: the sender that is shown.
    pub const RECVMSG4: &str = "sock_recvmsg4";
    /// The same of IPv6.
    pub const RECVMSG6: &str = "sock_recvmsg6";
    /// getpeername(2) on an IPv4 socket.
    pub const GETPEERNAME4: &str = "sock_peername4";
    /// The same of IPv6.
    pub const GETPEERNAME6: &str = "sock_peername6";
    /// tc ingress of the host side of a pod's veth: what the pod sends.
    pub const FROM_POD: &str = "from_pod";
    /// tc egress of the same device: what the node's own stack sends to the pod.
    pub const TO_POD: &str = "to_pod";
    /// tc ingress of the VXLAN device: what other nodes send.
    pub const FROM_OVERLAY: &str = "from_overlay";
    /// tc egress of the VXLAN device: gives the stack's packets their tunnel key.
    pub const TO_OVERLAY: &str = "to_overlay";
    /// tc ingress of the uplink: what outsiders send.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// tc egress of the uplink: masquerade, answers of host-network backends.
    pub const TO_UPLINK: &str = "to_uplink";
    /// XDP on the uplink, in front of `FROM_UPLINK`. Not one of [`super::PROGRAMS`]: only where it is asked
    /// for.
    pub const UPLINK_XDP: &str = "uplink_xdp";
    /// XDP on the devices of a balancer that stands in front of nodes. Not one of [`super::PROGRAMS`]: nodes
    /// do without.
    pub const LB_XDP: &str = "lb_xdp";
}

/// A map, its default size and its layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// One of [`map`].
    pub name: &'static str,
    /// For `EVENTS`, a ring, bytes.
    pub max_entries: u32,
    /// Bytes; for `EVENTS`, a ring, 0 like that of its values.
    pub key_size: u32,
    /// Bytes; of one CPU's value in a per-CPU map.
    pub value_size: u32,
    /// Whether the map can be filled again from the API. Of the others what they hold is lost with them.
    pub is_derived: bool,
}

const fn derived<K, V>(name: &'static str, max_entries: u32) -> MapSpec {
    MapSpec { is_derived: true, ..state::<K, V>(name, max_entries) }
}

const fn state<K, V>(name: &'static str, max_entries: u32) -> MapSpec {
    let (key_size, value_size) = (size_of::<K>() as u32, size_of::<V>() as u32);
    MapSpec { name, max_entries, key_size, value_size, is_derived: false }
}

/// All pinned maps. The agent may ask for other sizes (flags, machine memory) when it creates them.
pub const MAPS: &[MapSpec] = &[
    derived::<u32, Facts>(map::CONFIG, 1),
    derived::<FrontendKey, Frontend>(map::FRONTENDS, 65_536),
    derived::<u32, Slot>(map::SLOTS, 262_144),
    derived::<SourceRangeKey, u32>(map::SOURCE_RANGES, 16_384),
    state::<AffinityKey, Affinity>(map::AFFINITY, 65_536),
    derived::<Member, u32>(map::MEMBERS, 65_536),
    state::<Addr, Endpoint>(map::ENDPOINTS, 4_096),
    state::<u32, Link>(map::LINKS, 2_048),
    derived::<u32, Uplink>(map::UPLINKS, 64),
    derived::<PodCidrKey, PodCidr>(map::POD_CIDRS, 16_384),
    derived::<Addr, u32>(map::TUNNEL_PEERS, 16_384),
    state::<Tuple, Flow>(map::FLOWS, 262_144),
    state::<u32, Seat>(map::FLOW_QUEUE, Seat::COUNT),
    state::<u32, u64>(map::FLOW_QUEUE_HEAD, 1),
    state::<u32, OwnPorts>(map::OWN_PORTS, OwnPorts::COUNT),
    state::<FragmentKey, FragmentPorts>(map::FRAGMENTS, 8_192),
    state::<SocketKey, SocketOrigin>(map::SOCKETS, 16_384),
    state::<u32, Peer>(map::PEERS, Peer::PLACES),
    state::<u64, u32>(map::LEFT_OUT, 8_192),
    derived::<u32, Counter>(map::COUNTERS, Reason::COUNT),
    derived::<(), ()>(map::EVENTS, 262_144),
];

/// All programs of a node.
pub const PROGRAMS: &[&str] = &[
    prog::CONNECT4,
    prog::CONNECT6,
    prog::SENDMSG4,
    prog::SENDMSG6,
    prog::RECVMSG4,
    prog::RECVMSG6,
    prog::GETPEERNAME4,
    prog::GETPEERNAME6,
    prog::FROM_POD,
    prog::TO_POD,
    prog::FROM_OVERLAY,
    prog::TO_OVERLAY,
    prog::FROM_UPLINK,
    prog::TO_UPLINK,
];
