//! Connections that nodes have opened to us, and single HTTP/1.1 exchanges over them.
//!
//! One yamux connection a node: we are its client and open a stream for each exchange. The newest connection
//! of a node wins, since the node would not dial again while the old one worked.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
};
use tokio_util::{
    compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt},
    sync::CancellationToken,
};
use yamux::{Connection, Mode, Stream};

use crate::{error::ApiError, respond::Body};

/// Exchanges under way over one tunnel; yamux resets what goes beyond.
const MAX_STREAMS: usize = 256;
/// Requests for a stream that wait for the driver.
const QUEUE: usize = 64;
/// A node that does not take a stream within this is told as not connected.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

type Opened = oneshot::Sender<Result<Stream, yamux::ConnectionError>>;

#[derive(Clone)]
struct Handle {
    streams: mpsc::Sender<Opened>,
    /// Which connection of the node this is: an old one must not take away its successor's entry.
    number: u64,
    replaced: CancellationToken,
}

#[derive(Default)]
struct Nodes {
    handles: HashMap<String, Handle>,
    counted: u64,
}

#[derive(Default, Clone)]
pub struct Tunnels {
    nodes: Arc<Mutex<Nodes>>,
}

impl Tunnels {
    fn lock(&self) -> std::sync::MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a node's connection until it ends, is replaced, or the server stops.
    pub async fn serve(
        &self,
        node: &str,
        connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        shutdown: CancellationToken,
    ) {
        let (streams, requests) = mpsc::channel(QUEUE);
        let replaced = CancellationToken::new();
        let number = {
            let mut nodes = self.lock();
            nodes.counted += 1;
            let number = nodes.counted;
            let handle = Handle { streams, number, replaced: replaced.clone() };
            if let Some(older) = nodes.handles.insert(node.to_owned(), handle) {
                older.replaced.cancel();
            }
            number
        };
        tracing::info!(node, "node connected");
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        let mut connection = Connection::new(connection.compat(), config, Mode::Client);
        tokio::select! {
            () = drive(&mut connection, requests) => {}
            () = replaced.cancelled() => {}
            () = shutdown.cancelled() => {}
        }
        let mut nodes = self.lock();
        if nodes.handles.get(node).is_some_and(|handle| handle.number == number) {
            nodes.handles.remove(node);
        }
        drop(nodes);
        tracing::info!(node, "node disconnected");
    }

    /// An HTTP/1.1 client for one exchange with a node.
    pub async fn dial(&self, node: &str) -> Result<SendRequest<Body>, ApiError> {
        let away = || {
            ApiError::bad_gateway(format!(
                "node {node:?} is not connected to this server: see whether `skerry node` runs there and reaches it"
            ))
        };
        let handle = self.lock().handles.get(node).cloned().ok_or_else(away)?;
        let (opened, stream) = oneshot::channel();
        handle.streams.send(opened).await.map_err(|_| away())?;
        let stream =
            tokio::time::timeout(OPEN_TIMEOUT, stream).await.map_err(|_| away())?.map_err(|_| away())?;
        let stream = stream
            .map_err(|error| ApiError::bad_gateway(format!("open a stream to node {node:?}: {error}")))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream.compat()))
            .await
            .map_err(|error| ApiError::bad_gateway(format!("speak HTTP with node {node:?}: {error}")))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an exchange with a node ended early");
            }
        });
        Ok(sender)
    }
}

/// Moves bytes and opens streams, until the connection is gone.
async fn drive<T>(connection: &mut Connection<T>, mut requests: mpsc::Receiver<Opened>)
where
    T: futures::AsyncRead + futures::AsyncWrite + Unpin,
{
    let mut waiting: Option<Opened> = None;
    std::future::poll_fn(|cx| {
        loop {
            if waiting.is_none()
                && let Poll::Ready(Some(request)) = requests.poll_recv(cx)
            {
                waiting = Some(request);
            }
            if waiting.is_some()
                && let Poll::Ready(outcome) = connection.poll_new_outbound(cx)
            {
                if let Some(opened) = waiting.take() {
                    // A caller that has gone away drops the stream, which resets it.
                    drop(opened.send(outcome));
                }
                continue;
            }
            match connection.poll_next_inbound(cx) {
                // Nodes open no streams of their own.
                Poll::Ready(Some(Ok(stream))) => drop(stream),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::{Request, Response, service::service_fn};

    use super::*;
    use crate::respond;

    /// The node's side: answers each stream with its name and the path.
    fn node(name: &'static str, io: tokio::io::DuplexStream) {
        let mut connection = Connection::new(io.compat(), yamux::Config::default(), Mode::Server);
        tokio::spawn(async move {
            while let Some(Ok(stream)) = std::future::poll_fn(|cx| connection.poll_next_inbound(cx)).await {
                let service = service_fn(move |request: Request<hyper::body::Incoming>| async move {
                    let text = format!("{name} {}", request.uri().path());
                    Ok::<_, std::convert::Infallible>(Response::new(respond::full(text)))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream.compat()), service),
                );
            }
        });
    }

    fn connect(tunnels: &Tunnels, name: &'static str) -> tokio::task::JoinHandle<()> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        node(name, theirs);
        let tunnels = tunnels.clone();
        tokio::spawn(async move { tunnels.serve("n", ours, CancellationToken::new()).await })
    }

    async fn ask(tunnels: &Tunnels) -> String {
        let mut client = loop {
            match tunnels.dial("n").await {
                Ok(client) => break client,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let request = Request::builder().uri("/healthz").header("host", "n").body(respond::empty()).unwrap();
        let response = client.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_newest_tunnel_of_a_node_wins() {
        let tunnels = Tunnels::default();
        let first = connect(&tunnels, "first");
        assert_eq!(ask(&tunnels).await, "first /healthz");
        connect(&tunnels, "second");
        first.await.unwrap();
        assert_eq!(ask(&tunnels).await, "second /healthz");
    }

    #[tokio::test]
    async fn a_node_without_a_tunnel_is_named() {
        let error = Tunnels::default().dial("lost").await.err().unwrap();
        assert_eq!(error.code(), 502);
        assert!(error.to_string().contains("\"lost\" is not connected"));
    }
}
