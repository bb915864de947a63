//! What nobody gets by asking in another way: other namespaces' objects, another's identity, a node's say
//! over other nodes.

use crate::support::{CONFIG_MAPS, Client, PODS, TestServer, bind, config_map, names, pod};
use http::{Method, StatusCode};
use serde_json::{Value, json};

async fn secret(admin: &Client, namespace: &str, name: &str) {
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "labels": {"l": "x"}}});
    admin.post(&format!("/api/v1/namespaces/{namespace}/secrets"), &secret).await.ok();
}

async fn namespace(admin: &Client, name: &str) {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    admin.post("/api/v1/namespaces", &namespace).await.ok();
}

#[tokio::test]
async fn nothing_is_written_across_namespaces() {
    let server = TestServer::start().await;
    let admin = server.admin();
    secret(&admin, "default", "a").await;
    secret(&admin, "kube-system", "b").await;
    let refused = admin.delete("/api/v1/secrets?labelSelector=l%3Dx").await;
    assert_eq!(refused.headers["allow"], "GET");
    assert_eq!(refused.body["reason"], "MethodNotAllowed");
    refused.refused(405);
    admin.delete("/api/v1/pods").await.refused(405);
    admin
        .post("/api/v1/secrets", &json!({"metadata": {"name": "c", "namespace": "default"}}))
        .await
        .refused(405);
    let in_default = "/api/v1/namespaces/default/secrets";
    admin.put(in_default, &json!({"metadata": {"name": "a"}})).await.refused(405);
    admin.patch(in_default, "merge", &json!({"metadata": {"labels": {"l": "y"}}})).await.refused(405);
    admin.delete("/api/v1/watch/namespaces/default/secrets").await.refused(405);
    admin.post("/api/v1/watch/namespaces/default/configmaps", &config_map("c")).await.refused(405);
    assert_eq!(names(&admin.get("/api/v1/secrets").await.ok()), ["a", "b"]);
    admin.delete(&format!("{in_default}?labelSelector=l%3Dx")).await.ok();
    assert_eq!(names(&admin.get("/api/v1/secrets").await.ok()), ["b"]);
}

#[tokio::test]
async fn impersonation_is_refused_wherever_it_is_asked_for() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let exec = format!("{PODS}/a/exec?command=ls");
    let review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    for (method, path) in [
        (Method::GET, "/api/v1/secrets"),
        (Method::GET, "/api/v1/secrets?watch=1"),
        (Method::GET, "/apis"),
        (Method::GET, "/openapi/v3"),
        (Method::GET, "/nonsense"),
        (Method::POST, review),
        (Method::POST, CONFIG_MAPS),
        (Method::DELETE, CONFIG_MAPS),
        (Method::GET, exec.as_str()),
    ] {
        for header in ["Impersonate-User", "impersonate-group", "Impersonate-Extra-scopes", "Impersonate-Uid"]
        {
            let headers = [(header, "bob"), ("content-type", "application/json")];
            let message = admin.send(method.clone(), path, &headers, "").await.refused(403);
            assert!(message.contains("does not support impersonation"), "{path}: {message}");
        }
    }
    let may = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "impersonate", "resource": "users"}}});
    assert_eq!(admin.post(review, &may).await.ok()["status"]["allowed"], false);
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "x3JJHMbDL1EzLkh9GBhXDw=="),
        ("sec-websocket-version", "13"),
        ("impersonate-user", "bob"),
    ];
    admin.send(Method::GET, &exec, &upgrade, "").await.refused(403);
    let tunnel = [("connection", "Upgrade"), ("upgrade", "skerry-tunnel/1"), ("impersonate-user", "bob")];
    server.join("n1").await.send(Method::GET, "/skerry/v1/nodes/n1/tunnel", &tunnel, "").await.refused(403);
}

/// A pod of node n1 in `alpha` that uses Secret and ConfigMap `db`; other namespaces have things by that name
/// too.
async fn alpha_and_its_neighbours(server: &TestServer) -> Client {
    let admin = server.admin();
    for name in ["alpha", "beta"] {
        namespace(&admin, name).await;
        for object in ["db", "other"] {
            secret(&admin, name, object).await;
            admin.post(&format!("/api/v1/namespaces/{name}/configmaps"), &config_map(object)).await.ok();
        }
    }
    let mut pod = pod("user");
    pod["spec"]["volumes"] = json!([
        {"name": "s", "secret": {"secretName": "db"}}, {"name": "c", "configMap": {"name": "db"}}
    ]);
    admin.post("/api/v1/namespaces/alpha/pods", &pod).await.ok();
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "user"},
        "target": {"kind": "Node", "name": "n1"}});
    admin.post("/api/v1/namespaces/alpha/pods/user/binding", &binding).await.ok();
    server.join("n1").await
}

