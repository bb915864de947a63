//! Create, read, update, patch and delete.

use crate::support::{CONFIG_MAPS, PODS, TestServer, bind, config_map, names, pod};
use http::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_new_object_gets_identity_and_defaults() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let made = admin.post(PODS, &pod("a")).await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    let metadata = &made["metadata"];
    assert_eq!(metadata["namespace"], "default");
    assert!(metadata["uid"].as_str().unwrap().len() == 36 && metadata["creationTimestamp"].is_string());
    assert_eq!(made["spec"]["restartPolicy"], "Always");
    assert_eq!(made["status"]["phase"], "Pending");
    assert_eq!(admin.get(&format!("{PODS}/a")).await.ok(), made);
    assert_eq!(admin.post(PODS, &pod("a")).await.refused(409), "pods \"a\" already exists");
}

#[tokio::test]
async fn generated_names_differ() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut object = config_map("");
    object["metadata"] = json!({"generateName": "web-"});
    let (one, two) =
        (admin.post(CONFIG_MAPS, &object).await.ok(), admin.post(CONFIG_MAPS, &object).await.ok());
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&one).starts_with("web-") && name(&one) != name(&two));
    object["metadata"] = json!({});
    let message = admin.post(CONFIG_MAPS, &object).await.refused(422);
    assert!(message.contains("metadata.name: Required value: name or generateName is required"), "{message}");
}

#[tokio::test]
async fn an_update_of_an_old_version_is_a_conflict() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let old = admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let mut changed = old.clone();
    changed["data"]["a"] = "c".into();
    let new = admin.put(&path, &changed).await.ok();
    assert_ne!(new["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"]);
    assert_eq!(new["metadata"]["uid"], old["metadata"]["uid"]);
    let message = admin.put(&path, &old).await.refused(409);
    assert!(
        message.contains("the object has been modified; please apply your changes to the latest version")
    );
    // Nothing to change: nothing is written.
    let again = admin.put(&path, &new).await.ok();
    assert_eq!(again["metadata"]["resourceVersion"], new["metadata"]["resourceVersion"]);
    // Without a version the update is unconditional.
    let mut blind = config_map("a");
    blind["data"]["a"] = "d".into();
    assert_eq!(admin.put(&path, &blind).await.ok()["data"]["a"], "d");
}

#[tokio::test]
async fn an_update_must_name_the_object_of_its_url() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let message = admin.put(&format!("{CONFIG_MAPS}/a"), &config_map("b")).await.refused(400);
    assert_eq!(message, "the name of the object (b) does not match the name on the URL (a)");
    assert_eq!(
        admin.put(&format!("{CONFIG_MAPS}/b"), &config_map("b")).await.refused(404),
        "configmaps \"b\" not found"
    );
}

#[tokio::test]
async fn the_three_patches_do_what_their_names_say() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(PODS, &pod("a")).await.ok();
    let path = format!("{PODS}/a");
    let patch = json!([{"op": "add", "path": "/metadata/labels/x", "value": "1"}]);
    assert_eq!(admin.patch(&path, "json", &patch).await.ok()["metadata"]["labels"]["x"], "1");
    let merged =
        admin.patch(&path, "merge", &json!({"metadata": {"labels": {"x": null, "y": "2"}}})).await.ok();
    assert_eq!(merged["metadata"]["labels"], json!({"app": "web", "y": "2"}));
    // By merge key: the container named main gets another image, none is added.
    let patch = json!({"spec": {"containers": [{"name": "main", "image": "nginx:2"}]}});
    let patched = admin.patch(&path, "strategic-merge", &patch).await.ok();
    assert_eq!(patched["spec"]["containers"].as_array().unwrap().len(), 1);
    assert_eq!(patched["spec"]["containers"][0]["image"], "nginx:2");
    let stale = json!({"metadata": {"resourceVersion": "1", "labels": {"z": "3"}}});
    admin.patch(&path, "merge", &stale).await.refused(409);
    admin.patch(&path, "nonsense", &json!({})).await.refused(415);
    let apply = [("content-type", "application/apply-patch+yaml")];
    let message = admin.send(Method::PATCH, &path, &apply, "{}").await.refused(415);
    assert!(message.contains("server-side apply is not supported"), "{message}");
}

