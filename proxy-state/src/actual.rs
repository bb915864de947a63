use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use proxy_abi::{
    Addr, Be16, Endpoint, Flow, Frontend, FrontendKey, Member, PodCidr, PodCidrKey, Slot, SourceRangeKey,
    Tuple, Window, endpoint_flag, flow_flag, frontend_kind, proto,
};

use crate::{desired::ServicePortId, extras::Extras, model::ObjectKey, runs::RunAllocator};

/// Sizes of the maps, and how long a run that nothing points to rests before its slots are used again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Entries of `FRONTENDS`.
    pub frontends: u32,
    /// Elements of `SLOTS`.
    pub slots: u32,
    /// Entries of `MEMBERS`.
    pub members: u32,
    /// Entries of `SOURCE_RANGES`.
    pub source_ranges: u32,
    /// Entries of `POD_CIDRS`.
    pub pod_cidrs: u32,
    /// Entries of `TUNNEL_PEERS`.
    pub tunnel_peers: u32,
    /// A program that read a frontend just before it flipped reads its slot well within this time.
    pub grace_ms: u64,
    /// New services get larger numbers: connections may know these.
    pub ids_until: u32,
}

/// Contents of the maps as they were read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dump {
    /// All of `FRONTENDS`, the marks of addresses in use as well.
    pub frontends: HashMap<FrontendKey, Frontend>,
    /// By index; may end early, the rest is free.
    pub slots: Vec<Slot>,
    /// All of `MEMBERS`, with their bits of `proxy_abi::member_of`.
    pub members: HashMap<Member, u32>,
    /// All keys of `SOURCE_RANGES`.
    pub source_ranges: BTreeSet<SourceRangeKey>,
    /// All of `POD_CIDRS`.
    pub pod_cidrs: HashMap<PodCidrKey, PodCidr>,
    /// All keys of `TUNNEL_PEERS`.
    pub tunnel_peers: BTreeSet<Addr>,
    /// All of `ENDPOINTS`: pods' entries are left alone.
    pub endpoints: BTreeMap<Addr, Endpoint>,
}

