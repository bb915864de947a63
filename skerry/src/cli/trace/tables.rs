//! A copy of the live maps that tells what was looked up in it. What the datapath writes goes into the copy.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use anyhow::Context;
use bytemuck::Pod;
use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, Endpoint, Facts, Flow, FragmentKey, FragmentPorts, Frontend,
    FrontendKey, Link, Member, OwnPort, OwnPorts, Peer, PodCidr, PodCidrKey, Slot, SocketKey, SocketOrigin,
    SourceRangeKey, Tuple, Uplink, frontend_kind, map,
};
use proxy_datapath::{Insert, Round, TableSteps, Tables};

use crate::cli::{Maps, names, sheet::text};

pub struct Snapshot {
    facts: Facts,
    frontends: HashMap<FrontendKey, Frontend>,
    slots: HashMap<u32, Slot>,
    source_ranges: Vec<SourceRangeKey>,
    members: HashMap<Member, u32>,
    endpoints: HashMap<Addr, Endpoint>,
    links: HashMap<u32, Link>,
    uplinks: HashMap<u32, Uplink>,
    left_out: HashSet<u64>,
    pod_cidrs: Vec<(PodCidrKey, PodCidr)>,
    peers: Vec<Addr>,
    affinity: RefCell<HashMap<AffinityKey, Affinity>>,
    flows: RefCell<HashMap<Tuple, Flow>>,
    own_ports: RefCell<HashMap<u32, OwnPorts>>,
    fragments: RefCell<HashMap<FragmentKey, FragmentPorts>>,
    sockets: RefCell<HashMap<SocketKey, SocketOrigin>>,
    draws: Cell<u64>,
    random: RandomState,
    notes: RefCell<Vec<String>>,
}

impl Snapshot {
    pub fn read(maps: &Maps) -> anyhow::Result<Snapshot> {
        fn all<K: Pod + Eq + std::hash::Hash, V: Pod>(
            maps: &Maps,
            name: &str,
        ) -> anyhow::Result<HashMap<K, V>> {
            Ok(maps.entries::<K, V>(name).context("copy the live maps")?.into_iter().collect())
        }
        Ok(Snapshot {
            facts: maps.facts,
            frontends: all(maps, map::FRONTENDS)?,
            slots: all(maps, map::SLOTS)?,
            source_ranges: maps
                .entries::<_, u32>(map::SOURCE_RANGES)?
                .into_iter()
                .map(|(key, _)| key)
                .collect(),
            members: all(maps, map::MEMBERS)?,
            endpoints: all(maps, map::ENDPOINTS)?,
            links: all(maps, map::LINKS)?,
            uplinks: all(maps, map::UPLINKS)?,
            left_out: maps
                .entries::<u64, u32>(map::LEFT_OUT)?
                .into_iter()
                .map(|(cookie, _)| cookie)
                .collect(),
            pod_cidrs: maps.entries(map::POD_CIDRS)?,
            peers: maps.entries::<_, u32>(map::TUNNEL_PEERS)?.into_iter().map(|(key, _)| key).collect(),
            affinity: RefCell::new(all(maps, map::AFFINITY)?),
            flows: RefCell::new(all(maps, map::FLOWS)?),
            own_ports: RefCell::new(all(maps, map::OWN_PORTS)?),
            fragments: RefCell::default(),
            sockets: RefCell::default(),
            draws: Cell::new(0),
            random: RandomState::new(),
            notes: RefCell::default(),
        })
    }

    /// What was looked up since the last call; the same look twice in a row counts once.
    pub fn decisions(&self) -> Vec<String> {
        let mut notes = self.notes.take();
        notes.dedup();
        notes
    }

    fn note(&self, text: String) {
        self.notes.borrow_mut().push(text);
    }
}

fn bits(addr: &Addr) -> u128 {
    u128::from_be_bytes(addr.octets())
}

fn shown(tuple: &Tuple) -> String {
    let (from, to) = (names::socket(tuple.src, tuple.sport), names::socket(tuple.dst, tuple.dport));
    format!("{} {from} → {to}", names::protocol(tuple.proto))
}

impl Tables for Snapshot {
    fn facts(&self) -> Option<&Facts> {
        (self.facts.abi_version != 0).then_some(&self.facts)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        let found = self.frontends.get(key);
        let dialled = match key.kind {
            frontend_kind::ADDRESS => names::socket(key.addr, key.port),
            _ => format!("node port {}", key.port),
        };
        self.note(match found {
            Some(f) => format!(
                "frontend {dialled} {}: service {}, {} backends for outsiders, {} for insiders",
                names::protocol(key.proto),
                f.service_id,
                f.outside.count,
                f.inside.count
            ),
            None => format!("frontend {dialled} {}: none", names::protocol(key.proto)),
        });
        found
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        let found = self.slots.get(&index).copied();
        self.note(match found {
            Some(slot) => format!("slot {index}: backend {}", names::socket(slot.addr, slot.port)),
            None => format!("slot {index}: none"),
        });
        found
    }

