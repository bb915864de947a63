//! The service proxy of one node: watches the API, keeps the kernel programs' maps as they should be, and
//! sees to it that the programs run where they should.
//!
//! * [`run`]: the daemon (`agent`); [`cleanup`]: takes away what it set up.
//! * `api`: watching and writing the API.
//! * `programs`: programs and maps.
//! * `connections`: what the agent does with connections.
//! * `node`: devices and routes.
//! * `outside`: has load-balancer addresses announced on the link, answers health checks.
//! * `tell`: what it tells.
//!
//! `api::watch` → `proxy_state` → `programs::reconcile` → `programs::maps`: from an event to a written map.
#![forbid(unsafe_code)]

mod agent;
mod api;
mod cleanup;
mod config;
mod connections;
mod files;
mod node;
mod outside;
mod programs;
mod tell;

pub use agent::{AgentError, Progress, run, run_with_progress};
pub use cleanup::{CleanupError, cleanup};
pub use config::{CniBinary, Config, MOST_BALANCERS, MapSizes, SocketLb};
pub use node::conflist::{ConflistError, uninstall as remove_plugin};
pub use node::monitor::{MonitorError, monitor};
pub use node::network::{NetworkError, check_overlay};
pub use proxy_state::Defaults as ServiceDefaults;
pub use skerry_kernel::XdpChoice;
pub use tell::programmed::Programmed;
pub use tell::serve::answer as answer_http;
