use bytemuck::Pod;
use proxy_abi::{
    Addr, Endpoint, Frontend, FrontendKey, Member, PodCidr, PodCidrKey, Slot, SourceRangeKey, map,
};
use proxy_state::{Dump, Limits, Op};
use skerry_kernel::{Error, Map, Update};

use crate::{connections::flows, programs::pins::Pins};

/// Slots that go in by one call: few enough for memory that is there already.
const SLOTS_AT_ONCE: usize = 4_096;

/// Where plans are executed. Tests have one that fails and dies at will.
pub(crate) trait Tables {
    /// Executes in order; stops at the first failure, and what was done until then stays.
    fn execute(&mut self, ops: &[Op]) -> Result<(), Error>;
    fn dump(&mut self) -> Result<Dump, Error>;
}

/// The pinned maps that plans write to.
pub(crate) struct PinnedTables {
    frontends: Map<FrontendKey, Frontend>,
    slots: Map<u32, Slot>,
    members: Map<Member, u32>,
    source_ranges: Map<SourceRangeKey, u32>,
    pod_cidrs: Map<PodCidrKey, PodCidr>,
    tunnel_peers: Map<Addr, u32>,
    endpoints: Map<Addr, Endpoint>,
}

impl PinnedTables {
    pub fn open(pins: &Pins) -> Result<PinnedTables, Error> {
        Ok(PinnedTables {
            frontends: Map::open(&pins.map(map::FRONTENDS))?,
            slots: Map::open(&pins.map(map::SLOTS))?,
            members: Map::open(&pins.map(map::MEMBERS))?,
            source_ranges: Map::open(&pins.map(map::SOURCE_RANGES))?,
            pod_cidrs: Map::open(&pins.map(map::POD_CIDRS))?,
            tunnel_peers: Map::open(&pins.map(map::TUNNEL_PEERS))?,
            endpoints: Map::open(&pins.map(map::ENDPOINTS))?,
        })
    }

    /// The sizes that the maps really have: one that was pinned before keeps its own. `ids_until`: numbers of services that
    /// connections may know.
    pub fn limits(&self, grace_ms: u64, ids_until: u32) -> Limits {
        Limits {
            frontends: self.frontends.info().max_entries,
            slots: self.slots.info().max_entries,
            members: self.members.info().max_entries,
            source_ranges: self.source_ranges.info().max_entries,
            pod_cidrs: self.pod_cidrs.info().max_entries,
            tunnel_peers: self.tunnel_peers.info().max_entries,
            grace_ms,
            ids_until,
        }
    }
}

/// What an agent finds in the maps when it starts.
pub(crate) struct Inherited {
    pub tables: PinnedTables,
    pub dump: Dump,
    /// Numbers of services that connections may know.
    pub ids_until: u32,
}

impl Inherited {
    /// `are_fresh`: nothing is in them, and looking through all their elements would tell no more.
    pub fn read(pins: &Pins, are_fresh: bool) -> Result<Inherited, Error> {
        let mut tables = PinnedTables::open(pins)?;
        if are_fresh {
            return Ok(Inherited { tables, dump: Dump::default(), ids_until: 0 });
        }
        Ok(Inherited { dump: tables.dump()?, ids_until: flows::last_service_id(pins)?, tables })
    }
}

impl Tables for PinnedTables {
    fn execute(&mut self, ops: &[Op]) -> Result<(), Error> {
        let mut rest = ops;
        while let Some(first) = rest.first() {
            // Neighbours of one kind go in by one call; the order of kinds is what makes a plan safe.
            let kind = kind(first);
            let (now, later) = rest.split_at(rest.iter().take_while(|op| self::kind(op) == kind).count());
            match kind {
                Kind::Slots => self.write_slots(now)?,
                Kind::SetFrontends => update(&self.frontends, now, |op| match op {
                    Op::SetFrontend { key, value } => Some((*key, *value)),
                    _ => None,
                })?,
                Kind::DeleteFrontends => delete(&self.frontends, now, |op| match op {
                    Op::DeleteFrontend { key } => Some(*key),
                    _ => None,
                })?,
                Kind::SetMembers => update(&self.members, now, |op| match op {
                    Op::SetMember { member, windows } => Some((*member, *windows)),
                    _ => None,
                })?,
                Kind::DeleteMembers => delete(&self.members, now, |op| match op {
                    Op::DeleteMember { member } => Some(*member),
                    _ => None,
                })?,
                Kind::Single => now.iter().try_for_each(|op| self.single(op))?,
            }
            rest = later;
        }
        Ok(())
    }

