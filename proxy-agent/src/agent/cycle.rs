//! The loop: takes what the watches tell into the state, and the state into the maps.

use std::{collections::HashSet, sync::Arc, time::Duration};

use proxy_maps::{PinnedTables, Reconciler};
use proxy_state::{NodeTables, ObjectKey, Resets, State};
use skerry_kernel::return_free_pages;
use skerry_vocabulary::chain;
use tokio::{
    sync::{mpsc, watch as channel},
    time::{Instant, interval},
};
use tokio_util::sync::CancellationToken;

use super::{Progress, at, intake::Intake, report::Capacity};
use crate::{
    api::{warn::Warnings, watch::Received},
    config::{Config, MapSizes},
    connections::flows::Flows,
    node::Node,
    outside::Outside,
    tell::{metrics::Metrics, programmed::Programmed, serve::Readiness},
};

/// Updates that are planned together at most.
const BATCH: usize = 8192;
pub(super) const RETRY_MIN: Duration = Duration::from_millis(50);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(30);
/// Endpoints change in bursts.
const RESETS_DELAY: Duration = Duration::from_millis(100);
/// Devices and addresses change in bursts.
const SETTLE_DELAY: Duration = Duration::from_millis(200);

/// What the loop moves.
pub(super) struct Agent {
    pub(super) reconciler: Reconciler<State, PinnedTables>,
    pub(super) flows: Flows,
    pub(super) node: Node,
    /// `None` until every watch has listed once.
    pub(super) node_tables: Option<NodeTables>,
    pub(super) intake: Intake,
    pub(super) metrics: Arc<Metrics>,
    pub(super) programmed: Arc<Programmed>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) outside: Outside,
    pub(super) warnings: Warnings,
    pub(super) resets: channel::Sender<Resets>,
    pub(super) progress: channel::Sender<Progress>,
    /// What did not fit at the last sync.
    pub(super) refused: HashSet<ObjectKey>,
    pub(super) capacity: Capacity,
    /// Maps of these sizes are needed: to be started over.
    pub(super) larger: Option<MapSizes>,
    /// What the start took of memory was given back.
    pub(super) is_trimmed: bool,
    /// A program that read a frontend just before it flipped may have made a flow since: look once more.
    pub(super) udp_again: bool,
    pub(super) due: Due,
}

/// What is to be done when, though nothing happens.
pub(super) struct Due {
    pub(super) started: Instant,
    /// A retired run may be freed, or a failed sync be tried again.
    pub(super) sync_at: Option<Instant>,
    pub(super) sync_retry: Duration,
    pub(super) settle_at: Option<Instant>,
    pub(super) settle_retry: Duration,
    /// Who ends connections is to be told.
    pub(super) resets_at: Option<Instant>,
    /// The node's set-up is not whole since then.
    pub(super) broken_since: Option<Instant>,
}

impl Due {
    /// All may have been listed already: a sync is due.
    pub(super) fn new(now: Instant) -> Due {
        Due {
            started: now,
            sync_at: Some(now),
            sync_retry: RETRY_MIN,
            settle_at: None,
            settle_retry: RETRY_MIN,
            resets_at: None,
            broken_since: None,
        }
    }
}

