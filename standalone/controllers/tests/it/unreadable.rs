//! Objects that can't be read: they stay as they are, are named, and stop nobody else.

use std::collections::BTreeSet;

use crate::support::{Cluster, eventually, is_ready};
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch};
use serde_json::{Value, json};

fn replica_set(name: &str, replicas: i32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}})
}

fn service(name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80}]}})
}

/// No time has this form.
fn break_condition(object: &mut Value) {
    object["status"]["conditions"][0]["lastTransitionTime"] = "never".into();
}

fn mend_condition(object: &mut Value) {
    object["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z".into();
}

async fn pods_of(cluster: &Cluster, app: &str) -> BTreeSet<String> {
    let mut pods = cluster.list::<Pod>("default").await;
    pods.retain(|pod| pod.labels().get("app").is_some_and(|is| is == app));
    pods.iter().map(|pod| pod.name_any()).collect()
}

async fn ready(cluster: &Cluster, app: &str, count: usize) -> BTreeSet<String> {
    eventually("the pods are ready", async || {
        let mut pods = cluster.list::<Pod>("default").await;
        pods.retain(|pod| pod.labels().get("app").is_some_and(|is| is == app) && is_ready(pod));
        (pods.len() == count).then(|| pods.iter().map(|pod| pod.name_any()).collect())
    })
    .await
}

/// Pods, owners and what is named while one pod can't be read, and that all is well again once it can.
#[tokio::test(flavor = "multi_thread")]
async fn replica_set_with_an_unreadable_pod_makes_and_ends_none() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster.apply(replica_set("web", 3)).await;
    let pods = ready(&cluster, "web", 3).await;
    let broken = pods.first().unwrap().clone();
    let key = format!("/registry/pods/default/{broken}");
    cluster.tamper(&key, break_condition).await;
    cluster.until_unreadable(&[&format!("pods default/{broken}")]).await;
    cluster.apply(replica_set("other", 2)).await;
    ready(&cluster, "other", 2).await;
    assert_eq!(pods_of(&cluster, "web").await, pods, "it counts: none is made or ended on its account");
    cluster.patch::<ReplicaSet>("default", "web", json!({"spec": {"replicas": 4}})).await;
    ready(&cluster, "web", 3).await;
    assert_eq!(pods_of(&cluster, "web").await.len(), 4, "one more, not two");
    cluster.tamper(&key, mend_condition).await;
    cluster.until_unreadable(&[]).await;
    ready(&cluster, "web", 4).await;
    cluster.stop().await;
}

