//! What others than our own packets ask this node about: who has a load-balancer address, who has healthy
//! endpoints.

pub(crate) mod announced;
mod health_check;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnetwork::IpNetwork;
use proxy_state::State;
use skerry_announce::{Announcer, Count};
use tokio::task::JoinSet;

use self::health_check::HealthChecks;
use crate::{
    config,
    tell::{metrics::Metrics, serve::Readiness},
};

/// How long an agent that has just started waits for the API server before it answers for what its
/// predecessor did.
const RECALL: Duration = Duration::from_secs(5);

/// What this part needs of the configuration.
pub(crate) struct Config {
    /// Whether load-balancer addresses are answered for.
    pub announce: bool,
    pub healthz_bind: Option<SocketAddr>,
    /// The node's addresses that health checks of Services are served on lie in these ranges. Empty: on all
    /// of them.
    pub node_port_addresses: Vec<IpNetwork>,
    /// Where the addresses that are answered for are noted.
    pub run_dir: PathBuf,
}

impl From<&config::Config> for Config {
    fn from(all: &config::Config) -> Config {
        Config {
            announce: all.announce,
            healthz_bind: all.healthz_bind,
            node_port_addresses: all.node_port_addresses.clone(),
            run_dir: all.run_dir.clone(),
        }
    }
}

/// Who answers, and is told what to.
pub(crate) struct Outside {
    announcer: Option<Announcer>,
    /// Where the addresses that are answered for are noted.
    noted: PathBuf,
    health: HealthChecks,
}

impl Outside {
    /// Starts the tasks that answer; they end with `tasks`. `uplink`: the number of its device.
    pub fn start(
        config: Config,
        uplink: u32,
        metrics: &Arc<Metrics>,
        readiness: &Arc<Readiness>,
        tasks: &mut JoinSet<()>,
    ) -> Outside {
        let outside = Outside {
            announcer: config.announce.then(|| Announcer::start(tasks, metrics.clone())),
            noted: announced::path(&config.run_dir),
            health: HealthChecks::start(&config, readiness.clone(), metrics.clone(), tasks),
        };
        outside.set_uplink(uplink);
        if let Some(announcer) = &outside.announcer {
            tasks.spawn(recall(announcer.clone(), outside.noted.clone()));
        }
        outside
    }

    /// After the maps were brought up to date.
    pub fn synced(&self, state: &mut State, uplink: u32) {
        self.health.note_sync(true);
        self.set_uplink(uplink);
        if state.take_outside_dirty() {
            self.health.set(state.health());
            if let Some(announcer) = &self.announcer {
                let addresses = state.announced();
                if announcer.set_addresses(addresses.clone())
                    && let Err(error) = announced::write(&self.noted, &addresses)
                {
                    tracing::warn!(%error, path = %self.noted.display(), "what is announced can't be noted");
                }
            }
        }
    }

    pub fn sync_failed(&self) {
        self.health.note_sync(false);
    }

    pub fn set_uplink(&self, uplink: u32) {
        if let Some(announcer) = &self.announcer {
            announcer.set_device(uplink);
        }
    }
}

/// While the API server is away the last state stays in force.
async fn recall(announcer: Announcer, noted: PathBuf) {
    tokio::time::sleep(RECALL).await;
    if announcer.resume(announced::read(&noted)) {
        tracing::warn!("the API server was not heard yet: answering for what was announced last");
    }
}

impl Count for Metrics {
    fn answered_for(&self, addresses: usize) {
        self.announced.set(addresses as i64);
    }

    fn announced(&self) {
        self.announcements.inc();
    }

    fn answered(&self) {
        self.neighbour_answers.inc();
    }
}
