//! Who gets in, who may do what, and what hostile or careless clients can do.

use crate::support::{CONFIG_MAPS, Client, PATIENCE, PODS, TestServer, bind, config_map, pod, until};
use http::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn without_a_certificate_only_health_version_and_joining_are_open() {
    let server = TestServer::start().await;
    let anonymous = server.anonymous();
    for path in ["/healthz", "/livez", "/readyz", "/readyz?verbose", "/version", "/skerry/v1/ca"] {
        assert_eq!(anonymous.get(path).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/api", "/apis", "/api/v1/pods", "/openapi/v3", "/", "/skerry/v1/nodes/n/tunnel"] {
        assert_eq!(anonymous.get(path).await.refused(401), "Unauthorized", "{path}");
    }
    anonymous.post("/skerry/v1/join", &json!({"nodeName": "n", "csr": ""})).await.refused(401);
    let wrong = [("authorization", "Bearer 0000"), ("content-type", "application/json")];
    anonymous.send(Method::POST, "/skerry/v1/join", &wrong, "{}").await.refused(401);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_nobody() {
    let (server, other) = (TestServer::start().await, TestServer::start().await);
    let folder = other.paths.pki.clone();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let stranger =
        Client::new(server.address, &server.authority_pem(), Some((read("admin.crt"), read("admin.key"))));
    // With TLS 1.3 the refusal arrives with the first read.
    let mut stream = stranger.connect().await;
    let mut buffer = [0; 16];
    let outcome = async {
        stream.write_all(b"GET /api HTTP/1.1\r\nhost: k\r\n\r\n").await?;
        stream.read(&mut buffer).await
    };
    assert!(outcome.await.is_err());
}

#[tokio::test]
async fn a_node_joins_and_reaches_only_what_is_its_own() {
    let server = TestServer::start().await;
    let (admin, node) = (server.admin(), server.join("n1").await);
    let object = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    node.post("/api/v1/nodes", &object("n1")).await.ok();
    let message = node.post("/api/v1/nodes", &object("n2")).await.refused(403);
    assert!(message.contains("User \"system:node:n1\" cannot create resource \"nodes\""), "{message}");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}});
    node.post("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", &lease).await.ok();
    for (name, host) in [("mine", "n1"), ("theirs", "n2")] {
        let mut pod = pod(name);
        pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": format!("{name}-secret")}}]);
        admin.post(PODS, &pod).await.ok();
        bind(&admin, name, host).await.ok();
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-secret")}});
        admin.post("/api/v1/namespaces/default/secrets", &secret).await.ok();
    }
    let status = json!({"status": {"phase": "Running"}});
    node.patch(&format!("{PODS}/mine/status"), "merge", &status).await.ok();
    node.patch(&format!("{PODS}/theirs/status"), "merge", &status).await.refused(403);
    node.get(&format!("{PODS}/theirs")).await.refused(403);
    node.get("/api/v1/pods").await.refused(403);
    let own = node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.ok();
    assert_eq!(crate::support::names(&own), ["mine"]);
    node.get("/api/v1/namespaces/default/secrets/mine-secret").await.ok();
    node.get("/api/v1/namespaces/default/secrets/theirs-secret").await.refused(403);
    node.get("/api/v1/namespaces/default/secrets").await.refused(403);
    let message = node.delete(&format!("{PODS}/theirs")).await.refused(403);
    let expected = "pods \"theirs\" is forbidden: User \"system:node:n1\" cannot delete resource \"pods\" in API group \"\" in \
                    the namespace \"default\"";
    assert_eq!(message, expected);
    node.delete(&format!("{PODS}/mine?gracePeriodSeconds=0")).await.ok();
}

#[tokio::test]
async fn a_node_renews_its_own_certificate_and_no_others() {
    let server = TestServer::start().await;
    let node = server.join("n1").await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let renewed = node.post("/skerry/v1/join", &json!({"nodeName": "n1", "csr": csr})).await.ok();
    assert!(renewed["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    node.post("/skerry/v1/join", &json!({"nodeName": "n2", "csr": csr})).await.refused(403);
    node.post("/skerry/v1/join", &json!({"nodeName": "n1", "csr": "x"})).await.refused(400);
}

#[tokio::test]
async fn the_scheduler_and_the_controllers_are_let_in() {
    let server = TestServer::start().await;
    server.scheduler().get("/api/v1/pods").await.ok();
    server.scheduler().get("/api/v1/secrets").await.refused(403);
    server.controllers().post(CONFIG_MAPS, &config_map("a")).await.ok();
}

#[tokio::test]
async fn everyone_may_ask_what_they_may() {
    let server = TestServer::start().await;
    let node = server.join("n1").await;
    let ask = |verb: &str, resource: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": verb, "resource": resource}}})
    };
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(node.post(path, &ask("list", "services")).await.ok()["status"]["allowed"], true);
    assert_eq!(node.post(path, &ask("delete", "nodes")).await.ok()["status"]["allowed"], false);
    assert_eq!(server.admin().post(path, &ask("*", "nodes")).await.ok()["status"]["allowed"], true);
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let me = node.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &who).await.ok();
    assert_eq!(me["status"]["userInfo"]["username"], "system:node:n1");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_nothing_is_stored() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut object = config_map("big");
    object["data"]["a"] = "x".repeat(10 << 20).into();
    let message = admin.post(CONFIG_MAPS, &object).await.refused(413);
    assert!(message.contains("limit is 3145728"), "{message}");
    admin.get(&format!("{CONFIG_MAPS}/big")).await.refused(404);
}

