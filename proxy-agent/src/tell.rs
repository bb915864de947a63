//! What the agent tells of itself and of the programs: metrics, health, when endpoints came into the maps, and
//! records of dropped packets.

pub(crate) mod admin;
pub(crate) mod drops;
pub(crate) mod metrics;
pub(crate) mod programmed;
pub(crate) mod serve;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use aya::maps::{MapData, RingBuf};
use tokio::{sync::broadcast, task::JoinSet};

use self::{
    admin::AdminError,
    drops::follow_drops,
    metrics::Metrics,
    serve::{Readiness, ServeError, listen, serve, serve_tools},
};
use crate::config;

/// What this part needs of the configuration.
pub(crate) struct Config {
    pub metrics_bind: Option<SocketAddr>,
    /// Nowhere, if it is the same.
    pub tools_bind: Option<SocketAddr>,
    /// Where the socket is that `skerry flows` reads from.
    pub run_dir: PathBuf,
}

impl From<&config::Config> for Config {
    fn from(all: &config::Config) -> Config {
        Config {
            metrics_bind: all.metrics_bind,
            tools_bind: all.tools_bind.filter(|address| Some(*address) != all.metrics_bind),
            run_dir: all.run_dir.clone(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TellError {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Starts the listeners and who reads the ring of drop records; they end with `tasks`.
///
/// # Errors
/// An address or the socket can't be had.
pub(crate) async fn start(
    config: Config,
    drops: RingBuf<MapData>,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
    tasks: &mut JoinSet<()>,
) -> Result<(), TellError> {
    if let Some(address) = config.metrics_bind {
        tasks.spawn(serve(listen(address).await?, metrics.clone(), readiness.clone()));
    }
    if let Some(address) = config.tools_bind {
        tasks.spawn(serve_tools(address, metrics.clone(), readiness.clone()));
    }
    let followers = broadcast::Sender::new(admin::BACKLOG);
    tasks.spawn(admin::serve(admin::listen(&config.run_dir)?, followers.clone()));
    tasks.spawn(follow_drops(drops, followers));
    Ok(())
}
