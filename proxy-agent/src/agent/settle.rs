//! What follows from the node: its set-up is kept whole, and what Nodes claim is judged by what it has around
//! it.

use std::time::Duration;

use tokio::time::Instant;

use super::cycle::{Agent, RETRY_MAX, RETRY_MIN};
use skerry_vocabulary::chain;

/// What can be put right at once is no failure of the node.
const BROKEN_AFTER: Duration = Duration::from_secs(2);

impl Agent {
    pub(super) async fn nodes_changed(&mut self) -> bool {
        if !self.reconciler.wants.nodes_are_dirty() && self.node_tables.is_some() {
            return false;
        }
        // What Nodes claim is judged by what this node needs now.
        self.tell_bounds().await;
        let tables = self.reconciler.wants.node_tables();
        let changed = self.node_tables.as_ref() != Some(&tables);
        let before = self.node_tables.as_ref().map(|tables| &tables.warnings);
        for (node, warnings) in &tables.warnings {
            if before.is_none_or(|before| before.get(node) != Some(warnings)) {
                let notes: Vec<&str> = warnings.iter().map(|warning| &*warning.note).collect();
                tracing::warn!(%node, "{}", notes.join("; "));
            }
        }
        self.node_tables = Some(tables);
        changed
    }

    async fn tell_bounds(&mut self) {
        let state = &mut self.reconciler.wants;
        match self.node.bounds(&state.claimed()).await {
            Ok(bounds) => state.set_bounds(bounds),
            Err(error) => {
                tracing::error!(error = chain(&error), "the node's surroundings are not known: as before")
            }
        }
    }

    pub(super) async fn tell_own_addresses(&mut self) {
        match self.node.own_addresses(self.node_tables.as_ref()).await {
            Ok(addresses) => self.reconciler.wants.set_own_addresses(addresses),
            Err(error) => {
                tracing::error!(error = chain(&error), "the node's addresses are not known: as before")
            }
        }
    }

    /// Puts back what a third party took away, and follows changes of devices and nodes.
    pub(super) async fn settle(&mut self) {
        self.due.settle_at = None;
        let settled = self.node.settle(self.node_tables.as_ref()).await;
        let is_settled = settled.and_then(|changes| {
            if changes != Default::default() {
                self.metrics.reattached.inc_by(changes.attached.into());
                tracing::info!(?changes, "attachments changed");
            }
            self.node.self_test()
        });
        match &is_settled {
            Ok(()) => (self.due.settle_retry, self.due.broken_since) = (RETRY_MIN, None),
            Err(error) => {
                let retry_in = self.due.settle_retry;
                tracing::error!(error = chain(error), ?retry_in, "the node's set-up is not whole");
                self.due.settle_at = Some(Instant::now() + retry_in);
                self.due.settle_retry = (retry_in * 2).min(RETRY_MAX);
                self.due.broken_since.get_or_insert(Instant::now());
            }
        }
        self.outside.set_uplink(self.node.uplink_index());
        let is_ready = is_settled.is_ok() && self.node_tables.is_some();
        let is_broken = self.due.broken_since.is_some_and(|since| since.elapsed() >= BROKEN_AFTER);
        self.readiness.set(is_ready, is_broken);
        self.progress.send_if_modified(|progress| {
            let before = (progress.is_ready, progress.is_broken);
            (progress.is_ready, progress.is_broken) = (is_ready, is_broken);
            before != (is_ready, is_broken)
        });
        if self.node_tables.is_some() {
            self.tell_own_addresses().await;
            self.tell_bounds().await;
            if self.reconciler.wants.is_dirty() {
                self.due.sync_at = Some(Instant::now());
            }
        }
    }
}