    fn allows_source(&self, service_id: u32, source: &Addr) -> bool {
        let allowed = self.source_ranges.iter().any(|range| {
            let alike = (bits(&range.of.addr) ^ bits(source)).leading_zeros();
            range.of.service_id == service_id && alike >= range.prefix_len.saturating_sub(u32::BITS)
        });
        self.note(format!(
            "source ranges of service {service_id}: {source} is {}in one",
            if allowed { "" } else { "not " }
        ));
        allowed
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        let found = self.affinity.borrow().get(key).copied();
        if let Some(known) = found {
            self.note(format!("affinity: {} last had {}", key.client, names::socket(known.addr, known.port)));
        }
        found
    }

    fn member(&self, key: &Member) -> u32 {
        self.members.get(key).copied().unwrap_or(0)
    }

    fn set_affinity(&self, key: &AffinityKey, affinity: &Affinity) {
        self.affinity.borrow_mut().insert(*key, *affinity);
    }

    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint> {
        let found = self.endpoints.get(addr);
        if let Some(endpoint) = found {
            self.note(format!("endpoint {addr}: {}", text(&names::endpoint_flags(endpoint.flags))));
        }
        found
    }

    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    fn uplink(&self, ifindex: u32) -> Option<&Uplink> {
        self.uplinks.get(&ifindex)
    }

    fn pod_cidr(&self, addr: &Addr) -> Option<&PodCidr> {
        let covers = |key: &PodCidrKey| (bits(addr) ^ bits(&key.addr)).leading_zeros() >= key.prefix_len;
        let found =
            self.pod_cidrs.iter().filter(|(key, _)| covers(key)).max_by_key(|(key, _)| key.prefix_len);
        if let Some((key, cidr)) = found {
            self.note(format!("pod range of {addr} ({}): node {}", key.addr, cidr.node));
        }
        found.map(|(_, cidr)| cidr)
    }

    fn is_tunnel_peer(&self, node: &Addr) -> bool {
        self.peers.contains(node)
    }

    fn flow<R>(&self, key: &Tuple, f: impl FnOnce(&mut Flow) -> R) -> Option<R> {
        let mut flows = self.flows.borrow_mut();
        let flow = flows.get_mut(key)?;
        self.note(format!("flow {} is known: becomes {}", shown(key), shown(&flow.to)));
        Some(f(flow))
    }

    fn add_flow(&self, key: &Tuple, flow: &Flow) -> Insert {
        match self.flows.borrow_mut().entry(*key) {
            std::collections::hash_map::Entry::Occupied(_) => Insert::Exists,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(*flow);
                self.note(format!("flow {} would be recorded: becomes {}", shown(key), shown(&flow.to)));
                Insert::Done
            }
        }
    }

    fn remove_flow(&self, key: &Tuple) {
        self.flows.borrow_mut().remove(key);
    }

    fn take_seat(&self, _: &Facts, _: &Tuple, before: &mut Tuple) -> u16 {
        // Whom it would cost its seat is no part of this packet's way.
        *before = Tuple::default();
        0
    }

    fn own_port(&self, kind: OwnPort, port: Be16) -> bool {
        let (element, place) = OwnPorts::place(kind, port);
        self.own_ports.borrow().get(&element).is_some_and(|ports| ports.marks[place] != 0)
    }

    fn note_own_port(&self, kind: OwnPort, port: Be16) {
        let (element, place) = OwnPorts::place(kind, port);
        if let Some(ports) = self.own_ports.borrow_mut().get_mut(&element) {
            ports.marks[place] = 1;
        }
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
        self.left_out.contains(&netns_cookie)
    }

    fn peer(&self, _cookie: u64) -> Option<Peer> {
        None
    }

    /// A made-up socket is asked nothing later.
    fn set_peer(&self, _peer: &Peer) {}

    fn repeat(&self, times: u32, mut f: impl FnMut(u32) -> Round) {
        for index in 0..times {
            if f(index) == Round::Done {
                return;
            }
        }
    }

    fn now_s(&self) -> u32 {
        let now = nix::time::ClockId::CLOCK_MONOTONIC.now();
        now.map_or(0, |now| now.tv_sec() as u32)
    }

    fn random(&self) -> u32 {
        let draw = self.draws.get();
        self.draws.set(draw + 1);
        self.random.hash_one(draw) as u32
    }
}

impl TableSteps for Snapshot {}
