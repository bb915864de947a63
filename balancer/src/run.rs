//! The process: one loop that takes in probes' answers, a cluster's changes, reloads and the clock.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use proxy_abi::Facts;
use proxy_maps::{FlowTable, PinnedTables, Reconciler, Tables};
use proxy_state::{Listed, Refusal};
use skerry_announce::Announcer;
use skerry_client::{ConnectError, connect};
use skerry_kernel::XdpChoice;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    balancer::Balancer,
    cluster::{Cluster, Kind, Rules},
    config::{Config, ConfigError},
    devices,
    health::Probes,
    kernel::{self, KernelError},
    metrics, neighbours, watch,
};

/// A program that read a frontend just before it flipped reads its slot well within this time.
const GRACE: Duration = Duration::from_secs(1);
const COLLECT: Duration = Duration::from_secs(30);
/// Answers of probes, and changes of the cluster, that wait for the loop.
const QUEUE: usize = 256;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: Option<PathBuf>,
    pub cluster: Option<Source>,
    /// The default route's device where none is named.
    pub devices: Vec<String>,
    pub mode: XdpChoice,
    /// On a BPF file system, of this balancer alone.
    pub pin_root: PathBuf,
    pub metrics_bind: Option<SocketAddr>,
    /// The virtual addresses are answered for on the devices' links.
    pub announce: bool,
    /// Entries of each connection table.
    pub flows: u32,
}

/// A cluster whose Services are balanced.
#[derive(Clone, Debug)]
pub struct Source {
    /// `None`: from inside of a pod.
    pub kubeconfig: Option<PathBuf>,
    pub rules: Rules,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Map(#[from] skerry_kernel::Error),
    #[error("find the device that leads out: say --device")]
    NoDevice,
    #[error("look through the machine's devices")]
    Devices(#[source] io::Error),
    #[error("let device {device} forward")]
    Forward { device: String, source: io::Error },
    #[error("no {family} address on {devices}: give it one, or name one in the file under `sources`")]
    NoSource { family: &'static str, devices: String },
    #[error(transparent)]
    Full(#[from] Refusal),
    #[error("listen on {address} for metrics: set --metrics-bind to a free address")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("wait for signals")]
    Signal(#[source] io::Error),
}

/// Takes the program off and removes the maps that an earlier [`run`] left.
///
/// # Errors
/// Something could not be removed.
pub fn remove(pin_root: &Path) -> Result<(), RunError> {
    Ok(kernel::remove(pin_root)?)
}

/// Balances until SIGTERM or SIGINT. The program and its tables stay behind and go on as they are, so that a
/// restart costs no connection; [`remove`] ends that.
///
/// # Errors
/// At the start, whatever is wrong; later only what the kernel refuses. A bad file at a reload is logged, and
/// what runs stays.
pub fn run(options: &Options) -> Result<(), RunError> {
    let config = match &options.config {
        Some(path) => Config::read(path)?,
        None => Config { vips: Vec::new(), sources: Vec::new() },
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Runtime)?;
    runtime.block_on(serve(options, config))
}

async fn serve(options: &Options, config: Config) -> Result<(), RunError> {
    let devices = match options.devices.is_empty() {
        false => options.devices.clone(),
        true => vec![devices::default_device().map_err(RunError::Devices)?.ok_or(RunError::NoDevice)?],
    };
    for device in &devices {
        devices::forward(device).map_err(|source| RunError::Forward { device: device.clone(), source })?;
    }
    let (program, maps, ring) = kernel::load(&options.pin_root, options.flows)?;
    let folder = kernel::maps(&options.pin_root);
    let mut tables = PinnedTables::open(&folder)?;
    let dump = tables.dump()?;
    // No connection knows a virtual address by its number.
    let limits = tables.limits(GRACE.as_millis() as u64, 0);
    let reconciler = Reconciler::new(Listed::default(), limits, tables, dump, 0);
    let (answers, mut heard) = mpsc::channel(QUEUE);
    let (tell, mut told) = mpsc::channel(QUEUE);
    if let Some(Source { kubeconfig, .. }) = &options.cluster {
        let client = connect(&skerry_client::Source::of(kubeconfig.as_deref())).await?.client;
        for kind in [Kind::Services, Kind::Slices, Kind::Nodes] {
            tokio::spawn(watch::follow(client.clone(), kind, tell.clone()));
        }
    }
    drop(tell);
    let state = metrics::Shared::default();
    // They end with this function.
    let mut speaking = JoinSet::new();
    let mut announcers = Vec::new();
    for device in devices.iter().filter(|_| options.announce) {
        let announcer = Announcer::start(&mut speaking, Arc::new(metrics::Counted(state.clone())));
        announcer.set_device(skerry_kernel::ifindex(device)?);
        announcers.push(announcer);
    }
    let mut balancer = Balancer {
        devices,
        flows: FlowTable::open(&folder)?,
        maps: Arc::new(maps),
        reconciler,
        facts: Facts::default(),
        file: Config { vips: Vec::new(), sources: Vec::new() },
        cluster: options.cluster.as_ref().map(|source| Cluster::new(source.rules.clone())),
        vips: Vec::new(),
        notes: Default::default(),
        all_down: Default::default(),
        probes: Probes::new(answers),
        announcers,
        state,
        begun: Instant::now(),
        plan_at: None,
    };
    balancer.adopt(config)?;
    for device in &balancer.devices {
        kernel::attach(&options.pin_root, &program, device, options.mode)?;
    }
    let pins = kernel::hold(&options.pin_root)?;
    tokio::spawn(neighbours::watch(ring));
    if let Some(address) = options.metrics_bind {
        let listener =
            TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
        tokio::spawn(metrics::serve(listener, balancer.maps.clone(), balancer.state.clone()));
    }
    let on = |kind| signal(kind).map_err(RunError::Signal);
    let (mut hangup, mut terminate) = (on(SignalKind::hangup())?, on(SignalKind::terminate())?);
    let mut interrupt = on(SignalKind::interrupt())?;
    let mut collect = tokio::time::interval(COLLECT);
    tracing::info!(devices = ?balancer.devices, vips = balancer.vips.len(), "balancing");
    let mut changes = Vec::new();
    loop {
        tokio::select! {
            Some((target, answered)) = heard.recv() => balancer.hear(&target, answered)?,
            () = at(balancer.plan_at) => balancer.plan_again()?,
            1.. = told.recv_many(&mut changes, QUEUE) => balancer.learn(&mut changes)?,
            _ = collect.tick() => {
                balancer.collect()?;
                match kernel::restore(&options.pin_root, &pins) {
                    Ok(0) => {}
                    Ok(restored) => tracing::warn!(restored, "pins were gone: made again"),
                    Err(error) => tracing::error!(%error, "pins are gone: a restart would begin afresh"),
                }
            }
            _ = hangup.recv() => match &options.config {
                Some(path) => balancer.reload(path)?,
                None => tracing::info!("there is no file to read again: say --config"),
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Returns at the deadline; never where there is none.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
