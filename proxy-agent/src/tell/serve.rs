use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::tell::metrics::Metrics;

/// The address for metrics and probes could not be had.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for metrics and probes: set --metrics-bind to a free address")]
pub struct ServeError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Connections at a time: a scraper, two probes, some people.
const MAX_CONNECTIONS: usize = 16;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries to listen on a port that somebody else holds.
pub(crate) const RETRY: Duration = Duration::from_secs(2);
/// Where kube-proxy says `iptables` or `nftables`.
const PROXY_MODE: &str = "ebpf";

/// Whether the node is served: set by the agent's loop.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    is_ready: AtomicBool,
    is_broken: AtomicBool,
}

impl Readiness {
    /// `is_broken`: the node's set-up has not been whole for a while.
    pub fn set(&self, is_ready: bool, is_broken: bool) {
        self.is_ready.store(is_ready, Ordering::Relaxed);
        self.is_broken.store(is_broken, Ordering::Relaxed);
    }

    pub fn get(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }
}

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError { address, source })
}

/// Answers `/metrics`, `/healthz`, `/livez`, `/readyz` and `/proxyMode` until it is dropped.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, readiness: Arc<Readiness>) {
    answer(listener, |_| true, move |path| respond(path, &metrics, &readiness)).await;
}

/// The same where tools look for kube-proxy, which may hold the port itself.
pub(crate) async fn serve_tools(address: SocketAddr, metrics: Arc<Metrics>, readiness: Arc<Readiness>) {
    let bind = || TcpListener::bind(address);
    let tell = |error| {
        tracing::info!(%address, %error, "kube-proxy's port for tools is taken: will be tried again");
    };
    serve(until_bound(bind, tell).await, metrics, readiness).await;
}

/// Tries until somebody else lets the port go; `tell` hears of the first failure.
pub(crate) async fn until_bound<E, F>(bind: impl Fn() -> F, tell: impl FnOnce(E)) -> TcpListener
where
    F: Future<Output = Result<TcpListener, E>>,
{
    let mut tell = Some(tell);
    loop {
        match bind().await {
            Ok(listener) => return listener,
            Err(error) => {
                if let Some(tell) = tell.take() {
                    tell(error);
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Answers each request by its path alone, on a connection of its own, until it is dropped. Connections to
/// addresses of ours that `serves` refuses are closed at once.
pub async fn answer(
    listener: TcpListener,
    serves: impl Fn(IpAddr) -> bool,
    respond: impl Fn(&str) -> Response<Full<Bytes>> + Send + Sync + 'static,
) {
    let respond = Arc::new(respond);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) if stream.local_addr().is_ok_and(|at| serves(at.ip().to_canonical())) => stream,
            Ok(_) => continue,
            // Out of descriptors: connections that end give some back, and their slots wake us.
            Err(error) => {
                tracing::warn!(%error, "accept a connection for metrics or probes");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let respond = respond.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request: http::Request<Incoming>| {
                let response = respond(request.uri().path());
                async { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection for metrics or probes");
            }
            drop(slot);
        });
    }
}

fn respond(path: &str, metrics: &Metrics, readiness: &Readiness) -> Response<Full<Bytes>> {
    let (status, kind, body) = match path {
        "/metrics" => {
            (StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.text())
        }
        "/healthz" if readiness.is_broken() => (
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            "the node's set-up is not whole, see the log\n".to_owned(),
        ),
        // A restart would not help: alive is who answers.
        "/healthz" | "/livez" => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/readyz" if readiness.get() => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/readyz" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            "not ready: the first lists or the attachments are missing, see the log\n".to_owned(),
        ),
        "/proxyMode" => (StatusCode::OK, "text/plain", PROXY_MODE.to_owned()),
        _ => {
            let text = "not found: /metrics, /healthz, /livez, /readyz, /proxyMode\n".to_owned();
            (StatusCode::NOT_FOUND, "text/plain", text)
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