async fn endpoints(cluster: &Cluster, service: &str) -> BTreeSet<String> {
    let mut slices = cluster.list::<EndpointSlice>("default").await;
    slices.retain(|slice| slice.labels().get("kubernetes.io/service-name").is_some_and(|is| is == service));
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    endpoints.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_service_keeps_its_slices_and_others_get_theirs() {
    let mut cluster = Cluster::start(&["node1"]).await;
    cluster.apply(service("web", "web")).await;
    cluster.apply(replica_set("web", 2)).await;
    let pods = ready(&cluster, "web", 2).await;
    let serve = async |cluster: &Cluster, name: &str, pods: &BTreeSet<String>| {
        eventually("the endpoints", async || (endpoints(cluster, name).await == *pods).then_some(())).await;
    };
    serve(&cluster, "web", &pods).await;
    // As Go clients send a condition without a time.
    let unfinished =
        json!([{"type": "X", "status": "True", "reason": "E", "message": "m", "lastTransitionTime": null}]);
    cluster
        .tamper("/registry/services/default/web", |o| o["status"]["conditions"] = unfinished.clone())
        .await;
    cluster.until_unreadable(&["services default/web"]).await;
    cluster.apply(service("other", "web")).await;
    serve(&cluster, "other", &pods).await;
    // The next list meets it as well.
    cluster.restart_api().await;
    cluster.apply(service("third", "web")).await;
    serve(&cluster, "third", &pods).await;
    assert_eq!(endpoints(&cluster, "web").await, pods);
    let broken = pods.first().unwrap();
    cluster.tamper(&format!("/registry/pods/default/{broken}"), break_condition).await;
    cluster.until_unreadable(&[&format!("pods default/{broken}"), "services default/web"]).await;
    cluster.patch::<ReplicaSet>("default", "web", json!({"spec": {"replicas": 3}})).await;
    let pods = eventually("three pods", async || {
        let pods = pods_of(&cluster, "web").await;
        (pods.len() == 3).then_some(pods)
    })
    .await;
    serve(&cluster, "third", &pods).await;
    // The answer is the object, which no typed client can read.
    let untyped = ApiResource::erase::<Service>(&());
    let services: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), "default", &untyped);
    services.delete("web", &Default::default()).await.unwrap();
    serve(&cluster, "web", &BTreeSet::new()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_an_unreadable_node_are_not_evicted() {
    let cluster = Cluster::start(&["node1", "node2"]).await;
    let on = |node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{node}"), "namespace": "default"},
            "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "containers": [{"name": "c", "image": "nginx"}]}})
    };
    for node in ["node1", "node2"] {
        cluster.apply(on(node)).await;
    }
    let names = async || -> BTreeSet<String> {
        cluster
            .list::<Pod>("default")
            .await
            .iter()
            .filter(|pod| is_ready(pod))
            .map(|pod| pod.name_any())
            .collect()
    };
    eventually("both run", async || (names().await.len() == 2).then_some(())).await;
    cluster.tamper("/registry/nodes/node1", break_condition).await;
    cluster.until_unreadable(&["nodes node1"]).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let taint = json!([{"key": "gone", "effect": "NoExecute"}]);
    cluster.tamper("/registry/nodes/node1", |node| node["spec"]["taints"] = taint.clone()).await;
    let patch = Patch::Merge(json!({"spec": {"taints": taint}}));
    nodes.patch("node2", &Default::default(), &patch).await.unwrap();
    eventually("the readable node's pod is evicted", async || (names().await.len() == 1).then_some(())).await;
    assert_eq!(names().await, ["on-node1".to_owned()].into());
    cluster.add_node("node3", json!({})).await;
    let range =
        eventually("the new node has a range", async || nodes.get("node3").await.unwrap().spec?.pod_cidr)
            .await;
    assert_eq!(range, "10.244.2.0/24", "the unreadable node keeps its own");
    cluster.tamper("/registry/nodes/node1", mend_condition).await;
    eventually("now its taint counts", async || names().await.is_empty().then_some(())).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_revision_of_a_daemon_set_stands_for_its_template() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster
        .apply(json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "log", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "log"}}, "template": {"metadata": {"labels": {"app": "log"}},
                "spec": {"containers": [{"name": "c", "image": "fluentd"}]}}}}))
        .await;
    ready(&cluster, "log", 1).await;
    let revision = cluster.list::<ControllerRevision>("default").await[0].name_any();
    let key = format!("/registry/controllerrevisions.apps/default/{revision}");
    cluster.tamper(&key, |revision| revision["revision"] = "first".into()).await;
    cluster.until_unreadable(&[&format!("controllerrevisions default/{revision}")]).await;
    cluster.add_node("node2", json!({})).await;
    ready(&cluster, "log", 2).await;
    assert_eq!(cluster.list::<ControllerRevision>("default").await.len(), 1);
    let set = cluster.api::<DaemonSet>("default").get("log").await.unwrap();
    eventually("all pods are up to date", async || {
        let set = cluster.api::<DaemonSet>("default").get("log").await.unwrap();
        (set.status?.updated_number_scheduled == Some(2)).then_some(())
    })
    .await;
    assert_eq!(set.metadata.generation, Some(1));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_ends_with_what_cannot_be_read_in_it() {
    let cluster = Cluster::start(&[]).await;
    cluster.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})).await;
    let mut web = service("web", "web");
    web["metadata"]["namespace"] = "x".into();
    cluster.apply(web).await;
    // No node takes it: only a controller can end it.
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "x"},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]}}))
        .await;
    let unfinished = json!([{"type": "X", "status": "True", "lastTransitionTime": null}]);
    cluster.tamper("/registry/services/x/web", |o| o["status"]["conditions"] = unfinished.clone()).await;
    cluster.tamper("/registry/pods/x/p", |o| o["status"]["startTime"] = "never".into()).await;
    cluster.until_unreadable(&["pods x/p", "services x/web"]).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("x", &Default::default()).await.unwrap();
    eventually("it is gone", async || namespaces.get_opt("x").await.unwrap().is_none().then_some(())).await;
    cluster.until_unreadable(&[]).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_pod_keeps_its_room_on_its_node() {
    let cluster = Cluster::start(&["node1"]).await;
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "nginx", "resources": {"requests": {"cpu": "3"}}}]}})
    };
    cluster.apply(pod("first")).await;
    let running = async |name: &str| {
        eventually("it runs", async || {
            cluster
                .list::<Pod>("default")
                .await
                .iter()
                .any(|pod| pod.name_any() == name && is_ready(pod))
                .then_some(())
        })
        .await;
    };
    running("first").await;
    cluster.tamper("/registry/pods/default/first", break_condition).await;
    cluster.until_unreadable(&["pods default/first"]).await;
    cluster.apply(pod("second")).await;
    eventually("there is no room", async || {
        let events = cluster.events("default", "second").await;
        events.iter().any(|(_, message)| message.contains("1 Insufficient cpu")).then_some(())
    })
    .await;
    cluster
        .api::<Pod>("default")
        .delete("first", &kube::api::DeleteParams::default().grace_period(0))
        .await
        .ok();
    running("second").await;
    cluster.stop().await;
}
