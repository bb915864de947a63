//! The node agent: runs the pods that the API server binds to this node, on a container runtime reached over
//! CRI.
//!
//! Told by watches and by containerd's event stream. Each pod has a worker of its own around a pure core:
//! [`pods::decide`] says what to do next, [`pods::status`] what to report. Restarting the agent or the
//! runtime leaves pods running: what is there is read back from the runtime's labels.

#![forbid(unsafe_code)]

mod access;
mod admission;
mod agent;
mod cgroups;
mod cleanup;
mod config;
pub mod cri;
mod hosts;
mod inotify;
mod join;
mod local_volumes;
pub mod logs;
mod machine;
mod node;
mod objects;
pub mod pods;
mod recorder;
mod run;
mod service_env;
pub mod spec;
mod stats;
mod stored;
#[cfg(test)]
mod test_server;
mod tls;
mod tunnel;
pub mod volumes;

pub use access::AccessError;
pub use cleanup::{CleanupError, cleanup};
pub use config::{Addresses, Config, Reserved, ServerAccess, Taint};
pub use join::{Credentials, JoinError, join, validity};
pub use logs::Limits as LogLimits;
pub use run::{KubeletError, run};
