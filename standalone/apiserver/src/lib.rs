//! The embedded Kubernetes API server.
//!
//! A request's way (`pipeline`): TLS and client certificate (`door`, `pki`) → what the URL asks for
//! (`request`) → may it (`authorize`, pure; `conditions`, what depends on the store) → is it served (`verbs`)
//! → bounds (`clients`, `large`) → one generic handler for every kind of the schema's table (`list`, `watch`,
//! `create`, `update`, `delete`; `restriction`, what a node may write) → the answer in the shape asked for
//! (`respond`).
//!
//! - Objects are stored so that an answer is a prefix and the stored bytes (`object`).
//! - Watchers of a kind share one hub; an event is encoded once (`hub`).
//! - Cluster IPs and node ports are claimed in the transaction that writes the Service (`claims`).
//! - Nodes dial in (`tunnel`); logs and exec go back through that connection (`containers`), and so do
//!   questions for what nodes and pods use (`usage`) and requests to what runs there (`proxy`).

#![forbid(unsafe_code)]

mod addresses;
mod admission;
mod api;
mod authorize;
mod body;
mod bootstrap;
mod claims;
mod clients;
mod conditions;
mod config;
mod containers;
mod create;
mod credentials;
mod delete;
mod discovery;
mod door;
mod error;
mod eviction;
mod expiry;
mod hub;
mod inbound;
mod join;
mod large;
mod list;
mod log_options;
mod media;
mod metrics;
mod object;
mod pipeline;
mod pki;
mod proxy;
mod request;
mod respond;
mod restriction;
mod reviews;
mod selectors;
mod server;
mod signing_requests;
mod subresources;
mod tunnel;
mod update;
mod usage;
mod verbs;
mod watch;

pub use claims::dns_service_ip;
pub use config::{Config, Health, Limits, Readiness};
pub use credentials::Paths;
pub use discovery::GIT_VERSION;
pub use restriction::node_may_set_label;
pub use server::{Server, ServerError};
