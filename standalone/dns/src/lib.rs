//! Cluster DNS: the names of Services and of what is behind them, as the Kubernetes DNS specification 1.1 has
//! them, and the way to everybody else's.
//!
//! The process has no privileges. The agent of its node, which watches the API anyway, says what there is by
//! a Unix socket and hands over the sockets on which names are asked for ([`feed`]); what it said last is on
//! disk ([`disk`]).
//!
//! - [`model`]: what of Services, EndpointSlices and Nodes names are made of.
//! - [`zone`]: that state, and what a question for one of the cluster's names is answered. Pure.
//! - [`message`]: questions and answers in their own form. Pure.
//! - [`forward`]: other resolvers, their health, the cache of what they say, limits for clients.
//! - [`config`], [`settings`]: ConfigMaps, and what they set.
//! - [`engine`]: a question's walk through all of these.
//! - [`serve`]: the sockets.
//! - [`metrics`]: figures under CoreDNS' names.
//! - [`run()`]: the process.
#![forbid(unsafe_code)]

pub mod config;
pub mod disk;
pub mod engine;
pub mod feed;
pub mod forward;
pub mod message;
pub mod metrics;
pub mod model;
pub mod run;
pub mod serve;
pub mod settings;
pub mod zone;

pub use hickory_proto::rr::Name;
pub use run::{Config, RunError, run};
