//! Connections: the table of flows, the sockets that were given a backend, and which of them are ended.

pub(crate) mod flows;
pub(crate) mod pod_namespaces;
pub(crate) mod reset;
pub(crate) mod sockets;

use std::{path::PathBuf, sync::Arc, time::Duration};

use proxy_maps::FlowTable;
use proxy_state::Resets;
use skerry_kernel::Error;
use tokio::{sync::watch as channel, task::JoinSet};

use self::{
    flows::{Flows, collect_forever},
    reset::{Resetter, reset_forever},
};
use crate::{config, programs::pins::Pins, tell::metrics::Metrics};

/// What this part needs of the configuration.
pub(crate) struct Config {
    pub pins: Pins,
    /// Where the CNI plugin notes pods' network namespaces.
    pub cni_state_dir: PathBuf,
    pub flow_gc_interval: Duration,
}

impl From<&config::Config> for Config {
    fn from(all: &config::Config) -> Config {
        Config {
            pins: Pins::new(&all.pin_root),
            cni_state_dir: all.cni_state_dir.clone(),
            flow_gc_interval: all.flow_gc_interval,
        }
    }
}

pub(crate) struct Connections {
    pub flows: Flows,
    /// What the Services that want connections ended have now.
    pub resets: channel::Sender<Resets>,
}

/// Starts who collects silent flows and who ends connections to endpoints that are gone; they end with
/// `tasks`.
///
/// # Errors
/// The tables can't be opened.
pub(crate) fn start(
    config: Config,
    metrics: &Arc<Metrics>,
    tasks: &mut JoinSet<()>,
) -> Result<Connections, Error> {
    let Config { pins, cni_state_dir, flow_gc_interval } = config;
    let (resets, changed) = channel::channel(Resets::default());
    let resetter = Resetter::open(&pins, &cni_state_dir)?;
    let (table, flows) = (FlowTable::open(&pins.maps())?, Flows::open(&pins)?);
    tasks.spawn(reset_forever(resetter, changed, metrics.clone()));
    tasks.spawn(collect_forever(table, pins, flow_gc_interval, metrics.clone()));
    Ok(Connections { flows, resets })
}
