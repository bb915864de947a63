//! The datapath's traits over a `Vec<u8>` and hash maps.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, Endpoint, Facts, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Link, Member, OwnPort, OwnPorts, Peer, PodCidr, Slot, SocketKey, SocketOrigin,
    SourceRangeKey, Tuple, Uplink,
};
use proxy_datapath::{
    Change, Insert, NextHop, Packet, PacketSteps, Round, Scratch, TableSteps, Tables, Tunnel, Verdict, Way,
    from_overlay, from_pod, from_uplink, to_overlay, to_pod, to_uplink,
};

use crate::cases::{Hook, State};

/// The clock's first reading, in seconds.
const START_S: u32 = 100_000;

/// A packet in memory, and the routes of the standard node.
pub struct Bytes {
    pub data: Vec<u8>,
    pub uplink: u32,
}

impl Packet for Bytes {
    fn length(&self) -> u32 {
        self.data.len() as u32
    }

    fn is_merged(&self) -> bool {
        false
    }

    fn socket_port(&self) -> Option<Be16> {
        Some(Be16::ZERO)
    }

    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let at = at as usize;
        self.data.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn read<const N: usize>(&self, at: u32, into: &mut [u8; N]) -> Option<()> {
        *into = self.load(at)?;
        Some(())
    }

    fn store<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()> {
        let at = at as usize;
        self.data.get_mut(at..at.checked_add(N)?)?.copy_from_slice(bytes);
        Some(())
    }

    fn store_new<const N: usize>(&mut self, at: u32, bytes: &[u8; N]) -> Option<()> {
        self.store(at, bytes)
    }

    fn fix_header_checksum(&mut self, at: u32, diff: u32) -> Option<()> {
        self.fix_transport_checksum(at, 0, diff, false)
    }

    fn fix_transport_checksum(&mut self, at: u32, pseudo: u32, diff: u32, zero_is_none: bool) -> Option<()> {
        let old = u16::from_ne_bytes(self.load(at)?);
        if zero_is_none && old == 0 {
            return Some(());
        }
        let mut sum = u64::from(!old) + u64::from(pseudo) + u64::from(diff);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let new = match !(sum as u16) {
            0 if zero_is_none => 0xffff,
            new => new,
        };
        self.store(at, &new.to_ne_bytes())
    }

    fn work_out(&self, change: &mut Change) {
        (0..Change::ROUNDS).for_each(|round| change.advance(round));
    }

    fn take_in(&mut self) -> Option<()> {
        Some(())
    }

    fn resize(&mut self, length: u32) -> Option<()> {
        self.data.resize(length as usize, 0);
        Some(())
    }

    fn way_out(&self, tuple: &Tuple, hop: &mut NextHop) {
        let way = match tuple.dst.to_ip() {
            IpAddr::V4(v4) if v4.octets().starts_with(&[198, 51, 100]) => Way::None,
            _ => Way::NoNeighbour,
        };
        *hop = NextHop { way, ifindex: self.uplink, ..NextHop::default() };
    }
}

impl PacketSteps for Bytes {}

/// Maps in memory.
pub struct Maps {
    facts: Facts,
    pub frontends: HashMap<FrontendKey, Frontend>,
    /// What readers meet in their place, as often as that: slots of the table that were recycled under them.
    pub outdated: (HashMap<FrontendKey, Frontend>, Cell<u32>),
    pub slots: HashMap<u32, Slot>,
    source_ranges: Vec<SourceRangeKey>,
    pub members: HashMap<Member, u32>,
    pub affinity: RefCell<HashMap<AffinityKey, Affinity>>,
    endpoints: HashMap<Addr, Endpoint>,
    links: HashMap<u32, Link>,
    pub pod_cidrs: Vec<(u32, Addr, PodCidr)>,
    tunnel_peers: Vec<Addr>,
    uplinks: HashMap<u32, Uplink>,
    pub left_out: RefCell<HashSet<u64>>,
    flows: RefCell<HashMap<Tuple, Flow>>,
    /// By the key of an entry that is about to be added: what another CPU adds the moment before.
    pub just_before: RefCell<HashMap<Tuple, Vec<(Tuple, Flow)>>>,
    seats: RefCell<HashMap<u32, Tuple>>,
    next_seat: Cell<u32>,
    own_ports: RefCell<HashSet<(u32, usize)>>,
    peers: RefCell<HashMap<u32, Peer>>,
    fragments: RefCell<HashMap<FragmentKey, FragmentPorts>>,
    pub sockets: RefCell<HashMap<SocketKey, SocketOrigin>>,
    random: Cell<u64>,
    pub now_s: Cell<u32>,
    /// As in the kernel it outlives a packet.
    pub scratch: RefCell<Scratch>,
}

impl Maps {
    pub fn new(state: &State) -> Maps {
        let maps = Maps {
            facts: state.facts,
            frontends: state.frontends.iter().copied().collect(),
            outdated: Default::default(),
            slots: state.slots.iter().copied().collect(),
            source_ranges: state.source_ranges.clone(),
            members: state.members.iter().copied().collect(),
            affinity: RefCell::default(),
            endpoints: state.endpoints.iter().copied().collect(),
            links: state.links.iter().copied().collect(),
            pod_cidrs: state.pod_cidrs.clone(),
            tunnel_peers: state.tunnel_peers.clone(),
            uplinks: state.uplinks(state.facts.uplink_ifindex).collect(),
            left_out: RefCell::default(),
            flows: RefCell::default(),
            just_before: RefCell::default(),
            seats: RefCell::default(),
            next_seat: Cell::new(0),
            own_ports: RefCell::default(),
            peers: RefCell::default(),
            fragments: RefCell::default(),
            sockets: RefCell::default(),
            random: Cell::new(0x9e37_79b9_7f4a_7c15),
            now_s: Cell::new(START_S),
            scratch: RefCell::default(),
        };
        for row in &state.flows {
            let flow = Flow { seen_s: START_S - row.age_s, ..row.flow };
            maps.flows.borrow_mut().insert(row.key, flow);
        }
        maps
    }

