//! What the API takes in: how large and how deep, what readers need, and what it says of things that nobody
//! carries out.

use serde_json::{Value, json};

use crate::support::{PODS, SERVICES, TestServer, config_map, pod, service};

/// A JSON Patch whose copies double the depth of what stands at `path`.
fn deepening(path: &str, levels: usize) -> Value {
    let mut patch = vec![json!({"op": "add", "path": path, "value": {"a": {}}})];
    let mut depth = 1;
    while depth < levels {
        let step = depth.min(levels - depth);
        let (from, to) = ("/a".repeat(depth - step + 1), "/a".repeat(depth + 1));
        patch.push(json!({"op": "copy", "from": format!("{path}{from}"), "path": format!("{path}{to}")}));
        depth += step;
    }
    json!(patch)
}

#[tokio::test]
async fn a_copy_that_deepens_an_object_is_refused() {
    let server = TestServer::start().await;
    let (admin, node) = (server.admin(), server.join("worker").await);
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker"}});
    node.post("/api/v1/nodes", &object).await.ok();
    for levels in [140, 6000] {
        let patch = deepening("/x", levels);
        let message = node.patch("/api/v1/nodes/worker/status", "json", &patch).await.refused(413);
        assert_eq!(message, "exceeded max depth 120");
    }
    // What may hold anything is held to the same depth, and can be read and removed as anything else.
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let revision = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"}, "revision": 1,
        "data": {}});
    admin.post(revisions, &revision).await.ok();
    let path = format!("{revisions}/r");
    admin.patch(&path, "json", &deepening("/data/x", 140)).await.refused(413);
    admin.patch(&path, "json", &deepening("/data/x", 110)).await.ok();
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    admin.send(http::Method::GET, revisions, &table, "").await.ok();
    admin.delete(&path).await.ok();
    admin.get(&path).await.refused(404);
}

#[tokio::test]
async fn patches_of_every_type_are_held_to_the_size_of_a_body() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = "/api/v1/namespaces/default/configmaps/a";
    admin.post("/api/v1/namespaces/default/configmaps", &config_map("a")).await.ok();
    let labels = |from: usize, count: usize| -> Value {
        let labels: serde_json::Map<String, Value> =
            (from..from + count).map(|n| (format!("l{n}"), json!("x"))).collect();
        json!(labels)
    };
    admin.patch(path, "merge", &json!({"metadata": {"labels": labels(0, 600)}})).await.ok();
    for kind in ["merge", "strategic-merge"] {
        let patch = json!({"metadata": {"labels": labels(600, 600)}});
        let message = admin.patch(path, kind, &patch).await.refused(422);
        assert!(
            message.contains("metadata.labels: Too many: 1200: must have at most 1000 items"),
            "{message}"
        );
    }
    let patch = json!([{"op": "add", "path": "/metadata/labels", "value": labels(0, 100_000)}]);
    admin.patch(path, "json", &patch).await.refused(413);
    let finalizers: Vec<String> = (0..40_000).map(|n| format!("example.com/f{n}")).collect();
    admin.patch(path, "merge", &json!({"metadata": {"finalizers": finalizers}})).await.refused(413);
    let mut many = pod("many");
    many["spec"]["containers"] =
        (0..20_000).map(|n| json!({"name": format!("c{n}"), "image": "a"})).collect();
    admin.post(PODS, &many).await.refused(413);
}

#[tokio::test]
async fn a_condition_without_its_time_gets_one_that_readers_can_read() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(SERVICES, &service("x")).await.ok();
    for condition in [
        json!({"type": "X", "status": "True", "reason": "E", "message": "m"}),
        json!({"type": "X", "status": "True", "reason": "E", "message": "n", "lastTransitionTime": null}),
    ] {
        let patch = json!({"status": {"conditions": [condition]}});
        let stored = admin.patch(&format!("{SERVICES}/x/status"), "merge", &patch).await.ok();
        assert_eq!(stored["status"]["conditions"][0]["lastTransitionTime"], "0001-01-01T00:00:00Z");
    }
}

#[tokio::test]
async fn who_types_what_nobody_carries_out_is_warned() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"},
        "spec": {"podSelector": {}}});
    let warning = "299 - \"NetworkPolicy.networking.k8s.io: no traffic is held back by it\"";
    assert_eq!(admin.post(policies, &policy).await.warnings(), [warning]);
    let path = format!("{policies}/p");
    let labelled = admin.patch(&path, "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert!(labelled.warnings().is_empty());
    let mut changed = labelled.ok();
    changed["spec"]["policyTypes"] = json!(["Egress"]);
    assert_eq!(admin.put(&path, &changed).await.warnings(), [warning]);
    assert_eq!(
        admin.post(&format!("{policies}?dryRun=All"), &with_name(&policy, "q")).await.warnings(),
        [warning]
    );

    let mut template = pod("t");
    template["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": template["spec"]}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let answer = admin.post(deployments, &deployment).await;
    let text = "spec.template.spec.containers[0].ports[0].hostPort: the port is not opened on the node";
    assert_eq!(answer.warnings(), [format!("299 - \"{text}\"")]);
    let scale = json!({"spec": {"replicas": 2}});
    assert!(admin.patch(&format!("{deployments}/d/scale"), "merge", &scale).await.warnings().is_empty());
    let status = json!({"status": {"replicas": 1}});
    assert!(admin.patch(&format!("{deployments}/d/status"), "merge", &status).await.warnings().is_empty());
    assert_eq!(admin.post(PODS, &template).await.warnings().len(), 1);
    // As a controller makes it.
    let owner =
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u", "controller": true}]);
    let mut made = with_name(&template, "made");
    made["metadata"]["ownerReferences"] = owner;
    let answer = admin.post(PODS, &made).await;
    assert!(answer.warnings().is_empty());
    answer.ok();
}

#[tokio::test]
async fn a_pod_that_would_run_unprotected_is_refused() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut own_users = pod("users");
    own_users["spec"]["hostUsers"] = json!(false);
    let message = admin.post(PODS, &own_users).await.refused(422);
    assert!(message.contains("spec.hostUsers: Forbidden"), "{message}");
    let mut profile = pod("profile");
    profile["spec"]["containers"][0]["securityContext"] =
        json!({"appArmorProfile": {"type": "RuntimeDefault"}});
    let message = admin.post(PODS, &profile).await.refused(422);
    assert!(message.contains("appArmorProfile: Forbidden"), "{message}");
}

#[tokio::test]
async fn a_pod_has_no_priority_but_its_classes() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut first = pod("first");
    first["spec"]["priority"] = json!(2_000_000_000);
    let message = admin.post(PODS, &first).await.refused(403);
    assert!(message.contains("the integer value of priority (2000000000) must not be provided"), "{message}");
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"},
        "value": 5});
    admin.post(classes, &class).await.ok();
    first["spec"]["priorityClassName"] = json!("high");
    admin.post(PODS, &first).await.refused(403);
    first["spec"]["priority"] = json!(5);
    admin.post(PODS, &first).await.ok();
}

fn with_name(object: &Value, name: &str) -> Value {
    let mut object = object.clone();
    object["metadata"]["name"] = json!(name);
    object
}
