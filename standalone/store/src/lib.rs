//! The store below the API server: keys to bytes, in one revision order, durable before it answers.
//!
//! [`Store`] is small enough that etcd can stand behind it: revisions are numbers that only grow, a [`Txn`]
//! is a compare-and-write of several keys, and a watch replays what was committed after a revision.
#![warn(missing_docs)]

mod api;
mod chain;
mod disk;
mod engine;
mod hub;
mod older;
mod record;
mod recover;
mod salvage;
mod tree;
mod writer;

pub use api::{Change, Entry, Expect, Listing, Op, Range, Store, StoreError, Txn, Watch, WatchItem};
pub use engine::{LogStore, Options, Stats};
pub use tree::Retention;
