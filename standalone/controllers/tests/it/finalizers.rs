//! Whatever a controller holds by a finalizer it lets go, in every state.

use crate::support::{ABSENT, Cluster, eventually};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PropagationPolicy};
use serde_json::{Value, json};

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

fn job(name: &str, namespace: &str, extra: Value) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "nginx"}]}}}});
    for (pointer, value) in extra.as_object().unwrap() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        job.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    job
}

/// The Job's pod, once it is there and (`bound`) has a node.
async fn pod_of(cluster: &Cluster, job: &str, bound: bool) -> String {
    eventually("the pod", async || {
        let pods = cluster.list::<Pod>("default").await;
        let mut pods = pods.into_iter().filter(|pod| pod.name_any().starts_with(&format!("{job}-")));
        let pod = pods.find(|pod| pod.metadata.deletion_timestamp.is_none())?;
        let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        assert!(pod.finalizers().iter().any(|finalizer| finalizer == TRACKING), "it is counted first");
        (has_node || !bound).then(|| pod.name_any())
    })
    .await
}

async fn delete_pod(cluster: &Cluster, name: &str) {
    let pods = cluster.api::<Pod>("default");
    pods.delete(name, &Default::default()).await.unwrap();
    eventually("the pod goes", async || pods.get_opt(name).await.unwrap().is_none().then_some(())).await;
}

async fn no_pods(cluster: &Cluster, job: &str) {
    eventually("no pods are left", async || {
        let pods = cluster.list::<Pod>("default").await;
        (!pods.iter().any(|pod| pod.name_any().starts_with(&format!("{job}-")))).then_some(())
    })
    .await;
}

fn absent() -> Value {
    json!([{"name": "c", "image": ABSENT}])
}

const CONTAINERS: &str = "/spec/template/spec/containers";

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_jobs_can_be_deleted_in_every_state() {
    let cluster = Cluster::start(&["node1"]).await;
    let jobs = cluster.api::<Job>("default");

    cluster.apply(job("absent", "default", json!({CONTAINERS: absent()}))).await;
    delete_pod(&cluster, &pod_of(&cluster, "absent", true).await).await;

    let nowhere = json!({"/spec/template/spec/nodeSelector": {"no": "where"}});
    cluster.apply(job("nowhere", "default", nowhere)).await;
    delete_pod(&cluster, &pod_of(&cluster, "nowhere", false).await).await;

    let late = json!({CONTAINERS: absent(), "/spec/activeDeadlineSeconds": 1});
    cluster.apply(job("late", "default", late)).await;
    no_pods(&cluster, "late").await;
    let reason = eventually("the Job has failed", async || {
        let conditions = jobs.get("late").await.unwrap().status?.conditions?;
        conditions.into_iter().find(|condition| condition.type_ == "Failed")?.reason
    })
    .await;
    assert_eq!(reason, "DeadlineExceeded");

    cluster.apply(job("orphaned", "default", json!({CONTAINERS: absent()}))).await;
    let pod = pod_of(&cluster, "orphaned", true).await;
    let orphan = DeleteParams { propagation_policy: Some(PropagationPolicy::Orphan), ..Default::default() };
    jobs.delete("orphaned", &orphan).await.unwrap();
    eventually("it is let go", async || {
        let pod = cluster.api::<Pod>("default").get(&pod).await.unwrap();
        (pod.owner_references().is_empty() && pod.finalizers().is_empty()).then_some(())
    })
    .await;
    delete_pod(&cluster, &pod).await;

    cluster.apply(job("renamed", "default", json!({}))).await;
    let pod = pod_of(&cluster, "renamed", true).await;
    let labels = json!({"metadata": {"labels": {"controller-uid": null, "batch.kubernetes.io/controller-uid": null,
        "job-name": null, "batch.kubernetes.io/job-name": null}}});
    cluster.patch::<Pod>("default", &pod, labels).await;
    delete_pod(&cluster, &pod).await;

    for (name, params) in
        [("background", DeleteParams::background()), ("foreground", DeleteParams::foreground())]
    {
        cluster.apply(job(name, "default", json!({CONTAINERS: absent()}))).await;
        pod_of(&cluster, name, true).await;
        jobs.delete(name, &params).await.unwrap();
        no_pods(&cluster, name).await;
        eventually("the Job goes", async || jobs.get_opt(name).await.unwrap().is_none().then_some(())).await;
    }

    cluster.apply(job("suspended", "default", json!({CONTAINERS: absent()}))).await;
    pod_of(&cluster, "suspended", true).await;
    cluster.patch::<Job>("default", "suspended", json!({"spec": {"suspend": true}})).await;
    no_pods(&cluster, "suspended").await;
    assert_eq!(
        jobs.get("suspended").await.unwrap().status.unwrap().failed,
        None,
        "they were not its failures"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_deleted_right_after_its_job_ends() {
    let cluster = Cluster::start(&["node1"]).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    for (round, image) in [ABSENT, "nginx", ABSENT].into_iter().enumerate() {
        let name = format!("short-{round}");
        cluster.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
        let containers = json!([{"name": "c", "image": image}]);
        cluster.apply(job("j", &name, json!({CONTAINERS: containers, "/spec/parallelism": 3}))).await;
        if round > 0 {
            eventually("a pod", async || (!cluster.list::<Pod>(&name).await.is_empty()).then_some(())).await;
        }
        namespaces.delete(&name, &Default::default()).await.unwrap();
        eventually("the namespace is gone", async || {
            namespaces.get_opt(&name).await.unwrap().is_none().then_some(())
        })
        .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_in_a_circle_are_deleted_in_the_foreground() {
    let cluster = Cluster::start(&[]).await;
    let maps = cluster.api::<ConfigMap>("default");
    let owned_by = |kind: &str, name: &str, uid: &str| {
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid,
            "blockOwnerDeletion": true}]}})
    };
    for name in ["a", "b"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}});
        cluster.apply(map).await;
    }
    let uid = async |name: &str| maps.get(name).await.unwrap().uid().unwrap();
    let (a, b) = (uid("a").await, uid("b").await);
    maps.patch("a", &Default::default(), &Patch::Merge(owned_by("ConfigMap", "b", &b))).await.unwrap();
    maps.patch("b", &Default::default(), &Patch::Merge(owned_by("ConfigMap", "a", &a))).await.unwrap();
    maps.delete("a", &DeleteParams::foreground()).await.unwrap();
    for name in ["a", "b"] {
        eventually("it is gone", async || maps.get_opt(name).await.unwrap().is_none().then_some(())).await;
    }
    let pods = cluster.api::<Pod>("default");
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]}}))
        .await;
    let uid = pods.get("own").await.unwrap().uid().unwrap();
    pods.patch("own", &Default::default(), &Patch::Merge(owned_by("Pod", "own", &uid))).await.unwrap();
    pods.delete("own", &DeleteParams::foreground()).await.unwrap();
    eventually("it is gone", async || pods.get_opt("own").await.unwrap().is_none().then_some(())).await;
    cluster.stop().await;
}
