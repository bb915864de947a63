use proxy_abi::{Frontend, FrontendKey, Slot, map, proto};

use crate::{
    actual::{Actual, PortRecord, Run, ServiceRecord},
    desired::{Backend, FrontendSpec, ServicePortTable, mark},
    extras::Extras,
    model::ObjectKey,
    nodes::NodeTables,
    plan::{Op, Plan, Refusal},
    runs::RunsFull,
    wants::Wants,
};

/// A plan in the making. Operations are kept apart by kind, since their order is what makes a plan safe to
/// stop: erase rested runs, write new runs, flip frontends, mark addresses, delete what nobody wants any
/// more.
pub(crate) struct Draft<'a> {
    actual: &'a mut Actual,
    now_ms: u64,
    /// All that is wanted is known.
    is_complete: bool,
    slots: Vec<Op>,
    extras: Vec<Op>,
    frontends: Vec<Op>,
    marks: Vec<Op>,
    deletes: Vec<Op>,
    extra_deletes: Vec<Op>,
    nodes: Vec<Op>,
    /// Frontends that their record let go, with the service id they had then: somebody else may have taken
    /// them since.
    released: Vec<(FrontendKey, u32)>,
    refused: Vec<Refusal>,
    /// Something of the service at hand waits for a run that rests.
    is_deferred: bool,
    udp_changed: bool,
}

