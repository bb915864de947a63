//! What keeps a pod from being scheduled, and what decides where it goes.

use crate::cluster::pod;
use crate::support::{Cluster, eventually};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

async fn node_of(cluster: &Cluster, pod: &str) -> Option<String> {
    cluster.api::<Pod>("default").get(pod).await.unwrap().spec?.node_name
}

#[tokio::test(flavor = "multi_thread")]
async fn gated_pod_is_scheduled_when_its_gates_are_gone() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster.apply(pod("gated", "default", json!({"schedulingGates": [{"name": "x.io/wait"}]}))).await;
    cluster.apply(pod("other", "default", json!({}))).await;
    eventually("the other is bound", async || node_of(&cluster, "other").await).await;
    let gated = cluster.api::<Pod>("default").get("gated").await.unwrap();
    let conditions = gated.status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("SchedulingGated"));
    assert_eq!(gated.spec.unwrap().node_name, None);
    assert!(cluster.events("default", "gated").await.is_empty(), "nobody has tried");
    cluster.patch::<Pod>("default", "gated", json!({"spec": {"schedulingGates": null}})).await;
    eventually("it is bound", async || node_of(&cluster, "gated").await).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_class_says_on_which_nodes_its_pods_run_and_what_they_cost() {
    let cluster = Cluster::start(&["node1", "node2"]).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let patch = json!({"metadata": {"labels": {"runtime": "kata"}},
        "spec": {"taints": [{"key": "kata", "effect": "NoSchedule"}]}});
    nodes.patch("node2", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "kata"},
        "handler": "kata", "overhead": {"podFixed": {"cpu": "3"}}, "scheduling": {
            "nodeSelector": {"runtime": "kata"}, "tolerations": [{"key": "kata", "operator": "Exists"}]}});
    cluster.apply(class).await;
    cluster.apply(pod("first", "default", json!({"runtimeClassName": "kata"}))).await;
    assert_eq!(eventually("it is bound", async || node_of(&cluster, "first").await).await, "node2");
    cluster.apply(pod("second", "default", json!({"runtimeClassName": "kata"}))).await;
    let message = eventually("the second does not fit", async || {
        let events = cluster.events("default", "second").await;
        events.into_iter().find(|(reason, _)| reason == "FailedScheduling").map(|(_, message)| message)
    })
    .await;
    assert!(message.contains("1 Insufficient cpu"), "{message}");
    let preemption = "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
                      1 Preemption is not helpful for scheduling.";
    assert!(message.ends_with(preemption), "{message}");
    let unknown: Pod =
        serde_json::from_value(pod("third", "default", json!({"runtimeClassName": "none"}))).unwrap();
    let refused = cluster.api::<Pod>("default").create(&Default::default(), &unknown).await.unwrap_err();
    assert!(refused.to_string().contains("pod rejected: RuntimeClass \"none\" not found"), "{refused}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_higher_priority_takes_the_place_of_less_important_ones() {
    let cluster = Cluster::start(&["node1"]).await;
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "high"}, "value": 1000});
    cluster.apply(class).await;
    let asking = |cpu: &str| json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]});
    let mut low = pod("low", "default", asking("2"));
    low["metadata"]["finalizers"] = json!(["example.com/held"]);
    cluster.apply(low).await;
    cluster.apply(pod("small", "default", asking("1"))).await;
    for name in ["low", "small"] {
        eventually("both are bound", async || node_of(&cluster, name).await).await;
    }
    let mut high = asking("3");
    high["priorityClassName"] = json!("high");
    cluster.apply(pod("high", "default", high)).await;
    let pods = cluster.api::<Pod>("default");
    let status = async |name: &str| pods.get(name).await.unwrap().status.unwrap();
    // As long as the victim ends, its place is kept.
    eventually("a node is kept for it", async || status("high").await.nominated_node_name).await;
    eventually("the victim goes", async || pods.get("low").await.unwrap().metadata.deletion_timestamp).await;
    let leaving = pods.get("low").await.unwrap();
    let conditions = leaving.status.unwrap().conditions.unwrap();
    let reason = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget");
    assert_eq!(reason.unwrap().reason.as_deref(), Some("PreemptionByScheduler"));
    cluster.apply(pod("late", "default", asking("1"))).await;
    cluster.patch::<Pod>("default", "low", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(eventually("it is bound", async || node_of(&cluster, "high").await).await, "node1");
    let uid = pods.get("high").await.unwrap().metadata.uid.unwrap();
    let said = eventually("the victim's event", async || {
        let events = cluster.events("default", "low").await;
        events.into_iter().find(|(reason, _)| reason == "Preempted").map(|(_, message)| message)
    })
    .await;
    assert_eq!(said, format!("Preempted by pod {uid} on node node1"));
    // Of the two that are less important one had room beside it.
    assert!(node_of(&cluster, "small").await.is_some(), "no more go than must");
    cluster.stop().await;
}
