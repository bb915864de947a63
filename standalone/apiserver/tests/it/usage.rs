//! The metrics API: nodes are asked, each counts for itself and its own pods, and one that does not answer
//! holds nobody up.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::{
    nodes::{Body, answering},
    support::{Client, PODS, TestServer, bind, names, pod, until},
};

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

async fn told(request: Request<hyper::body::Incoming>, usage: Value) -> Response<Body> {
    let (code, text) = match request.uri().path() {
        "/usage" => (StatusCode::OK, usage.to_string()),
        other => (StatusCode::NOT_FOUND, format!("no {other}")),
    };
    Response::builder().status(code).body(Full::new(Bytes::from(text)).boxed_unsync()).unwrap()
}

fn of_pod(name: &str, uid: &Value, cpu: &str) -> Value {
    json!({"namespace": "default", "name": name, "uid": uid, "timestamp": "2026-01-01T00:00:00Z", "window": "10s",
        "containers": [{"name": "main", "usage": {"cpu": cpu, "memory": "150Mi"}}]})
}

/// A pod that runs on the node; its uid.
async fn running(admin: &Client, name: &str, node: &str) -> Value {
    let mut object = pod(name);
    object["metadata"]["labels"] = json!({"app": name});
    let made = admin.post(PODS, &object).await.ok();
    bind(admin, name, node).await.ok();
    let status = json!({"status": {"phase": "Running"}});
    admin.patch(&format!("{PODS}/{name}/status"), "merge", &status).await.ok();
    made["metadata"]["uid"].clone()
}

async fn node(admin: &Client, name: &str) {
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": name}}});
    admin.post("/api/v1/nodes", &node).await.ok();
}

#[tokio::test]
async fn usage_is_what_each_node_says_of_itself_and_its_own_pods() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["n1", "n2", "n3"] {
        node(&admin, name).await;
    }
    let (a, b) = (running(&admin, "a", "n1").await, running(&admin, "b", "n2").await);
    let node_usage = json!({"timestamp": "2026-01-01T00:00:00Z", "window": "10s", "usage": {"cpu": "500m", "memory": "1Gi"}});
    // The first also tells of a pod of the second's, and of one that nobody knows; the second tells nonsense
    // of itself.
    let first = json!({"node": node_usage, "pods": [of_pod("a", &a, "250m"), of_pod("b", &b, "9"), of_pod("x", &json!("x"), "1")]});
    let mut second = json!({"node": node_usage, "pods": [of_pod("b", &b, "100m")]});
    second["node"]["usage"]["cpu"] = "much".into();
    let _first = answering(&server.join("n1").await, "n1", move |request| told(request, first.clone())).await;
    let _second =
        answering(&server.join("n2").await, "n2", move |request| told(request, second.clone())).await;
    until("both nodes are connected", || async {
        names(&admin.get(&format!("{METRICS}/pods")).await.ok()).len() == 2
    })
    .await;
    let list = admin.get(&format!("{METRICS}/pods")).await.ok();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("PodMetricsList"), &json!("metrics.k8s.io/v1beta1"))
    );
    let cpu = |list: &Value, at: usize| list["items"][at]["containers"][0]["usage"]["cpu"].clone();
    assert_eq!((cpu(&list, 0), cpu(&list, 1)), (json!("250m"), json!("100m")), "b is the second's");
    let selected = admin.get(&format!("{METRICS}/namespaces/default/pods?labelSelector=app%3Db")).await.ok();
    assert_eq!(names(&selected), ["b"]);
    assert_eq!(selected["items"][0]["metadata"]["labels"], json!({"app": "b"}));
    // A node that never dialled in is left out, as is one that says nonsense.
    assert_eq!(names(&admin.get(&format!("{METRICS}/nodes")).await.ok()), ["n1"]);
    let one = admin.get(&format!("{METRICS}/nodes/n1")).await.ok();
    assert_eq!(
        (&one["kind"], &one["usage"]["memory"], &one["window"]),
        (&json!("NodeMetrics"), &json!("1Gi"), &json!("10s"))
    );
    let refused = admin.get(&format!("{METRICS}/nodes/n3")).await.refused(404);
    assert_eq!(refused, "nodemetrics.metrics.k8s.io \"n3\" not found");
    let refused = admin.get(&format!("{METRICS}/namespaces/default/pods/none")).await.refused(404);
    assert_eq!(refused, "podmetrics.metrics.k8s.io \"default/none\" not found");
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = admin
        .send(http::Method::GET, &format!("{METRICS}/namespaces/default/pods/a"), &accept, "")
        .await
        .ok();
    assert_eq!(table["rows"][0]["cells"], json!(["a", "250m", "150Mi", "10s"]));
    admin.get(&format!("{METRICS}/pods?labelSelector=a+b")).await.refused(400);
}

#[tokio::test]
async fn a_node_that_does_not_answer_or_too_much_is_left_out() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["good", "huge", "silent"] {
        node(&admin, name).await;
    }
    let usage = json!({"node": {"timestamp": "t", "window": "1s", "usage": {"cpu": "1", "memory": "1"}}});
    let huge = json!({"node": usage["node"], "pods": [], "more": "x".repeat(2 << 20)});
    let _good =
        answering(&server.join("good").await, "good", move |request| told(request, usage.clone())).await;
    let _huge =
        answering(&server.join("huge").await, "huge", move |request| told(request, huge.clone())).await;
    let _silent = answering(&server.join("silent").await, "silent", |_| std::future::pending()).await;
    until("the good node is connected", || async {
        admin.get(&format!("{METRICS}/nodes/good")).await.status == StatusCode::OK
    })
    .await;
    assert_eq!(names(&admin.get(&format!("{METRICS}/nodes")).await.ok()), ["good"]);
}