impl<'a> Draft<'a> {
    pub fn new(actual: &'a mut Actual, now_ms: u64, is_complete: bool) -> Draft<'a> {
        Draft {
            actual,
            now_ms,
            is_complete,
            slots: Vec::new(),
            extras: Vec::new(),
            frontends: Vec::new(),
            marks: Vec::new(),
            deletes: Vec::new(),
            extra_deletes: Vec::new(),
            nodes: Vec::new(),
            released: Vec::new(),
            refused: Vec::new(),
            is_deferred: false,
            udp_changed: false,
        }
    }

    pub fn finish(self) -> Plan {
        let mut ops = self.slots;
        for mut kind in
            [self.extras, self.frontends, self.marks, self.deletes, self.extra_deletes, self.nodes]
        {
            ops.append(&mut kind);
        }
        let grace_ms = self.actual.limits.grace_ms;
        let due_ms = self.actual.retired.front().map(|run| run.since_ms + grace_ms);
        Plan { ops, refused: self.refused, udp_changed: self.udp_changed, due_ms, ..Plan::default() }
    }

    pub fn free_rested_runs(&mut self) {
        while let Some(run) = self.actual.retired.front().copied()
            && run.since_ms + self.actual.limits.grace_ms <= self.now_ms
        {
            self.actual.retired.pop_front();
            self.actual.runs.free(run.first);
            let range = run.first as usize..(run.first + run.count) as usize;
            self.actual.slots[range].fill(Slot::default());
            self.slots.push(Op::ClearSlots { first: run.first, count: run.count });
        }
    }

    /// False if a part of what the owner wants was refused or has to wait: it is to be planned again.
    pub fn owner(&mut self, wants: &impl Wants, key: &ObjectKey) -> bool {
        let wanted = wants.tables(key);
        let ServiceRecord { ports: old_ports, addresses: old_addresses } =
            self.actual.services.remove(key).unwrap_or_default();
        let (mut old_ports, mut ports) = (old_ports.into_vec(), Vec::with_capacity(wanted.ports.len()));
        let refused_before = self.refused.len();
        for table in &wanted.ports {
            let same = old_ports.iter().position(|port| port.id == table.id);
            let before = match same {
                Some(index) => Some(old_ports.swap_remove(index)),
                None => self.adopt(table),
            };
            ports.extend(self.port(key, table, before));
        }
        for gone in old_ports {
            self.udp_changed |= gone.id.proto == proto::UDP;
            self.released.extend(gone.keys.iter().map(|key| (*key, gone.service_id)));
            self.actual.retire(gone.run, self.now_ms);
            self.drop_extras(gone.extras.as_deref());
        }
        let addresses = self.addresses(key, &wanted.addresses, &old_addresses);
        if !ports.is_empty() || !addresses.is_empty() {
            let record = ServiceRecord { ports: ports.into_boxed_slice(), addresses };
            self.actual.services.insert(key.clone(), record);
        }
        self.refused.len() == refused_before && !std::mem::take(&mut self.is_deferred)
    }

    /// Lets go what was found in the maps and nobody has asked for, once everybody has asked.
    pub fn release_unclaimed(&mut self) {
        if !self.is_complete {
            return;
        }
        let orphans = std::mem::take(&mut self.actual.orphans);
        for key in orphans {
            self.udp_changed |= key.proto == proto::UDP;
            let service_id = self.actual.frontends.get(&key).map_or(0, |frontend| frontend.service_id);
            self.released.push((key, service_id));
        }
        for found in std::mem::take(&mut self.actual.found).into_values() {
            found.runs.into_iter().for_each(|run| self.actual.retire(run, self.now_ms));
        }
        for extras in std::mem::take(&mut self.actual.found_extras).into_values() {
            self.drop_extras(Some(&extras));
        }
    }

    pub fn delete_released(&mut self, wants: &impl Wants) {
        // Marks (port 0) go last: while one stands, an address answers with a reject instead of silence.
        self.released.sort_by_key(|(key, _)| std::cmp::Reverse(key.port.get()));
        for (key, service_id) in std::mem::take(&mut self.released) {
            let is_still_its_own =
                self.actual.frontends.get(&key).is_some_and(|frontend| frontend.service_id == service_id);
            let is_wanted_mark = service_id == 0 && key.port.get() == 0 && wants.is_wanted(&key);
            if is_still_its_own && !is_wanted_mark {
                self.actual.frontends.remove(&key);
                self.deletes.push(Op::DeleteFrontend { key });
            }
        }
    }

    /// False if something did not fit.
    pub fn nodes(&mut self, wanted: &NodeTables) -> bool {
        let Actual { limits, pod_cidrs, tunnel_peers, endpoints, .. } = &mut *self.actual;
        let refused_before = self.refused.len();
        for addr in &wanted.peers {
            if tunnel_peers.contains(addr) {
                continue;
            }
            if tunnel_peers.len() >= limits.tunnel_peers as usize {
                self.refused.push(Refusal::Nodes { map: map::TUNNEL_PEERS, capacity: limits.tunnel_peers });
                break;
            }
            tunnel_peers.insert(*addr);
            self.nodes.push(Op::SetPeer { addr: *addr });
        }
        for (key, value) in &wanted.pod_cidrs {
            if pod_cidrs.get(key) == Some(value) {
                continue;
            }
            if pod_cidrs.len() >= limits.pod_cidrs as usize && !pod_cidrs.contains_key(key) {
                self.refused.push(Refusal::Nodes { map: map::POD_CIDRS, capacity: limits.pod_cidrs });
                break;
            }
            pod_cidrs.insert(*key, *value);
            self.nodes.push(Op::SetPodCidr { key: *key, value: *value });
        }
        for (addr, value) in &wanted.endpoints {
            if endpoints.insert(*addr, *value) != Some(*value) {
                self.nodes.push(Op::SetEndpoint { addr: *addr, value: *value });
            }
        }
        let ops = &mut self.nodes;
        pod_cidrs
            .retain(|key, _| keep(wanted.pod_cidrs.contains_key(key), ops, Op::DeletePodCidr { key: *key }));
        tunnel_peers.retain(|addr| keep(wanted.peers.contains(addr), ops, Op::DeletePeer { addr: *addr }));
        endpoints.retain(|addr, _| {
            keep(wanted.endpoints.contains_key(addr), ops, Op::DeleteEndpoint { addr: *addr })
        });
        self.refused.len() == refused_before
    }

    /// The run that the maps held for this table before we were started, recognised by the frontends that
    /// point to it.
    fn adopt(&mut self, table: &ServicePortTable) -> Option<PortRecord> {
        let actual = &mut *self.actual;
        let service_id = table
            .frontends
            .iter()
            .filter_map(|spec| actual.frontends.get(&spec.key))
            .map(|frontend| frontend.service_id)
            .find(|id| *id != 0 && actual.found.contains_key(id))?;
        // Who has the run, too, and is not known yet, must find it as it is.
        let of_another = |key: &&FrontendKey| {
            let is_its_own = actual.frontends.get(*key).is_some_and(|f| f.service_id == service_id);
            is_its_own && !table.frontends.iter().any(|spec| spec.key == **key)
        };
        if !self.is_complete && actual.orphans.iter().any(|key| of_another(&key)) {
            return None;
        }
        let mut found = actual.found.remove(&service_id)?;
        found.runs.sort_by_key(|run| run.generation);
        let empty = Run { generation: found.last_generation, ..Run::default() };
        let run = found.runs.pop().unwrap_or(empty);
        found.runs.into_iter().for_each(|older| actual.retire(older, self.now_ms));
        let is_its_own =
            |key: &FrontendKey| actual.frontends.get(key).is_some_and(|f| f.service_id == service_id);
        let keys: Box<[FrontendKey]> =
            table.frontends.iter().map(|spec| spec.key).filter(is_its_own).collect();
        for key in &keys {
            actual.orphans.remove(key);
        }
        let extras = actual.found_extras.remove(&service_id).map(Box::new);
        Some(PortRecord { id: table.id, service_id, run, keys, extras })
    }

    /// The record after this plan; what it was before if the table is refused.
    fn port(
        &mut self,
        service: &ObjectKey,
        table: &ServicePortTable,
        before: Option<PortRecord>,
    ) -> Option<PortRecord> {
        let has_room = self.has_room(service, &table.frontends);
        if !has_room {
            return before;
        }
        let (service_id, old_run) = match &before {
            Some(before) => (before.service_id, before.run),
            None => (self.actual.new_service_id(), Run::default()),
        };
        let old_extras = before.as_ref().and_then(|before| before.extras.as_deref());
        let extras = Extras::of(service_id, &table.layout, table.is_sticky(), &table.source_ranges);
        if !self.extras_fit(service, extras.as_deref()) {
            return before;
        }
        let run = match self.run(service_id, old_run, &table.layout.backends) {
            Ok(run) => run,
            Err(source) => {
                // A run that rests will make room soon: until then the old one serves.
                match self.actual.retired.is_empty() {
                    true => self.refused.push(Refusal::Slots { service: service.clone(), source }),
                    false => self.is_deferred = true,
                }
                return before;
            }
        };
        self.set_extras(extras.as_deref(), old_extras);
        let mut changed = run != old_run;
        for spec in &table.frontends {
            let value = Frontend {
                service_id,
                generation: run.generation,
                outside: table.layout.outside.at(run.first),
                inside: table.layout.inside.at(run.first),
                flags: spec.flags,
                affinity_s: spec.affinity_s,
            };
            changed |= self.set(spec.key, value);
        }
        let is_kept = |key: &FrontendKey| table.frontends.iter().any(|spec| spec.key == *key);
        for key in before.iter().flat_map(|before| &before.keys).filter(|key| !is_kept(key)) {
            self.released.push((*key, service_id));
            changed = true;
        }
        if run != old_run {
            self.actual.retire(old_run, self.now_ms);
        }
        self.udp_changed |= changed && table.id.proto == proto::UDP;
        let keys = table.frontends.iter().map(|spec| spec.key).collect();
        Some(PortRecord { id: table.id, service_id, run, keys, extras })
    }

    fn extras_fit(&mut self, service: &ObjectKey, wanted: Option<&Extras>) -> bool {
        let Some(wanted) = wanted else { return true };
        let Actual { limits, members, source_ranges, .. } = &*self.actual;
        let new_members = wanted.members.keys().filter(|member| !members.contains_key(member)).count();
        let new_ranges = wanted.ranges.iter().filter(|range| !source_ranges.contains(range)).count();
        let full = [
            (map::MEMBERS, members.len() + new_members, limits.members),
            (map::SOURCE_RANGES, source_ranges.len() + new_ranges, limits.source_ranges),
        ]
        .into_iter()
        .find(|(_, needed, capacity)| *needed > *capacity as usize);
        if let Some((map, _, capacity)) = full {
            self.refused.push(Refusal::Extras { service: service.clone(), map, capacity });
        }
        full.is_none()
    }

    /// Adds what is missing now; what `before` had and is no longer wanted goes when nothing needs it any
    /// more.
    fn set_extras(&mut self, wanted: Option<&Extras>, before: Option<&Extras>) {
        let empty = Extras::default();
        let (wanted, before) = (wanted.unwrap_or(&empty), before.unwrap_or(&empty));
        for (member, windows) in &wanted.members {
            let known = self.actual.members.insert(*member, *windows).unwrap_or(0);
            // It enters windows before a frontend has them, and leaves them after.
            let both = known | *windows;
            if both != known {
                self.extras.push(Op::SetMember { member: *member, windows: both });
            }
            if both != *windows {
                self.extra_deletes.push(Op::SetMember { member: *member, windows: *windows });
            }
        }
        for range in &wanted.ranges {
            if self.actual.source_ranges.insert(*range) {
                self.extras.push(Op::SetSourceRange { range: *range });
            }
        }
        self.drop_unwanted(before, wanted);
    }

    fn drop_extras(&mut self, gone: Option<&Extras>) {
        if let Some(gone) = gone {
            self.drop_unwanted(gone, &Extras::default());
        }
    }

    fn drop_unwanted(&mut self, before: &Extras, wanted: &Extras) {
        for member in before.members.keys().filter(|member| !wanted.members.contains_key(member)) {
            if self.actual.members.remove(member).is_some() {
                self.extra_deletes.push(Op::DeleteMember { member: *member });
            }
        }
        for range in before.ranges.difference(&wanted.ranges) {
            if self.actual.source_ranges.remove(range) {
                self.extra_deletes.push(Op::DeleteSourceRange { range: *range });
            }
        }
    }

    /// The run that holds `backends`: the old one if it does already, else a new one.
    fn run(&mut self, service_id: u32, old: Run, backends: &[Backend]) -> Result<Run, RunsFull> {
        let is_same = |slot: &Slot, backend: &Backend| {
            (slot.addr, slot.port, slot.flags) == (backend.addr, backend.port, backend.flags)
        };
        let slots = self.actual.run_slots(old.first, old.count);
        if slots.len() == backends.len() && slots.iter().zip(backends).all(|(s, b)| is_same(s, b)) {
            return Ok(old);
        }
        let generation = old.generation.wrapping_add(1);
        let count = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        if count == 0 {
            return Ok(Run { first: 0, count, generation });
        }
        let first = self.actual.runs.allocate(count)?;
        let slots: Vec<Slot> = backends
            .iter()
            .map(|b| Slot { addr: b.addr, port: b.port, flags: b.flags, service_id, generation })
            .collect();
        let end = (first + count) as usize;
        if self.actual.slots.len() < end {
            self.actual.slots.resize(end, Slot::default());
        }
        self.actual.slots[first as usize..end].copy_from_slice(&slots);
        self.slots.push(Op::WriteSlots { first, slots });
        Ok(Run { first, count, generation })
    }

    fn addresses(
        &mut self,
        service: &ObjectKey,
        wanted: &[FrontendSpec],
        old: &[FrontendKey],
    ) -> Box<[FrontendKey]> {
        let kept: &[FrontendSpec] = if self.has_room(service, wanted) { wanted } else { &[] };
        for spec in kept {
            self.set(spec.key, mark(spec.flags));
        }
        let is_kept = |key: &FrontendKey| kept.iter().any(|spec| spec.key == *key);
        self.released.extend(old.iter().filter(|key| !is_kept(key)).map(|key| (*key, 0)));
        kept.iter().map(|spec| spec.key).collect()
    }

    /// Whether the maps must be told; what they hold stays alone.
    fn set(&mut self, key: FrontendKey, value: Frontend) -> bool {
        self.actual.orphans.remove(&key);
        if self.actual.frontends.get(&key) == Some(&value) {
            return false;
        }
        self.actual.frontends.insert(key, value);
        let list = if value.service_id == 0 { &mut self.marks } else { &mut self.frontends };
        list.push(Op::SetFrontend { key, value });
        true
    }

    /// Deletions come last in a plan, so what they will free does not count.
    fn has_room(&mut self, service: &ObjectKey, wanted: &[FrontendSpec]) -> bool {
        let capacity = self.actual.limits.frontends;
        let new = wanted.iter().filter(|spec| !self.actual.frontends.contains_key(&spec.key)).count();
        let fits = self.actual.frontends.len() + new <= capacity as usize;
        if !fits {
            self.refused.push(Refusal::Frontends { service: service.clone(), capacity });
        }
        fits
    }
}

/// For `retain`: what is not kept is deleted from the map, too.
fn keep(is_wanted: bool, ops: &mut Vec<Op>, delete: Op) -> bool {
    if !is_wanted {
        ops.push(delete);
    }
    is_wanted
}
