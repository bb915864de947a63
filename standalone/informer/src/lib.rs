//! One indexed cache of the API that is told of changes by watches, with what decisions over it need: work
//! queues keyed by object, merge patches, and Kubernetes' rules (selectors, quantities, taints) for typed
//! objects.
//!
//! The cache reads our own writes: what the API server answered to a write is put into the cache at once, and
//! watch events older than it are ignored (see [`Store::wrote`]). Decisions taken over the cache therefore
//! never act twice on the same state, without a table of expectations.
//!
//! Objects are read one by one ([`Item`]): one that can't be read is named, stays in the cache as unreadable,
//! and stops no other. Look-ups answer with what is readable; who would take "not there" for an answer asks
//! [`Store::exists`].
#![forbid(unsafe_code)]

mod diff;
mod kind;
mod quantity;
mod queue;
mod readers;
mod reflector;
mod selector;
mod store;
mod taint;
pub mod volume;
mod worker;

pub use diff::merge_diff;
pub use kind::{Kind, Object, WriteError};
pub use quantity::{Quantities, milli, whole};
pub use queue::Queue;
pub use readers::{Readers, Report};
pub use reflector::{Narrow, reflect};
pub use selector::{matches_labels, matches_selector, node_term_holds, requirement_holds, selects_node};
pub use skerry_client::{EventType, Item, ObjectKey, Recorder, Regarding, key_of};
pub use store::{Change, Store, Term};
pub use taint::{tolerated, tolerates};
pub use worker::{Next, Work, run_to_end, run_workers, work};
