//! Connections to endpoints that are gone, of Services that want them ended
//! (`service.skerry.io/reset-on-endpoint-removal`).

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use proxy_abi::{Addr, Be16, proto};

use crate::{actual::Actual, ingest::State, model::Port};

/// What the Services that want it still have, by the number that the programs noted with a connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resets {
    endpoints: HashMap<u32, HashSet<(Addr, Be16)>>,
}

impl Resets {
    /// No Service wants connections ended.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Whether a TCP connection that `service_id` was asked for, and that got `backend`, is to be ended: none
    /// of the Service's slices has the endpoint, ready or not. Numbers that are not known (of Services that
    /// are gone, or that do not want it) say no.
    pub fn is_gone(&self, service_id: u32, backend: (Addr, Be16)) -> bool {
        self.endpoints.get(&service_id).is_some_and(|endpoints| !endpoints.contains(&backend))
    }
}

impl State {
    /// The Services that want connections ended, with all endpoints of their TCP ports: also those that are
    /// not ready or terminate, which may finish what they have begun. `actual`: which numbers the maps know
    /// them by.
    pub fn resets(&self, actual: &Actual) -> Resets {
        let mut resets = Resets::default();
        for key in &self.resetting {
            let (Some(service), Some(record)) = (self.services.get(key), actual.services.get(key)) else {
                continue;
            };
            for run in record.ports.iter().filter(|run| run.id.proto == proto::TCP) {
                let same = |port: &&Port| (port.port, port.proto) == (run.id.port, run.id.proto);
                // A port that was taken from the Service: its connections are let end by themselves.
                let Some(port) = service.ports.iter().find(same) else { continue };
                let found = self.endpoints(key, port, run.id.is_v4).into_keys().collect();
                resets.endpoints.insert(run.service_id, found);
            }
        }
        resets
    }
}

/// What is to be ended, once it has been so for a while: an endpoint on its way from one EndpointSlice to
/// another is in neither for a moment.
#[derive(Debug)]
pub struct Standing<T> {
    /// Since when, by any monotonic clock.
    since_ms: HashMap<T, u64>,
    for_ms: u64,
}

/// What [`Standing::look`] has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stale<T> {
    /// Stale at every look for long enough.
    pub due: Vec<T>,
    /// When the next ones will be; `None`: nothing is.
    pub next_ms: Option<u64>,
}

impl<T: Copy + Eq + Hash> Standing<T> {
    /// `for_ms`: how long something must have been stale at every look.
    pub fn new(for_ms: u64) -> Standing<T> {
        Standing { since_ms: HashMap::new(), for_ms }
    }

    /// `stale`: everything that is at this moment. What is not any more begins anew if it comes back. What is
    /// due stays so, until it is no longer among `stale`.
    pub fn look(&mut self, stale: &[T], now_ms: u64) -> Stale<T> {
        self.since_ms =
            stale.iter().map(|found| (*found, self.since_ms.get(found).copied().unwrap_or(now_ms))).collect();
        let at = |since_ms: &u64| since_ms.saturating_add(self.for_ms);
        let due = self.since_ms.iter().filter(|(_, since)| at(since) <= now_ms).map(|(found, _)| *found);
        let next_ms = self.since_ms.values().map(at).filter(|at| *at > now_ms).min();
        Stale { due: due.collect(), next_ms }
    }
}