    /// All flows as rows name them, sorted.
    pub fn flow_lines(&self) -> Vec<String> {
        let flows = self.flows.borrow();
        let mut lines: Vec<String> = flows.iter().map(|(key, flow)| crate::cases::line(key, flow)).collect();
        lines.sort();
        lines
    }
}

impl Tables for Maps {
    fn facts(&self) -> Option<&Facts> {
        (self.facts.abi_version != 0).then_some(&self.facts)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        let (outdated, left) = &self.outdated;
        if let (Some(found), Some(rest)) = (outdated.get(key), left.get().checked_sub(1)) {
            left.set(rest);
            return Some(found);
        }
        self.frontends.get(key)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(&index).copied()
    }

    fn allows_source(&self, service_id: u32, source: &Addr) -> bool {
        let bits = |addr: &Addr| u128::from_be_bytes(addr.octets());
        self.source_ranges.iter().any(|range| {
            let alike = (bits(&range.of.addr) ^ bits(source)).leading_zeros();
            range.of.service_id == service_id && alike >= range.prefix_len - u32::BITS
        })
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.borrow().get(key).copied()
    }

    fn member(&self, key: &Member) -> u32 {
        self.members.get(key).copied().unwrap_or(0)
    }

    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *affinity);
    }

    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint> {
        self.endpoints.get(addr)
    }

    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        self.uplinks.get(&ifindex)
    }

    fn pod_cidr(&self, addr: &Addr) -> Option<&PodCidr> {
        let bits = |addr: &Addr| u128::from_be_bytes(addr.octets());
        self.pod_cidrs
            .iter()
            .filter(|(length, prefix, _)| (bits(addr) ^ bits(prefix)).leading_zeros() >= *length)
            .max_by_key(|(length, ..)| *length)
            .map(|(.., cidr)| cidr)
    }

    fn is_tunnel_peer(&self, node: &Addr) -> bool {
        self.tunnel_peers.contains(node)
    }

    fn flow<R>(&self, key: &Tuple, f: impl FnOnce(&mut Flow) -> R) -> Option<R> {
        self.flows.borrow_mut().get_mut(key).map(f)
    }

    fn add_flow(&self, key: &Tuple, flow: &Flow) -> Insert {
        let of_others = self.just_before.borrow_mut().remove(key);
        self.flows.borrow_mut().extend(of_others.into_iter().flatten());
        match self.flows.borrow_mut().entry(*key) {
            std::collections::hash_map::Entry::Occupied(_) => Insert::Exists,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(*flow);
                Insert::Done
            }
        }
    }

    fn remove_flow(&self, key: &Tuple) {
        self.flows.borrow_mut().remove(key);
    }

    fn take_seat(&self, facts: &Facts, key: &Tuple, before: &mut Tuple) -> u16 {
        let seats = facts.flow_queue;
        let seat = self.next_seat.get() % seats;
        self.next_seat.set(seat + 1);
        *before = self.seats.borrow_mut().insert(seat, *key).unwrap_or_default();
        seat as u16
    }

    fn own_port(&self, kind: OwnPort, port: Be16) -> bool {
        self.own_ports.borrow().contains(&OwnPorts::place(kind, port))
    }

    fn note_own_port(&self, kind: OwnPort, port: Be16) {
        self.own_ports.borrow_mut().insert(OwnPorts::place(kind, port));
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, ports: &FragmentPorts) {
        self.fragments.borrow_mut().insert(*key, *ports);
    }

    fn socket(&self, key: &SocketKey) -> Option<SocketOrigin> {
        self.sockets.borrow().get(key).copied()
    }

    fn set_socket(&self, key: &SocketKey, origin: &SocketOrigin) {
        self.sockets.borrow_mut().insert(*key, *origin);
    }

    fn is_left_out(&self, netns_cookie: u64) -> bool {
        self.left_out.borrow().contains(&netns_cookie)
    }

    fn peer(&self, cookie: u64) -> Option<Peer> {
        self.peers.borrow().get(&Peer::place(cookie)).filter(|peer| peer.cookie == cookie).copied()
    }

    fn set_peer(&self, peer: &Peer) {
        self.peers.borrow_mut().insert(Peer::place(peer.cookie), *peer);
    }

    fn repeat(&self, times: u32, mut f: impl FnMut(u32) -> Round) {
        for index in 0..times {
            if f(index) == Round::Done {
                return;
            }
        }
    }

    fn now_s(&self) -> u32 {
        self.now_s.get()
    }

    fn random(&self) -> u32 {
        // xorshift64: a fixed sequence, so that a failure repeats.
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 32) as u32
    }
}

impl TableSteps for Maps {}

/// Runs one hook over a packet.
pub fn run(hook: Hook, packet: &mut Bytes, maps: &Maps) -> Verdict {
    let s = &mut *maps.scratch.borrow_mut();
    match hook {
        Hook::FromPod => from_pod(packet, maps, s, crate::cases::POD_A_IFINDEX),
        Hook::ToPod => to_pod(packet, maps, s),
        Hook::FromOverlay(peer, vni) => {
            let peer = Addr::from(peer.parse::<IpAddr>().unwrap());
            from_overlay(packet, maps, s, Some(&Tunnel { peer, vni }))
        }
        Hook::ToOverlay => to_overlay(packet, maps, s, false),
        Hook::FromUplink => from_uplink(packet, maps, s),
        Hook::ToUplink => to_uplink(packet, maps, s, maps.facts.uplink_ifindex),
    }
}
