//! The listener, and what runs beside it; what becomes of a connection is `door`'s.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};

use rustls::{
    RootCertStore,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use skerry_store::Store;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    addresses,
    api::{Api, Settings},
    bootstrap, claims,
    config::{Config, Limits, Readiness},
    credentials::{Paths, Urls, join_secret, write_kubeconfigs},
    door::{self, Door},
    expiry::expire_events,
    hub::Hubs,
    pipeline::Pipeline,
    pki::{Authority, Pair, PkiError},
    tunnel::Tunnels,
};

/// Requests that are under way when the server stops get this long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often certificates are looked at.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(86_400);
/// A pause after an accept that failed (no file descriptors left), instead of a hot loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Watchers learn the newest revision at least this often, so that their bookmarks stay fresh.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(50);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(
        "port {} of {} is taken: `ss -ltnp 'sport = :{}'` names who has it; stop that, or choose another port",
        .0.port(), .0.ip(), .0.port()
    )]
    PortTaken(SocketAddr),
    #[error("listen on {address}: check that this machine has the address and that the port is allowed")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("prepare the server's certificates and keys")]
    Pki(#[from] PkiError),
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
    #[error("set up the check of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    #[error("make the system's namespaces and the kubernetes service")]
    Bootstrap(#[source] crate::error::ApiError),
}

/// A server whose port is bound and whose files are written; [`Server::run`] serves.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    paths: Paths,
    urls: Urls,
    names: Names,
    certificate: Arc<Serving>,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    limits: Limits,
    readiness: Readiness,
    serving: CancellationToken,
}

impl Server {
    /// Binds the port, then makes or loads the authority, certificates, kubeconfigs and the join token.
    pub async fn bind(config: Config, store: Arc<dyn Store>) -> Result<Self, ServerError> {
        let listener = TcpListener::bind(config.bind).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => ServerError::PortTaken(config.bind),
            _ => ServerError::Listen { address: config.bind, source },
        })?;
        let address =
            listener.local_addr().map_err(|source| ServerError::Listen { address: config.bind, source })?;
        let paths = Paths::below(&config.data_dir);
        let authority = Arc::new(Authority::load_or_create(&paths.pki)?);
        let names = Names { given: config.serving_names(), is_everywhere: config.bind.ip().is_unspecified() };
        let certificate = Arc::new(Serving::new(&authority.serving(&paths.pki, &names.now())?)?);
        let urls = Urls::new(config.advertise, address);
        write_kubeconfigs(&authority, &paths, &urls)?;
        let join_secret = join_secret(&authority, &paths.join_token)?;
        let acceptor = acceptor(&authority, certificate.clone())?;
        let shutdown = CancellationToken::new();
        let settings = Settings {
            service_cidrs: config.service_cidrs,
            nodeports: config.nodeport_range,
            advertise: config.advertise,
            port: address.port(),
        };
        let hubs = Hubs::new(store.clone(), shutdown.clone());
        let tunnels = Tunnels::default();
        let store_failed = AtomicBool::new(false);
        let api =
            Arc::new(Api { store, hubs, settings, authority, join_secret, tunnels, store_failed, shutdown });
        let (limits, readiness) = (config.limits, config.readiness);
        let serving = CancellationToken::new();
        let this = Self {
            listener,
            address,
            paths,
            urls,
            names,
            certificate,
            acceptor,
            api,
            limits,
            readiness,
            serving,
        };
        Ok(this)
    }

    /// Cancelled once the server is ready and lets clients in.
    pub fn serving(&self) -> CancellationToken {
        self.serving.clone()
    }

    /// The bound address, with the port that was chosen for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Serves until `shutdown`, then lets requests finish for a few seconds.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), ServerError> {
        bootstrap::bootstrap(&self.api).await.map_err(ServerError::Bootstrap)?;
        let mut background = JoinSet::new();
        background.spawn(bootstrap::guard_kubernetes_service(self.api.clone()));
        background.spawn(claims::ip_address::guard(self.api.clone()));
        background.spawn(renew(self.api.clone(), self.paths, self.urls, self.names, self.certificate));
        background.spawn(tell_progress(self.api.clone()));
        background.spawn(expire_events(self.api.clone()));
        let pipeline = Pipeline::new(self.api.clone(), self.limits.clone(), self.readiness.clone());
        let door = Arc::new(Door::new(self.acceptor, pipeline, self.limits.connections, shutdown.clone()));
        let mut connections = JoinSet::new();
        tracing::info!(address = %self.address, "the API server serves");
        self.serving.cancel();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match door.enter(peer) {
                    Some(stranger) => {
                        connections.spawn(door::serve(stream, peer, stranger, door.clone()));
                    }
                    None => tracing::debug!(%peer, "no room for a connection"),
                },
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    // No file descriptors left, most likely.
                    door.let_one_go();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(self.listener);
        // Watches, tunnels and spliced connections end now; the rest may finish.
        self.api.shutdown.cancel();
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
            tracing::warn!("requests were cut off at the end");
        }
        Ok(())
    }
}

fn acceptor(authority: &Authority, certificate: Arc<Serving>) -> Result<TlsAcceptor, ServerError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The serving certificate, exchanged without a restart.
#[derive(Debug)]
struct Serving(RwLock<Arc<CertifiedKey>>);

impl Serving {
    fn new(pair: &Pair) -> Result<Self, ServerError> {
        Ok(Self(RwLock::new(Arc::new(certified(pair)?))))
    }

    fn replace(&self, pair: &Pair) -> Result<(), ServerError> {
        let fresh = Arc::new(certified(pair)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn certified(pair: &Pair) -> Result<CertifiedKey, ServerError> {
    let (certificate, key) = pair
        .parts()
        .ok_or_else(|| rustls::Error::General("the serving certificate is not readable".into()))?;
    Ok(CertifiedKey::new(vec![certificate], ring::sign::any_supported_type(&key)?))
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Under what the server is called: what was given, and each address of the machine where it listens on all
/// of them. What was found is found again whenever it may have changed.
#[derive(Clone, Debug)]
struct Names {
    given: Vec<String>,
    is_everywhere: bool,
}

impl Names {
    fn now(&self) -> Vec<String> {
        let mut names = self.given.clone();
        if self.is_everywhere {
            match addresses::of_this_machine() {
                Ok(found) => names.extend(found.iter().map(ToString::to_string)),
                Err(error) => tracing::warn!(%error, "ask for this machine's addresses"),
            }
        }
        names.sort();
        names.dedup();
        names
    }
}

/// Signs anew what nears its end, daily, and the serving certificate when the machine's addresses have
/// changed.
async fn renew(api: Arc<Api>, paths: Paths, urls: Urls, names: Names, certificate: Arc<Serving>) {
    let mut interval = tokio::time::interval(RENEWAL_INTERVAL);
    let mut changes = addresses::Changes::open(names.is_everywhere);
    loop {
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            _ = interval.tick() => {}
            () = changes.next() => {}
        }
        let outcome = api
            .authority
            .serving(&paths.pki, &names.now())
            .map_err(ServerError::from)
            .and_then(|pair| certificate.replace(&pair))
            .and_then(|()| Ok(write_kubeconfigs(&api.authority, &paths, &urls)?));
        if let Err(error) = outcome {
            tracing::error!(error = skerry_vocabulary::chain(&error), "renew certificates");
        }
    }
}

async fn tell_progress(api: Arc<Api>) {
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            _ = interval.tick() => api.store.request_progress(),
        }
    }
}
