//! What requests are answered with: objects or a Status, their form, and what is said of the connection.

use crate::support::{CONFIG_MAPS, PODS, SERVICES, TestServer, bind, config_map, names, pod, service};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_deletion_answers_the_object_or_a_status_by_its_kind() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let plain = |api_version: &str, kind: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}});
    let mut class = plain("storage.k8s.io/v1", "StorageClass");
    class["provisioner"] = "example.com/p".into();
    let in_default = "/api/v1/namespaces/default";
    let cases = [
        (SERVICES.to_owned(), service("x"), "Service"),
        (format!("{in_default}/serviceaccounts"), plain("v1", "ServiceAccount"), "ServiceAccount"),
        (format!("{in_default}/resourcequotas"), plain("v1", "ResourceQuota"), "ResourceQuota"),
        ("/apis/storage.k8s.io/v1/storageclasses".to_owned(), class, "StorageClass"),
        (PODS.to_owned(), pod("x"), "Pod"),
        (CONFIG_MAPS.to_owned(), config_map("x"), "Status"),
        (format!("{in_default}/secrets"), plain("v1", "Secret"), "Status"),
    ];
    for (path, object, kind) in cases {
        let made = admin.post(&path, &object).await.ok();
        let answer = admin.delete(&format!("{path}/x")).await.ok();
        assert_eq!(answer["kind"], kind, "{path}");
        let uid = if kind == "Status" { &answer["details"]["uid"] } else { &answer["metadata"]["uid"] };
        assert_eq!(*uid, made["metadata"]["uid"], "{path}");
        admin.get(&format!("{path}/x")).await.refused(404);
        assert_eq!(admin.delete(&path).await.ok()["kind"], "Status", "{path}");
    }
}

#[tokio::test]
async fn a_put_makes_what_is_missing_for_the_kinds_that_allow_it() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = |holder: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l", "resourceVersion": "0"},
            "spec": {"holderIdentity": holder}})
    };
    let made = admin.put(&format!("{leases}/l"), &lease("a")).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let made = made.ok();
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    let changed = admin.put(&format!("{leases}/l"), &lease("b")).await;
    assert_eq!(changed.status, StatusCode::OK);
    assert_eq!(changed.ok()["metadata"]["uid"], made["metadata"]["uid"]);
    let made = admin.put(&format!("{SERVICES}/s"), &service("s")).await.ok();
    assert!(made["spec"]["clusterIP"].is_string(), "{made}");
    // One that was there once, and is not any more, does not come back by accident.
    admin.delete(&format!("{SERVICES}/s")).await.ok();
    admin.put(&format!("{SERVICES}/s"), &made).await.refused(409);
    // A dry run writes nothing.
    admin.put(&format!("{SERVICES}/dry?dryRun=All"), &service("dry")).await.ok();
    admin.get(&format!("{SERVICES}/dry")).await.refused(404);
    admin.put(&format!("{CONFIG_MAPS}/c"), &config_map("c")).await.refused(404);
    admin.put(&format!("{PODS}/p"), &pod("p")).await.refused(404);
    admin.put("/apis/coordination.k8s.io/v1/namespaces/none/leases/l", &lease("a")).await.refused(404);
    let (node, leases) =
        (server.join("n1").await, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases");
    let own = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1"}, "spec": {}});
    assert_eq!(node.put(&format!("{leases}/n1"), &own).await.status, StatusCode::CREATED);
    node.put(&format!("{leases}/l"), &lease("a")).await.refused(403);
}

