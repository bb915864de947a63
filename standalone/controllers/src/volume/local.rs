//! Volumes of the built-in provisioner: a folder of the node that the claim's first pod goes to. Pure.

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::json;
use skerry_informer::volume::{BOUND_BY_CONTROLLER, LOCAL_PATH, class_of};

/// Label of such a volume: its node's name. By it the node finds its own.
const NODE_LABEL: &str = "skerry.io/local-path-node";
/// Annotation of a node: the folder in which its volumes are.
const FOLDER: &str = "skerry.io/local-path";
/// Keeps the volume until its node has removed the folder.
pub const FINALIZER: &str = "skerry.io/local-path";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The node that has the volume's folder.
pub fn node_of(volume: &PersistentVolume) -> Option<&str> {
    volume.labels().get(NODE_LABEL).map(String::as_str)
}

pub fn is_ours(volume: &PersistentVolume) -> bool {
    volume.annotations().get(PROVISIONED_BY).is_some_and(|by| by == LOCAL_PATH)
}

/// The volume for a claim on this node.
///
/// # Errors
/// Why there can't be one, for people.
pub fn made(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
) -> Result<PersistentVolume, String> {
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.selector.is_some() {
        return Err("claim.spec.selector is not supported: a folder is made new and has no labels".into());
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("volumeMode Block is not supported: a folder is no device".into());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err("dataSource is not supported: a folder is made empty".into());
    }
    let modes = spec.access_modes.clone().unwrap_or_default();
    if let Some(mode) =
        modes.iter().find(|mode| !matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"))
    {
        return Err(format!(
            "accessMode {mode} is not supported: a folder is on one node. Use ReadWriteOnce or ReadWriteOncePod"
        ));
    }
    let name = node.name_any();
    let Some(folder) = node.annotations().get(FOLDER) else {
        return Err(format!("node {name} has no folder for volumes: no skerry node agent has told one"));
    };
    let Some(hostname) = node.labels().get(HOSTNAME) else {
        return Err(format!("node {name} has no label {HOSTNAME}"));
    };
    let uid = claim.uid().unwrap_or_default();
    let volume_name = format!("pvc-{uid}");
    let size = spec.resources.and_then(|resources| resources.requests).unwrap_or_default();
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    let finalizers: &[&str] = if policy == "Delete" { &[FINALIZER] } else { &[] };
    let volume = json!({
        "metadata": {
            "name": volume_name,
            "labels": {NODE_LABEL: name},
            "annotations": {PROVISIONED_BY: LOCAL_PATH, BOUND_BY_CONTROLLER: "yes"},
            "finalizers": finalizers,
        },
        "spec": {
            "capacity": {"storage": size.get("storage")},
            "accessModes": modes,
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": policy,
            "storageClassName": class_of(claim),
            "mountOptions": class.mount_options,
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
                "name": claim.name_any(), "uid": uid, "resourceVersion": claim.resource_version()},
            "local": {"path": format!("{}/{volume_name}", folder.trim_end_matches('/'))},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": HOSTNAME, "operator": "In", "values": [hostname]}]}]}},
        },
    });
    serde_json::from_value(volume).map_err(|error| format!("the volume can't be written down: {error}"))
}
