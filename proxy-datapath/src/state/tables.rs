//! The maps and the clock.

use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, Endpoint, Facts, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Link, Member, OwnPort, Peer, PodCidr, Slot, SocketKey, SocketOrigin, Tuple, Uplink,
};

/// How an insertion without overwriting ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    Done,
    Exists,
    Full,
}

/// What a round of [`Tables::repeat`] wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    Again,
    Done,
}

/// The maps and the clock, as the datapath sees them. Shared by all CPUs, hence `&self` throughout.
pub trait Tables {
    /// None until an agent has written the configuration.
    fn facts(&self) -> Option<&Facts>;
    /// May be recycled while it is looked at: its slots then have another service id or generation.
    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend>;
    fn slot(&self, index: u32) -> Option<Slot>;
    /// Whether `SOURCE_RANGES` holds a range of this service with the address.
    fn allows_source(&self, service_id: u32, source: &Addr) -> bool;
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// The windows that a backend of a service port with affinity stands in: bits of `member_of`.
    fn member(&self, key: &Member) -> u32;
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity);
    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint>;
    fn link(&self, ifindex: u32) -> Option<&Link>;
    /// What leads out of the node, by the device's number.
    fn uplink(&self, ifindex: u32) -> Option<&Uplink>;
    fn pod_cidr(&self, addr: &Addr) -> Option<&PodCidr>;
    fn is_tunnel_peer(&self, node: &Addr) -> bool;

    /// Runs `f` on an entry; none where there is none.
    fn flow<R>(&self, key: &Tuple, f: impl FnOnce(&mut Flow) -> R) -> Option<R>;
    /// Adds an entry unless the key is taken.
    fn add_flow(&self, key: &Tuple, flow: &Flow) -> Insert;
    fn remove_flow(&self, key: &Tuple);
    /// Takes the next seat among the flows that may be evicted for the flow whose forward entry is `key`, and
    /// copies the key that had it to `before` (all zero: none had).
    fn take_seat(&self, facts: &Facts, key: &Tuple, before: &mut Tuple) -> u16;

    /// Whether translated flows have ever had a port of the node's own.
    fn own_port(&self, kind: OwnPort, port: Be16) -> bool;
    fn note_own_port(&self, kind: OwnPort, port: Be16);

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts);

    fn socket(&self, key: &SocketKey) -> Option<SocketOrigin>;
    fn set_socket(&self, key: &SocketKey, origin: &SocketOrigin);
    /// Whether the socket hooks leave this network namespace alone.
    fn is_left_out(&self, netns_cookie: u64) -> bool;
    /// None where another socket has taken the place.
    fn peer(&self, cookie: u64) -> Option<Peer>;
    fn set_peer(&self, peer: &Peer);

    /// Calls `f` with 0, 1, … until it says that it is done or `times` is reached. Not a plain loop: the
    /// verifier walks each round of one, but a called-back function once.
    fn repeat(&self, times: u32, f: impl FnMut(u32) -> Round);

    /// Monotonic clock in seconds.
    fn now_s(&self) -> u32;
    fn random(&self) -> u32;
}