/// What is in the maps, and who owns which part of it. A [`crate::plan`] moves it to the state *after* the
/// plan; when an operation fails, the truth is read back with [`Actual::restore`].
#[derive(Debug)]
pub struct Actual {
    pub(crate) limits: Limits,
    pub(crate) frontends: HashMap<FrontendKey, Frontend>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) runs: RunAllocator,
    pub(crate) retired: VecDeque<Retired>,
    pub(crate) services: HashMap<ObjectKey, ServiceRecord>,
    /// Runs found in the maps whose service has not been planned yet, by service id.
    pub(crate) found: HashMap<u32, Found>,
    /// Frontends found in the maps whose service has not been planned yet.
    pub(crate) orphans: HashSet<FrontendKey>,
    /// Members and source ranges found in the maps whose service has not been planned yet, by service id.
    pub(crate) found_extras: HashMap<u32, Extras>,
    pub(crate) members: HashMap<Member, u32>,
    pub(crate) source_ranges: BTreeSet<SourceRangeKey>,
    pub(crate) is_restored: bool,
    pub(crate) next_service_id: u32,
    pub(crate) pod_cidrs: HashMap<PodCidrKey, PodCidr>,
    pub(crate) tunnel_peers: BTreeSet<Addr>,
    pub(crate) endpoints: BTreeMap<Addr, Endpoint>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Run {
    pub first: u32,
    /// 0: no slots are held.
    pub count: u32,
    pub generation: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Retired {
    pub first: u32,
    pub count: u32,
    pub since_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    pub runs: Vec<Run>,
    pub last_generation: u32,
}

#[derive(Debug, Default)]
pub(crate) struct ServiceRecord {
    pub ports: Box<[PortRecord]>,
    pub addresses: Box<[FrontendKey]>,
}

#[derive(Debug)]
pub(crate) struct PortRecord {
    pub id: ServicePortId,
    pub service_id: u32,
    pub run: Run,
    pub keys: Box<[FrontendKey]>,
    pub extras: Option<Box<Extras>>,
}

impl Actual {
    /// From what the maps hold. Ids and generations go on from there; runs that no frontend points to (left
    /// by a process that was killed) are retired as of `now_ms`.
    pub fn restore(limits: Limits, dump: Dump, now_ms: u64) -> Actual {
        let mut actual = Actual {
            limits,
            orphans: dump.frontends.keys().copied().collect(),
            frontends: dump.frontends,
            slots: dump.slots,
            runs: RunAllocator::new(limits.slots),
            retired: VecDeque::new(),
            services: HashMap::new(),
            found: HashMap::new(),
            found_extras: HashMap::new(),
            members: dump.members,
            source_ranges: dump.source_ranges,
            is_restored: true,
            next_service_id: limits.ids_until.wrapping_add(1).max(1),
            pod_cidrs: dump.pod_cidrs,
            tunnel_peers: dump.tunnel_peers,
            endpoints: dump
                .endpoints
                .into_iter()
                .filter(|(_, endpoint)| endpoint.flags & endpoint_flag::POD == 0)
                .collect(),
        };
        actual.slots.truncate(limits.slots as usize);
        actual.find_runs();
        actual.find_extras();
        actual.retire_leftovers(now_ms);
        actual
    }

    /// Entries that differ between the maps and what we believe of them.
    pub fn divergence(&self, dump: &Dump) -> usize {
        let frontends =
            self.frontends.iter().filter(|(key, value)| dump.frontends.get(key) != Some(value)).count()
                + dump.frontends.keys().filter(|key| !self.frontends.contains_key(key)).count();
        let free = Slot::default();
        let longer = self.slots.len().max(dump.slots.len());
        let slots = (0..longer)
            .filter(|i| self.slots.get(*i).unwrap_or(&free) != dump.slots.get(*i).unwrap_or(&free))
            .count();
        let cidrs =
            self.pod_cidrs.iter().filter(|(key, value)| dump.pod_cidrs.get(key) != Some(value)).count()
                + dump.pod_cidrs.keys().filter(|key| !self.pod_cidrs.contains_key(key)).count();
        let members = self.members.iter().filter(|(key, value)| dump.members.get(key) != Some(value)).count()
            + dump.members.keys().filter(|key| !self.members.contains_key(key)).count();
        let ranges = self.source_ranges.symmetric_difference(&dump.source_ranges).count();
        let peers = self.tunnel_peers.symmetric_difference(&dump.tunnel_peers).count();
        let own = |endpoint: &&Endpoint| endpoint.flags & endpoint_flag::POD == 0;
        let endpoints =
            self.endpoints.iter().filter(|(key, value)| dump.endpoints.get(key) != Some(value)).count()
                + dump
                    .endpoints
                    .iter()
                    .filter(|(key, value)| own(value) && !self.endpoints.contains_key(key))
                    .count();
        frontends + slots + members + ranges + cidrs + peers + endpoints
    }

    /// Whether a UDP flow would be balanced to its backend today: its frontend is there, is still the same
    /// service port, and the backend stands in its run. Flows that were only masqueraded are current unless a
    /// service has since taken the address they go to. `key` and `flow` are of the forward entry.
    pub fn udp_flow_is_current(&self, key: &Tuple, flow: &Flow) -> bool {
        if key.proto != proto::UDP || flow.flags & flow_flag::REVERSE != 0 {
            return true;
        }
        match flow.service_id {
            0 => !self.frontends.contains_key(&udp_frontends(key.dst, key.dport)[0]),
            id => self.udp_backend_is_current((key.dst, key.dport), id, (flow.to.dst, flow.to.dport)),
        }
    }

    /// Whether a UDP client of `service` may be given `backend` today (both address and port).
    pub fn udp_backend_is_current(
        &self,
        service: (Addr, Be16),
        service_id: u32,
        backend: (Addr, Be16),
    ) -> bool {
        udp_frontends(service.0, service.1).iter().filter_map(|key| self.frontends.get(key)).any(|frontend| {
            let run = windows_run(frontend);
            let run = self.run_slots(run.first, run.count);
            frontend.service_id == service_id && run.iter().any(|slot| (slot.addr, slot.port) == backend)
        })
    }

    /// Who gets new flows to a frontend; `None`: there is no such frontend.
    pub fn backends(&self, key: &FrontendKey) -> Option<HashSet<(Addr, Be16)>> {
        let run = windows_run(self.frontends.get(key)?);
        Some(self.run_slots(run.first, run.count).iter().map(|slot| (slot.addr, slot.port)).collect())
    }

    /// The backends of a Service as its frontends lead to them, some more than once.
    pub fn backends_of(&self, service: &ObjectKey) -> impl Iterator<Item = Addr> {
        let ports = self.services.get(service).into_iter().flat_map(|service| &service.ports);
        let slots = ports.flat_map(|port| self.run_slots(port.run.first, port.run.count));
        slots.map(|slot| slot.addr)
    }

    /// Frontends, slots in use.
    pub fn usage(&self) -> (u32, u32) {
        (self.frontends.len() as u32, self.runs.used_slots())
    }

    /// The maps' contents as this process believes them to be.
    pub fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &Frontend)> {
        self.frontends.iter()
    }

    /// The slots of a run; empty if it leaves the map.
    pub fn run_slots(&self, first: u32, count: u32) -> &[Slot] {
        let end = first.saturating_add(count) as usize;
        self.slots.get(first as usize..end).unwrap_or_default()
    }

    /// Registers the runs that frontends point to, each once and only if its slots are whole.
    fn find_runs(&mut self) {
        let mut last_id = 0;
        for slot in self.slots.iter().filter(|slot| slot.service_id != 0) {
            let found = self.found.entry(slot.service_id).or_default();
            found.last_generation = found.last_generation.max(slot.generation);
            last_id = last_id.max(slot.service_id);
        }
        let mut pointed_to: BTreeMap<(u32, u32), Run> = BTreeMap::new();
        for frontend in self.frontends.values().filter(|frontend| frontend.service_id != 0) {
            let window = windows_run(frontend);
            let run = Run { first: window.first, count: window.count, generation: frontend.generation };
            let found = self.found.entry(frontend.service_id).or_default();
            found.last_generation = found.last_generation.max(run.generation);
            last_id = last_id.max(frontend.service_id);
            if run.count > 0 {
                pointed_to.insert((run.first, frontend.service_id), run);
            }
        }
        for ((_, service_id), run) in pointed_to {
            let slots = self.run_slots(run.first, run.count);
            let is_whole = !slots.is_empty()
                && slots.iter().all(|s| s.service_id == service_id && s.generation == run.generation);
            if is_whole && self.runs.reserve(run.first, run.count) {
                self.found.entry(service_id).or_default().runs.push(run);
            }
        }
        self.next_service_id = self.next_service_id.max(last_id.wrapping_add(1)).max(1);
    }

    fn find_extras(&mut self) {
        for (member, windows) in &self.members {
            let extras = self.found_extras.entry(member.service_id).or_default();
            extras.members.insert(*member, *windows);
        }
        for range in &self.source_ranges {
            self.found_extras.entry(range.of.service_id).or_default().ranges.insert(*range);
        }
        let last_id = self.found_extras.keys().copied().max().unwrap_or(0);
        self.next_service_id = self.next_service_id.max(last_id.wrapping_add(1)).max(1);
    }

    fn retire_leftovers(&mut self, since_ms: u64) {
        let mut index = 0;
        while index < self.slots.len() {
            let first = index as u32;
            if self.slots[index].service_id == 0 || !self.runs.reserve(first, 1) {
                index += 1;
                continue;
            }
            self.runs.free(first);
            let mut count = 1;
            while self.slots.get(index + count as usize).is_some_and(|slot| slot.service_id != 0)
                && self.runs.reserve(first, count + 1)
            {
                self.runs.free(first);
                count += 1;
            }
            self.runs.reserve(first, count);
            self.retired.push_back(Retired { first, count, since_ms });
            index += count as usize;
        }
    }

    /// The largest number that a service has had.
    pub fn last_service_id(&self) -> u32 {
        self.next_service_id.wrapping_sub(1)
    }

    pub(crate) fn new_service_id(&mut self) -> u32 {
        let id = self.next_service_id;
        self.next_service_id = id.wrapping_add(1).max(1);
        id
    }

    pub(crate) fn retire(&mut self, run: Run, since_ms: u64) {
        if run.count > 0 {
            self.retired.push_back(Retired { first: run.first, count: run.count, since_ms });
        }
    }
}

/// The run that both windows of a frontend cover.
pub(crate) fn windows_run(frontend: &Frontend) -> Window {
    let windows = [frontend.outside, frontend.inside];
    let filled = windows.iter().filter(|window| window.count > 0);
    let first = filled.clone().map(|window| window.first).min().unwrap_or(0);
    let end = filled.map(|window| window.first.saturating_add(window.count)).max().unwrap_or(0);
    Window { first, count: end - first }
}

/// The keys under which a UDP client's destination may be found: as a service address, then as a NodePort.
fn udp_frontends(addr: Addr, port: Be16) -> [FrontendKey; 2] {
    let node_port = if addr.is_v4() { frontend_kind::NODE_PORT_V4 } else { frontend_kind::NODE_PORT_V6 };
    [
        FrontendKey { addr, port, proto: proto::UDP, kind: frontend_kind::ADDRESS },
        FrontendKey { addr: Addr::UNSPECIFIED, port, proto: proto::UDP, kind: node_port },
    ]
}
