mod intake;
mod report;

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use proxy_abi::map;
use proxy_state::{NodeTables, ObjectKey, Resets, State};
use skerry_kernel::{PerCpuMap, return_free_pages};
use tokio::{
    sync::{mpsc, watch as channel},
    task::JoinSet,
    time::{Instant, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{intake::Intake, report::Capacity};
use crate::{
    access::{addresses, client, lock},
    admin::{self, AdminError},
    config::{Config, MapSizes},
    events::log_drops,
    flows::{Flows, collect_forever},
    maps::{Inherited, PinnedTables},
    metrics::Metrics,
    monitor::{MonitorError, monitor},
    node::{Node, NodeError, Start},
    outside::Outside,
    pins::Pins,
    reconcile::Reconciler,
    reset::{Resetter, reset_forever},
    serve::{Readiness, ServeError, listen, serve, serve_tools},
    warn::{self, Warnings},
    watch::{Kind, Received, chain, follow},
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
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("take up the pinned maps")]
    Maps(#[source] skerry_kernel::Error),
    #[error("read kubeconfig {path}")]
    Kubeconfig { path: PathBuf, source: Box<kube::config::KubeconfigError> },
    #[error("use the pod's service account (not in a cluster? set --kubeconfig)")]
    InCluster(#[source] Box<kube::config::InClusterError>),
    #[error("make a client for the API server")]
    Client(#[source] Box<kube::Error>),
    #[error(transparent)]
    Serve(#[from] ServeError),
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

/// Updates that wait for the loop; a watch that is faster waits in turn.
const QUEUE: usize = 1024;
/// Updates that are planned together at most.
const BATCH: usize = 8192;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Endpoints change in bursts.
const RESETS_DELAY: Duration = Duration::from_millis(100);
/// What can be put right at once is no failure of the node.
const BROKEN_AFTER: Duration = Duration::from_secs(2);
/// Devices and addresses change in bursts.
const SETTLE_DELAY: Duration = Duration::from_millis(200);

/// Runs the proxy of one node until `shutdown`. What was set up stays in force after it returns, so that a restart loses
/// nothing; [`crate::cleanup`] takes it away.
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

/// Until `shutdown`, or until larger maps are needed: then it returns their sizes. Starting over is what a restart is, and
/// loses as little.
async fn serve_until(
    config: &Config,
    shutdown: &CancellationToken,
    progress: &channel::Sender<Progress>,
) -> Result<Option<MapSizes>, AgentError> {
    let (client, server) = client(config).await?;
    let pins = Pins::new(&config.pin_root);
    let metrics = Arc::new(Metrics::new());
    let readiness = Arc::new(Readiness::default());

    // Ends with this function: dropping the set aborts its tasks.
    let mut tasks = JoinSet::new();
    let (to_loop, mut updates) = mpsc::channel(QUEUE);
    for kind in Kind::ALL {
        tasks.spawn(follow(client.clone(), kind, config.watch_lasts, to_loop.clone(), metrics.clone()));
    }
    let mut state = State::new(&config.node_name);
    if let Some(cidrs) = &config.external_ips {
        state.limit_external_ips(cidrs);
    }
    state.set_defaults(config.service_defaults);
    let mut intake = Intake {
        metrics: metrics.clone(),
        names: config.names.clone(),
        listed: HashSet::new(),
        oldest_event: None,
    };
    // The lists arrive while the programs are loaded: neither waits for the other.
    let mut starting = JoinSet::new();
    starting.spawn(start_node(config.clone(), server, shutdown.clone(), progress.clone()));
    let started = loop {
        tokio::select! {
            Some(started) = starting.join_next() => break started,
            Some(received) = updates.recv() => intake.take(&mut state, received),
        }
    };
    let started = started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let Some(Start { node, drops, inherited }) = started else { return Ok(None) };
    metrics.count_by(PerCpuMap::open(&pins.map(map::COUNTERS)).map_err(AgentError::Maps)?);
    if let Some(address) = config.metrics_bind {
        tasks.spawn(serve(listen(address).await?, metrics.clone(), readiness.clone()));
    }
    if let Some(address) = config.tools_bind.filter(|address| Some(*address) != config.metrics_bind) {
        tasks.spawn(serve_tools(address, metrics.clone(), readiness.clone()));
    }
    let outside = Outside::start(config, node.uplink_index(), &metrics, &readiness, &mut tasks);
    let followers = tokio::sync::broadcast::Sender::new(admin::BACKLOG);
    tasks.spawn(admin::serve(admin::listen(&config.run_dir)?, followers.clone()));
    tasks.spawn(log_drops(drops, followers));
    let gc = Flows::open(&pins).map_err(AgentError::Maps)?;
    tasks.spawn(collect_forever(gc, pins.clone(), config.flow_gc_interval, metrics.clone()));
    let (resets, changed_resets) = channel::channel(Resets::default());
    let resetter = Resetter::open(&pins, &config.cni_state_dir).map_err(AgentError::Maps)?;
    tasks.spawn(reset_forever(resetter, changed_resets, metrics.clone()));
    let warnings = Warnings::default();
    tasks.spawn(warn::tell(warnings.clone(), client.clone(), config.node_name.clone(), metrics.clone()));
    let (uplink_changes, changed) = mpsc::channel(1);
    tasks.spawn(monitor(uplink_changes)?);

    let started = Instant::now();
    let Inherited { tables, dump, ids_until } = inherited;
    let limits = tables.limits(config.slot_grace.as_millis() as u64, ids_until);
    let agent = Agent {
        reconciler: Reconciler::new(state, limits, tables, dump, 0),
        flows: Flows::open(&pins).map_err(AgentError::Maps)?,
        node,
        node_tables: None,
        intake,
        metrics,
        readiness,
        outside,
        warnings,
        resets,
        resets_at: None,
        progress: progress.clone(),
        started,
        refused: HashSet::new(),
        capacity: Capacity { asked: config.map_sizes, max_bytes: config.max_service_bytes, is_known: false },
        larger: None,
        // All may have been listed already.
        sync_at: Some(started),
        settle_at: None,
        settle_retry: RETRY_MIN,
        broken_since: None,
        retry: RETRY_MIN,
        is_trimmed: false,
        udp_again: false,
    };
    let larger = agent.run(config, updates, changed, shutdown).await;
    // So that the sockets are free when this returns.
    tasks.shutdown().await;
    Ok(larger)
}

/// The node's side, once there is a way out. `None`: shut down before.
async fn start_node(
    config: Config,
    server: http::Uri,
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

struct Agent {
    reconciler: Reconciler<PinnedTables>,
    flows: Flows,
    node: Node,
    /// `None` until every watch has listed once.
    node_tables: Option<NodeTables>,
    intake: Intake,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    outside: Outside,
    warnings: Warnings,
    resets: channel::Sender<Resets>,
    /// When they are to be told.
    resets_at: Option<Instant>,
    progress: channel::Sender<Progress>,
    started: Instant,
    /// What did not fit at the last sync.
    refused: HashSet<ObjectKey>,
    capacity: Capacity,
    /// Maps of these sizes are needed: to be started over.
    larger: Option<MapSizes>,
    /// A retired run may be freed, or a failed sync be tried again.
    sync_at: Option<Instant>,
    settle_at: Option<Instant>,
    settle_retry: Duration,
    /// The node's set-up is not whole since then.
    broken_since: Option<Instant>,
    retry: Duration,
    /// What the start took of memory was given back.
    is_trimmed: bool,
    /// A program that read a frontend just before it flipped may have made a flow since: look once more.
    udp_again: bool,
}

impl Agent {
    async fn run(
        mut self,
        config: &Config,
        mut updates: mpsc::Receiver<Received>,
        mut changed: mpsc::Receiver<()>,
        shutdown: &CancellationToken,
    ) -> Option<MapSizes> {
        let mut resync = interval(config.resync_interval);
        let mut verify = interval(config.verify_interval);
        // The first ticks come at once, and there is nothing to compare yet.
        resync.tick().await;
        verify.tick().await;
        loop {
            let (sync_at, settle_at, resets_at) = (self.sync_at, self.settle_at, self.resets_at);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                Some(first) = updates.recv() => {
                    self.intake.take(&mut self.reconciler.state, first);
                    for _ in 0..BATCH {
                        let Ok(next) = updates.try_recv() else { break };
                        self.intake.take(&mut self.reconciler.state, next);
                    }
                    self.sync().await;
                }
                () = at(sync_at) => self.sync().await,
                () = at(settle_at) => self.settle().await,
                () = at(resets_at) => self.tell_resets(),
                Some(()) = changed.recv() => {
                    self.settle_at.get_or_insert(Instant::now() + SETTLE_DELAY);
                }
                _ = verify.tick() => self.settle().await,
                _ = resync.tick() => self.compare().await,
            }
            if self.larger.is_some() {
                return self.larger;
            }
        }
    }

    /// Brings the maps up to date, then what follows from nodes. Nothing before every watch has listed once: until then
    /// what an earlier agent wrote stays in force.
    async fn sync(&mut self) {
        self.sync_at = None;
        if !self.intake.is_complete() {
            return;
        }
        if !self.capacity.is_known {
            self.capacity.is_known = true;
            self.larger = self.larger_maps();
            if self.larger.is_some() {
                return;
            }
        }
        let nodes_changed = self.nodes_changed().await;
        let (mut must_settle, mut were_held_back) = (nodes_changed, false);
        if nodes_changed {
            self.tell_own_addresses().await;
        }
        match self.reconciler.sync(self.now_ms()) {
            Ok(synced) => {
                self.retry = RETRY_MIN;
                self.sync_at = synced.due_ms.map(|due_ms| self.started + Duration::from_millis(due_ms));
                self.metrics.syncs.inc();
                self.metrics.operations.inc_by(synced.operations as u64);
                self.metrics.refused.set(synced.refused.len() as i64);
                self.warn(&synced.refused, synced.services, nodes_changed);
                if self.larger.is_some() {
                    return;
                }
                let latency = self.intake.oldest_event.take().map(|at| at.elapsed());
                if let Some(latency) = latency {
                    self.metrics.event_to_maps.observe(latency.as_secs_f64());
                }
                tracing::debug!(operations = synced.operations, ?latency, "synced");
                if synced.udp_changed || std::mem::take(&mut self.udp_again) {
                    self.udp_again = synced.udp_changed;
                    self.end_stale_udp();
                }
                if self.reconciler.state.take_resets_dirty() {
                    self.resets_at.get_or_insert(Instant::now() + RESETS_DELAY);
                }
                were_held_back = self.node.maps_are_filled();
                must_settle |= were_held_back;
                self.outside.synced(&mut self.reconciler.state, self.node.uplink_index());
                self.report(latency);
            }
            Err(error) => {
                self.metrics.sync_failures.inc();
                self.outside.sync_failed();
                tracing::error!(error = chain(&error), retry_in = ?self.retry, "maps not written");
                self.sync_at = Some(Instant::now() + self.retry);
                self.retry = (self.retry * 2).min(RETRY_MAX);
            }
        }
        if must_settle {
            self.settle().await;
        }
        if were_held_back {
            // What the programs before knew until they were replaced has come along since.
            self.end_stale_udp();
        }
        // The lists were read while the programs were loaded: what that took lies between what stays.
        if !std::mem::replace(&mut self.is_trimmed, true) {
            return_free_pages();
        }
    }

    async fn nodes_changed(&mut self) -> bool {
        if !self.reconciler.state.nodes_are_dirty() && self.node_tables.is_some() {
            return false;
        }
        // What Nodes claim is judged by what this node needs now.
        self.tell_bounds().await;
        let tables = self.reconciler.state.node_tables();
        let changed = self.node_tables.as_ref() != Some(&tables);
        let before = self.node_tables.as_ref().map(|tables| &tables.warnings);
        for (node, warnings) in &tables.warnings {
            if before.is_none_or(|before| before.get(node) != Some(warnings)) {
                let notes: Vec<&str> = warnings.iter().map(|warning| &*warning.note).collect();
                tracing::warn!(%node, "{}", notes.join("; "));
            }
        }
        self.node_tables = Some(tables);
        changed
    }

    async fn tell_bounds(&mut self) {
        let state = &mut self.reconciler.state;
        match self.node.bounds(&state.claimed()).await {
            Ok(bounds) => state.set_bounds(bounds),
            Err(error) => {
                tracing::error!(error = chain(&error), "the node's surroundings are not known: as before")
            }
        }
    }

    async fn tell_own_addresses(&mut self) {
        match self.node.own_addresses(self.node_tables.as_ref()).await {
            Ok(addresses) => self.reconciler.state.set_own_addresses(addresses),
            Err(error) => {
                tracing::error!(error = chain(&error), "the node's addresses are not known: as before")
            }
        }
    }

    /// Puts back what a third party took away, and follows changes of devices and nodes.
    async fn settle(&mut self) {
        self.settle_at = None;
        let settled = self.node.settle(self.node_tables.as_ref()).await;
        let is_settled = settled.and_then(|changes| {
            if changes != Default::default() {
                self.metrics.reattached.inc_by(changes.attached.into());
                tracing::info!(?changes, "attachments changed");
            }
            self.node.self_test()
        });
        match &is_settled {
            Ok(()) => (self.settle_retry, self.broken_since) = (RETRY_MIN, None),
            Err(error) => {
                let retry_in = self.settle_retry;
                tracing::error!(error = chain(error), ?retry_in, "the node's set-up is not whole");
                self.settle_at = Some(Instant::now() + retry_in);
                self.settle_retry = (retry_in * 2).min(RETRY_MAX);
                self.broken_since.get_or_insert(Instant::now());
            }
        }
        self.outside.set_uplink(self.node.uplink_index());
        let is_ready = is_settled.is_ok() && self.node_tables.is_some();
        let is_broken = self.broken_since.is_some_and(|since| since.elapsed() >= BROKEN_AFTER);
        self.readiness.set(is_ready, is_broken);
        self.progress.send_if_modified(|progress| {
            let before = (progress.is_ready, progress.is_broken);
            (progress.is_ready, progress.is_broken) = (is_ready, is_broken);
            before != (is_ready, is_broken)
        });
        if self.node_tables.is_some() {
            self.tell_own_addresses().await;
            self.tell_bounds().await;
            if self.reconciler.state.is_dirty() {
                self.sync_at = Some(Instant::now());
            }
        }
    }

    /// The timed comparison of the maps with what we believe of them; what differs is repaired by the next sync.
    async fn compare(&mut self) {
        if !self.intake.is_complete() {
            return;
        }
        match self.reconciler.compare(self.now_ms()) {
            Ok(0) => {}
            Ok(divergence) => {
                self.metrics.divergence.inc_by(divergence as u64);
                tracing::warn!(divergence, "somebody else changed our maps: repaired");
                self.sync().await;
            }
            Err(error) => tracing::error!(error = chain(&error), "maps not compared"),
        }
        self.end_stale_udp();
        self.tell_resets();
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// Returns at the deadline; never where there is none.
pub(crate) async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
