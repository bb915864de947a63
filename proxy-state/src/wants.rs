//! Whoever wants tables: a cluster's Services ([`State`]), or who names them one by one ([`Listed`]). One
//! planner plans them all.

use std::collections::{BTreeMap, BTreeSet};

use proxy_abi::FrontendKey;

use crate::{claims::Claims, desired::ServiceTables, ingest::State, model::ObjectKey, nodes::NodeTables};

/// What the planner asks of whom it plans for. An owner is whatever has tables of its own: a Service, a
/// virtual address.
pub trait Wants {
    /// What may have changed since this was last asked.
    fn take_dirty(&mut self) -> Dirty;

    /// Could not be planned now: it is asked for again with the next plan.
    fn put_back(&mut self, dirty: Dirty);

    /// After the maps were read anew: everything is to be compared with them.
    fn mark_all_dirty(&mut self);

    /// What one owner wants; empty if there is no such owner. No two owners want the same frontend.
    fn tables(&self, owner: &ObjectKey) -> ServiceTables;

    /// Whether anybody wants this frontend.
    fn is_wanted(&self, key: &FrontendKey) -> bool;

    /// What all owners share.
    fn node_tables(&self) -> NodeTables;

    /// Whether all owners are known. Before that what an earlier process left in the maps, and nobody has
    /// asked for yet, stays.
    fn is_complete(&self) -> bool;
}

/// What is to be looked at again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Dirty {
    /// Whose [`Wants::tables`] may be others than before.
    pub owners: BTreeSet<ObjectKey>,
    /// [`Wants::node_tables`].
    pub nodes: bool,
}

impl Dirty {
    /// Nothing is to be looked at.
    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty() && !self.nodes
    }

    pub(crate) fn add(&mut self, other: Dirty) {
        self.owners.extend(other.owners);
        self.nodes |= other.nodes;
    }
}

impl Wants for State {
    fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    fn put_back(&mut self, dirty: Dirty) {
        self.dirty.add(dirty);
    }

    fn mark_all_dirty(&mut self) {
        self.dirty.owners.extend(self.services.keys().cloned());
        self.dirty.nodes = true;
    }

    fn tables(&self, owner: &ObjectKey) -> ServiceTables {
        self.desired(owner)
    }

    fn is_wanted(&self, key: &FrontendKey) -> bool {
        self.owner(key).is_some()
    }

    fn node_tables(&self) -> NodeTables {
        State::node_tables(self)
    }

    /// Nobody plans for a cluster before every watch has listed.
    fn is_complete(&self) -> bool {
        true
    }
}

/// Tables that somebody names outright. Of two owners that name one frontend the first by name has it, and
/// the other gets it when that one lets go.
#[derive(Debug, Default)]
pub struct Listed {
    owners: BTreeMap<ObjectKey, ServiceTables>,
    claims: Claims,
    dirty: Dirty,
    is_complete: bool,
}

impl Listed {
    /// What is wanted from now on. If this `is_all`, owners that are not named want nothing any more, and
    /// never again does anything stay for want of knowledge; if not, those that were named before go on as
    /// they were.
    pub fn set(&mut self, wanted: BTreeMap<ObjectKey, ServiceTables>, is_all: bool) {
        if is_all {
            let gone: Vec<ObjectKey> =
                self.owners.keys().filter(|owner| !wanted.contains_key(owner)).cloned().collect();
            gone.into_iter().for_each(|owner| self.set_one(owner, ServiceTables::default()));
        }
        wanted.into_iter().for_each(|(owner, tables)| self.set_one(owner, tables));
        self.is_complete |= is_all;
    }

    fn set_one(&mut self, owner: ObjectKey, new: ServiceTables) {
        let old = self.owners.remove(&owner).unwrap_or_default();
        let is_same = old == new;
        let (old_keys, new_keys) = (keys(&old), keys(&new));
        if new != ServiceTables::default() {
            self.owners.insert(owner.clone(), new);
        }
        if is_same {
            return;
        }
        for key in old_keys.difference(&new_keys) {
            self.claims.remove(*key, &owner);
        }
        for key in &new_keys {
            self.claims.add(*key, &owner);
        }
        // Who has a shared frontend may have changed for everyone that names it.
        for key in old_keys.union(&new_keys) {
            self.dirty.owners.extend(self.claims.of(key).cloned());
        }
        self.dirty.owners.insert(owner);
    }

    fn has(&self, owner: &ObjectKey, key: &FrontendKey) -> bool {
        self.claims.of(key).min() == Some(owner)
    }
}

fn keys(tables: &ServiceTables) -> BTreeSet<FrontendKey> {
    let of_ports = tables.ports.iter().flat_map(|port| &port.frontends);
    of_ports.chain(&tables.addresses).map(|spec| spec.key).collect()
}

impl Wants for Listed {
    fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    fn put_back(&mut self, dirty: Dirty) {
        self.dirty.add(dirty);
    }

    fn mark_all_dirty(&mut self) {
        self.dirty.owners.extend(self.owners.keys().cloned());
        self.dirty.nodes = true;
    }

    fn tables(&self, owner: &ObjectKey) -> ServiceTables {
        let mut tables = self.owners.get(owner).cloned().unwrap_or_default();
        tables.ports.iter_mut().for_each(|port| port.frontends.retain(|spec| self.has(owner, &spec.key)));
        tables.ports.retain(|port| !port.frontends.is_empty());
        tables.addresses.retain(|spec| self.has(owner, &spec.key));
        tables
    }

    fn is_wanted(&self, key: &FrontendKey) -> bool {
        self.claims.of(key).next().is_some()
    }

    /// There is no cluster.
    fn node_tables(&self) -> NodeTables {
        NodeTables::default()
    }

    fn is_complete(&self) -> bool {
        self.is_complete
    }
}
