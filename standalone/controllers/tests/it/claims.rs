//! Claims and their volumes, against the real API server and scheduler; what a node's agent does is said by
//! hand.

use crate::support::{Cluster, eventually, is_ready};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

fn claim(name: &str, spec: Value) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    for (name, value) in spec.as_object().unwrap() {
        claim["spec"][name] = value.clone();
    }
    claim
}

fn pod(name: &str, claim: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "nginx"}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn volume(name: &str, policy: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "manual",
            "persistentVolumeReclaimPolicy": policy, "hostPath": {"path": "/mnt/data"}}})
}

/// A cluster whose nodes tell where their volumes are.
async fn start(nodes: &[&str]) -> Cluster {
    let cluster = Cluster::start(nodes).await;
    let api: Api<Node> = Api::all(cluster.client.clone());
    for node in nodes {
        let folder = json!({"metadata": {"annotations": {"skerry.io/local-path": "/var/lib/volumes"}}});
        api.patch(node, &PatchParams::default(), &Patch::Merge(&folder)).await.unwrap();
    }
    cluster
}

async fn claim_phase(cluster: &Cluster, name: &str) -> Option<String> {
    let found = cluster.api::<PersistentVolumeClaim>("default").get_opt(name).await.unwrap()?;
    found.status?.phase
}

fn volumes(cluster: &Cluster) -> Api<PersistentVolume> {
    Api::all(cluster.client.clone())
}

async fn until_phase(cluster: &Cluster, name: &str, phase: &str) {
    let what = format!("claim {name} is {phase}");
    eventually(&what, async || (claim_phase(cluster, name).await.as_deref() == Some(phase)).then_some(()))
        .await;
}

async fn until_volume(cluster: &Cluster, name: &str, phase: &str) -> PersistentVolume {
    eventually(&format!("volume {name} is {phase}"), async || {
        let volume = volumes(cluster).get_opt(name).await.unwrap()?;
        (volume.status.as_ref()?.phase.as_deref() == Some(phase)).then_some(volume)
    })
    .await
}