#[tokio::test]
async fn patches_without_a_version_all_land() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let writers = (0..8).map(|number| {
        let admin = admin.clone();
        tokio::spawn(async move {
            let mut data = serde_json::Map::new();
            data.insert(format!("k{number}"), "v".into());
            admin.patch(&format!("{CONFIG_MAPS}/a"), "merge", &json!({"data": data})).await.ok();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let object = admin.get(&format!("{CONFIG_MAPS}/a")).await.ok();
    assert_eq!(object["data"].as_object().unwrap().len(), 9);
}

#[tokio::test]
async fn a_dry_run_answers_and_writes_nothing() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let before = crate::support::revision(&*server.store);
    let made = admin.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a")).await.ok();
    assert!(made["metadata"]["uid"].is_string());
    admin.get(&format!("{CONFIG_MAPS}/a")).await.refused(404);
    assert_eq!(crate::support::revision(&*server.store), before);
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(PODS, &pod("a")).await.ok();
    let patch = json!({"metadata": {"labels": {"l": "x"}}, "status": {"phase": "Running"}});
    let path = format!("{PODS}/a");
    assert_eq!(admin.patch(&path, "merge", &patch).await.ok()["status"]["phase"], "Pending");
    let status = json!({"spec": {"activeDeadlineSeconds": 7}, "status": {"phase": "Running"}});
    let written = admin.patch(&format!("{path}/status"), "merge", &status).await.ok();
    assert_eq!(written["status"]["phase"], "Running");
    assert!(written["spec"].get("activeDeadlineSeconds").is_none());
}

#[tokio::test]
async fn scale_is_a_view_of_the_replicas() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "nginx"}]}}}});
    let made = admin.post(deployments, &deployment).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{deployments}/d/scale");
    let mut scale = admin.get(&path).await.ok();
    assert_eq!(scale["kind"], "Scale");
    assert_eq!(scale["spec"]["replicas"], 2);
    assert_eq!(scale["status"]["selector"], "app=web");
    scale["spec"]["replicas"] = 5.into();
    assert_eq!(admin.put(&path, &scale).await.ok()["spec"]["replicas"], 5);
    admin.put(&path, &scale).await.refused(409);
    admin.patch(&path, "merge", &json!({"spec": {"replicas": 0}})).await.ok();
    let deployment = admin.get(&format!("{deployments}/d")).await.ok();
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert_eq!(deployment["metadata"]["generation"], 3);
}

#[tokio::test]
async fn a_pod_is_bound_once() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(PODS, &pod("a")).await.ok();
    assert_eq!(bind(&server.scheduler(), "a", "n1").await.status, 201);
    let bound = admin.get(&format!("{PODS}/a")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let conditions = bound["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "PodScheduled" && c["status"] == "True"));
    let message = bind(&server.scheduler(), "a", "n2").await.refused(409);
    assert!(message.contains("already assigned to node \"n1\""), "{message}");
}

#[tokio::test]
async fn a_finalizer_keeps_an_object_until_it_is_taken_off() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    admin.post(CONFIG_MAPS, &object).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let marked = admin.delete(&path).await.ok();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let message = admin.patch(&path, "merge", &more).await.refused(422);
    assert!(message.contains("no new finalizers can be added if the object is being deleted"), "{message}");
    admin.patch(&path, "merge", &json!({"metadata": {"finalizers": null}})).await.ok();
    admin.get(&path).await.refused(404);
}

