//! The listener: TLS, connections, and their bounds.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicBool},
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{
    RootCertStore,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use skerry_store::Store;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Api, Settings},
    bootstrap, claims,
    config::{Config, Limits, Readiness},
    credentials::{Paths, Urls, join_secret, write_kubeconfigs},
    expiry::expire_events,
    hub::Hubs,
    pipeline::Pipeline,
    pki::{self, Authority, Pair, PkiError},
    tunnel::Tunnels,
};

/// A peer that has not finished its handshake by then is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a client certificate ends after this long: it can do nothing that takes longer.
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(60);
/// From the first byte of a request's head (or the end of the one before) to its end.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_HEADER_BYTES: usize = 64 << 10;
const MAX_STREAMS_PER_CONNECTION: u32 = 1_000;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const KEEPALIVE_IDLE_SECONDS: u32 = 30;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 10;
const KEEPALIVE_PROBES: u32 = 3;
/// Data that a peer has not acknowledged for this long ends the connection (TCP_USER_TIMEOUT).
const UNACKNOWLEDGED_MS: u32 = 60_000;
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
    names: Vec<String>,
    certificate: Arc<Serving>,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    limits: Limits,
    readiness: Readiness,
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
        let names = config.serving_names();
        let certificate = Arc::new(Serving::new(&authority.serving(&paths.pki, &names)?)?);
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
        Ok(Self { listener, address, paths, urls, names, certificate, acceptor, api, limits, readiness })
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
        let pipeline = Arc::new(Pipeline::new(self.api.clone(), self.limits.clone(), self.readiness.clone()));
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let mut connections = JoinSet::new();
        tracing::info!(address = %self.address, "the API server serves");
        loop {
            let permit = tokio::select! {
                () = shutdown.cancelled() => break,
                permit = room.clone().acquire_owned() => permit,
            };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (acceptor, pipeline, stop) =
                        (self.acceptor.clone(), pipeline.clone(), shutdown.clone());
                    connections.spawn(async move {
                        connection(stream, peer, acceptor, pipeline, stop).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
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

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    pipeline: Arc<Pipeline>,
    shutdown: CancellationToken,
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%peer, %error, "set the connection's options");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "a TLS handshake was not finished in time");
            return;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let identity = certificates.and_then(|chain| chain.first()).and_then(pki::subject_of).map(Arc::new);
    let is_anonymous = identity.is_none();
    let service = service_fn(move |request| {
        let (pipeline, identity) = (pipeline.clone(), identity.clone());
        async move { Ok::<_, std::convert::Infallible>(pipeline.serve(identity.as_deref(), request).await) }
    });
    let builder = builder();
    let mut connection =
        std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let lifetime = async {
        if is_anonymous {
            tokio::time::sleep(ANONYMOUS_LIFETIME).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = lifetime => return,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// Small answers are not held back, and a peer that has vanished is noticed also by a tunnel or a spliced connection.
fn tune(stream: &TcpStream) -> nix::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::TcpNoDelay, &true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS)
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
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

/// Signs what nears its end anew, daily.
async fn renew(api: Arc<Api>, paths: Paths, urls: Urls, names: Vec<String>, certificate: Arc<Serving>) {
    let mut interval = tokio::time::interval(RENEWAL_INTERVAL);
    loop {
        tokio::select! {
            () = api.shutdown.cancelled() => return,
            _ = interval.tick() => {}
        }
        let outcome = api
            .authority
            .serving(&paths.pki, &names)
            .map_err(ServerError::from)
            .and_then(|pair| certificate.replace(&pair))
            .and_then(|()| Ok(write_kubeconfigs(&api.authority, &paths, &urls)?));
        if let Err(error) = outcome {
            tracing::error!(error = crate::error::chain(&error), "renew certificates");
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
