use proxy_state::{Actual, Limits, Refusal, State, plan};
use skerry_kernel::Error;

use crate::maps::Tables;

/// Holds what is wanted and what is there, and brings the second to the first. Synchronous; time is an argument.
pub(crate) struct Reconciler<T> {
    pub state: State,
    pub actual: Actual,
    tables: T,
    limits: Limits,
    /// An operation failed: our picture of the maps is worth nothing until they are read again.
    is_blind: bool,
}

/// What a sync did.
#[derive(Debug, Default)]
pub(crate) struct Synced {
    pub operations: usize,
    pub refused: Vec<Refusal>,
    pub udp_changed: bool,
    /// When to sync again although nothing happens.
    pub due_ms: Option<u64>,
}

impl<T: Tables> Reconciler<T> {
    /// Takes up what the maps hold. Nothing is written before [`Reconciler::sync`].
    pub fn new(state: State, limits: Limits, mut tables: T, now_ms: u64) -> Result<Reconciler<T>, Error> {
        let actual = Actual::restore(limits, tables.dump()?, now_ms);
        Ok(Reconciler { state, actual, tables, limits, is_blind: false })
    }

    /// To be called only when every watch has listed once: what is not in `state` is removed from the maps.
    ///
    /// # Errors
    /// The maps could not be read or written. The next call begins by reading them again.
    pub fn sync(&mut self, now_ms: u64) -> Result<Synced, Error> {
        if self.is_blind {
            self.actual = Actual::restore(self.limits, self.tables.dump()?, now_ms);
            self.is_blind = false;
        }
        let plan = plan(&mut self.state, &mut self.actual, now_ms);
        let executed = self.tables.execute(&plan.ops);
        self.is_blind = executed.is_err();
        executed?;
        Ok(Synced {
            operations: plan.ops.len(),
            refused: plan.refused,
            udp_changed: plan.udp_changed,
            due_ms: plan.due_ms,
        })
    }

    /// Compares the maps with our picture of them. Returns how many entries differed; then the next sync repairs them.
    pub fn compare(&mut self, now_ms: u64) -> Result<usize, Error> {
        let dump = self.tables.dump()?;
        let divergence = self.actual.divergence(&dump);
        if divergence > 0 {
            self.actual = Actual::restore(self.limits, dump, now_ms);
        }
        Ok(divergence)
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