#[tokio::test]
async fn garbage_on_the_port_harms_nobody() {
    let server = TestServer::start().await;
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0; 512], b"\x16\x03\x01\xff\xff", b""] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // The server closes, or answers with an alert and closes.
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed").ok();
    }
    // Inside TLS too.
    let mut stream = server.admin().connect().await;
    stream.write_all(b"\x00\x01\x02 nonsense\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed").ok();
    server.admin().get("/api").await.ok();
}

#[tokio::test]
async fn more_requests_than_the_bound_are_told_to_come_back() {
    let server =
        TestServer::start_with(|config| config.limits.long_running = 2, skerry_store::Options::default())
            .await;
    let admin = server.admin();
    let path = format!("{CONFIG_MAPS}?watch=1");
    let held = (admin.watch(&path).await, admin.watch(&path).await);
    let refused = admin.get(&path).await;
    assert_eq!(refused.headers["retry-after"], "1");
    refused.refused(429);
    drop(held);
    until("the places are free again", || async {
        admin.open(Method::GET, &path, &[], "").await.status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_wrong_type_or_value_names_the_field() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut wrong = pod("a");
    wrong["spec"]["containers"][0]["ports"] = json!([{"containerPort": "eighty"}]);
    let message = admin.post(PODS, &wrong).await.refused(400);
    assert!(message.contains("containerPort"), "{message}");
    let mut wrong = pod("a");
    wrong["spec"]["restartPolicy"] = "Sometimes".into();
    let answer = admin.post(PODS, &wrong).await;
    assert_eq!(answer.body["details"]["causes"][0]["field"], "spec.restartPolicy");
    let message = answer.refused(422);
    assert!(message.contains("Unsupported value: \"Sometimes\""), "{message}");
    admin.send(Method::POST, PODS, &[("content-type", "application/json")], "{\"kind\":").await.refused(400);
    admin.send(Method::POST, PODS, &[("content-type", "text/csv")], "a,b").await.refused(415);
}

#[tokio::test]
async fn unknown_fields_warn_fail_or_pass_as_asked() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut object = pod("a");
    object["spec"]["nonsense"] = 1.into();
    let message = admin.post(&format!("{PODS}?fieldValidation=Strict"), &object).await.refused(400);
    assert!(message.contains("strict decoding error: unknown field \"spec.nonsense\""), "{message}");
    let made = admin.post(PODS, &object).await;
    assert_eq!(made.warnings(), [r#"299 - "unknown field \"spec.nonsense\"""#]);
    assert!(made.ok()["spec"].get("nonsense").is_none());
    object["metadata"]["name"] = "b".into();
    assert!(admin.post(&format!("{PODS}?fieldValidation=Ignore"), &object).await.warnings().is_empty());
    let patch = json!({"spec": {"nonsense": 2}});
    let patched = admin.patch(&format!("{PODS}/a"), "merge", &patch).await;
    assert_eq!(patched.warnings().len(), 1);
}

#[tokio::test]
async fn what_is_not_served_is_404_or_405() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for path in [
        "/api/v1/nonsense",
        "/apis/apps/v2/deployments",
        "/api/v1/namespaces/default/nodes/n",
        "/nope",
        "/apis/nope",
    ] {
        admin.get(path).await.refused(404);
    }
    admin.delete("/api/v1/namespaces").await.refused(405);
    admin.send(Method::PUT, "/version", &[], "").await.refused(405);
}

#[tokio::test]
async fn a_restart_keeps_objects_and_credentials() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("kept")).await.ok();
    let (token, authority) = (server.join_secret(), server.authority_pem());
    let folder = server.stop().await;
    let store =
        skerry_store::LogStore::open(&folder.path().join("store"), skerry_store::Options::default()).unwrap();
    let loopback = std::net::IpAddr::from([127, 0, 0, 1]);
    let config = skerry_apiserver::Config::new(folder.path().to_owned(), (loopback, 0).into(), loopback);
    let server = skerry_apiserver::Server::bind(config, std::sync::Arc::new(store)).await.unwrap();
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    assert!(read(&server.paths().join_token).trim().ends_with(&token));
    assert_eq!(read(&server.paths().pki.join("ca.crt")), authority);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let store =
        skerry_store::LogStore::open(&folder.path().join("store"), skerry_store::Options::default()).unwrap();
    let config = skerry_apiserver::Config::new(folder.path().to_owned(), server.address, server.address.ip());
    let error = skerry_apiserver::Server::bind(config, std::sync::Arc::new(store)).await.err().unwrap();
    assert!(error.to_string().starts_with(&format!("port {} of 127.0.0.1 is taken", server.address.port())));
}

#[tokio::test]
async fn every_secret_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let server = TestServer::start().await;
    let mut folders = vec![server.folder.path().join("server")];
    while let Some(folder) = folders.pop() {
        assert_eq!(
            std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
            0o700,
            "{}",
            folder.display()
        );
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(
                    std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                    0o600,
                    "{}",
                    path.display()
                );
            }
        }
    }
}
