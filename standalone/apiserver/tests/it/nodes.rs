//! Logs and exec over a connection that the node opened.

use std::sync::{Arc, Mutex};

use crate::support::{Client, PATIENCE, PODS, TestServer, bind, echo_in_capitals, pod, until};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

pub type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// What a kubelet answers here: logs that follow, and to whom wants to upgrade an echo in upper case until
/// its input ends.
async fn kubelet(
    mut request: Request<hyper::body::Incoming>,
    seen: Arc<Mutex<Vec<String>>>,
) -> Response<Body> {
    let path = request.uri().path_and_query().unwrap().to_string();
    seen.lock().unwrap().push(path.clone());
    if request.headers().contains_key("upgrade") {
        let protocol = request.headers()["upgrade"].clone();
        echo_in_capitals(&mut request);
        let empty = Full::new(Bytes::new()).boxed_unsync();
        let response =
            Response::builder().status(101).header("connection", "Upgrade").header("upgrade", protocol);
        return response.header("sec-websocket-protocol", "v5.channel.k8s.io").body(empty).unwrap();
    }
    let (lines, receiver) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        for line in ["one\n", "two\n"] {
            lines.send(Ok(Frame::data(Bytes::from(line)))).await.unwrap();
        }
        // Follows: the stream stays open until the reader goes.
        lines.closed().await;
    });
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed_unsync();
    Response::builder().header("content-type", "text/plain").body(body).unwrap()
}

/// Dials in as a node does, and answers streams as its kubelet.
async fn tunnel(client: &Client, node: &str) -> (tokio::task::JoinHandle<()>, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let paths = seen.clone();
    let running = answering(client, node, move |request| kubelet(request, paths.clone())).await;
    (running, seen)
}

/// Dials in as a node does; `answer` answers each exchange.
pub async fn answering<F>(
    client: &Client,
    node: &str,
    answer: impl Fn(Request<hyper::body::Incoming>) -> F + Clone + Send + Sync + 'static,
) -> tokio::task::JoinHandle<()>
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let headers = [("connection", "Upgrade"), ("upgrade", "skerry-tunnel/1")];
    let path = format!("/skerry/v1/nodes/{node}/tunnel");
    let response = client.open(Method::GET, &path, &headers, "").await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    tokio::spawn(async move {
        let mut connection =
            yamux::Connection::new(stream.compat(), yamux::Config::default(), yamux::Mode::Server);
        while let Some(Ok(stream)) = std::future::poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, std::convert::Infallible>(answered.await) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream.compat()), service)
                .with_upgrades();
            tokio::spawn(serving);
        }
    })
}

async fn running_pod(server: &TestServer) -> Client {
    let admin = server.admin();
    admin.post(PODS, &pod("a")).await.ok();
    bind(&admin, "a", "n1").await.ok();
    admin
}

#[tokio::test]
async fn logs_are_streamed_from_the_node() {
    let server = TestServer::start().await;
    let admin = running_pod(&server).await;
    let message = admin.get(&format!("{PODS}/a/log")).await.refused(502);
    assert!(message.contains("node \"n1\" is not connected"), "{message}");
    let (_running, seen) = tunnel(&server.join("n1").await, "n1").await;
    until("the tunnel is up", || async {
        admin.open(Method::GET, &format!("{PODS}/a/log"), &[], "").await.status() == StatusCode::OK
    })
    .await;
    let response = admin.open(Method::GET, &format!("{PODS}/a/log?follow=true&tailLines=2"), &[], "").await;
    let mut body = response.into_body();
    let mut text = String::new();
    while text != "one\ntwo\n" {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    assert_eq!(seen.lock().unwrap().last().unwrap(), "/containerLogs/default/a/main?follow=true&tailLines=2");
}

#[tokio::test]
async fn exec_is_spliced_and_each_side_closes_on_its_own() {
    let server = TestServer::start().await;
    let admin = running_pod(&server).await;
    let (_running, seen) = tunnel(&server.join("n1").await, "n1").await;
    let path = format!("{PODS}/a/exec?command=ls&command=%2Fa+b&stdin=true&stdout=true&container=main");
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "x3JJHMbDL1EzLkh9GBhXDw=="),
        ("sec-websocket-version", "13"),
    ];
    until("the tunnel is up", || async {
        admin.open(Method::GET, &path, &headers, "").await.status() == StatusCode::SWITCHING_PROTOCOLS
    })
    .await;
    let response = admin.open(Method::GET, &path, &headers, "").await;
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let input = vec![b'x'; 300_000];
    stream.write_all(&input).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut output)).await.unwrap().unwrap();
    assert_eq!(output, input.to_ascii_uppercase());
    let asked = "/exec/default/a/main?command=ls&command=%2Fa%20b&input=1&output=1";
    assert_eq!(seen.lock().unwrap().last().unwrap(), asked);
}

#[tokio::test]
async fn what_cannot_be_asked_of_a_pod_is_said_before_the_node_is_bothered() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(PODS, &pod("free")).await.ok();
    assert_eq!(
        admin.get(&format!("{PODS}/free/log")).await.refused(400),
        "pod free does not have a host assigned"
    );
    let admin = running_pod(&server).await;
    let message = admin.get(&format!("{PODS}/a/log?container=nope")).await.refused(400);
    assert_eq!(message, "container nope is not valid for pod a");
    admin.get(&format!("{PODS}/none/log")).await.refused(404);
    let headers = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    for (ports, why) in [("abc", "invalid syntax"), ("80&ports=70000", "value out of range")] {
        let path = format!("{PODS}/a/portforward?ports={ports}");
        let answer = admin.open(Method::POST, &path, &headers, "").await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("cannot convert to []int32") && text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn a_log_is_a_stream_of_messages_to_a_client_that_asks_for_those() {
    let server = TestServer::start().await;
    let admin = running_pod(&server).await;
    let (_running, seen) = tunnel(&server.join("n1").await, "n1").await;
    let path = format!("{PODS}/a/log?follow=true");
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "x3JJHMbDL1EzLkh9GBhXDw=="),
        ("sec-websocket-version", "13"),
    ];
    until("the tunnel is up", || async {
        admin.open(Method::GET, &path, &headers, "").await.status() == StatusCode::SWITCHING_PROTOCOLS
    })
    .await;
    let response = admin.open(Method::GET, &path, &headers, "").await;
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"spliced").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut output)).await.unwrap().unwrap();
    assert_eq!(output, b"SPLICED");
    assert_eq!(seen.lock().unwrap().last().unwrap(), "/containerLogs/default/a/main?follow=true");
}

#[tokio::test]
async fn a_node_opens_no_tunnel_in_anothers_name() {
    let server = TestServer::start().await;
    let headers = [("connection", "Upgrade"), ("upgrade", "skerry-tunnel/1")];
    let client = server.join("n1").await;
    let refused = client.send(Method::GET, "/skerry/v1/nodes/n2/tunnel", &headers, "").await.refused(403);
    assert!(refused.contains("User \"system:node:n1\" is not this node"), "{refused}");
    server.admin().send(Method::GET, "/skerry/v1/nodes/n2/tunnel", &headers, "").await.refused(403);
    client.get("/skerry/v1/nodes/n1/tunnel").await.refused(400);
}
