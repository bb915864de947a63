use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, Config, Endpoint, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Link, Member, OwnPort, Peer, PodCidr, Reason, Slot, SocketKey, SocketOrigin, Tuple, Uplink,
    path_known,
};

use crate::{
    packets::{head::Head, packet::NextHop, parse::View},
    state::verdict::Verdict,
    steps::{
        self, Recorded,
        flow::{Attempt, Fresh},
        forward::Hop,
        service::{Choice, Found, Side},
    },
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
    fn config(&self) -> Option<&Config>;
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
    /// Takes the next seat among the flows that may be evicted for the flow whose forward entry is `key`, and copies the key that
    /// had it to `before` (all zero: none had).
    fn take_seat(&self, config: &Config, key: &Tuple, before: &mut Tuple) -> u16;

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

    /// Calls `f` with 0, 1, … until it says that it is done or `times` is reached. Not a plain loop: the verifier walks each
    /// round of one, but a called-back function once.
    fn repeat(&self, times: u32, f: impl FnMut(u32) -> Round);

    /// Monotonic clock in seconds.
    fn now_s(&self) -> u32;
    fn random(&self) -> u32;

    /// [`steps::find_flow`].
    #[inline(always)]
    fn find_flow(&self, s: &mut Scratch) -> bool
    where
        Self: Sized,
    {
        steps::find_flow(self, s)
    }

    /// As [`Tables::find_flow`], where packets of direct flows have no business: only flows that are translated here.
    #[inline(always)]
    fn find_translated(&self, s: &mut Scratch) -> bool
    where
        Self: Sized,
    {
        let found = self.find_flow(s) && !s.direct;
        s.direct = false;
        if !found {
            s.forget_path();
        }
        found
    }

    /// [`steps::answers_are_taken`].
    #[inline(always)]
    fn answers_are_taken(&self, s: &mut Scratch) -> bool
    where
        Self: Sized,
    {
        steps::answers_are_taken(self, s)
    }

    /// [`steps::find_service`].
    #[inline(always)]
    fn find_service(&self, s: &mut Scratch, side: Side) -> Found
    where
        Self: Sized,
    {
        steps::find_service(self, s, side)
    }

    /// Where `s.to.dst` lives: `s.hop`. As its flow's last packet has found, or looked up.
    #[inline(always)]
    fn locate(&self, s: &mut Scratch)
    where
        Self: Sized,
    {
        if !s.knows(path_known::PLACE) {
            self.look_up_place(s);
            s.known |= path_known::PLACE;
        }
    }

    /// [`steps::locate`].
    #[inline(always)]
    fn look_up_place(&self, s: &mut Scratch)
    where
        Self: Sized,
    {
        steps::locate(self, s);
    }

    /// [`steps::record`].
    #[inline(always)]
    fn record(&self, s: &mut Scratch) -> Recorded
    where
        Self: Sized,
    {
        steps::record(self, s)
    }

    /// [`steps::record`]. Where another CPU was a moment earlier the packet becomes one of the flow that is there: all that
    /// follows from what the two have chosen is looked up anew. False: `s.verdict` says why not.
    #[inline(always)]
    fn record_flow(&self, s: &mut Scratch) -> bool
    where
        Self: Sized,
    {
        match self.record(s) {
            Recorded::Refused => false,
            Recorded::Done => true,
            Recorded::Before if self.find_flow(s) => {
                self.locate(s);
                true
            }
            // It is gone again.
            Recorded::Before => {
                s.verdict = Verdict::drop(Reason::FlowTableFull);
                false
            }
        }
    }
}

/// Working memory of one packet. In the kernel it lies in a per-CPU map: these structures do not fit 512 bytes of stack.
#[derive(Clone, Copy, Default, Debug)]
pub struct Scratch {
    pub view: View,
    /// Its first headers.
    pub head: Head,
    /// What the packet's tuple becomes.
    pub to: Tuple,
    /// Key of the entry that translates the answers.
    pub reverse_key: Tuple,
    pub flow: Flow,
    pub reverse: Flow,
    /// Key of the flow whose seat was taken, and of that flow's other entry.
    pub leaver: Tuple,
    pub leaver_twin: Tuple,
    /// How the search for its source port went.
    pub attempt: Attempt,
    /// Where the packet goes.
    pub hop: Hop,
    /// The backend that was drawn for it.
    pub choice: Choice,
    /// What is new about the flow that it opens.
    pub fresh: Fresh,
    /// What becomes of it, once a step has settled that.
    pub verdict: Verdict,
    /// Whether its flow had another packet in this second.
    pub lively: bool,
    /// What is known of where it goes, and what its flow's entry has of that: bits of [`path_known`].
    pub known: u8,
    pub kept: u8,
    /// It answers what a socket of this machine has asked.
    pub is_own: bool,
    /// Its next station on the link.
    pub next: NextHop,
    /// Its flow is answered by another node: it goes there untouched, `s.to` names its backend.
    pub direct: bool,
}
