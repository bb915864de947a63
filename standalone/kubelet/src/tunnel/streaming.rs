//! Exec, attach and port-forward: the client's upgraded connection is joined to the runtime's streaming
//! server.
//!
//! SPDY and WebSocket v4 mean the same on both sides, so their bytes pass through untouched. WebSocket v5
//! (which can close stdin) and SPDY inside WebSocket are unknown to containerd and are translated to SPDY
//! ([`super::bridge`]).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    bridge, last_words,
    reply::{self, Refusal, Reply},
};

const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const TUNNELLED_PORT_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";

/// Which streams an exec or attach has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    /// What the client ends is not the container's input, which stays open for others.
    pub stays_open: bool,
}

/// Exec and attach.
pub async fn session(url: &str, request: Request<Incoming>, session: Session) -> Result<Reply, Refusal> {
    if !offers(request.headers(), V5) {
        return pass_through(url, request, session.stays_open).await;
    }
    let (_, upgraded) = dial(url, &spdy_request(V4)).await?;
    switch_to_web_socket(request, Some(V5), move |client| bridge::channels(client, upgraded, session))
}

/// WebSocket v4 has no other way to name a port than the query; SPDY, bare or tunnelled, names it for each
/// stream.
pub fn check_ports(headers: &HeaderMap, ports: &[i32]) -> Result<(), Refusal> {
    if is_web_socket(headers) && !offers(headers, TUNNELLED_PORT_FORWARD) && ports.is_empty() {
        return Err(Refusal::BadRequest("query parameter \"port\" is required".to_owned()));
    }
    Ok(())
}

/// `ports` matter to WebSocket v4 alone, which names them in the query.
pub async fn port_forward(url: &str, request: Request<Incoming>, ports: &[i32]) -> Result<Reply, Refusal> {
    if !offers(request.headers(), TUNNELLED_PORT_FORWARD) {
        let ports: Vec<String> = ports.iter().map(|port| format!("port={port}")).collect();
        let joint = if ports.is_empty() { String::new() } else { format!("?{}", ports.join("&")) };
        return pass_through(&format!("{url}{joint}"), request, false).await;
    }
    let (_, upgraded) = dial(url, &spdy_request(PORT_FORWARD)).await?;
    let protocol = Some(TUNNELLED_PORT_FORWARD);
    switch_to_web_socket(request, protocol, move |client| bridge::unwrap(client, upgraded))
}

/// The subprotocols that a WebSocket client names, in its order.
pub fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(',')).map(str::trim)
}

fn offers(headers: &HeaderMap, protocol: &str) -> bool {
    offered(headers).any(|one| one == protocol)
}

/// Whether the client wants to speak WebSocket from here on.
pub fn is_web_socket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|upgrade| upgrade.to_str().ok());
    upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

fn spdy_request(protocol: &'static str) -> (Method, HeaderMap) {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    (Method::POST, headers)
}

/// Joins the two connections byte by byte; `holds_back`: but for the ends of the client's SPDY streams.
async fn pass_through(url: &str, mut request: Request<Incoming>, holds_back: bool) -> Result<Reply, Refusal> {
    // In v4 messages a client can't end its input without the session.
    let holds_back = holds_back && !is_web_socket(request.headers());
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers() {
        let wanted = *name == header::CONNECTION
            || *name == header::UPGRADE
            || name.as_str() == STREAM_PROTOCOL
            || name.as_str().starts_with("sec-websocket-");
        if wanted {
            headers.append(name, value.clone());
        }
    }
    if !headers.contains_key(header::UPGRADE) {
        return Err(Refusal::BadRequest(
            "unable to upgrade: missing upgrade headers in request: use SPDY/3.1 or WebSocket".to_owned(),
        ));
    }
    let (answer, upgraded) = dial(url, &(request.method().clone(), headers)).await?;
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match client.await {
            Ok(client) => {
                let (client, runtime) = (TokioIo::new(client), TokioIo::new(upgraded));
                let joined = match holds_back {
                    true => last_words::splice(client, runtime).await,
                    false => skerry_splice::splice(client, runtime).await,
                };
                if let Err(error) = joined {
                    tracing::debug!(%error, "a spliced session ended early");
                }
            }
            Err(error) => tracing::debug!(%error, "a client did not upgrade"),
        }
    });
    let mut reply = Response::new(reply::full(Bytes::new()));
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *reply.headers_mut() = answer;
    Ok(reply)
}

/// Answers a WebSocket handshake and hands the upgraded connection on.
pub fn switch_to_web_socket<F>(
    mut request: Request<Incoming>,
    protocol: Option<&'static str>,
    serve: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Result<Reply, Refusal>
where
    F: Future<Output = ()> + Send,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned();
    let key = key.ok_or_else(|| Refusal::BadRequest("Sec-WebSocket-Key is missing".to_owned()))?;
    let client = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match client.await {
            Ok(client) => serve(client).await,
            Err(error) => tracing::debug!(%error, "a client did not upgrade"),
        }
    });
    let mut reply = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()));
    if let Some(protocol) = protocol {
        reply = reply.header(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    reply.body(reply::full(Bytes::new())).map_err(|error| Refusal::Internal(error.to_string()))
}

/// Dials the runtime's streaming server and upgrades; the headers of its answer and the connection.
async fn dial(url: &str, (method, headers): &(Method, HeaderMap)) -> Result<(HeaderMap, Upgraded), Refusal> {
    let unreachable = |text: String| {
        Refusal::Unavailable(format!(
            "the container runtime's streaming server at {url} can't be used: {text}"
        ))
    };
    let uri: Uri = url.parse().map_err(|error| unreachable(format!("{error}")))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method.clone();
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse().map_err(|error| unreachable(format!("{error}")))?;
    *request.headers_mut() = headers.clone();
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let authority = HeaderValue::from_str(&authority).map_err(|error| unreachable(error.to_string()))?;
    request.headers_mut().insert(header::HOST, authority);
    let answer = sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), 4096).collect().await;
        let said =
            body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
        return Err(unreachable(format!("{status} {said}")));
    }
    let headers = answer.headers().clone();
    let upgraded = hyper::upgrade::on(answer).await.map_err(|error| unreachable(error.to_string()))?;
    Ok((headers, upgraded))
}
