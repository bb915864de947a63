//! The node's line to the API server: one connection that the node opens, over which the server asks for
//! logs, exec, attach and port-forward. The node is the yamux server; each stream is one HTTP/1.1 exchange
//! with the paths that upstream's node agent has.

mod bridge;
mod dial;
mod last_words;
mod logs;
mod query;
mod reply;
mod routes;
mod spdy;
mod streaming;
mod told;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioIo, TokioTimer};
use skerry_client::{Connection, DialError};
use tokio::task::JoinSet;
use tokio_util::{
    compat::FuturesAsyncReadCompatExt as _, compat::TokioAsyncReadCompatExt as _, sync::CancellationToken,
};

use crate::agent::Agent;

const PROTOCOL: &str = "skerry-tunnel/1";
/// Exchanges under way at a time; yamux refuses more.
const MAX_STREAMS: usize = 256;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// A connection that lived this long starts the back-off anew.
const GOOD: Duration = Duration::from_secs(10);
const DIAL_LIMIT: Duration = Duration::from_secs(15);
const HEADER_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
enum TunnelError {
    #[error("dial {server}")]
    Dial { server: Uri, source: DialError },
    #[error("dial {server}: no answer within {} s", DIAL_LIMIT.as_secs())]
    Timeout { server: Uri },
    #[error("ask {server} for a tunnel")]
    Ask { server: Uri, source: hyper::Error },
    #[error("ask {server} for a tunnel: {status} {text}")]
    Refused { server: Uri, status: StatusCode, text: String },
    #[error("node name {0:?} makes no URL")]
    Name(String),
    #[error("tunnel to {server}")]
    Broken { server: Uri, source: yamux::ConnectionError },
}

/// Keeps a tunnel up until shutdown.
pub async fn run(agent: Arc<Agent>, server: Connection, shutdown: CancellationToken) {
    let keep = async {
        let mut pause = FIRST_RETRY;
        loop {
            let begun = tokio::time::Instant::now();
            match once(&agent, &server).await {
                Ok(()) => tracing::info!("the API server closed the tunnel"),
                Err(error) => {
                    tracing::warn!(error = skerry_vocabulary::chain(&error), "no tunnel to the API server")
                }
            }
            if begun.elapsed() > GOOD {
                pause = FIRST_RETRY;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_RETRY);
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = keep => {}
    }
}

/// One tunnel from dialling to its end.
async fn once(agent: &Arc<Agent>, connection: &Connection) -> Result<(), TunnelError> {
    let server = &connection.server;
    let upgraded = tokio::time::timeout(DIAL_LIMIT, dial(agent, connection))
        .await
        .map_err(|_| TunnelError::Timeout { server: server.clone() })??;
    tracing::info!(%server, "tunnel to the API server is up");
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    let mut connection = yamux::Connection::new(TokioIo::new(upgraded).compat(), config, yamux::Mode::Server);
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            stream = std::future::poll_fn(|context| connection.poll_next_inbound(context)) => match stream {
                Some(Ok(stream)) => _ = exchanges.spawn(serve(agent.clone(), stream)),
                Some(Err(source)) => return Err(TunnelError::Broken { server: server.clone(), source }),
                None => return Ok(()),
            },
            Some(_) = exchanges.join_next() => {}
        }
    }
}

async fn dial(agent: &Agent, connection: &Connection) -> Result<hyper::upgrade::Upgraded, TunnelError> {
    let server = &connection.server;
    let stream =
        connection.dial().await.map_err(|source| TunnelError::Dial { server: server.clone(), source })?;
    let ask = |source| TunnelError::Ask { server: server.clone(), source };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ask)?;
    tokio::spawn(connection.with_upgrades());
    let name = &agent.config.node_name;
    let host = server.authority().map(ToString::to_string).unwrap_or_default();
    let request = Request::get(format!("/skerry/v1/nodes/{name}/tunnel"))
        .header(header::HOST, host)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|_| TunnelError::Name(name.clone()))?;
    let answer = sender.send_request(request).await.map_err(ask)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), 4096).collect().await;
        let text =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        return Err(TunnelError::Refused { server: server.clone(), status, text });
    }
    hyper::upgrade::on(answer).await.map_err(ask)
}

async fn serve(agent: Arc<Agent>, stream: yamux::Stream) {
    let service = hyper::service::service_fn(move |request| {
        let agent = agent.clone();
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&agent, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream.compat()), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an exchange over the tunnel ended early");
    }
}
