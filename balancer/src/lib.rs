//! An L4 balancer that stands alone in front of nodes: `skerry lb`.
//!
//! A file names virtual addresses and their backends ([`Config`]), or a cluster's Services do (`watch`,
//! `cluster`); probes say which of those live (`health`); `wanted` makes of both what `proxy_state` plans the
//! tables from: those of the XDP program `lb_xdp`, which are pinned below a root of their own and outlive
//! this process, as the program on its devices does.
#![forbid(unsafe_code)]

mod balancer;
mod cluster;
mod config;
mod devices;
mod flows;
mod health;
mod kernel;
mod metrics;
mod neighbours;
mod run;
mod wanted;
mod watch;

pub use cluster::Rules;
pub use config::{Config, ConfigError, WhenAllDown};
pub use run::{Options, RunError, Source, remove, run};
pub use skerry_kernel::XdpChoice;
