//! From what is wanted to the tables of the kernel programs: `ingest → desired → plan`.
//!
//! Pure and synchronous: values go in (objects, dumps of the maps, the time), values come out (an ordered
//! list of map operations). Nothing here waits, locks, logs or touches a map.
//!
//! * [`api`]: the few fields of Service, EndpointSlice and Node that matter, read tolerantly from API JSON.
//! * [`State`] (ingest): the objects, kept compactly, with their indexes and what is dirty.
//! * [`Wants`]: whoever wants tables: a cluster's Services ([`State`]), or who names them outright ([`Listed`]).
//! * [`State::announced`], [`State::health`]: what somebody outside of the cluster asks this node about.
//! * [`ServicePortTable`], [`NodeTables`] (desired): what the maps should say for one service, and for all nodes.
//! * [`Bounds`]: what of Nodes' claims is believed.
//! * [`Actual`]: what the maps say; rebuilt from a [`Dump`] at start and after every failure.
//! * [`State::demand`]: how large the maps have to be.
//! * [`State::resets`]: which connections a Service wants ended.
//! * [`Names`]: who else hears of the objects, by their names.
//! * [`State::warnings`]: what a Service's owner should know.
//! * [`plan`]: the operations from one to the other, safe to stop after any of them.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod actual;
mod annotations;
mod announce;
pub mod api;
mod claims;
mod demand;
mod desired;
mod draft;
mod extras;
mod health;
mod ingest;
mod ip;
mod layout;
mod maglev;
mod model;
mod names;
mod nodes;
mod plan;
mod ranges;
mod resets;
mod runs;
mod wants;
mod warnings;

pub use actual::{Actual, Dump, Limits};
pub use annotations::{Defaults, maglev_size};
pub use demand::Demand;
pub use desired::{Backend, FrontendSpec, Scope, ServicePortId, ServicePortTable, ServiceTables};
pub use health::{Health, ServiceHealth};
pub use ingest::State;
pub use ip::{parse_cidr, parse_ip, routable_addr};
pub use layout::{Layout, Span};
pub use maglev::weighted as maglev_table;
pub use model::prefix;
pub use names::{Named, Names};
pub use nodes::{NodeTables, router_address};
pub use plan::{Op, Plan, Refusal, plan};
pub use ranges::{Bounds, Kept};
pub use resets::{Resets, Stale, Standing};
pub use runs::RunsFull;
pub use skerry_vocabulary::ObjectKey;
pub use wants::{Dirty, Listed, Wants};
pub use warnings::{Cause, Warning};
