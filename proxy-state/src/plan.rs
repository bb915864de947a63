use std::collections::BTreeSet;

use proxy_abi::{
    Addr, Endpoint, Frontend, FrontendKey, Member, PodCidr, PodCidrKey, Slot, SourceRangeKey, map,
};

use crate::{
    actual::{Actual, Dump},
    draft::Draft,
    model::ObjectKey,
    runs::RunsFull,
    wants::{Dirty, Wants},
    warnings::{Cause, Warning},
};

/// One map operation. Executing a plan's operations in order, and stopping after any of them, leaves maps
/// that every packet can be served from: a run, its members and who may use it are written before a frontend
/// points to it, and erased after that.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// Into free slots: a run that is not pointed to yet.
    WriteSlots {
        /// Index of the first.
        first: u32,
        /// Never empty.
        slots: Vec<Slot>,
    },
    /// Writes free slots over a run that has rested.
    ClearSlots {
        /// Index of the first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Adds or replaces.
    SetFrontend {
        /// What clients dial.
        key: FrontendKey,
        /// Where its run is.
        value: Frontend,
    },
    /// Clients of it are served no more, unless its address is marked as in use.
    DeleteFrontend {
        /// What clients dial.
        key: FrontendKey,
    },
    /// `windows`: bits of `member_of`.
    SetMember {
        /// Service and backend.
        member: Member,
        /// Where it stands.
        windows: u32,
    },
    /// Clients that stuck to it get another backend.
    DeleteMember {
        /// Service and backend.
        member: Member,
    },
    /// Lets its clients in.
    SetSourceRange {
        /// Service and prefix.
        range: SourceRangeKey,
    },
    /// Shuts its clients out, where no wider range of the service holds them.
    DeleteSourceRange {
        /// Service and prefix.
        range: SourceRangeKey,
    },
    /// Adds or replaces.
    SetPodCidr {
        /// Prefix, its length in the 128-bit form.
        key: PodCidrKey,
        /// The node that has it.
        value: PodCidr,
    },
    /// Packets into it go to whoever has a wider one, or nowhere.
    DeletePodCidr {
        /// Prefix, its length in the 128-bit form.
        key: PodCidrKey,
    },
    /// Packets may come out of the tunnel from it.
    SetPeer {
        /// An address of another node.
        addr: Addr,
    },
    /// Packets may not any more.
    DeletePeer {
        /// An address that no other node has.
        addr: Addr,
    },
    /// Adds or replaces an address of the node itself, never a pod's.
    SetEndpoint {
        /// The node's address or router address.
        addr: Addr,
        /// Without device and Ethernet address.
        value: Endpoint,
    },
    /// An address that the node has no longer.
    DeleteEndpoint {
        /// The node's address or router address.
        addr: Addr,
    },
}

impl Dump {
    /// Does to these contents what `op` does to the maps.
    pub fn execute(&mut self, op: &Op) {
        match op {
            Op::WriteSlots { first, slots } => self.write(*first, slots),
            Op::ClearSlots { first, count } => self.write(*first, &vec![Slot::default(); *count as usize]),
            Op::SetFrontend { key, value } => drop(self.frontends.insert(*key, *value)),
            Op::DeleteFrontend { key } => drop(self.frontends.remove(key)),
            Op::SetMember { member, windows } => drop(self.members.insert(*member, *windows)),
            Op::DeleteMember { member } => drop(self.members.remove(member)),
            Op::SetSourceRange { range } => drop(self.source_ranges.insert(*range)),
            Op::DeleteSourceRange { range } => drop(self.source_ranges.remove(range)),
            Op::SetPodCidr { key, value } => drop(self.pod_cidrs.insert(*key, *value)),
            Op::DeletePodCidr { key } => drop(self.pod_cidrs.remove(key)),
            Op::SetPeer { addr } => drop(self.tunnel_peers.insert(*addr)),
            Op::DeletePeer { addr } => drop(self.tunnel_peers.remove(addr)),
            Op::SetEndpoint { addr, value } => drop(self.endpoints.insert(*addr, *value)),
            Op::DeleteEndpoint { addr } => drop(self.endpoints.remove(addr)),
        }
    }

