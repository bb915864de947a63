mod cycle;
mod intake;
mod report;
mod settle;

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use proxy_abi::map;
use proxy_maps::Reconciler;
use proxy_state::State;
use skerry_client::{ConnectError, Connection, Source, connect};
use skerry_kernel::PerCpuMap;
use skerry_vocabulary::chain;
use tokio::{
    sync::{mpsc, watch as channel},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    cycle::{Agent, Due},
    intake::Intake,
    report::Capacity,
};
use crate::{
    api::{
        self,
        access::{addresses, lock},
    },
    config::{Config, MapSizes},
    connections,
    node::{
        monitor::{MonitorError, monitor},
        {Node, NodeError, Start},
    },
    outside::Outside,
    programs::{inherited::Inherited, pins::Pins},
    tell::{self, TellError, metrics::Metrics, serve::Readiness},
};

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("make folder {path}")]
    RunDir { path: PathBuf, source: std::io::Error },
    #[error("another proxy runs on this node (it holds {0}): stop it first")]
    Running(PathBuf),
    #[error("lock {path}")]
    Lock { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("take up the pinned maps")]
    Maps(#[source] skerry_kernel::Error),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Tell(#[from] TellError),
    #[error(transparent)]
    Monitor(#[from] MonitorError),
}

/// How far the agent is: for tests, benches and status lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// All watches have listed, the maps hold what they should and every program is in its place.
    pub is_ready: bool,
    /// The node's set-up can't be made whole: nothing can be said for its network.
    pub is_broken: bool,
    /// Plans executed without a failure.
    pub syncs: u64,
    pub services: usize,
    pub slices: usize,
    /// Of the last sync that an event caused: from the event's last byte to the maps' having it.
    pub event_to_maps: Duration,
}

/// Runs the proxy of one node until `shutdown`. What was set up stays in force after it returns, so that a
/// restart loses nothing; [`crate::cleanup`] takes it away.
///
/// # Errors
/// What keeps the proxy from starting. Once it runs, failures are logged, counted and tried again.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    run_with_progress(config, shutdown, channel::Sender::new(Progress::default())).await
}

/// As [`run`], and tells how far it is.
pub async fn run_with_progress(
    config: Config,
    shutdown: CancellationToken,
    progress: channel::Sender<Progress>,
) -> Result<(), AgentError> {
    let _lock = lock(&config.run_dir)?;
    let mut config = config;
    // Ends: each round asks for larger maps than the one before, up to a bound.
    while let Some(map_sizes) = serve_until(&config, &shutdown, &progress).await? {
        tracing::info!(?map_sizes, "starting over with larger maps");
        config.map_sizes = map_sizes;
    }
    Ok(())
}

/// Until `shutdown`, or until larger maps are needed: then it returns their sizes. Starting over is what a
/// restart is, and loses as little.
async fn serve_until(
    config: &Config,
    shutdown: &CancellationToken,
    progress: &channel::Sender<Progress>,
) -> Result<Option<MapSizes>, AgentError> {
    let server = connect(&Source::of(config.kubeconfig.as_deref())).await?;
    let client = server.client.clone();
    let pins = Pins::new(&config.pin_root);
    let metrics = Arc::new(Metrics::new());
    let readiness = Arc::new(Readiness::default());

    // The parts end with this function: dropping the set aborts their tasks.
    let mut tasks = JoinSet::new();
    let mut api = api::start(config.into(), &client, &metrics, &mut tasks);
    let mut state = State::new(&config.node_name);
    if let Some(cidrs) = &config.external_ips {
        state.limit_external_ips(cidrs);
    }
    state.set_defaults(config.service_defaults);
    let programmed = config.programmed.clone();
    let mut intake = Intake::new(metrics.clone(), config.names.clone(), programmed.clone());
    // The lists arrive while the programs are loaded: neither waits for the other.
    let mut starting = JoinSet::new();
    starting.spawn(start_node(config.clone(), server, shutdown.clone(), progress.clone()));
    let started = loop {
        tokio::select! {
            Some(started) = starting.join_next() => break started,
            Some(received) = api.updates.recv() => intake.take(&mut state, received),
        }
    };
    let started = started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let Some(Start { node, drops, inherited }) = started else { return Ok(None) };
    metrics.count_by(PerCpuMap::open(&pins.map(map::COUNTERS)).map_err(AgentError::Maps)?);
    tell::start(config.into(), drops, &metrics, &readiness, &mut tasks).await?;
    let outside = Outside::start(config.into(), node.uplink_index(), &metrics, &readiness, &mut tasks);
    let connections = connections::start(config.into(), &metrics, &mut tasks).map_err(AgentError::Maps)?;
    let (uplink_changes, changed) = mpsc::channel(1);
    tasks.spawn(monitor(uplink_changes)?);

    let Inherited { tables, dump, ids_until } = inherited;
    let limits = tables.limits(config.slot_grace.as_millis() as u64, ids_until);
    let agent = Agent {
        reconciler: Reconciler::new(state, limits, tables, dump, 0),
        flows: connections.flows,
        resets: connections.resets,
        node,
        intake,
        metrics,
        programmed,
        readiness,
        outside,
        warnings: api.warnings,
        progress: progress.clone(),
        capacity: Capacity { asked: config.map_sizes, max_bytes: config.max_service_bytes, is_known: false },
        due: Due::new(Instant::now()),
        node_tables: None,
        refused: HashSet::new(),
        larger: None,
        is_trimmed: false,
        udp_again: false,
    };
    let larger = agent.run(config, api.updates, changed, shutdown).await;
    // So that the sockets are free when this returns.
    tasks.shutdown().await;
    Ok(larger)
}

/// The node's side, once there is a way out. `None`: shut down before.
async fn start_node(
    config: Config,
    server: Connection,
    shutdown: CancellationToken,
    progress: channel::Sender<Progress>,
) -> Result<Option<Start>, AgentError> {
    // Neither waits for the other.
    let (started, servers) = tokio::join!(await_node(config, shutdown, &progress), addresses(&server));
    let mut started = started?;
    if let Some(start) = &mut started {
        start.node.set_servers(servers);
    }
    Ok(started)
}

async fn await_node(
    config: Config,
    shutdown: CancellationToken,
    progress: &channel::Sender<Progress>,
) -> Result<Option<Start>, AgentError> {
    let (to_us, mut changed) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(monitor(to_us)?);
    loop {
        match Node::start(config.clone()).await {
            Err(NodeError::Network(error)) if error.may_pass() => {
                tracing::warn!(error = chain(&error), "no way out of this node yet: waiting for it");
                progress.send_modify(|progress| progress.is_broken = true);
                tokio::select! {
                    _ = changed.recv() => {}
                    () = shutdown.cancelled() => return Ok(None),
                }
            }
            started => {
                progress.send_modify(|progress| progress.is_broken = false);
                return Ok(Some(started?));
            }
        }
    }
}

/// Returns at the deadline; never where there is none.
pub(crate) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
