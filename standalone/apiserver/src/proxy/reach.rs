//! A connection to a place, and an HTTP/1.1 client on it.

use std::{sync::Arc, time::Duration};

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use skerry_vocabulary::chain;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::place::{Place, To};
use crate::{
    api::Api,
    error::ApiError,
    respond::{self, Body},
};

/// What nodes switch to for bytes as they come.
const PROTOCOL: &str = "skerry-bytes/1";
/// From dialling to the end of the handshake.
const LIMIT: Duration = Duration::from_secs(30);
/// What is read of a node's refusal.
const REFUSAL_BYTES: usize = 4 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A client for one exchange with what is at the place.
///
/// # Errors
/// 503 where it can't be reached, 502 where its node can't.
pub async fn connect(api: &Api, place: &Place) -> Result<SendRequest<Body>, ApiError> {
    let connected = tokio::time::timeout(LIMIT, async {
        let stream: Box<dyn Stream> = match &place.to {
            To::NodeAgent { node } => return api.tunnels.dial(node).await,
            To::Node { node, port } => through(api, node, &format!("/dial/node/{port}")).await?,
            To::Pod { node, namespace, name, uid, port, .. } => {
                through(api, node, &format!("/dial/pod/{namespace}/{name}/{uid}/{port}")).await?
            }
            To::Address(address) => {
                Box::new(TcpStream::connect(address).await.map_err(|error| unreachable(&error))?)
            }
        };
        if !place.is_tls {
            return speak(stream).await;
        }
        let name = place.host().rsplit_once(':').map_or_else(|| place.host(), |(name, _)| name.to_owned());
        let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
            .map_err(|error| unreachable(&error))?;
        let stream = tls()?.connect(name, stream).await.map_err(|error| unreachable(&error))?;
        speak(stream).await
    });
    connected.await.map_err(|_| ApiError::unavailable("error trying to reach service: i/o timeout"))?
}

/// In upstream's words.
pub fn unreachable(error: &dyn std::error::Error) -> ApiError {
    ApiError::unavailable(format!("error trying to reach service: {}", chain(error)))
}

async fn speak(stream: impl Stream + 'static) -> Result<SendRequest<Body>, ApiError> {
    let (client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied exchange ended early");
        }
    });
    Ok(client)
}

/// A connection that the node makes for us.
async fn through(api: &Api, node: &str, path: &str) -> Result<Box<dyn Stream>, ApiError> {
    let mut client = api.tunnels.dial(node).await?;
    let request = Request::get(path)
        .header(header::HOST, node)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(respond::empty())
        .map_err(|error| unreachable(&error))?;
    let answer = client.send_request(request).await.map_err(|error| unreachable(&error))?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| unreachable(&error))?;
        return Ok(Box::new(TokioIo::new(upgraded)));
    }
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let status: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = status["message"].as_str().unwrap_or("the node refused to connect");
    Err(ApiError::unavailable(format!("error trying to reach service: {why}")))
}

/// As upstream, no certificate is asked of what runs in the cluster.
fn tls() -> Result<TlsConnector, ApiError> {
    let config = skerry_tls::unverified().map_err(|error| unreachable(&error))?;
    Ok(TlsConnector::from(Arc::new(config)))
}
