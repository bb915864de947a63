//! The pinned maps as a process sees them that fills them: what the agent of a node and the balancer in front
//! of nodes have in common below the plan.
//!
//! * [`Reconciler`]: brings the maps to what is wanted, again after whatever failed.
//! * [`Tables`], [`PinnedTables`]: where plans are executed.
//! * [`FlowTable`]: the connection table: who is silent for too long is collected, who must move is ended.
//! * [`DropRing`]: the ring of dropped packets.
#![forbid(unsafe_code)]

mod drops;
mod flows;
mod reconcile;
mod tables;

pub use drops::{DropRing, RingError};
pub use flows::{Collected, FlowTable, last_service_id, monotonic_s};
pub use reconcile::{Reconciler, Synced};
pub use tables::{PinnedTables, Tables};