#[tokio::test]
async fn foreground_deletion_waits_for_the_garbage_collector() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
    let headers = [("content-type", "application/json")];
    let path = format!("{CONFIG_MAPS}/a");
    let marked = admin.send(Method::DELETE, &path, &headers, options.to_string()).await.ok();
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    admin.get(&path).await.ok();
}

#[tokio::test]
async fn preconditions_of_a_deletion_are_kept() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let options = json!({"preconditions": {"uid": "11111111-1111-1111-1111-111111111111"}});
    let headers = [("content-type", "application/json")];
    let path = format!("{CONFIG_MAPS}/a");
    let message = admin.send(Method::DELETE, &path, &headers, options.to_string()).await.refused(409);
    assert!(message.contains("Precondition failed: UID in precondition"), "{message}");
    let gone = admin.delete(&path).await.ok();
    assert_eq!(gone["status"], "Success");
    assert_eq!(gone["details"]["kind"], "configmaps");
}

#[tokio::test]
async fn a_running_pod_is_deleted_gracefully() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["free", "bound"] {
        admin.post(PODS, &pod(name)).await.ok();
    }
    bind(&admin, "bound", "n1").await.ok();
    admin.delete(&format!("{PODS}/free")).await.ok();
    admin.get(&format!("{PODS}/free")).await.refused(404);
    let path = format!("{PODS}/bound");
    let marked = admin.delete(&path).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    admin.get(&path).await.ok();
    admin.delete(&format!("{path}?gracePeriodSeconds=0")).await.ok();
    admin.get(&path).await.refused(404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"l": label});
        admin.post(CONFIG_MAPS, &object).await.ok();
    }
    admin.delete(&format!("{CONFIG_MAPS}?labelSelector=l%3Dx")).await.ok();
    assert_eq!(names(&admin.get(CONFIG_MAPS).await.ok()), ["b"]);
}

#[tokio::test]
async fn a_namespace_is_required_and_closes_before_it_goes() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let inside = "/api/v1/namespaces/mem/configmaps";
    assert_eq!(admin.post(inside, &config_map("a")).await.refused(404), "namespaces \"mem\" not found");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mem"}});
    let made = admin.post("/api/v1/namespaces", &namespace).await.ok();
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "mem");
    admin.post(inside, &config_map("a")).await.ok();
    let closing = admin.delete("/api/v1/namespaces/mem").await.ok();
    assert_eq!(closing["status"]["phase"], "Terminating");
    let message = admin.post(inside, &config_map("b")).await.refused(403);
    assert!(message.contains("unable to create new content in namespace mem because it is being terminated"));
    let mut finalized = closing.clone();
    finalized["spec"]["finalizers"] = json!([]);
    admin.put("/api/v1/namespaces/mem/finalize", &finalized).await.ok();
    admin.get("/api/v1/namespaces/mem").await.refused(404);
}

#[tokio::test]
async fn an_event_is_seen_through_both_groups() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i",
        "action": "a", "reason": "Tested", "type": "Normal", "note": "hello",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"}});
    admin.post("/apis/events.k8s.io/v1/namespaces/default/events", &event).await.ok();
    let core = admin.get("/api/v1/namespaces/default/events/e").await.ok();
    assert_eq!(core["message"], "hello");
    assert_eq!(core["involvedObject"]["name"], "p");
    assert_eq!(core["apiVersion"], "v1");
    let selected = "/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp";
    assert_eq!(names(&admin.get(selected).await.ok()), ["e"]);
}

#[tokio::test]
async fn a_priority_class_gives_its_number() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut critical = pod("a");
    critical["spec"]["priorityClassName"] = "system-node-critical".into();
    assert_eq!(admin.post(PODS, &critical).await.ok()["spec"]["priority"], 2_000_001_000);
    let mut unknown = pod("b");
    unknown["spec"]["priorityClassName"] = "nope".into();
    let message = admin.post(PODS, &unknown).await.refused(403);
    assert_eq!(message, "pods \"b\" is forbidden: no PriorityClass with name nope was found");
}
