//! A connection's way in: handshake, whose it is, what it may take, and how it ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    clients::{Client, Place, Places, Stranger, Strangers},
    pipeline::Pipeline,
    pki,
};

/// A peer that has not finished its handshake by then is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without a client certificate ends after this long: it can do nothing that takes longer.
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(60);
/// From the first byte of a request's head (or the end of the one before) to its end.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// The same of who has shown no certificate.
const ANONYMOUS_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// To so many connections with a client certificate comes one without.
const NAMED_PER_STRANGER: usize = 4;
const MAX_HEADER_BYTES: usize = 64 << 10;
const MAX_STREAMS_PER_CONNECTION: u32 = 1_000;
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const KEEPALIVE_IDLE_SECONDS: u32 = 30;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 10;
const KEEPALIVE_PROBES: u32 = 3;
/// Data that a peer has not acknowledged for this long ends the connection (TCP_USER_TIMEOUT).
const UNACKNOWLEDGED_MS: u32 = 60_000;

/// What every connection goes by.
pub struct Door {
    acceptor: TlsAcceptor,
    strangers: Arc<Strangers>,
    /// Connections of those who have shown a certificate.
    named: Arc<Places>,
    pipeline: Pipeline,
    shutdown: CancellationToken,
}

impl Door {
    pub fn new(
        acceptor: TlsAcceptor,
        pipeline: Pipeline,
        connections: usize,
        shutdown: CancellationToken,
    ) -> Self {
        let strangers = Strangers::new((connections / NAMED_PER_STRANGER).max(1));
        Self { acceptor, strangers, named: Places::new(connections), pipeline, shutdown }
    }

    /// Lets a connection in: a stranger until it has shown a certificate.
    pub fn enter(&self, peer: SocketAddr) -> Option<Stranger> {
        self.strangers.enter(peer.ip())
    }

    /// Frees a file descriptor.
    pub fn let_one_go(&self) {
        self.strangers.let_one_go();
    }
}

/// What a connection holds while it is open.
#[derive(Clone)]
enum Held {
    Named { _place: Arc<Place> },
    Stranger(Arc<Stranger>),
}

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, peer: SocketAddr, stranger: Stranger, door: Arc<Door>) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%peer, %error, "set the connection's options");
    }
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, door.acceptor.accept(stream));
    let outcome = tokio::select! {
        outcome = handshake => outcome,
        () = stranger.leave().cancelled() => return,
    };
    let stream = match outcome {
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
    let client = Client::new(identity.as_deref(), peer.ip());
    let held = match &client {
        Client::Stranger(_) => Held::Stranger(Arc::new(stranger)),
        Client::Named(name) => match door.named.take(&client) {
            Ok(place) => Held::Named { _place: Arc::new(place) },
            Err(_) => {
                tracing::warn!(%peer, client = &**name, "has its share of connections: one more is closed");
                return;
            }
        },
    };
    let builder = builder(match &held {
        Held::Named { .. } => HEADER_TIMEOUT,
        Held::Stranger(_) => ANONYMOUS_HEADER_TIMEOUT,
    });
    let (end, shutdown) = (end_of(held.clone()), door.shutdown.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let (door, identity, client, held) = (door.clone(), identity.clone(), client.clone(), held.clone());
        async move {
            let _answering = match &held {
                Held::Stranger(stranger) => Some(stranger.answering()),
                Held::Named { .. } => None,
            };
            request.extensions_mut().insert(client);
            Ok::<_, std::convert::Infallible>(door.pipeline.serve(identity.as_deref(), request).await)
        }
    });
    let mut connection =
        std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = end => return,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// Returns when a stranger's time is over or its place is needed; never for a client with a certificate.
async fn end_of(held: Held) {
    match held {
        Held::Named { .. } => std::future::pending().await,
        Held::Stranger(stranger) => tokio::select! {
            () = tokio::time::sleep(ANONYMOUS_LIFETIME) => {}
            () = stranger.leave().cancelled() => {}
        },
    }
}

/// Small answers are not held back, and a peer that has vanished is noticed also by a tunnel or a spliced
/// connection.
fn tune(stream: &TcpStream) -> nix::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(stream, sockopt::TcpNoDelay, &true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    setsockopt(stream, sockopt::TcpUserTimeout, &UNACKNOWLEDGED_MS)
}

fn builder(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
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