#[tokio::test]
async fn what_a_client_says_without_meaning_it_is_no_fault() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut object = config_map("a");
    object["metadata"]["resourceVersion"] = "0".into();
    admin.post(CONFIG_MAPS, &object).await.ok();
    object["metadata"] = json!({"name": "b", "resourceVersion": "7"});
    admin.post(CONFIG_MAPS, &object).await.refused(400);
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "p", "namespace": "default"}, "value": 5});
    let made = admin.post(path, &class).await.ok();
    assert!(made["metadata"].get("namespace").is_none(), "{made}");
    class["metadata"]["labels"] = json!({"l": "x"});
    let put = admin.put(&format!("{path}/p"), &class).await.ok();
    assert!(put["metadata"].get("namespace").is_none() && put["metadata"]["labels"]["l"] == "x", "{put}");
    admin.patch(&format!("{path}/p"), "merge", &json!({"metadata": {"namespace": "x"}})).await.ok();
    // With a namespace, another one is meant.
    object["metadata"] = json!({"name": "b", "namespace": "kube-system"});
    admin.post(CONFIG_MAPS, &object).await.refused(400);
    let elsewhere = json!({"metadata": {"namespace": "kube-system"}});
    admin.patch(&format!("{CONFIG_MAPS}/a"), "merge", &elsewhere).await.refused(400);
}

#[tokio::test]
async fn every_json_answer_ends_its_line() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let made = admin.post(CONFIG_MAPS, &config_map("a")).await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let answers = [
        made,
        admin.get(&format!("{CONFIG_MAPS}/a")).await,
        admin.get(&format!("{CONFIG_MAPS}/none")).await,
        admin.get(CONFIG_MAPS).await,
        admin.send(Method::GET, CONFIG_MAPS, &table, "").await,
        admin.get("/version").await,
        admin.get("/apis").await,
        admin.delete(&format!("{CONFIG_MAPS}/a")).await,
    ];
    for answer in answers {
        assert!(answer.text.ends_with("}\n") && !answer.text.ends_with("\n\n"), "{:?}", answer.text);
    }
}

#[tokio::test]
async fn a_table_comes_in_the_version_that_was_asked_for() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    for version in ["v1", "v1beta1"] {
        let accept = format!("application/json;as=Table;v={version};g=meta.k8s.io");
        for path in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}/a")] {
            let table = admin.send(Method::GET, &path, &[("accept", &accept)], "").await.ok();
            let api_version = format!("meta.k8s.io/{version}");
            assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!(api_version)));
            assert_eq!(table["rows"][0]["object"]["apiVersion"], api_version.as_str());
        }
    }
    let refused = [("accept", "application/json;as=Table;v=v2;g=meta.k8s.io")];
    let message = admin.send(Method::GET, CONFIG_MAPS, &refused, "").await.refused(406);
    let accepted = message.split_once(": ").unwrap().1;
    for accept in accepted.split(", ") {
        assert_ne!(
            admin.send(Method::GET, CONFIG_MAPS, &[("accept", accept)], "").await.status,
            406,
            "{accept}"
        );
    }
}

/// The head of the answer to a request whose body is announced and not (all) sent.
async fn head(server: &TestServer, request: &str) -> String {
    let mut stream = server.join("n1").await.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        let read =
            tokio::time::timeout(crate::support::PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert_ne!(read, 0, "closed before the answer's head");
        answer.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&answer).to_lowercase()
}

#[tokio::test]
async fn a_refusal_that_leaves_a_body_unread_says_that_the_connection_ends() {
    let server = TestServer::start().await;
    let post = |path: &str, length: usize, more: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: k\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{more}\r\n"
        )
    };
    for (path, code) in [(PODS, "403"), ("/nonsense", "405"), ("/api/v1/pods", "403")] {
        let unread = head(&server, &(post(path, 1 << 20, "") + "{\"kind\":")).await;
        assert!(
            unread.starts_with(&format!("http/1.1 {code}")) && unread.contains("connection: close"),
            "{unread}"
        );
        let waiting = head(&server, &post(path, 100, "expect: 100-continue\r\n")).await;
        assert!(waiting.starts_with(&format!("http/1.1 {code}")), "{waiting}");
        assert!(waiting.contains("connection: close"), "{waiting}");
        let whole = head(&server, &(post(path, 2, "") + "{}")).await;
        assert!(
            whole.starts_with(&format!("http/1.1 {code}")) && !whole.contains("connection: close"),
            "{whole}"
        );
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_meant_is_refused() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(PODS, &pod("a")).await.ok();
    bind(&admin, "a", "n1").await.ok();
    let message = admin.get(&format!("{PODS}/a/log?tailLines=abc")).await.refused(400);
    assert_eq!(message, "strconv.ParseInt: parsing \"abc\": invalid syntax");
    admin.get(&format!("{PODS}/a/log?tailLines=-1")).await.refused(422);
    admin.get(&format!("{PODS}/a/log?sinceTime=yesterday")).await.refused(400);
}