async fn until_told(cluster: &Cluster, name: &str, reason: &str, text: &str) {
    eventually(&format!("{name} is told {reason}: {text}"), async || {
        let events = cluster.events("default", name).await;
        events.iter().any(|(told, message)| told == reason && message.contains(text)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_a_folder_on_the_node_of_its_first_pod_and_goes_when_nobody_uses_it() {
    let cluster = start(&["node1", "node2"]).await;
    cluster.apply(claim("data", json!({}))).await;
    until_told(&cluster, "data", "WaitForFirstConsumer", "waiting for first consumer").await;
    assert_eq!(claim_phase(&cluster, "data").await.as_deref(), Some("Pending"));

    cluster.apply(pod("user", "data")).await;
    until_phase(&cluster, "data", "Bound").await;
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    let bound = claims.get("data").await.unwrap();
    let spec = bound.spec.unwrap();
    assert_eq!(spec.storage_class_name.as_deref(), Some("local-path"), "the default class");
    let name = spec.volume_name.unwrap();
    assert_eq!(name, format!("pvc-{}", bound.metadata.uid.unwrap()));
    let made = until_volume(&cluster, &name, "Bound").await;
    eventually("the pod runs", async || {
        let pod = cluster.api::<Pod>("default").get("user").await.unwrap();
        is_ready(&pod).then_some(())
    })
    .await;
    let pod_node = cluster.api::<Pod>("default").get("user").await.unwrap().spec.unwrap().node_name;
    assert_eq!(made.labels().get("skerry.io/local-path-node"), pod_node.as_ref());
    assert_eq!(made.spec.unwrap().local.unwrap().path, format!("/var/lib/volumes/{name}"));

    // A second pod of the claim goes where the folder is.
    cluster.apply(pod("second", "data")).await;
    eventually("the second pod is on the same node", async || {
        let second = cluster.api::<Pod>("default").get("second").await.unwrap();
        (second.spec?.node_name? == *pod_node.as_ref()?).then_some(())
    })
    .await;

    claims.delete("data", &Default::default()).await.unwrap();
    let pods: Api<Pod> = cluster.api("default");
    pods.delete("second", &Default::default()).await.unwrap();
    eventually("the second pod is gone", async || {
        pods.get_opt("second").await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(
        claims.get("data").await.unwrap().metadata.deletion_timestamp.is_some(),
        "the first pod still uses it"
    );
    pods.delete("user", &Default::default()).await.unwrap();
    eventually("the claim is gone", async || claims.get_opt("data").await.unwrap().is_none().then_some(()))
        .await;
    let going = until_volume(&cluster, &name, "Released").await;
    assert_eq!(going.metadata.uid, made.metadata.uid);
    eventually("the volume waits for its node", async || {
        let volume = volumes(&cluster).get(&name).await.unwrap();
        (volume.metadata.deletion_timestamp.is_some() && volume.finalizers() == ["skerry.io/local-path"])
            .then_some(())
    })
    .await;
    // The node says that the folder is gone.
    let freed = json!({"metadata": {"finalizers": null}});
    volumes(&cluster).patch(&name, &PatchParams::default(), &Patch::Merge(&freed)).await.unwrap();
    eventually("the volume is gone", async || {
        volumes(&cluster).get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_node_is_gone_goes_without_it() {
    let cluster = start(&["node1"]).await;
    cluster.apply(claim("data", json!({}))).await;
    cluster.apply(pod("user", "data")).await;
    until_phase(&cluster, "data", "Bound").await;
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    let name = claims.get("data").await.unwrap().spec.unwrap().volume_name.unwrap();
    cluster.api::<Pod>("default").delete("user", &Default::default()).await.unwrap();
    claims.delete("data", &Default::default()).await.unwrap();
    until_volume(&cluster, &name, "Released").await;
    Api::<Node>::all(cluster.client.clone()).delete("node1", &Default::default()).await.unwrap();
    eventually("the volume is gone", async || {
        volumes(&cluster).get_opt(&name).await.unwrap().is_none().then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_made_by_hand_is_bound_kept_and_free_again_by_hand() {
    let cluster = start(&["node1"]).await;
    cluster.apply(claim("data", json!({"storageClassName": "manual"}))).await;
    until_told(&cluster, "data", "ProvisioningFailed", "storageclass.storage.k8s.io \"manual\" not found")
        .await;
    cluster.apply(volume("disk", "Retain")).await;
    until_phase(&cluster, "data", "Bound").await;
    let disk = until_volume(&cluster, "disk", "Bound").await;
    assert_eq!(disk.finalizers(), ["kubernetes.io/pv-protection"]);
    // Both are protected while they are bound.
    volumes(&cluster).delete("disk", &Default::default()).await.unwrap();
    assert!(volumes(&cluster).get("disk").await.unwrap().metadata.deletion_timestamp.is_some());
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    claims.delete("data", &Default::default()).await.unwrap();
    eventually("the volume goes after its claim", async || {
        volumes(&cluster).get_opt("disk").await.unwrap().is_none().then_some(())
    })
    .await;

    cluster.apply(volume("kept", "Retain")).await;
    until_volume(&cluster, "kept", "Available").await;
    cluster.apply(claim("again", json!({"storageClassName": "manual"}))).await;
    until_phase(&cluster, "again", "Bound").await;
    claims.delete("again", &Default::default()).await.unwrap();
    until_volume(&cluster, "kept", "Released").await;
    let freed = json!({"spec": {"claimRef": null}});
    volumes(&cluster).patch("kept", &PatchParams::default(), &Patch::Merge(&freed)).await.unwrap();
    until_volume(&cluster, "kept", "Available").await;

    cluster.apply(volume("recycled", "Recycle")).await;
    let named = json!({"storageClassName": "manual", "volumeName": "recycled"});
    cluster.apply(claim("last", named)).await;
    until_phase(&cluster, "last", "Bound").await;
    claims.delete("last", &Default::default()).await.unwrap();
    until_volume(&cluster, "recycled", "Failed").await;
    until_told(&cluster, "recycled", "VolumeFailedRecycle", "use Retain or Delete").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_its_claim_waits_and_says_so() {
    let cluster = start(&["node1"]).await;
    cluster.apply(pod("user", "data")).await;
    let text = "0/1 nodes are available: persistentvolumeclaim \"data\" not found.";
    until_told(&cluster, "user", "FailedScheduling", text).await;
    cluster.apply(claim("data", json!({"storageClassName": ""}))).await;
    until_told(&cluster, "user", "FailedScheduling", "pod has unbound immediate PersistentVolumeClaims")
        .await;
    let mut disk = volume("disk", "Retain");
    disk["spec"]["storageClassName"] = json!("");
    cluster.apply(disk).await;
    eventually("the pod runs", async || {
        is_ready(&cluster.api::<Pod>("default").get("user").await.unwrap()).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_set_go_with_it_or_with_its_pods_where_it_asks_for_that() {
    let cluster = start(&["node1"]).await;
    let template = json!({"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster
        .apply(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": 2, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}},
                "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Delete"},
                "volumeClaimTemplates": [template],
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "nginx",
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}}}))
        .await;
    until_phase(&cluster, "data-web-0", "Bound").await;
    until_phase(&cluster, "data-web-1", "Bound").await;
    eventually("both pods run", async || {
        (cluster.spread("default").await.get("node1") == Some(&2)).then_some(())
    })
    .await;
    cluster.patch::<StatefulSet>("default", "web", json!({"spec": {"replicas": 1}})).await;
    eventually("the claim goes with its pod", async || {
        claim_phase(&cluster, "data-web-1").await.is_none().then_some(())
    })
    .await;
    assert_eq!(claim_phase(&cluster, "data-web-0").await.as_deref(), Some("Bound"));
    cluster.api::<StatefulSet>("default").delete("web", &Default::default()).await.unwrap();
    eventually("the last claim goes with the set", async || {
        claim_phase(&cluster, "data-web-0").await.is_none().then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_does_not_grow_where_its_class_can_not_make_it_grow() {
    let cluster = start(&["node1"]).await;
    cluster.apply(claim("data", json!({}))).await;
    cluster.apply(pod("user", "data")).await;
    until_phase(&cluster, "data", "Bound").await;
    let claims: Api<PersistentVolumeClaim> = cluster.api("default");
    let more = json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}});
    let refused = claims.patch("data", &PatchParams::default(), &Patch::Merge(&more)).await.unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("only dynamically provisioned pvc can be resized"), "{text}");
    cluster.stop().await;
}
