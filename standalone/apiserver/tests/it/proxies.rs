//! `proxy`: what is passed on, how, and what is refused.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::{
    nodes::{Body, answering},
    support::{Client, PATIENCE, PODS, SERVICES, TestServer, bind, echo_in_capitals, pod, until},
};

fn answer(code: StatusCode, text: String) -> Response<Body> {
    Response::builder().status(code).body(Full::new(Bytes::from(text)).boxed_unsync()).unwrap()
}

/// What runs in the pod: says what it was asked, sends elsewhere, and echoes to whom wants to upgrade.
async fn application(mut request: Request<hyper::body::Incoming>) -> Response<Body> {
    let headers = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned()
    };
    if headers("upgrade") == "echo" {
        echo_in_capitals(&mut request);
        let switching =
            Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "echo");
        return switching.body(Full::new(Bytes::new()).boxed_unsync()).unwrap();
    }
    let asked = format!("{} {}", request.method(), request.uri());
    let told = format!(
        "{asked} host={} authorization={} uri={}",
        headers("host"),
        headers("authorization"),
        headers("x-forwarded-uri")
    );
    if request.uri().path() == "/moved" {
        let mut moved = answer(StatusCode::FOUND, String::new());
        moved.headers_mut().insert("location", "/elsewhere?x=1".parse().unwrap());
        moved.headers_mut().insert("access-control-allow-origin", "*".parse().unwrap());
        return moved;
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    answer(StatusCode::OK, format!("{told} body={}", body.len()))
}

/// A node that dials for the server: into `application`, whatever the port. `seen`: what it was asked for.
async fn node(request: Request<hyper::body::Incoming>, seen: Arc<Mutex<Vec<String>>>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    seen.lock().unwrap().push(path.clone());
    if !path.starts_with("/dial/") {
        return answer(StatusCode::OK, format!("the node says {}", request.uri()));
    }
    if path.ends_with("/9") {
        let status = json!({"kind": "Status", "message": "dial tcp 10.0.0.1:9: connect: connection refused"});
        return answer(StatusCode::BAD_GATEWAY, status.to_string());
    }
    let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(64 << 10);
    let service =
        service_fn(|request| async move { Ok::<_, std::convert::Infallible>(application(request).await) });
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(theirs), service)
            .with_upgrades(),
    );
    tokio::spawn(async move {
        let mut upgraded = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        let mut ours = ours;
        let _ = tokio::io::copy_bidirectional(&mut upgraded, &mut ours).await;
    });
    let switching =
        Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "skerry-bytes/1");
    switching.body(Full::new(Bytes::new()).boxed_unsync()).unwrap()
}

struct Scene {
    server: TestServer,
    admin: Client,
    uid: String,
    seen: Arc<Mutex<Vec<String>>>,
    _node: tokio::task::JoinHandle<()>,
}

/// A pod `a` with an address, on a node that is connected.
async fn scene() -> Scene {
    let server = TestServer::start().await;
    let admin = server.admin();
    let node_object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    admin.post("/api/v1/nodes", &node_object).await.ok();
    let made = admin.post(PODS, &pod("a")).await.ok();
    bind(&admin, "a", "n1").await.ok();
    let status = json!({"status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}});
    admin.patch(&format!("{PODS}/a/status"), "merge", &status).await.ok();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let paths = seen.clone();
    let running =
        answering(&server.join("n1").await, "n1", move |request| node(request, paths.clone())).await;
    until("the node is connected", || async {
        admin.get("/api/v1/nodes/n1/proxy/healthz").await.status == StatusCode::OK
    })
    .await;
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    Scene { server, admin, uid, seen, _node: running }
}

#[tokio::test]
async fn a_request_is_passed_on_as_it_came_without_its_credentials() {
    let Scene { admin, uid, seen, .. } = scene().await;
    let path = format!("{PODS}/a:80/proxy/b%2Fc//d/?q=%20&x=1");
    let headers = [("authorization", "Bearer secret"), ("content-type", "text/plain")];
    // Longer than what the server itself takes as a body.
    let body = "x".repeat(5 << 20);
    let told = admin.send(Method::PUT, &path, &headers, body.clone()).await;
    let uri = format!("{PODS}/a:80/proxy/b%2Fc//d/");
    let expected =
        format!("PUT /b%2Fc//d/?q=%20&x=1 host=10.0.0.1:80 authorization=- uri={uri} body={}", body.len());
    assert_eq!((told.status, told.text), (StatusCode::OK, expected));
    assert_eq!(seen.lock().unwrap().last().unwrap(), &format!("/dial/pod/default/a/{uid}/80"));
    for method in ["GET", "POST", "PATCH", "DELETE", "OPTIONS"] {
        let told = admin.send(method.parse().unwrap(), &path, &[], "").await;
        assert!(told.text.starts_with(&format!("{method} /b%2Fc//d/?")), "{told:?}");
    }
    let moved = admin.get(&format!("{PODS}/a:80/proxy/moved")).await;
    assert_eq!(moved.status, StatusCode::FOUND);
    assert_eq!(moved.headers["location"], format!("{PODS}/a:80/proxy/elsewhere?x=1"));
    assert!(!moved.headers.contains_key("access-control-allow-origin"));
    let slash = admin.get(&format!("{PODS}/a:80/proxy")).await;
    assert_eq!(
        (slash.status, slash.headers["location"].to_str().unwrap()),
        (StatusCode::MOVED_PERMANENTLY, format!("{PODS}/a:80/proxy/").as_str())
    );
    let of_node = admin.get("/api/v1/nodes/n1/proxy/stats/summary?only_cpu_and_memory=true").await;
    assert_eq!(of_node.text, "the node says /stats/summary?only_cpu_and_memory=true");
    admin.get("/api/v1/nodes/n1:8080/proxy/").await;
    assert_eq!(seen.lock().unwrap().last().unwrap(), "/dial/node/8080");
}

#[tokio::test]
async fn an_upgrade_is_spliced_and_each_side_closes_on_its_own() {
    let Scene { admin, .. } = scene().await;
    let headers = [("connection", "Upgrade"), ("upgrade", "echo")];
    let response = admin.open(Method::GET, &format!("{PODS}/a:80/proxy/ws"), &headers, "").await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let input = vec![b'x'; 300_000];
    stream.write_all(&input).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut output = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut output)).await.unwrap().unwrap();
    assert_eq!(output, input.to_ascii_uppercase());
}

