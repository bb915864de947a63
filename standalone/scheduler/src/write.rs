//! What the scheduler writes: bindings, why a pod has no node, the end of victims.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use skerry_informer::Kind;
use skerry_vocabulary::time;
use tracing::{debug, warn};

use crate::pod::{DISRUPTION_TARGET, PREEMPTED, PodInfo};

pub async fn bind(kind: &Kind<Pod>, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.key.name().to_owned()),
            namespace: Some(pod.key.namespace().to_owned()),
            uid: Some(pod.uid.clone()),
            ..Default::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..Default::default()
        },
    };
    let api = kind.api(pod.key.namespace());
    let params = PostParams::default();
    api.create_subresource::<_, Value>("binding", pod.key.name(), &params, &binding).await.map(drop)
}

/// Condition `PodScheduled`, and the node that is kept for the pod.
pub async fn unschedulable(kind: &Kind<Pod>, pod: &PodInfo, text: &str, nominated: Option<&str>) {
    let mut status = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text,
        "lastProbeTime": null, "lastTransitionTime": time::seconds(Timestamp::now()),
    }]});
    if let Some(node) = nominated {
        status["nominatedNodeName"] = json!(node);
    }
    if let Err(error) = patch(kind, pod, status).await {
        debug!(pod = %pod.key, %error, "condition of an unschedulable pod not written");
    }
}

/// Says which node is kept for the pod, or that none is any more.
pub async fn nominate(kind: &Kind<Pod>, pod: &PodInfo, node: Option<&str>) {
    if let Err(error) = patch(kind, pod, json!({"nominatedNodeName": node})).await {
        debug!(pod = %pod.key, %error, "nominated node not written");
    }
}

/// Marks a pod as preempted and deletes it; whether it goes, or is gone.
pub async fn end(kind: &Kind<Pod>, victim: &PodInfo) -> bool {
    let condition = json!({
        "type": DISRUPTION_TARGET, "status": "True", "reason": PREEMPTED,
        "message": "default-scheduler: preempting to accommodate a higher priority pod",
        "lastProbeTime": null, "lastTransitionTime": time::seconds(Timestamp::now()),
    });
    if let Err(error) = patch(kind, victim, json!({"conditions": [condition]})).await {
        debug!(pod = %victim.key, %error, "condition of a preempted pod not written");
    }
    let preconditions = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
    let params = DeleteParams::default().preconditions(preconditions);
    match kind.api(victim.key.namespace()).delete(victim.key.name(), &params).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => true,
        Err(error) => {
            warn!(pod = %victim.key, %error, "preempted pod not deleted");
            false
        }
    }
}

async fn patch(kind: &Kind<Pod>, pod: &PodInfo, status: Value) -> Result<(), kube::Error> {
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
    let api = kind.api(pod.key.namespace());
    let made = api.patch_status(pod.key.name(), &PatchParams::default(), &patch).await?;
    kind.store.wrote(made);
    Ok(())
}
