//! The process: one loop that takes in probes' answers, reloads and the clock, and moves the tables.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use proxy_abi::{Addr, Be16, Config as Facts, FrontendKey, frontend_kind, proto};
use proxy_state::{Backend, RunsFull, maglev_table};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};

pub use crate::kernel::Mode;
use crate::{
    config::{Config, ConfigError, Vip},
    devices,
    flows::{Flows, monotonic_s},
    health::{self, Judge},
    kernel::{self, KernelError, Maps},
    metrics, neighbours,
    plan::{GRACE_MS, Tables, Wanted, flags},
};

const COLLECT: Duration = Duration::from_secs(30);
/// Answers of probes that wait for the loop.
const QUEUE: usize = 256;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// The default route's device where none is named.
    pub devices: Vec<String>,
    pub mode: Mode,
    /// On a BPF file system, of this balancer alone.
    pub pin_root: PathBuf,
    pub metrics_bind: Option<SocketAddr>,
    /// Entries of each connection table.
    pub flows: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    Full(#[from] RunsFull),
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

/// Balances until SIGTERM or SIGINT. The program and its tables stay behind and go on as they are, so that a restart costs
/// no connection; [`remove`] ends that.
///
/// # Errors
/// At the start, whatever is wrong; later only what the kernel refuses. A bad file at a reload is logged, and what runs stays.
pub fn run(options: &Options) -> Result<(), RunError> {
    let config = Config::read(&options.config)?;
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
    let slots = maps.slots.entries()?.into_iter().filter(|(_, slot)| slot.service_id != 0);
    let tables = Tables::restore(
        maps.slots.info().max_entries,
        &maps.frontends.entries()?,
        &slots.collect::<Vec<_>>(),
        &maps.source_ranges.entries()?.into_iter().map(|(range, _)| range).collect::<Vec<_>>(),
    );
    let (answers, mut heard) = mpsc::channel(QUEUE);
    let mut balancer = Balancer {
        devices,
        flows: Flows::open(&options.pin_root)?,
        maps: Arc::new(maps),
        tables,
        facts: Facts::default(),
        config: Config { vips: Vec::new(), sources: Vec::new() },
        judges: HashMap::new(),
        probes: JoinSet::new(),
        answers,
        state: metrics::Shared::default(),
        begun: Instant::now(),
    };
    balancer.adopt(config)?;
    for device in &balancer.devices {
        kernel::attach(&options.pin_root, &program, device, options.mode)?;
    }
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
    tracing::info!(devices = ?balancer.devices, vips = balancer.config.vips.len(), "balancing");
    loop {
        tokio::select! {
            Some((key, backend, answered)) = heard.recv() => balancer.hear(key, backend, answered)?,
            _ = collect.tick() => {
                balancer.flows.collect(&balancer.facts, monotonic_s())?;
            }
            _ = hangup.recv() => balancer.reload(&options.config)?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

type Answer = (FrontendKey, SocketAddr, bool);

struct Balancer {
    devices: Vec<String>,
    maps: Arc<Maps>,
    flows: Flows,
    tables: Tables,
    facts: Facts,
    config: Config,
    judges: HashMap<(FrontendKey, SocketAddr), Judge>,
    probes: JoinSet<()>,
    answers: mpsc::Sender<Answer>,
    state: metrics::Shared,
    begun: Instant,
}

impl Balancer {
    /// A bad file changes nothing.
    fn reload(&mut self, path: &Path) -> Result<(), RunError> {
        let done = Config::read(path).map_err(RunError::from).and_then(|config| self.adopt(config));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match done {
            Ok(()) => {
                state.reloads += 1;
                tracing::info!(vips = self.config.vips.len(), "reloaded");
            }
            Err(error @ (RunError::Config(_) | RunError::NoSource { .. })) => {
                state.refused_reloads += 1;
                tracing::error!(%error, "not reloaded: what runs stays");
            }
            Err(other) => return Err(other),
        }
        Ok(())
    }

    /// Backends that were there keep what is known of them.
    fn adopt(&mut self, config: Config) -> Result<(), RunError> {
        let facts = self.facts(&config)?;
        self.maps.set_facts(&facts)?;
        self.facts = facts;
        self.probes.abort_all();
        let mut judges = HashMap::new();
        for vip in &config.vips {
            let key = key(vip);
            for backend in &vip.backends {
                let known = self.judges.get(&(key, backend.address)).filter(|_| vip.check.is_some());
                judges.insert((key, backend.address), known.copied().unwrap_or_else(Judge::new));
                let (to, answers) = (backend.address, self.answers.clone());
                match vip.check.clone() {
                    Some(check) => drop(self.probes.spawn(health::watch(to, check, async move |answered| {
                        answers.send((key, to, answered)).await.is_ok()
                    }))),
                    // Without probes nothing else would make the kernel find the backend on its link.
                    None => drop(self.probes.spawn(neighbours::resolve(to.ip()))),
                }
            }
        }
        self.judges = judges;
        self.config = config;
        self.apply()
    }

    fn hear(&mut self, key: FrontendKey, backend: SocketAddr, answered: bool) -> Result<(), RunError> {
        let check =
            self.config.vips.iter().find(|vip| self::key(vip) == key).and_then(|vip| vip.check.as_ref());
        // An answer may come from a probe that a reload has ended.
        let (Some(check), Some(judge)) = (check, self.judges.get_mut(&(key, backend))) else { return Ok(()) };
        if !judge.hear(check, answered) {
            return Ok(());
        }
        tracing::info!(vip = %key.addr, port = %key.port, %backend, lives = answered, "a backend's health changed");
        self.apply()
    }

    /// Moves the maps to what the file and the probes say.
    fn apply(&mut self) -> Result<(), RunError> {
        let lives = |vip: &Vip, to: SocketAddr| self.judges.get(&(key(vip), to)).is_none_or(|j| j.lives);
        let wanted: Vec<Wanted> = self
            .config
            .vips
            .iter()
            .map(|vip| {
                let living = vip.backends.iter().filter(|backend| lives(vip, backend.address));
                let weighted: Vec<(Backend, u32)> =
                    living.map(|backend| (element(backend.address), backend.weight)).collect();
                let elements = match vip.maglev {
                    0 => repeated(&weighted),
                    size => maglev_table(&weighted, size),
                };
                Wanted {
                    key: key(vip),
                    flags: flags(vip.is_direct, vip.maglev != 0, vip.allowed.is_some()),
                    elements,
                    ranges: vip.allowed.iter().flatten().copied().collect(),
                }
            })
            .collect();
        let backends = self.config.vips.iter().flat_map(|vip| {
            let protocol = if vip.proto == proto::UDP { "UDP" } else { "TCP" };
            vip.backends.iter().map(move |b| (vip.address, protocol, b.address, lives(vip, b.address)))
        });
        let backends = backends.collect();
        let now_ms = GRACE_MS + self.begun.elapsed().as_millis() as u64;
        let (ops, full) = self.tables.plan(&wanted, true, now_ms);
        self.maps.execute(&ops)?;
        let ended = if ops.is_empty() { 0 } else { self.flows.end_stale(&self.tables)? };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.backends = backends;
        state.flows_ended += ended as u64;
        match full {
            Some(full) => Err(full.into()),
            None => Ok(()),
        }
    }

    fn facts(&self, config: &Config) -> Result<Facts, RunError> {
        let served: Vec<IpAddr> = config.vips.iter().map(|vip| vip.address.ip()).collect();
        let source = |is_v4: bool| {
            if let Some(named) = config.sources.iter().find(|ip| ip.is_ipv4() == is_v4) {
                return Ok(Addr::from(*named));
            }
            let found = devices::address(&self.devices, is_v4, &served).map_err(RunError::Devices)?;
            match found {
                Some(ip) => Ok(Addr::from(ip)),
                None if served.iter().any(|ip| ip.is_ipv4() == is_v4) => Err(RunError::NoSource {
                    family: if is_v4 { "IPv4" } else { "IPv6" },
                    devices: self.devices.join(", "),
                }),
                None => Ok(Addr::UNSPECIFIED),
            }
        };
        Ok(Facts {
            node_v4: source(true)?,
            node_v6: source(false)?,
            snat_min: 1_024,
            snat_max: 29_999,
            tcp_syn_s: 60,
            tcp_established_s: 21_600,
            tcp_closing_s: 10,
            udp_s: 30,
            udp_stream_s: 120,
            icmp_s: 30,
            flow_queue: self.flows.seats(),
            ..Facts::default()
        })
    }
}

fn key(vip: &Vip) -> FrontendKey {
    FrontendKey {
        addr: vip.address.ip().into(),
        port: Be16::new(vip.address.port()),
        proto: vip.proto,
        kind: frontend_kind::ADDRESS,
    }
}

fn element(address: SocketAddr) -> Backend {
    Backend { addr: address.ip().into(), port: Be16::new(address.port()), flags: 0 }
}

/// As many elements a backend as its weight says.
fn repeated(weighted: &[(Backend, u32)]) -> Vec<Backend> {
    weighted.iter().flat_map(|(backend, weight)| std::iter::repeat_n(*backend, *weight as usize)).collect()
}