impl Agent {
    pub(super) async fn run(
        mut self,
        config: &Config,
        mut updates: mpsc::Receiver<Received>,
        mut changed: mpsc::Receiver<()>,
        shutdown: &CancellationToken,
    ) -> Option<MapSizes> {
        let mut resync = interval(config.resync_interval);
        let mut verify = interval(config.verify_interval);
        // The first ticks come at once, and there is nothing to compare yet.
        resync.tick().await;
        verify.tick().await;
        loop {
            let (sync_at, settle_at, resets_at) = (self.due.sync_at, self.due.settle_at, self.due.resets_at);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                Some(first) = updates.recv() => {
                    self.intake.take(&mut self.reconciler.wants, first);
                    for _ in 0..BATCH {
                        let Ok(next) = updates.try_recv() else { break };
                        self.intake.take(&mut self.reconciler.wants, next);
                    }
                    self.sync().await;
                }
                () = at(sync_at) => self.sync().await,
                () = at(settle_at) => self.settle().await,
                () = at(resets_at) => self.tell_resets(),
                Some(()) = changed.recv() => {
                    self.due.settle_at.get_or_insert(Instant::now() + SETTLE_DELAY);
                }
                _ = verify.tick() => self.settle().await,
                _ = resync.tick() => self.compare().await,
            }
            if self.larger.is_some() {
                return self.larger;
            }
        }
    }

    /// Brings the maps up to date, then what follows from nodes. Nothing before every watch has listed once:
    /// until then what an earlier agent wrote stays in force.
    async fn sync(&mut self) {
        self.due.sync_at = None;
        if !self.intake.is_complete() {
            return;
        }
        if !self.capacity.is_known {
            self.capacity.is_known = true;
            self.larger = self.larger_maps();
            if self.larger.is_some() {
                return;
            }
        }
        let nodes_changed = self.nodes_changed().await;
        let (mut must_settle, mut were_held_back) = (nodes_changed, false);
        if nodes_changed {
            self.tell_own_addresses().await;
        }
        match self.reconciler.sync(self.now_ms()) {
            Ok(synced) => {
                self.due.sync_retry = RETRY_MIN;
                let actual = &self.reconciler.actual;
                self.programmed.synced(|service, each| actual.backends_of(service).for_each(each));
                self.due.sync_at =
                    synced.due_ms.map(|due_ms| self.due.started + Duration::from_millis(due_ms));
                self.metrics.syncs.inc();
                self.metrics.operations.inc_by(synced.operations as u64);
                self.metrics.refused.set(synced.refused.len() as i64);
                self.warn(&synced.refused, synced.owners, nodes_changed);
                if self.larger.is_some() {
                    return;
                }
                let latency = self.intake.oldest_event.take().map(|at| at.elapsed());
                if let Some(latency) = latency {
                    self.metrics.event_to_maps.observe(latency.as_secs_f64());
                }
                tracing::debug!(operations = synced.operations, ?latency, "synced");
                if synced.udp_changed || std::mem::take(&mut self.udp_again) {
                    self.udp_again = synced.udp_changed;
                    self.end_stale_udp();
                }
                if self.reconciler.wants.take_resets_dirty() {
                    self.due.resets_at.get_or_insert(Instant::now() + RESETS_DELAY);
                }
                were_held_back = self.node.maps_are_filled();
                must_settle |= were_held_back;
                self.outside.synced(&mut self.reconciler.wants, self.node.uplink_index());
                self.report(latency);
            }
            Err(error) => {
                self.metrics.sync_failures.inc();
                self.outside.sync_failed();
                tracing::error!(error = chain(&error), retry_in = ?self.due.sync_retry, "maps not written");
                self.due.sync_at = Some(Instant::now() + self.due.sync_retry);
                self.due.sync_retry = (self.due.sync_retry * 2).min(RETRY_MAX);
            }
        }
        if must_settle {
            self.settle().await;
        }
        if were_held_back {
            // What the programs before knew until they were replaced has come along since.
            self.end_stale_udp();
        }
        // The lists were read while the programs were loaded: what that took lies between what stays.
        if !std::mem::replace(&mut self.is_trimmed, true) {
            return_free_pages();
        }
    }

    /// The timed comparison of the maps with what we believe of them; what differs is repaired by the next
    /// sync.
    async fn compare(&mut self) {
        if !self.intake.is_complete() {
            return;
        }
        match self.reconciler.compare(self.now_ms()) {
            Ok(0) => {}
            Ok(divergence) => {
                self.metrics.divergence.inc_by(divergence as u64);
                tracing::warn!(divergence, "somebody else changed our maps: repaired");
                self.sync().await;
            }
            Err(error) => tracing::error!(error = chain(&error), "maps not compared"),
        }
        self.end_stale_udp();
        self.tell_resets();
    }

    fn now_ms(&self) -> u64 {
        self.due.started.elapsed().as_millis() as u64
    }
}
