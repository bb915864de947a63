//! Watching and writing the API: the way to the server, what its watches tell, and what is told to the owners
//! of Services and Nodes by Events.

pub(crate) mod access;
pub(crate) mod warn;
pub(crate) mod watch;

use std::{sync::Arc, time::Duration};

use skerry_client::Client;
use tokio::{sync::mpsc, task::JoinSet};

use self::{
    warn::Warnings,
    watch::{Kind, Received, follow},
};
use crate::{config, tell::metrics::Metrics};

/// Updates that wait for who takes them; a watch that is faster waits in turn.
const QUEUE: usize = 1024;

/// What this part needs of the configuration.
pub(crate) struct Config {
    /// Our Node: who tells Events.
    pub node_name: String,
    pub watch_lasts: Duration,
}

impl From<&config::Config> for Config {
    fn from(all: &config::Config) -> Config {
        Config { node_name: all.node_name.clone(), watch_lasts: all.watch_lasts }
    }
}

/// The two ways between the API and this agent.
pub(crate) struct Api {
    pub updates: mpsc::Receiver<Received>,
    /// What is to be told.
    pub warnings: Warnings,
}

/// Starts the watches and who tells Events; they end with `tasks`.
pub(crate) fn start(config: Config, client: &Client, metrics: &Arc<Metrics>, tasks: &mut JoinSet<()>) -> Api {
    let (to_us, updates) = mpsc::channel(QUEUE);
    for kind in Kind::ALL {
        tasks.spawn(follow(client.clone(), kind, config.watch_lasts, to_us.clone(), metrics.clone()));
    }
    let warnings = Warnings::default();
    tasks.spawn(warn::tell(warnings.clone(), client.clone(), config.node_name, metrics.clone()));
    Api { updates, warnings }
}
