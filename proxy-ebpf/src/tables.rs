//! `Tables` over the maps.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::lpm_trie::Key,
    helpers::{
        bpf_get_prandom_u32,
        generated::{bpf_ktime_get_coarse_ns, bpf_loop},
    },
};
use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, Endpoint, Facts, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Link, Member, OwnPort, OwnPorts, Peer, PodCidr, Slot, SocketKey, SocketOrigin, SourceOf,
    Tuple, Uplink,
};
use proxy_datapath::{Found, Insert, Round, Scratch, Side, TableSteps, Tables, steps::Recorded};

use crate::{
    maps::{
        AFFINITY, CONFIG, ENDPOINTS, FLOW_QUEUE, FLOW_QUEUE_HEAD, FLOWS, FRAGMENTS, FRONTENDS, LEFT_OUT,
        LINKS, MEMBERS, OWN_PORTS, PEERS, POD_CIDRS, SLOTS, SOCKETS, SOURCE_RANGES, TUNNEL_PEERS, UPLINKS,
    },
    steps,
};

/// The function that `bpf_loop` is to call for a closure.
#[inline(always)]
fn round_of<F: FnMut(u32) -> Round>(_: &F) -> *mut c_void {
    round::<F> as *const () as *mut c_void
}

unsafe extern "C" fn round<F: FnMut(u32) -> Round>(index: u64, context: *mut c_void) -> i64 {
    // SAFETY: `Kernel::repeat` passes a closure of this very type that nothing else uses meanwhile.
    let f = unsafe { &mut *context.cast::<F>() };
    match f(index as u32) {
        Round::Again => 0,
        Round::Done => 1,
    }
}

/// The node's maps.
pub struct Kernel;

const EEXIST: i32 = -17;