    fn dump(&mut self) -> Result<Dump, Error> {
        let mut slots: Vec<Slot> = Vec::new();
        for (index, slot) in self.slots.entries()? {
            if slot.service_id != 0 {
                slots.resize(slots.len().max(index as usize + 1), Slot::default());
                slots[index as usize] = slot;
            }
        }
        Ok(Dump {
            frontends: self.frontends.entries()?.into_iter().collect(),
            slots,
            members: self.members.entries()?.into_iter().collect(),
            source_ranges: self.source_ranges.entries()?.into_iter().map(|(range, _)| range).collect(),
            pod_cidrs: self.pod_cidrs.entries()?.into_iter().collect(),
            tunnel_peers: self.tunnel_peers.entries()?.into_iter().map(|(addr, _)| addr).collect(),
            endpoints: self.endpoints.entries()?.into_iter().collect(),
        })
    }
}

impl PinnedTables {
    fn write_slots(&self, ops: &[Op]) -> Result<(), Error> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut write = |index, slot| {
            keys.push(index);
            values.push(slot);
            if keys.len() < SLOTS_AT_ONCE {
                return Ok(());
            }
            self.slots.update_batch(&keys, &values)?;
            keys.clear();
            values.clear();
            Ok(())
        };
        for op in ops {
            match op {
                Op::WriteSlots { first, slots } => {
                    (*first..).zip(slots).try_for_each(|(index, slot)| write(index, *slot))?;
                }
                Op::ClearSlots { first, count } => {
                    (*first..).take(*count as usize).try_for_each(|index| write(index, Slot::default()))?;
                }
                _ => {}
            }
        }
        self.slots.update_batch(&keys, &values)
    }

    /// Changes of nodes and of source ranges: few, and the trie has batches only from Linux 5.16 on.
    fn single(&self, op: &Op) -> Result<(), Error> {
        match op {
            Op::SetPodCidr { key, value } => self.pod_cidrs.update(key, value, Update::Any),
            Op::DeletePodCidr { key } => self.pod_cidrs.delete(key).map(drop),
            Op::SetPeer { addr } => self.tunnel_peers.update(addr, &0, Update::Any),
            Op::DeletePeer { addr } => self.tunnel_peers.delete(addr).map(drop),
            Op::SetEndpoint { addr, value } => self.endpoints.update(addr, value, Update::Any),
            Op::DeleteEndpoint { addr } => self.endpoints.delete(addr).map(drop),
            Op::WriteSlots { .. } | Op::ClearSlots { .. } => self.write_slots(std::slice::from_ref(op)),
            Op::SetFrontend { key, value } => self.frontends.update(key, value, Update::Any),
            Op::DeleteFrontend { key } => self.frontends.delete(key).map(drop),
            Op::SetMember { member, windows } => self.members.update(member, windows, Update::Any),
            Op::DeleteMember { member } => self.members.delete(member).map(drop),
            Op::SetSourceRange { range } => self.source_ranges.update(range, &0, Update::Any),
            Op::DeleteSourceRange { range } => self.source_ranges.delete(range).map(drop),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Slots,
    SetFrontends,
    DeleteFrontends,
    SetMembers,
    DeleteMembers,
    Single,
}

fn kind(op: &Op) -> Kind {
    match op {
        Op::WriteSlots { .. } | Op::ClearSlots { .. } => Kind::Slots,
        Op::SetFrontend { .. } => Kind::SetFrontends,
        Op::DeleteFrontend { .. } => Kind::DeleteFrontends,
        Op::SetMember { .. } => Kind::SetMembers,
        Op::DeleteMember { .. } => Kind::DeleteMembers,
        _ => Kind::Single,
    }
}

fn update<K: Pod + PartialEq, V: Pod>(
    map: &Map<K, V>,
    ops: &[Op],
    pair: impl Fn(&Op) -> Option<(K, V)>,
) -> Result<(), Error> {
    let (keys, values): (Vec<K>, Vec<V>) = ops.iter().filter_map(pair).unzip();
    map.update_batch(&keys, &values)
}

fn delete<K: Pod + PartialEq, V: Pod>(
    map: &Map<K, V>,
    ops: &[Op],
    key: impl Fn(&Op) -> Option<K>,
) -> Result<(), Error> {
    let keys: Vec<K> = ops.iter().filter_map(key).collect();
    map.delete_batch(&keys).map(drop)
}