#[tokio::test]
async fn a_node_reads_what_its_pods_mention_in_their_namespace_only() {
    let server = TestServer::start().await;
    let node = alpha_and_its_neighbours(&server).await;
    for kind in ["secrets", "configmaps"] {
        let of = |namespace: &str| format!("/api/v1/namespaces/{namespace}/{kind}");
        let selected = "fieldSelector=metadata.name%3Ddb";
        node.get(&format!("{}/db", of("alpha"))).await.ok();
        let listed = node.get(&format!("{}?{selected}", of("alpha"))).await.ok();
        assert_eq!(names(&listed), ["db"]);
        let mut events = node.watch(&format!("{}?watch=1&{selected}", of("alpha"))).await;
        assert_eq!(events.brief().await, "ADDED db");
        for refused in [
            format!("{}/other", of("alpha")),
            format!("{}/db", of("beta")),
            format!("{}?{selected}", of("beta")),
            of("alpha"),
            format!("{}?labelSelector=l%3Dx", of("alpha")),
            format!("/api/v1/{kind}?{selected}"),
            format!("/api/v1/{kind}?watch=1&{selected}"),
            format!("/api/v1/{kind}?{selected},metadata.namespace%3Dalpha"),
            format!("/api/v1/watch/{kind}?{selected}"),
        ] {
            node.get(&refused).await.refused(403);
        }
    }
}

#[tokio::test]
async fn a_watch_of_a_name_in_the_path_shows_no_other_name() {
    let server = TestServer::start().await;
    let node = alpha_and_its_neighbours(&server).await;
    let path = "/api/v1/watch/namespaces/alpha/secrets/db?timeoutSeconds=1";
    assert_eq!(node.watch(path).await.brief().await, "ADDED db");
    let mut other = node.watch(&format!("{path}&fieldSelector=metadata.name%3Dother")).await;
    assert!(other.next().await.is_none());
}

fn node_object(name: &str, metadata: &Value, spec: Value) -> Value {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec});
    for (field, value) in metadata.as_object().into_iter().flatten() {
        node["metadata"][field] = value.clone();
    }
    node
}

#[tokio::test]
async fn a_nodes_range_of_pods_is_given_once_and_not_by_itself() {
    let server = TestServer::start().await;
    let (node, controllers) = (server.join("n1").await, server.controllers());
    let (nodes, own) = ("/api/v1/nodes", "/api/v1/nodes/n1");
    for spec in [json!({"podCIDR": "10.0.0.0/8"}), json!({"podCIDRs": ["10.0.0.0/8"]})] {
        let message = node.post(nodes, &node_object("n1", &json!({}), spec)).await.refused(403);
        assert!(message.contains("is not allowed to set spec.podCIDR"), "{message}");
    }
    node.post(nodes, &node_object("n1", &json!({}), json!({}))).await.ok();
    let range = |range: &str| json!({"spec": {"podCIDR": range, "podCIDRs": [range]}});
    for kind in ["merge", "strategic-merge"] {
        let message = node.patch(own, kind, &range("10.0.0.0/8")).await.refused(403);
        assert!(message.contains("is not allowed to modify spec.podCIDR"), "{message}");
    }
    let add = json!([{"op": "add", "path": "/spec/podCIDRs", "value": ["10.0.0.0/8"]}]);
    node.patch(own, "json", &add).await.refused(403);
    let mut whole = node.get(own).await.ok();
    whole["spec"]["podCIDR"] = "10.0.0.0/8".into();
    node.put(own, &whole).await.refused(403);
    // By the status, a spec changes nothing.
    node.patch(&format!("{own}/status"), "merge", &range("10.0.0.0/8")).await.ok();
    assert!(node.get(own).await.ok()["spec"].get("podCIDR").is_none());

    controllers.patch(own, "strategic-merge", &range("10.244.0.0/24")).await.ok();
    let message = controllers.patch(own, "merge", &range("10.244.1.0/24")).await.refused(422);
    assert!(message.contains("node updates may not change podCIDR"), "{message}");
    let none = json!({"spec": {"podCIDR": null, "podCIDRs": null}});
    server.admin().patch(own, "merge", &none).await.refused(422);
    node.patch(own, "merge", &none).await.refused(403);
    // What it is there for still works: labels of its own, and its status.
    node.patch(own, "merge", &json!({"metadata": {"labels": {"kubernetes.io/os": "linux"}}})).await.ok();
    node.patch(&format!("{own}/status"), "merge", &json!({"status": {"capacity": {"cpu": "2"}}})).await.ok();
}

