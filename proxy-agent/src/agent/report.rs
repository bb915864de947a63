use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use proxy_abi::map;
use proxy_state::{ObjectKey, Refusal, Warning};

use skerry_vocabulary::chain;

use super::cycle::Agent;
use crate::{config::MapSizes, programs::capacity::larger};

/// Lines about services that did not fit, of one sync.
const LOGGED_AT_ONCE: usize = 10;

/// How large the maps were asked to be, and may be.
pub(super) struct Capacity {
    pub asked: MapSizes,
    pub max_bytes: u64,
    /// What all Services need has been compared with what the maps hold.
    pub is_known: bool,
}

/// What follows from a sync besides the maps.
impl Agent {
    /// Logs what is refused when it is not yet known, and tells the owners of Services.
    pub(super) fn warn(
        &mut self,
        refused: &[Refusal],
        mut planned: BTreeSet<ObjectKey>,
        nodes_changed: bool,
    ) {
        let before = std::mem::take(&mut self.refused);
        let is_new =
            |refusal: &&Refusal| self.refused.insert(refusal.of()) && !before.contains(&refusal.of());
        let fresh: Vec<&Refusal> = refused.iter().filter(is_new).collect();
        if !fresh.is_empty() {
            self.larger = self.larger_maps();
            if self.larger.is_some() {
                // Nobody needs to be told: they will fit a moment later.
                return;
            }
        }
        for refusal in fresh.iter().take(LOGGED_AT_ONCE) {
            tracing::error!(error = chain(refusal), "does not fit: served as before, or not at all");
        }
        if fresh.len() > LOGGED_AT_ONCE {
            tracing::error!(services = fresh.len(), "do not fit: see the metric service_warnings");
        }
        let mut warnings: HashMap<ObjectKey, Vec<Warning>> = HashMap::new();
        for (service, warning) in refused.iter().filter_map(Refusal::warning) {
            warnings.entry(service.clone()).or_default().push(warning);
        }
        if let Some(tables) = self.node_tables.as_ref().filter(|_| nodes_changed) {
            planned.extend(tables.warnings.keys().cloned());
            warnings.extend(tables.warnings.iter().map(|(node, found)| (node.clone(), found.clone())));
        }
        self.warnings.note(&self.reconciler.wants, planned, &warnings, nodes_changed, &self.metrics);
    }

    pub(super) fn larger_maps(&self) -> Option<MapSizes> {
        let demand = self.reconciler.wants.demand();
        larger(&demand, self.reconciler.limits(), &self.capacity.asked, self.capacity.max_bytes)
    }

    pub(super) fn end_stale_udp(&self) {
        match self.flows.end_stale_udp(&self.reconciler.actual) {
            Ok(0) => {}
            Ok(ended) => {
                self.metrics.udp_flows_ended.inc_by(ended as u64);
                tracing::debug!(ended, "UDP flows whose backend is gone");
            }
            Err(error) => tracing::error!(error = chain(&error), "UDP flows not looked through"),
        }
    }

    /// Tells who ends connections what the Services that ask for it have now.
    pub(super) fn tell_resets(&mut self) {
        self.due.resets_at = None;
        let new = self.reconciler.wants.resets(&self.reconciler.actual);
        self.resets.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    pub(super) fn report(&self, latency: Option<Duration>) {
        let (frontends, slots) = self.reconciler.actual.usage();
        let limits = self.reconciler.limits();
        self.metrics.set_usage(map::FRONTENDS, frontends, limits.frontends);
        self.metrics.set_usage(map::SLOTS, slots, limits.slots);
        let (services, slices) = self.reconciler.wants.counts();
        self.metrics.services.set(services as i64);
        self.metrics.slices.set(slices as i64);
        self.progress.send_modify(|progress| {
            progress.syncs += 1;
            progress.services = services;
            progress.slices = slices;
            progress.event_to_maps = latency.unwrap_or(progress.event_to_maps);
        });
    }
}
