//! The scheduler: filter, score, bind.
//!
//! Its core is pure and synchronous: [`nodes`] holds columns per node with what is placed (and assumed)
//! there, [`plugins`] filter and score nodes for one pod, `cycle` puts them together, `queue` orders the
//! waiting pods and knows which event may help which. The shell ([`run`]) feeds it from watches, and binds off
//! the main path. Public is, besides, what the node agent asks in the same way.
//!
//! It speaks the Kubernetes API alone, so it also runs against an upstream API server.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod binding;
mod cycle;
mod inbox;
mod message;
pub mod nodes;
pub mod plugins;
pub mod pod;
mod preempt;
mod queue;
pub mod resources;
mod run;
mod shell;
mod volumes;
mod write;

pub use run::{Config, Error, run};
