//! The process: the state of before, the agent's word, the sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::rr::Name;
use ipnetwork::IpNetwork;
use skerry_vocabulary::chain;
use tokio::runtime::Handle;

use crate::{
    config,
    disk::{DiskError, Found, Journal},
    engine::Engine,
    feed::{FeedError, Listeners, Said, Taker},
    forward,
    metrics::Metrics,
    serve::{listen_admin, serve_admin, serve_datagrams, serve_streams},
    zone::{Change, Zone},
};

/// Everything that the process is told from outside.
#[derive(Clone, Debug)]
pub struct Config {
    /// Of the cluster, as pods search it; ends in a dot.
    pub domain: Name,
    /// Where pods and Services have their addresses: who asks from elsewhere, and is no Node, is not
    /// answered.
    pub ranges: Vec<IpNetwork>,
    /// Of the DNS Service.
    pub servers: Vec<IpAddr>,
    /// The agent's socket.
    pub feed: PathBuf,
    /// The file that outlives the process.
    pub state: PathBuf,
    /// The socket for people.
    pub admin: PathBuf,
    /// The node's own.
    pub resolv_conf: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("open the state of before")]
    Disk(#[from] DiskError),
    #[error("start a thread")]
    Thread(#[source] io::Error),
    #[error("serve connections")]
    Streams(#[source] io::Error),
}

/// Pauses between tries to reach the agent.
const AGAIN_MIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(5);

/// Runs it; for ever, where nothing is fatally wrong. `ready` is called once names are answered.
///
/// # Errors
/// When the state can't be opened or a thread not be started.
pub async fn run(
    config: Config,
    metrics: Arc<Metrics>,
    ready: impl FnOnce() + Send + 'static,
) -> Result<(), RunError> {
    let Found { journal, changes, fault } = Journal::open(&config.state)?;
    if let Some(fault) = fault {
        tracing::warn!(error = chain(&fault), "the state of before");
    }
    let mut zone = Zone::new(config.domain.clone(), config.ranges.clone(), config.servers.clone());
    for change in changes {
        zone.apply(change);
    }
    let (services, slices) = zone.counts();
    tracing::info!(services, slices, "names of before");
    let engine = Engine::new(zone, config.ranges.clone(), metrics);
    let settings = Arc::new(Settings::new(engine.clone()));
    settings.set();
    let runtime = Handle::current();
    thread("resolv-conf", {
        let (settings, runtime, path) = (settings.clone(), runtime.clone(), config.resolv_conf.clone());
        move || {
            let followed = forward::follow(&path, |text| {
                let _in_runtime = runtime.enter();
                settings.set_servers(forward::servers(text));
                true
            });
            if let Err(error) = followed {
                tracing::error!(error = chain(&error), "the node's resolvers are not followed");
            }
        }
    })?;
    // Before anybody is told that this is ready: who is told may ask at once.
    let admin = listen_admin(&config.admin);
    let admin = {
        let engine = engine.clone();
        async move {
            let served = match admin {
                Ok(admin) => serve_admin(engine, admin).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(error = chain(&error), "`skerry dns lookup` can't ask here");
            }
            std::future::pending::<()>().await;
        }
    };
    let (failed, failure) = tokio::sync::oneshot::channel();
    let feed = Feed { engine, settings, journal, runtime, ready: Some(ready), failed: Some(failed) };
    thread("feed", move || feed.take(&config.feed))?;
    tokio::select! {
        () = admin => Ok(()),
        failure = failure => failure.unwrap_or(Ok(())),
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
    // What they do fits into little, and there is one for each core.
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10);
    builder.spawn(body).map(drop).map_err(RunError::Thread)
}

/// What holds, made of ConfigMaps and of the node's own file.
struct Settings {
    engine: Arc<Engine>,
    servers: Mutex<Vec<SocketAddr>>,
}

impl Settings {
    fn new(engine: Arc<Engine>) -> Settings {
        Settings { engine, servers: Mutex::default() }
    }

    fn set_servers(&self, servers: Vec<SocketAddr>) {
        if servers.is_empty() {
            tracing::warn!(
                "the node's resolv.conf names no resolver: names outside of the cluster are not found"
            );
        }
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers;
        self.set();
    }

    /// In the runtime.
    fn set(&self) {
        let read = {
            let zone = self.engine.zone();
            config::read(zone.documents(), zone.domain())
        };
        match read {
            Ok(config::Read { settings, warnings }) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone();
                self.engine.configure(settings, &servers);
            }
            Err(error) => tracing::error!(error = chain(&error), "the settings of before hold on"),
        }
    }
}

/// Takes what the agent says.
struct Feed<R> {
    engine: Arc<Engine>,
    settings: Arc<Settings>,
    journal: Journal,
    runtime: Handle,
    ready: Option<R>,
    failed: Option<tokio::sync::oneshot::Sender<Result<(), RunError>>>,
}

impl<R: FnOnce()> Feed<R> {
    fn take(mut self, path: &std::path::Path) {
        let (mut pause, mut is_named) = (AGAIN_MIN, false);
        loop {
            let began = Instant::now();
            let ended = match Taker::connect(path) {
                Ok((taker, listeners)) => {
                    if let Err(error) = self.serve(listeners) {
                        self.failed.take().map(|failed| failed.send(Err(error)));
                        return;
                    }
                    is_named = false;
                    self.listen(taker)
                }
                Err(error) => error,
            };
            self.engine.metrics().is_fed.set(0);
            if !std::mem::replace(&mut is_named, true) {
                tracing::warn!(error = chain(&ended), "the agent is not heard: what it said last holds");
            }
            if began.elapsed() > AGAIN_MAX {
                pause = AGAIN_MIN;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(AGAIN_MAX);
        }
    }

    /// Once: whoever connects again gets the same sockets.
    fn serve(&mut self, listeners: Listeners) -> Result<(), RunError> {
        let Some(ready) = self.ready.take() else { return Ok(()) };
        for (number, socket) in listeners.datagrams.into_iter().enumerate() {
            let (engine, runtime) = (self.engine.clone(), self.runtime.clone());
            thread(&format!("datagrams-{number}"), move || {
                if let Err(error) = serve_datagrams(&engine, socket, &runtime) {
                    // The others go on; this one's share of the questions is lost, so begin anew.
                    tracing::error!(%error, "serve datagrams");
                    std::process::exit(1);
                }
            })?;
        }
        let _in_runtime = self.runtime.enter();
        listeners.streams.set_nonblocking(true).map_err(RunError::Streams)?;
        let streams = tokio::net::TcpListener::from_std(listeners.streams).map_err(RunError::Streams)?;
        self.runtime.spawn(serve_streams(self.engine.clone(), streams));
        ready();
        Ok(())
    }

    /// Until the agent ends it.
    fn listen(&mut self, mut taker: Taker) -> FeedError {
        self.engine.metrics().is_fed.set(1);
        let mut unkept: Vec<Change> = Vec::new();
        loop {
            let said = match taker.hear() {
                Ok(said) => said,
                Err(error) => {
                    self.keep(&mut unkept);
                    return error;
                }
            };
            match said {
                Said::Change(change) => self.change(change, &mut unkept),
                Said::Complete(named) => {
                    let before = self.engine.stamp();
                    let gone = self.engine.change(|zone| {
                        let before = zone.changes();
                        zone.retain(&named);
                        zone.changes() - before
                    });
                    tracing::info!(objects = named.len(), gone, stamp = before, "all names are here");
                    self.keep(&mut unkept);
                    if gone > 0 {
                        self.rewrite();
                    }
                    self.configure();
                }
            }
            if !taker.has_more() {
                self.keep(&mut unkept);
            }
        }
    }

    fn change(&mut self, change: Change, unkept: &mut Vec<Change>) {
        let began = Instant::now();
        let is_setting = matches!(change, Change::Document(..));
        if !self.engine.apply(change.clone()) {
            return;
        }
        self.engine.metrics().changes.inc();
        self.engine.metrics().change_duration.observe(began.elapsed().as_secs_f64());
        unkept.push(change);
        if is_setting {
            self.configure();
        }
    }

    fn configure(&self) {
        let _in_runtime = self.runtime.enter();
        self.settings.set();
    }

    /// A full disk does not keep names from being answered.
    fn keep(&mut self, unkept: &mut Vec<Change>) {
        if unkept.is_empty() {
            return;
        }
        if let Err(error) = self.journal.add(unkept) {
            tracing::error!(error = chain(&error), "the state on disk is behind");
        }
        unkept.clear();
        if self.journal.is_long() {
            self.rewrite();
        }
    }

    fn rewrite(&mut self) {
        let content = self.journal.compacted(&self.engine.zone());
        if let Err(error) = content.and_then(|content| self.journal.replace(&content)) {
            tracing::error!(error = chain(&error), "the state on disk is not written anew");
        }
    }
}