#[tokio::test]
async fn what_cant_be_reached_is_told_in_upstreams_words() {
    let Scene { server, admin, .. } = scene().await;
    let refused = admin.get(&format!("{PODS}/a:9/proxy/")).await.refused(503);
    assert_eq!(refused, "error trying to reach service: dial tcp 10.0.0.1:9: connect: connection refused");
    assert_eq!(admin.get(&format!("{PODS}/b:80/proxy/")).await.refused(404), "pods \"b\" not found");
    assert_eq!(
        admin.get(&format!("{PODS}/ftp:a:80/proxy/")).await.refused(400),
        "invalid pod request \"ftp:a:80\""
    );
    admin.post(PODS, &pod("unborn")).await.ok();
    assert_eq!(admin.get(&format!("{PODS}/unborn:80/proxy/")).await.refused(400), "address not allowed");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "away"}});
    admin.post("/api/v1/nodes", &node).await.ok();
    let refused = admin.get("/api/v1/nodes/away/proxy/pods").await.refused(502);
    assert!(refused.contains("node \"away\" is not connected"), "{refused}");
    // Commands can be run through a node's proxy: controllers and nodes don't reach it.
    for client in [server.controllers(), server.scheduler(), server.join("n2").await] {
        client.get("/api/v1/nodes/n1/proxy/pods").await.refused(403);
        client.post("/api/v1/nodes/n1/proxy/exec/default/a/main?command=ls", &json!({})).await.refused(403);
    }
}

#[tokio::test]
async fn a_service_is_reached_by_its_ready_endpoints() {
    let Scene { admin, uid, seen, .. } = scene().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "a"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    admin.post(SERVICES, &service).await.ok();
    let refused = admin.get(&format!("{SERVICES}/web:80/proxy/")).await.refused(503);
    assert_eq!(refused, "no endpoints available for service \"web\"");
    let slice = |name: &str, address: &str, port: u16, pod: Option<&str>, ready: bool| {
        let mut endpoint = json!({"addresses": [address], "conditions": {"ready": ready}});
        if let Some(pod) = pod {
            endpoint["targetRef"] = json!({"kind": "Pod", "name": pod, "namespace": "default"});
        }
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}], "endpoints": [endpoint]})
    };
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    admin.post(slices, &slice("pods", "10.0.0.1", 8080, Some("a"), true)).await.ok();
    admin.post(slices, &slice("unready", "10.0.0.2", 8080, None, false)).await.ok();
    for name in ["web:80", "web:http", "http:web:80", "web"] {
        let told = admin.get(&format!("{SERVICES}/{name}/proxy/page")).await;
        assert!(told.text.starts_with("GET /page host=10.0.0.1:8080"), "{told:?}");
        assert_eq!(seen.lock().unwrap().last().unwrap(), &format!("/dial/pod/default/a/{uid}/8080"));
    }
    let refused = admin.get(&format!("{SERVICES}/web:81/proxy/")).await.refused(503);
    assert_eq!(refused, "no service port 81 found for service \"web\"");
}