#[tokio::test]
async fn a_signing_request_names_who_asks_and_keeps_it() {
    let server = TestServer::start().await;
    let (admin, controllers) = (server.admin(), server.controllers());
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request = |request: &str| {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "r"},
            "spec": {"request": STANDARD.encode(request), "signerName": "example.com/s", "usages": ["client auth"],
                "username": "somebody", "groups": ["system:masters"], "uid": "u", "extra": {"a": ["b"]}},
            "status": {"conditions": [{"type": "Approved", "status": "True"}]}})
    };
    let message = controllers.post(path, &request("hello")).await.refused(422);
    assert!(message.contains("PEM block type must be CERTIFICATE REQUEST"), "{message}");
    let made = controllers.post(path, &request(&pem)).await.ok();
    assert_eq!(made["spec"]["username"], "system:kube-controller-manager");
    assert_eq!(made["spec"]["groups"], json!(["system:authenticated"]));
    assert!(made["spec"].get("uid").is_none() && made["spec"].get("extra").is_none(), "{made}");
    assert!(made["status"].get("conditions").is_none(), "{made}");
    let other = json!({"metadata": {"labels": {"l": "x"}}, "spec": {"username": "eve", "groups": ["system:masters"]}});
    let changed = admin.patch(&format!("{path}/r"), "merge", &other).await.ok();
    assert_eq!((&changed["spec"], &changed["metadata"]["labels"]["l"]), (&made["spec"], &json!("x")));
    let mut approved: Value = changed;
    approved["metadata"]["annotations"] = json!({"by": "ann"});
    approved["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "reason": "R", "message": "m"}]);
    let approved = admin.put(&format!("{path}/r/approval"), &approved).await.ok();
    assert_eq!(approved["metadata"]["annotations"]["by"], "ann");
    assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
    assert_eq!(approved["spec"], made["spec"]);
}

#[tokio::test]
async fn what_discovery_lists_is_served() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut group_versions = vec!["/api/v1".to_owned()];
    for group in admin.get("/apis").await.ok()["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            group_versions.push(format!("/apis/{}", version["groupVersion"].as_str().unwrap()));
        }
    }
    let mut subresources = Vec::new();
    for root in group_versions {
        for resource in admin.get(&root).await.ok()["resources"].as_array().unwrap() {
            let Some((plural, sub)) = resource["name"].as_str().unwrap().split_once('/') else { continue };
            let scope = if resource["namespaced"] == true { "/namespaces/default" } else { "" };
            let path = format!("{root}{scope}/{plural}/none/{sub}");
            for verb in resource["verbs"].as_array().unwrap() {
                let method = match verb.as_str().unwrap() {
                    "get" => Method::GET,
                    "create" => Method::POST,
                    "update" => Method::PUT,
                    "patch" => Method::PATCH,
                    "delete" => Method::DELETE,
                    other => panic!("{other} of {path}"),
                };
                let answer = admin.send(method.clone(), &path, &[], "").await;
                let message = answer.body["message"].as_str().unwrap();
                // There is no object of this name: whatever is served says so, or asks for a body first.
                assert!(matches!(answer.status.as_u16(), 400 | 404 | 415), "{method} {path}: {message}");
                assert!(!message.contains("could not find the requested resource"), "{method} {path}");
                assert!(!message.contains("not served"), "{method} {path}");
            }
            subresources.push(path);
        }
    }
    assert!(subresources.len() > 30, "{subresources:?}");
    for gone in [format!("{PODS}/none/token"), "/api/v1/namespaces/default/serviceaccounts/none/token".into()]
    {
        let message = admin.get(&gone).await.refused(404);
        assert_eq!(message, "the server could not find the requested resource", "{gone}");
    }
    assert!(names(&admin.get(CONFIG_MAPS).await.ok()).is_empty());
}
