//! Connections to ports of the node and of its pods, for the API server's `proxy` subresources: only from
//! here are pods' addresses sure to be reached. What is spoken over them is the API server's.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::reply::{self, Refusal, Reply};
use crate::{agent::Agent, spec::PodId};

/// What the request asks to be switched to: bytes, as they come.
const PROTOCOL: &str = "skerry-bytes/1";
/// A port that does not take a connection within this is told as unreachable.
const LIMIT: Duration = Duration::from_secs(10);

/// A port of a pod, the pod by all that it is known by.
pub struct PodPort<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub uid: &'a str,
    pub port: &'a str,
}

/// A connection to a port of one of the node's pods.
pub async fn pod(agent: &Agent, to: PodPort<'_>, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let PodPort { namespace, pod, uid, port } = to;
    let is_meant = |id: &PodId| id.namespace == namespace && id.name == pod && id.uid == uid;
    let found = agent.pods().into_iter().find(|(found, _)| is_meant(&PodId::of(found)));
    let (_, status) = found
        .ok_or_else(|| Refusal::NotFound(format!("pod {pod}_{namespace}({uid}) is not on this node")))?;
    let address = status.and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
    let address =
        address.ok_or_else(|| Refusal::Unavailable(format!("pod {pod}_{namespace} has no address yet")))?;
    connect(address, port, request).await
}

/// A connection to a port of the node's own address; what listens on loopback alone is not reached so.
pub async fn node(agent: &Arc<Agent>, port: &str, request: Request<Incoming>) -> Result<Reply, Refusal> {
    let address = agent.config.node_ips.borrow().first().copied();
    let address = address.ok_or_else(|| Refusal::Unavailable("the node has no address".to_owned()))?;
    connect(address, port, request).await
}

async fn connect(address: IpAddr, port: &str, mut request: Request<Incoming>) -> Result<Reply, Refusal> {
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if asked != Some(PROTOCOL) {
        return Err(Refusal::BadRequest(format!("this path speaks `Upgrade: {PROTOCOL}` only")));
    }
    let port: u16 = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Refusal::BadRequest(format!("port {port:?} must be 1 to 65535")))?;
    let dialled = tokio::time::timeout(LIMIT, TcpStream::connect((address, port))).await;
    let unreachable = |why: String| Refusal::Unavailable(format!("dial tcp {}: {why}", shown(address, port)));
    let stream = dialled
        .map_err(|_| unreachable("i/o timeout".to_owned()))?
        .map_err(|error| unreachable(format!("connect: {}", plain(&error))))?;
    let _ = stream.set_nodelay(true);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                if let Err(error) = skerry_splice::splice(TokioIo::new(upgraded), stream).await {
                    tracing::debug!(%error, "a relayed connection ended early");
                }
            }
            Err(error) => tracing::debug!(%error, "a relay was not carried out"),
        }
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, PROTOCOL);
    answer.body(reply::full(Bytes::new())).map_err(|error| Refusal::Internal(error.to_string()))
}

fn shown(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// The system's words without the number behind them.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
