//! One client's many requests, bodies and connections, and what is left for everybody else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::support::{CONFIG_MAPS, Client, PATIENCE, TestServer, config_map, until};
use http::{Method, StatusCode};
use serde_json::json;
use skerry_store::Options;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// A request whose body never comes.
async fn without_its_body(client: &Client, path: &str, headers: &str) -> TlsStream<TcpStream> {
    let mut stream = client.connect().await;
    let head = format!("POST {path} HTTP/1.1\r\nhost: k\r\n{headers}content-length: 100\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// The first line of the answer.
async fn status(stream: &mut TlsStream<TcpStream>) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("an answer").unwrap());
    }
    String::from_utf8(line).unwrap()
}

/// Ends when the server closes the connection.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    // An error is an end, too.
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server closes it").ok();
}

#[tokio::test]
async fn one_clients_requests_in_flight_leave_room_for_others() {
    let server = TestServer::start_with(|config| config.limits.in_flight = 8, Options::default()).await;
    let admin = server.admin();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(without_its_body(&admin, CONFIG_MAPS, "content-type: application/json\r\n").await);
    }
    until("the client has its share", || async { admin.get(CONFIG_MAPS).await.status == 429 }).await;
    let refused = admin.get(CONFIG_MAPS).await;
    assert_eq!(refused.headers["retry-after"], "1");
    server.scheduler().get("/api/v1/pods").await.ok();
    server.controllers().post(CONFIG_MAPS, &config_map("made")).await.ok();
    drop(held);
    until("the places are free again", || async { admin.get(CONFIG_MAPS).await.status == 200 }).await;
}

#[tokio::test]
async fn strangers_that_join_slowly_keep_no_node_out() {
    let server = TestServer::start().await;
    let anonymous = server.anonymous();
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(without_its_body(&anonymous, "/skerry/v1/join", "").await);
    }
    for stranger in &mut strangers {
        assert!(status(stranger).await.contains("401"), "a stranger's body is not waited for");
    }
    let node = server.join("n1").await;
    // Neither does one that has the token: it gets its share, and others theirs.
    let secret = format!("authorization: Bearer {}\r\n", server.join_secret());
    let mut slow = Vec::new();
    for _ in 0..8 {
        slow.push(without_its_body(&anonymous, "/skerry/v1/join", &secret).await);
    }
    let secret = format!("Bearer {}", server.join_secret());
    let ask = || async {
        anonymous.send(Method::POST, "/skerry/v1/join", &[("authorization", &secret)], "{}").await.status
    };
    until("the address has its share of joins", || async { ask().await == 429 }).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    node.post("/skerry/v1/join", &json!({"nodeName": "n1", "csr": csr})).await.ok();
}

#[tokio::test]
async fn idle_connections_of_strangers_make_room_for_whoever_comes() {
    let server = TestServer::start_with(|config| config.limits.connections = 16, Options::default()).await;
    let admin = server.admin();
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    admin.get(CONFIG_MAPS).await.ok();
    assert_eq!(server.anonymous().get("/readyz").await.status, StatusCode::OK);
    // The oldest have gone, long before a handshake must be finished.
    closed(&mut idle[0]).await;
    // Those that have shaken hands and ask nothing are no better.
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(server.anonymous().connect().await);
    }
    admin.get(CONFIG_MAPS).await.ok();
    closed(&mut silent[0]).await;
}

#[tokio::test]
async fn one_clients_connections_leave_room_for_others() {
    let server = TestServer::start_with(|config| config.limits.connections = 16, Options::default()).await;
    let admin = server.admin();
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = admin.connect().await;
        // The server knows whose it is once it has answered.
        stream.write_all(b"GET /version HTTP/1.1\r\nhost: k\r\n\r\n").await.unwrap();
        assert!(status(&mut stream).await.contains("200"));
        held.push(stream);
    }
    closed(&mut admin.connect().await).await;
    server.scheduler().get("/api/v1/pods").await.ok();
    drop(held);
    until("the places are free again", || async {
        let mut stream = admin.connect().await;
        stream.write_all(b"GET /version HTTP/1.1\r\nhost: k\r\n\r\n").await.is_ok()
            && stream.read_u8().await.is_ok()
    })
    .await;
}

/// About three million bytes of YAML in many small pieces: the slowest there is to read.
fn large_yaml() -> String {
    let mut text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: large\ndata:\n".to_owned();
    for n in 0.. {
        let line = format!("  k{n}: \"{n}\"\n");
        if text.len() + line.len() > 3_000_000 {
            return text;
        }
        text.push_str(&line);
    }
    text
}

/// On one thread, so that whoever reads a body there would let nobody else have it.
#[tokio::test]
async fn health_is_answered_while_large_bodies_are_read() {
    let server = TestServer::start().await;
    let (admin, anonymous) = (server.admin(), server.anonymous());
    let yaml = large_yaml();
    let unread = Arc::new(AtomicUsize::new(3));
    for _ in 0..3 {
        let (admin, yaml, unread) = (admin.clone(), yaml.clone(), unread.clone());
        tokio::spawn(async move {
            admin.send(Method::POST, CONFIG_MAPS, &[("content-type", "application/yaml")], yaml).await;
            unread.fetch_sub(1, Ordering::SeqCst);
        });
    }
    let (mut answered, mut small) = (0, 0);
    let mut slowest = std::time::Duration::ZERO;
    while unread.load(Ordering::SeqCst) > 0 {
        let asked = std::time::Instant::now();
        assert_eq!(anonymous.get("/readyz").await.status, StatusCode::OK);
        slowest = slowest.max(asked.elapsed());
        answered += 1;
        // Another client's requests are not behind the large ones either, whatever their size.
        let mut object = config_map(&format!("other-{answered}"));
        object["data"]["a"] = "x".repeat(50_000).into();
        server.controllers().post(CONFIG_MAPS, &object).await.ok();
        small += usize::from(unread.load(Ordering::SeqCst) > 0);
    }
    eprintln!("{answered} answers of /readyz while 3 bodies were read, the slowest after {slowest:?}");
    assert!(answered > 10 && small > 5, "{answered} answers and {small} writes while three bodies were read");
}