    fn write(&mut self, first: u32, slots: &[Slot]) {
        let (first, end) = (first as usize, first as usize + slots.len());
        if self.slots.len() < end {
            self.slots.resize(end, Slot::default());
        }
        self.slots[first..end].copy_from_slice(slots);
    }
}

/// What to do, and what could not be planned.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Plan {
    /// To be executed in this order.
    pub ops: Vec<Op>,
    /// These stay as they were and are tried again with the next plan.
    pub refused: Vec<Refusal>,
    /// A UDP frontend or its backends changed: look through the UDP flows with
    /// [`Actual::udp_flow_is_current`].
    pub udp_changed: bool,
    /// When the next retired run can be freed (same clock as `now_ms`).
    pub due_ms: Option<u64>,
    /// Whose tables were looked at: `State::warnings` of others are as before.
    pub owners: BTreeSet<ObjectKey>,
}

/// A service port that did not fit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// No hole in `SLOTS` holds one of its runs.
    #[error("service {service}")]
    Slots {
        /// Whose run it is.
        service: ObjectKey,
        /// How large the run is, and what there was.
        source: RunsFull,
    },
    /// `FRONTENDS` takes no more.
    #[error("service {service}: map FRONTENDS full ({capacity}): raise the size of FRONTENDS")]
    Frontends {
        /// Whose frontend it is.
        service: ObjectKey,
        /// Entries of the map.
        capacity: u32,
    },
    /// `MEMBERS` or `SOURCE_RANGES` takes no more.
    #[error("service {service}: map {map} full ({capacity}): raise the size of {map}")]
    Extras {
        /// Whose members or ranges they are.
        service: ObjectKey,
        /// One of the names in `proxy_abi::map`.
        map: &'static str,
        /// Entries of the map.
        capacity: u32,
    },
    /// `POD_CIDRS` or `TUNNEL_PEERS` takes no more.
    #[error("map {map} full ({capacity}): raise the size of {map}")]
    Nodes {
        /// One of the names in `proxy_abi::map`.
        map: &'static str,
        /// Entries of the map.
        capacity: u32,
    },
}

impl Refusal {
    /// The service that it concerns, or else the map.
    pub fn of(&self) -> ObjectKey {
        match self {
            Refusal::Slots { service, .. }
            | Refusal::Frontends { service, .. }
            | Refusal::Extras { service, .. } => service.clone(),
            Refusal::Nodes { map, .. } => ObjectKey::new("", map),
        }
    }

    /// For the service's owner, without the figures that change from one attempt to the next. `None`: it
    /// concerns no service.
    pub fn warning(&self) -> Option<(&ObjectKey, Warning)> {
        let (service, map, capacity) = match self {
            Refusal::Slots { service, source } => (service, map::SLOTS, source.capacity),
            Refusal::Frontends { service, capacity } => (service, map::FRONTENDS, *capacity),
            Refusal::Extras { service, map, capacity } => (service, *map, *capacity),
            Refusal::Nodes { .. } => return None,
        };
        let note = format!(
            "the proxy's map {map} is full ({capacity} entries): served as before, or not at all; raise the size of {map}"
        );
        Some((service, Warning { cause: Cause::DoesNotFit, note }))
    }
}

/// Works out the operations from `actual` to what is wanted. Looks only at what is dirty, or at everything
/// after [`Actual::restore`]; costs O(change). `actual` becomes the state after the plan. `now_ms` is any
/// monotonic clock.
pub fn plan(wants: &mut impl Wants, actual: &mut Actual, now_ms: u64) -> Plan {
    if std::mem::take(&mut actual.is_restored) {
        wants.mark_all_dirty();
    }
    let dirty = wants.take_dirty();
    let mut again = Dirty::default();
    let mut draft = Draft::new(actual, now_ms, wants.is_complete());
    draft.free_rested_runs();
    for owner in &dirty.owners {
        if !draft.owner(wants, owner) {
            again.owners.insert(owner.clone());
        }
    }
    draft.release_unclaimed();
    draft.delete_released(wants);
    again.nodes = dirty.nodes && !draft.nodes(&wants.node_tables());
    wants.put_back(again);
    Plan { owners: dirty.owners, ..draft.finish() }
}