impl Tables for Kernel {
    #[inline(always)]
    fn facts(&self) -> Option<&Facts> {
        CONFIG.get(0).filter(|facts| facts.abi_version != 0)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        // SAFETY: stays readable until this program ends; one that is recycled meanwhile is found out by the
        // slot's service id and generation.
        unsafe { FRONTENDS.get(key) }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn allows_source(&self, service_id: u32, source: &Addr) -> bool {
        let of = SourceOf { service_id, addr: *source };
        SOURCE_RANGES.get(&Key::new(u32::BITS + u128::BITS, of)).is_some()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: copied at once; a torn copy names no backend of the window, and another is drawn.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn member(&self, key: &Member) -> u32 {
        // SAFETY: a word, copied at once.
        unsafe { MEMBERS.get(key) }.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        // The table evicts; a client that is forgotten gets another backend.
        let _ = AFFINITY.insert(key, affinity, 0);
    }

    #[inline(always)]
    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint> {
        // SAFETY: elements are written whole by the CNI plugin and the agent and stay readable until this
        // program ends.
        unsafe { ENDPOINTS.get(addr) }
    }

    #[inline(always)]
    fn link(&self, ifindex: u32) -> Option<&Link> {
        // SAFETY: as for endpoints.
        unsafe { LINKS.get(ifindex) }
    }

    #[inline(always)]
    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        // SAFETY: elements are written whole by the agent and stay readable until this program ends.
        unsafe { UPLINKS.get(ifindex) }
    }

    #[inline(always)]
    fn pod_cidr(&self, addr: &Addr) -> Option<&PodCidr> {
        POD_CIDRS.get(&Key::new(u128::BITS, *addr))
    }

    #[inline(always)]
    fn is_tunnel_peer(&self, node: &Addr) -> bool {
        TUNNEL_PEERS.get_ptr(node).is_some()
    }

    #[inline(always)]
    fn flow<R>(&self, key: &Tuple, f: impl FnOnce(&mut Flow) -> R) -> Option<R> {
        let entry = FLOWS.get_ptr_mut(key)?;
        // SAFETY: the element stays readable and writable until this program ends. Two CPUs may write one
        // entry at a time: every field is a word or less, and counts and times need not be exact.
        Some(f(unsafe { &mut *entry }))
    }

    #[inline(always)]
    fn add_flow(&self, key: &Tuple, flow: &Flow) -> Insert {
        match FLOWS.insert(key, flow, BPF_NOEXIST as u64) {
            Ok(()) => Insert::Done,
            Err(EEXIST) => Insert::Exists,
            Err(_) => Insert::Full,
        }
    }

    #[inline(always)]
    fn remove_flow(&self, key: &Tuple) {
        // An entry that is gone already is as good.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn take_seat(&self, facts: &Facts, key: &Tuple, before: &mut Tuple) -> u16 {
        before.proto = 0;
        let Some(mask) = facts.flow_queue.checked_sub(1) else { return 0 };
        let Some(head) = FLOW_QUEUE_HEAD.get_ptr_mut(0) else { return 0 };
        let mut next = 1_u64;
        // SAFETY: elements of an array stay. `core` has no read-and-add for this target; the instruction is
        // known since Linux 5.12.
        unsafe {
            asm!("{next} = atomic_fetch_add((u64 *)({head} + 0), {next})", next = inout(reg) next, head = in(reg) head);
        }
        let index = next as u32 & mask;
        if let Some(seat) = FLOW_QUEUE.get_ptr_mut(index) {
            // SAFETY: as above. Who takes the same seat meanwhile has gone round the whole queue; a torn key
            // names no flow, or one that does not have the seat.
            unsafe {
                *before = (*seat).key;
                (*seat).key = *key;
            }
        }
        index as u16
    }

    #[inline(always)]
    fn own_port(&self, kind: OwnPort, port: Be16) -> bool {
        let (element, place) = OwnPorts::place(kind, port);
        OWN_PORTS.get(element).is_some_and(|ports| ports.marks.get(place).is_some_and(|mark| *mark != 0))
    }

    #[inline(always)]
    fn note_own_port(&self, kind: OwnPort, port: Be16) {
        let (element, place) = OwnPorts::place(kind, port);
        if let Some(ports) = OWN_PORTS.get_ptr_mut(element) {
            // SAFETY: elements of an array stay; every CPU that writes this byte writes the same.
            if let Some(mark) = unsafe { (*ports).marks.get_mut(place) } {
                *mark = 1;
            }
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        // SAFETY: copied at once; a recycled entry is another datagram's, whose flow is then not found.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        // The table evicts; what can't be noted is dropped piece by piece and counted.
        let _ = FRAGMENTS.insert(key, ports, 0);
    }

    #[inline(always)]
    fn socket(&self, key: &SocketKey) -> Option<SocketOrigin> {
        // SAFETY: copied at once; entries of a live socket are written by that socket's calls only.
        unsafe { SOCKETS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_socket(&self, key: &SocketKey, origin: &SocketOrigin) {
        // The table evicts; if it can't, getpeername shows the backend, which is true too.
        let _ = SOCKETS.insert(key, origin, 0);
    }

    #[inline(always)]
    fn is_left_out(&self, netns_cookie: u64) -> bool {
        LEFT_OUT.get_ptr(netns_cookie).is_some()
    }

    #[inline(always)]
    fn peer(&self, cookie: u64) -> Option<Peer> {
        let place = PEERS.get_ptr(Peer::place(cookie))?;
        // SAFETY: elements of an array stay. Another socket may be writing: its cookie is the last that it
        // writes.
        let (peer, after) = unsafe { (place.read(), (&raw const (*place).cookie).read_volatile()) };
        (peer.cookie == cookie && after == cookie).then_some(peer)
    }

    #[inline(always)]
    fn set_peer(&self, peer: &Peer) {
        let Some(place) = PEERS.get_ptr_mut(Peer::place(peer.cookie)) else { return };
        // SAFETY: as above; who reads meanwhile finds no cookie.
        unsafe {
            (&raw mut (*place).cookie).write_volatile(0);
            (&raw mut (*place).backend).write(peer.backend);
            (&raw mut (*place).service).write(peer.service);
            (&raw mut (*place).backend_port).write(peer.backend_port);
            (&raw mut (*place).service_port).write(peer.service_port);
            (&raw mut (*place).service_id).write(peer.service_id);
            (&raw mut (*place).cookie).write_volatile(peer.cookie);
        }
    }

    #[inline(always)]
    fn repeat(&self, times: u32, mut f: impl FnMut(u32) -> Round) {
        let (call, context) = (round_of(&f), (&raw mut f).cast());
        // SAFETY: the helper calls `call` with `context`, which outlives the call and is of the type that
        // `call` takes it for.
        unsafe { bpf_loop(times, call, context, 0) };
    }

    #[inline(always)]
    fn now_s(&self) -> u32 {
        // SAFETY: takes no argument.
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes no argument.
        unsafe { bpf_get_prandom_u32() }
    }
}

impl TableSteps for Kernel {
    #[inline(always)]
    fn find_flow(&self, s: &mut Scratch) -> bool {
        steps::find_flow(s)
    }

    #[inline(always)]
    fn answers_are_taken(&self, s: &mut Scratch) -> bool {
        steps::answers_are_taken(s)
    }

    #[inline(always)]
    fn find_service(&self, s: &mut Scratch, side: Side) -> Found {
        steps::find_service(s, side)
    }

    #[inline(always)]
    fn look_up_place(&self, s: &mut Scratch) {
        steps::locate(s);
    }

    #[inline(always)]
    fn record(&self, s: &mut Scratch) -> Recorded {
        steps::record(s)
    }
}
