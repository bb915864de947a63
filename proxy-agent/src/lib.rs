//! The service proxy of one node: watches the API, keeps the kernel programs' maps as they should be, and sees to it
//! that the programs run where they should.
//!
//! * [`run`]: the daemon; [`cleanup`]: takes away what it set up.
//! * `watch` → `proxy_state` → `reconcile` → `maps`: from an event to a written map.
//! * `capacity`: maps of Services grow with the cluster.
//! * `node`: device, routes, settings, `load`ed and `attach`ed programs, `conflist`.
//! * `outside`: has load-balancer addresses `announced` on the link, answers `health_check`s.
//! * `flows`, `sockets`: what the agent does with connections; `reset`: ends those to endpoints that are gone, where a Service
//!   asks for it; `metrics`, `serve`, `events`: what it tells; `warn`: what it tells
//!   the owners of Services, by Events.
#![forbid(unsafe_code)]

mod access;
mod admin;
mod agent;
mod announced;
mod attach;
mod capacity;
mod cleanup;
mod config;
mod conflist;
mod events;
mod facts;
mod files;
mod flows;
mod health_check;
mod load;
mod maps;
mod metrics;
mod monitor;
mod network;
mod node;
mod old_flows;
mod outside;
mod own_ports;
mod pins;
mod pod_namespaces;
mod reconcile;
mod reset;
mod serve;
mod settings;
mod sockets;
mod warn;
mod watch;
mod write_event;

pub use agent::{AgentError, Progress, run, run_with_progress};
pub use cleanup::{CleanupError, cleanup};
pub use config::{CniBinary, Config, MOST_BALANCERS, MapSizes, SocketLb};
pub use conflist::{ConflistError, uninstall as remove_plugin};
pub use monitor::{MonitorError, monitor};
pub use network::{NetworkError, check_overlay};
pub use proxy_state::Defaults as ServiceDefaults;
pub use serve::answer as answer_http;
pub use skerry_kernel::XdpChoice;