#[tokio::test]
async fn a_node_gives_itself_neither_a_role_nor_other_taints() {
    let server = TestServer::start().await;
    let node = server.join("n1").await;
    let (nodes, own) = ("/api/v1/nodes", "/api/v1/nodes/n1");
    let taints = json!({"taints": [{"key": "example.com/t", "effect": "NoSchedule"}]});
    for label in ["node-role.kubernetes.io/control-plane", "node-restriction.kubernetes.io/pci"] {
        let labels = json!({"labels": {label: "", "example.com/mine": "1"}});
        let message = node.post(nodes, &node_object("n1", &labels, taints.clone())).await.refused(403);
        let expected = format!("is not allowed to set the following labels: {label}");
        assert!(message.ends_with(&expected), "{message}");
    }
    let labels = json!({"labels": {"kubernetes.io/hostname": "n1", "example.com/mine": "1"}});
    node.post(nodes, &node_object("n1", &labels, taints)).await.ok();
    for (change, what) in [
        (json!({"metadata": {"labels": {"node-role.kubernetes.io/master": ""}}}), "modify labels"),
        (json!({"spec": {"taints": null}}), "modify taints"),
        (json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}), "modify taints"),
        (json!({"spec": {"providerID": "cloud://n2"}}), "modify spec.providerID"),
        (
            json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}),
            "modify ownerReferences",
        ),
    ] {
        let message = node.patch(own, "merge", &change).await.refused(403);
        assert!(message.contains(what), "{message}");
    }
    let role = json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": ""}}});
    server.admin().patch(own, "merge", &role).await.ok();
    node.patch(own, "merge", &json!({"metadata": {"labels": {"example.com/mine": "2"}}})).await.ok();
    let gone = json!({"metadata": {"labels": {"node-role.kubernetes.io/worker": null}}});
    node.patch(own, "merge", &gone).await.refused(403);
}

#[tokio::test]
async fn a_node_counts_on_its_own_events_and_tells_none_in_anothers_name() {
    let server = TestServer::start().await;
    let (node, other) = (server.join("n1").await, server.join("n2").await);
    let events = "/api/v1/namespaces/default/events";
    let event = |name: &str, host: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "type": "Normal", "reason": "R",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
            "source": {"component": "kubelet", "host": host}})
    };
    other.post(events, &event("theirs", "n2")).await.ok();
    node.post(events, &event("ours", "n1")).await.ok();
    node.post(events, &event("forged", "n2")).await.refused(403);
    node.patch(&format!("{events}/ours"), "merge", &json!({"count": 2})).await.ok();
    let message = node.patch(&format!("{events}/theirs"), "merge", &json!({"count": 2})).await.refused(403);
    assert!(message.contains("may only change events that it reports itself"), "{message}");
    let newer = "/apis/events.k8s.io/v1/namespaces/default/events";
    node.patch(&format!("{newer}/theirs"), "merge", &json!({"deprecatedCount": 9})).await.refused(403);
    let taken = event("theirs", "n1");
    node.put(&format!("{events}/theirs"), &taken).await.refused(403);
    // As the service proxy tells its warnings.
    let warning = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "w"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning", "reason": "AddressTaken", "action": "Balance",
        "note": "x", "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "s"},
        "reportingController": "skerry.io/proxy", "reportingInstance": "n1"});
    node.post(newer, &warning).await.ok();
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    node.patch(&format!("{newer}/w"), "merge", &series).await.ok();
    other.patch(&format!("{newer}/w"), "merge", &series).await.refused(403);
}

#[tokio::test]
async fn metrics_are_for_those_who_watch_over_the_server() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    admin.get("/api/v1/namespaces/default/configmaps/none").await.refused(404);
    admin.get("/api/v1/nonsense-that-makes-no-row").await.refused(404);
    let _held = admin.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    let scraped = admin.get("/metrics").await;
    assert_eq!(scraped.status, StatusCode::OK);
    for line in [
        "apiserver_request_total{verb=\"POST\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",\
         scope=\"namespace\",code=\"201\"} 1",
        "apiserver_request_total{verb=\"GET\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",\
         scope=\"resource\",code=\"404\"} 1",
        "apiserver_longrunning_requests{verb=\"WATCH\",group=\"\",version=\"v1\",resource=\"configmaps\",subresource=\"\",\
         scope=\"namespace\"} 1",
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} 1",
        "apiserver_resource_objects{group=\"scheduling.k8s.io\",resource=\"priorityclasses\"} 2",
        "apiserver_request_duration_seconds_count{verb=\"POST\",group=\"\",version=\"v1\",resource=\"configmaps\",\
         subresource=\"\",scope=\"namespace\"} 1",
    ] {
        assert!(scraped.text.lines().any(|found| found == line), "{line} is not in:\n{}", scraped.text);
    }
    assert!(!scraped.text.contains("nonsense") && scraped.text.ends_with("# EOF\n"));
    let message = server.join("n1").await.get("/metrics").await.refused(403);
    assert_eq!(message, "forbidden: User \"system:node:n1\" cannot get path \"/metrics\"");
    server.anonymous().get("/metrics").await.refused(401);
}

#[tokio::test]
async fn a_bound_pods_namespace_is_its_own() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(PODS, &pod("p")).await.ok();
    bind(&admin, "p", "n1").await.ok();
    let node = server.join("n1").await;
    node.get(&format!("{PODS}/p")).await.ok();
    // The same name without its namespace, or below another kind's place, is nothing.
    for path in ["/api/v1/pods/p", "/api/v1/namespaces/default/pods/p/status/more"] {
        admin.get(path).await.refused(404);
    }
}
