//! Deployments from `create` to `delete`, against the real API server and scheduler.

use std::collections::BTreeMap;

use crate::support::{BROKEN, Cluster, DONE, eventually, is_ready};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

/// Returns once the Deployment says that it is complete.
async fn complete(cluster: &Cluster, name: &str, replicas: i32) -> Deployment {
    eventually("the deployment is complete", async || {
        let deployment = cluster.api::<Deployment>("default").get(name).await.unwrap();
        let status = deployment.status.clone().unwrap_or_default();
        let all = |count: Option<i32>| count.unwrap_or(0) == replicas;
        let is = status.observed_generation == deployment.metadata.generation
            && all(status.replicas)
            && all(status.updated_replicas)
            && all(status.available_replicas);
        is.then_some(deployment)
    })
    .await
}

/// Waits until the scheduler knows each of these nodes and may use it: a pod that fits no other runs there,
/// and stays.
async fn until_schedulable(cluster: &Cluster, nodes: &[&str]) {
    for node in nodes {
        cluster
            .apply(json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("on-{node}"), "namespace": "kube-system"},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": node},
                    "containers": [{"name": "c", "image": "pause"}],
                },
            }))
            .await;
    }
    eventually("a pod runs on each node", async || {
        (cluster.spread("kube-system").await.len() == nodes.len()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_run_on_three_workers_and_are_made_anew_when_their_set_is_deleted() {
    let cluster = Cluster::start(&["node1", "node2", "node3"]).await;
    until_schedulable(&cluster, &["node1", "node2", "node3"]).await;
    let taint = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    cluster.add_node("server", json!({"taints": taint})).await;
    cluster.apply(deployment("k8s-nginx", 3, "nginx")).await;
    complete(&cluster, "k8s-nginx", 3).await;
    let one_each: BTreeMap<String, usize> =
        ["node1", "node2", "node3"].map(|node| (node.to_owned(), 1)).into();
    assert_eq!(cluster.spread("default").await, one_each);

    let reasons = eventually("the events of the rollout", async || {
        let reasons: Vec<String> =
            cluster.events("default", "k8s-nginx").await.into_iter().map(|(reason, _)| reason).collect();
        reasons.contains(&"ScalingReplicaSet".to_owned()).then_some(reasons)
    })
    .await;
    assert_eq!(reasons.len(), 1, "{reasons:?}");

    let set = cluster.list::<ReplicaSet>("default").await.remove(0);
    let before: Vec<String> =
        cluster.list::<Pod>("default").await.iter().filter_map(|pod| pod.uid()).collect();
    let background = DeleteParams::background();
    cluster.api::<ReplicaSet>("default").delete(&set.name_any(), &background).await.unwrap();
    eventually("other pods run", async || {
        let pods = cluster.list::<Pod>("default").await;
        let all_new = pods.iter().all(|pod| !before.contains(&pod.uid().unwrap_or_default()));
        (all_new && pods.iter().filter(|pod| is_ready(pod)).count() == 3).then_some(())
    })
    .await;

    cluster.api::<Deployment>("default").delete("k8s-nginx", &background).await.unwrap();
    eventually("everything is gone", async || {
        let left =
            cluster.list::<ReplicaSet>("default").await.len() + cluster.list::<Pod>("default").await.len();
        (left == 0).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_update_keeps_enough_pods_and_a_broken_one_is_undone() {
    let cluster = Cluster::start(&["node1", "node2"]).await;
    cluster.apply(deployment("web", 4, "nginx:1")).await;
    complete(&cluster, "web", 4).await;

    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    cluster.patch::<Deployment>("default", "web", image("nginx:2")).await;
    let mut least = 4;
    let mut most = 4;
    eventually("the second image runs everywhere", async || {
        let pods = cluster.list::<Pod>("default").await;
        least = least.min(pods.iter().filter(|pod| is_ready(pod)).count());
        most = most.max(pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count());
        let new = |pod: &&Pod| {
            pod.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some("nginx:2"))
        };
        (pods.iter().filter(new).count() == 4 && pods.len() == 4).then_some(())
    })
    .await;
    assert!(least >= 3 && most <= 5, "between {least} and {most}");
    let now = complete(&cluster, "web", 4).await;
    assert_eq!(now.annotations()["deployment.kubernetes.io/revision"], "2");

    cluster.patch::<Deployment>("default", "web", image(BROKEN)).await;
    eventually("the broken image has a pod", async || {
        let pods = cluster.list::<Pod>("default").await;
        let broken =
            |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some(BROKEN));
        pods.iter().any(broken).then_some(())
    })
    .await;
    assert!(cluster.list::<Pod>("default").await.iter().filter(|pod| is_ready(pod)).count() >= 3);
    cluster.patch::<Deployment>("default", "web", image("nginx:2")).await;
    let undone = complete(&cluster, "web", 4).await;
    assert_eq!(undone.annotations()["deployment.kubernetes.io/revision"], "4");
    assert_eq!(cluster.list::<ReplicaSet>("default").await.len(), 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_follows_and_a_deleted_pod_is_replaced() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster.apply(deployment("web", 1, "nginx")).await;
    complete(&cluster, "web", 1).await;
    cluster.patch::<Deployment>("default", "web", json!({"spec": {"replicas": 20}})).await;
    complete(&cluster, "web", 20).await;
    let victim = cluster.list::<Pod>("default").await.remove(3);
    cluster.api::<Pod>("default").delete(&victim.name_any(), &Default::default()).await.unwrap();
    eventually("another pod stands in", async || {
        let pods = cluster.list::<Pod>("default").await;
        let gone = pods.iter().all(|pod| pod.uid() != victim.uid());
        (gone && pods.iter().filter(|pod| is_ready(pod)).count() == 20).then_some(())
    })
    .await;
    cluster.patch::<Deployment>("default", "web", json!({"spec": {"replicas": 0}})).await;
    complete(&cluster, "web", 0).await;
    eventually("no pod is left", async || cluster.list::<Pod>("default").await.is_empty().then_some(()))
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_deployment_can_orphan_or_wait_for_its_pods() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster.apply(deployment("kept", 2, "nginx")).await;
    complete(&cluster, "kept", 2).await;
    cluster.api::<Deployment>("default").delete("kept", &DeleteParams::orphan()).await.unwrap();
    eventually("the set has no owner and lives", async || {
        let gone = cluster.api::<Deployment>("default").get_opt("kept").await.unwrap().is_none();
        let sets = cluster.list::<ReplicaSet>("default").await;
        let orphaned = sets.len() == 1 && sets[0].owner_references().is_empty();
        (gone && orphaned).then_some(())
    })
    .await;
    assert_eq!(cluster.list::<Pod>("default").await.len(), 2);

    cluster.apply(deployment("kept", 2, "nginx")).await;
    complete(&cluster, "kept", 2).await;
    assert_eq!(cluster.list::<ReplicaSet>("default").await.len(), 1, "the orphan is adopted");

    cluster.api::<Deployment>("default").delete("kept", &DeleteParams::foreground()).await.unwrap();
    eventually("the deployment goes last", async || {
        let there = cluster.api::<Deployment>("default").get_opt("kept").await.unwrap().is_some();
        let left =
            cluster.list::<ReplicaSet>("default").await.len() + cluster.list::<Pod>("default").await.len();
        assert!(there || left == 0, "the deployment went before what it owns");
        (!there).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemon_set_has_one_pod_a_node_and_follows_nodes_that_join_and_leave() {
    let cluster = Cluster::start(&["node1", "node2"]).await;
    let taint = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
    cluster.add_node("server", json!({"taints": taint})).await;
    cluster
        .apply(json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "log", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "log"}}, "template": {"metadata": {"labels": {"app": "log"}},
                "spec": {"containers": [{"name": "c", "image": "fluentd"}],
                    "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}}}}))
        .await;
    let on = async |nodes: &[&str]| {
        let wanted: BTreeMap<String, usize> = nodes.iter().map(|node| ((*node).to_owned(), 1)).collect();
        eventually("one pod a node", async || (cluster.spread("default").await == wanted).then_some(()))
            .await;
    };
    on(&["node1", "node2", "server"]).await;
    cluster.add_node("node3", json!({})).await;
    on(&["node1", "node2", "node3", "server"]).await;
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(cluster.client.clone());
    nodes
        .patch(
            "node2",
            &Default::default(),
            &kube::api::Patch::Merge(&json!({"spec": {"taints": [
        {"key": "gone", "effect": "NoExecute"}]}})),
        )
        .await
        .unwrap();
    on(&["node1", "node3", "server"]).await;

    let image =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "fluentd:2"}]}}}});
    cluster.patch::<DaemonSet>("default", "log", image).await;
    eventually("all pods are of the second image", async || {
        let status = cluster.api::<DaemonSet>("default").get("log").await.unwrap().status?;
        (status.updated_number_scheduled == Some(3) && status.number_available == Some(3)).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stateful_set_names_its_pods_in_order_and_updates_from_the_highest() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster
        .apply(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "default"},
            "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                "template": {"metadata": {"labels": {"app": "db"}},
                    "spec": {"containers": [{"name": "c", "image": "db:1"}]}}}}))
        .await;
    let settled = async |count: i32, image: &str| {
        eventually("the set has settled", async || {
            let set = cluster.api::<StatefulSet>("default").get("db").await.unwrap();
            let status = set.status.unwrap_or_default();
            let pods = cluster.list::<Pod>("default").await;
            let images = |pod: &Pod| {
                pod.spec.as_ref().is_some_and(|s| s.containers[0].image.as_deref() == Some(image))
            };
            let all = status.replicas == count
                && status.available_replicas.unwrap_or(0) == count
                && status.current_revision == status.update_revision;
            (all && pods.iter().all(images) && pods.len() as i32 == count).then_some(())
        })
        .await;
        let mut names: Vec<String> =
            cluster.list::<Pod>("default").await.iter().map(|pod| pod.name_any()).collect();
        names.sort();
        assert_eq!(names, (0..count).map(|n| format!("db-{n}")).collect::<Vec<_>>());
    };
    settled(3, "db:1").await;
    let pods = cluster.list::<Pod>("default").await;
    let made =
        |n: usize| pods.iter().find(|pod| pod.name_any() == format!("db-{n}")).unwrap().metadata.clone();
    assert!(made(0).creation_timestamp <= made(1).creation_timestamp);
    assert_eq!(pods[0].spec.as_ref().unwrap().subdomain.as_deref(), Some("db"));
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "db:2"}]}}}});
    cluster.patch::<StatefulSet>("default", "db", image).await;
    settled(3, "db:2").await;
    cluster.patch::<StatefulSet>("default", "db", json!({"spec": {"replicas": 1}})).await;
    settled(1, "db:2").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_counts_each_pod_once_and_completes() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster
        .apply(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum", "namespace": "default"},
            "spec": {"completions": 5, "parallelism": 2, "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": DONE}]}}}}))
        .await;
    let job = eventually("the job is complete", async || {
        let job = cluster.api::<Job>("default").get("sum").await.unwrap();
        let conditions = job.status.as_ref()?.conditions.clone()?;
        conditions.iter().any(|c| c.type_ == "Complete" && c.status == "True").then_some(job)
    })
    .await;
    let status = job.status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(5), None, None));
    let pods = cluster.list::<Pod>("default").await;
    assert_eq!(pods.len(), 5);
    assert!(pods.iter().all(|pod| pod.finalizers().is_empty()), "none is held any more");
    cluster.api::<Job>("default").delete("sum", &DeleteParams::background()).await.unwrap();
    eventually("its pods go too", async || cluster.list::<Pod>("default").await.is_empty().then_some(()))
        .await;
    cluster.stop().await;
}
