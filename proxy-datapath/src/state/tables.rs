//! The maps and the clock.

use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, Endpoint, Facts, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Link, Member, OwnPort, Peer, PodCidr, Slot, SocketKey, SocketOrigin, Tuple, Uplink,
};

/// How an insertion without overwriting ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Insert {
    /// The entry is there now.
    Done,
    /// Somebody's entry has the key, and stays as it was.
    Exists,
    /// The map takes no more, or the kernel has no memory.
    Full,
}

/// What a round of [`Tables::repeat`] wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    /// Another one, where `times` allows it.
    Again,
    /// No other one.
    Done,
}

/// The maps and the clock, as the datapath sees them. Shared by all CPUs, hence `&self` throughout.
pub trait Tables {
    /// None until an agent has written the configuration.
    fn facts(&self) -> Option<&Facts>;
    /// May be recycled while it is looked at: its slots then have another service id or generation.
    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend>;
    /// A copy, since `SLOTS` is written while it is read. None: the index is beyond the map.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// Whether `SOURCE_RANGES` holds a range of this service with the address.
    fn allows_source(&self, service_id: u32, source: &Addr) -> bool;
    /// The backend that a client had last, whether or not it may go on with it.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// The windows that a backend of a service port with affinity stands in: bits of `member_of`.
    fn member(&self, key: &Member) -> u32;
    /// A client that can't be noted gets another backend: never an error.
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity);
    /// What has this address on this node.
    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint>;
    /// Who may speak on the veth with this number. None: no pod that the plugin has set up.
    fn link(&self, ifindex: u32) -> Option<&Link>;
    /// What leads out of the node, by the device's number.
    fn uplink(&self, ifindex: u32) -> Option<&Uplink>;
    /// The pod CIDR, of whatever node, with the longest prefix that holds the address.
    fn pod_cidr(&self, addr: &Addr) -> Option<&PodCidr>;
    /// Whether packets may come out of the tunnel from this address.
    fn is_tunnel_peer(&self, node: &Addr) -> bool;

    /// Runs `f` on an entry; none where there is none.
    fn flow<R>(&self, key: &Tuple, f: impl FnOnce(&mut Flow) -> R) -> Option<R>;
    /// Adds an entry unless the key is taken.
    fn add_flow(&self, key: &Tuple, flow: &Flow) -> Insert;
    /// Removes an entry, and not its twin; nothing where there is none.
    fn remove_flow(&self, key: &Tuple);
    /// Takes the next seat among the flows that may be evicted for the flow whose forward entry is `key`, and
    /// copies the key that had it to `before` (all zero: none had).
    fn take_seat(&self, facts: &Facts, key: &Tuple, before: &mut Tuple) -> u16;

    /// Whether translated flows have ever had a port of the node's own.
    fn own_port(&self, kind: OwnPort, port: Be16) -> bool;
    /// Marks a port for [`Tables::own_port`], for good.
    fn note_own_port(&self, kind: OwnPort, port: Be16);

    /// None where the first piece was not seen, or long ago.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;
    /// Notes what the first piece of a datagram says, for the others.
    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts);

    /// What is known of a UDP socket and an address: see [`SocketOrigin`].
    fn socket(&self, key: &SocketKey) -> Option<SocketOrigin>;
    /// Nothing is told of a table that takes no more: such a socket's answers bear their sender's address.
    fn set_socket(&self, key: &SocketKey, origin: &SocketOrigin);
    /// Whether the socket hooks leave this network namespace alone.
    fn is_left_out(&self, netns_cookie: u64) -> bool;
    /// None where another socket has taken the place.
    fn peer(&self, cookie: u64) -> Option<Peer>;
    /// Takes the place of whichever socket had it ([`Peer::place`]).
    fn set_peer(&self, peer: &Peer);

    /// Calls `f` with 0, 1, … until it says that it is done or `times` is reached. Not a plain loop: the
    /// verifier walks each round of one, but a called-back function once.
    fn repeat(&self, times: u32, f: impl FnMut(u32) -> Round);

    /// Monotonic clock in seconds.
    fn now_s(&self) -> u32;
    /// 32 bits, evenly spread; not for secrets (`bpf_get_prandom_u32`).
    fn random(&self) -> u32;
}
