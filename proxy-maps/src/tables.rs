use std::path::Path;

use bytemuck::Pod;
use proxy_abi::{
    Addr, Endpoint, Frontend, FrontendKey, Member, PodCidr, PodCidrKey, Slot, SourceRangeKey, map,
};
use proxy_state::{Dump, Limits, Op};
use skerry_kernel::{Error, Map, Update};

/// Slots that go in by one call: few enough for memory that is there already.
const SLOTS_AT_ONCE: usize = 4_096;

/// Where plans are executed. Tests have one that fails and dies at will.
pub trait Tables {
    /// Executes in order; stops at the first failure, and what was done until then stays.
    ///
    /// # Errors
    /// The operation that failed.
    fn execute(&mut self, ops: &[Op]) -> Result<(), Error>;

    /// What is in them.
    ///
    /// # Errors
    /// A table can't be read.
    fn dump(&mut self) -> Result<Dump, Error>;
}

/// The pinned maps that plans write to.
pub struct PinnedTables {
    frontends: Map<FrontendKey, Frontend>,
    slots: Map<u32, Slot>,
    members: Map<Member, u32>,
    source_ranges: Map<SourceRangeKey, u32>,
    pod_cidrs: Map<PodCidrKey, PodCidr>,
    tunnel_peers: Map<Addr, u32>,
    endpoints: Map<Addr, Endpoint>,
}

impl PinnedTables {
    /// `maps`: the folder of the pinned maps.
    ///
    /// # Errors
    /// One is not there, or has another layout.
    pub fn open(maps: &Path) -> Result<PinnedTables, Error> {
        Ok(PinnedTables {
            frontends: Map::open(&maps.join(map::FRONTENDS))?,
            slots: Map::open(&maps.join(map::SLOTS))?,
            members: Map::open(&maps.join(map::MEMBERS))?,
            source_ranges: Map::open(&maps.join(map::SOURCE_RANGES))?,
            pod_cidrs: Map::open(&maps.join(map::POD_CIDRS))?,
            tunnel_peers: Map::open(&maps.join(map::TUNNEL_PEERS))?,
            endpoints: Map::open(&maps.join(map::ENDPOINTS))?,
        })
    }

    /// The sizes that the maps really have: one that was pinned before keeps its own. `ids_until`: numbers of
    /// services that connections may know.
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

impl Tables for PinnedTables {
    fn execute(&mut self, ops: &[Op]) -> Result<(), Error> {
        let mut batch = Batch { tables: self, kind: Kind::Single, waiting: Waiting::default() };
        ops.iter().try_for_each(|op| batch.add(op))?;
        batch.flush()
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

/// Neighbours of one kind go in by one call; the order of kinds is what makes a plan safe.
struct Batch<'a> {
    tables: &'a PinnedTables,
    /// Of what waits.
    kind: Kind,
    waiting: Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Slots,
    SetFrontends,
    DeleteFrontends,
    SetMembers,
    DeleteMembers,
    /// Changes of nodes and of source ranges: few, and the trie has batches only from Linux 5.16 on. They
    /// don't wait.
    Single,
}

#[derive(Default)]
struct Waiting {
    slots: Pairs<u32, Slot>,
    frontends: Pairs<FrontendKey, Frontend>,
    frontends_gone: Vec<FrontendKey>,
    members: Pairs<Member, u32>,
    members_gone: Vec<Member>,
}

impl Batch<'_> {
    fn add(&mut self, op: &Op) -> Result<(), Error> {
        let tables = self.tables;
        match op {
            Op::WriteSlots { first, slots } => {
                self.begin(Kind::Slots)?;
                (*first..).zip(slots).try_for_each(|(index, slot)| self.slot(index, *slot))
            }
            Op::ClearSlots { first, count } => {
                self.begin(Kind::Slots)?;
                (*first..).take(*count as usize).try_for_each(|index| self.slot(index, Slot::default()))
            }
            Op::SetFrontend { key, value } => {
                self.begin(Kind::SetFrontends)?;
                self.waiting.frontends.push(*key, *value);
                Ok(())
            }
            Op::DeleteFrontend { key } => {
                self.begin(Kind::DeleteFrontends)?;
                self.waiting.frontends_gone.push(*key);
                Ok(())
            }
            Op::SetMember { member, windows } => {
                self.begin(Kind::SetMembers)?;
                self.waiting.members.push(*member, *windows);
                Ok(())
            }
            Op::DeleteMember { member } => {
                self.begin(Kind::DeleteMembers)?;
                self.waiting.members_gone.push(*member);
                Ok(())
            }
            Op::SetSourceRange { range } => {
                self.begin(Kind::Single)?;
                tables.source_ranges.update(range, &0, Update::Any)
            }
            Op::DeleteSourceRange { range } => {
                self.begin(Kind::Single)?;
                tables.source_ranges.delete(range).map(drop)
            }
            Op::SetPodCidr { key, value } => {
                self.begin(Kind::Single)?;
                tables.pod_cidrs.update(key, value, Update::Any)
            }
            Op::DeletePodCidr { key } => {
                self.begin(Kind::Single)?;
                tables.pod_cidrs.delete(key).map(drop)
            }
            Op::SetPeer { addr } => {
                self.begin(Kind::Single)?;
                tables.tunnel_peers.update(addr, &0, Update::Any)
            }
            Op::DeletePeer { addr } => {
                self.begin(Kind::Single)?;
                tables.tunnel_peers.delete(addr).map(drop)
            }
            Op::SetEndpoint { addr, value } => {
                self.begin(Kind::Single)?;
                tables.endpoints.update(addr, value, Update::Any)
            }
            Op::DeleteEndpoint { addr } => {
                self.begin(Kind::Single)?;
                tables.endpoints.delete(addr).map(drop)
            }
        }
    }

    /// What waits and is of another kind goes in first.
    fn begin(&mut self, kind: Kind) -> Result<(), Error> {
        if self.kind != kind {
            self.flush()?;
            self.kind = kind;
        }
        Ok(())
    }

    fn slot(&mut self, index: u32, slot: Slot) -> Result<(), Error> {
        self.waiting.slots.push(index, slot);
        match self.waiting.slots.keys.len() < SLOTS_AT_ONCE {
            true => Ok(()),
            false => self.waiting.slots.write(&self.tables.slots),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let (tables, waiting) = (self.tables, &mut self.waiting);
        match self.kind {
            Kind::Slots => waiting.slots.write(&tables.slots),
            Kind::SetFrontends => waiting.frontends.write(&tables.frontends),
            Kind::DeleteFrontends => {
                tables.frontends.delete_batch(&std::mem::take(&mut waiting.frontends_gone)).map(drop)
            }
            Kind::SetMembers => waiting.members.write(&tables.members),
            Kind::DeleteMembers => {
                tables.members.delete_batch(&std::mem::take(&mut waiting.members_gone)).map(drop)
            }
            Kind::Single => Ok(()),
        }
    }
}

/// What a batch's system call takes: two lists of one length.
struct Pairs<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K, V> Default for Pairs<K, V> {
    fn default() -> Pairs<K, V> {
        Pairs { keys: Vec::new(), values: Vec::new() }
    }
}

impl<K: Pod + PartialEq, V: Pod> Pairs<K, V> {
    fn push(&mut self, key: K, value: V) {
        self.keys.push(key);
        self.values.push(value);
    }

    fn write(&mut self, map: &Map<K, V>) -> Result<(), Error> {
        map.update_batch(&self.keys, &self.values)?;
        self.keys.clear();
        self.values.clear();
        Ok(())
    }
}
