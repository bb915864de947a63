use std::sync::Arc;

use proxy_state::State;
use tokio::task::JoinSet;

use crate::{
    announce::{Announcer, memory},
    config::Config,
    health_check::HealthChecks,
    metrics::Metrics,
    serve::Readiness,
};

/// What others than our own packets ask this node about: who has a load-balancer address, who has healthy endpoints.
pub(crate) struct Outside {
    announcer: Option<Announcer>,
    health: HealthChecks,
}

impl Outside {
    /// Starts the tasks that answer; they end with `tasks`. `uplink`: the number of its device.
    pub fn start(
        config: &Config,
        uplink: u32,
        metrics: &Arc<Metrics>,
        readiness: &Arc<Readiness>,
        tasks: &mut JoinSet<()>,
    ) -> Outside {
        let outside = Outside {
            announcer: config
                .announce
                .then(|| Announcer::start(tasks, memory::path(&config.run_dir), metrics.clone())),
            health: HealthChecks::start(config, readiness.clone(), metrics.clone(), tasks),
        };
        outside.set_uplink(uplink);
        outside
    }

    /// After the maps were brought up to date.
    pub fn synced(&self, state: &mut State, uplink: u32) {
        self.health.note_sync(true);
        self.set_uplink(uplink);
        if state.take_outside_dirty() {
            self.health.set(state.health());
            if let Some(announcer) = &self.announcer {
                announcer.set_addresses(state.announced());
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
