//! One step of a claim: which volume it gets, and what is said. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::{Value, json};
use skerry_informer::volume::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, LOCAL_PATH, NO_PROVISIONER, Place, SELECTED_NODE, best, class_of,
    is_bound, mismatch, refers_to,
};

use super::{News, local};

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";

pub struct Snapshot<'a> {
    pub claim: &'a PersistentVolumeClaim,
    pub volumes: &'a [Arc<PersistentVolume>],
    /// The volume that the claim names is there, but can't be read.
    pub volume_is_unreadable: bool,
    pub classes: &'a [Arc<StorageClass>],
    /// The node that the scheduler has selected for it.
    pub node: Option<&'a Node>,
}

/// What is to be done, in this order; one thing is made or decided a step.
#[derive(Debug, Default)]
pub struct Plan {
    pub news: Vec<News>,
    /// A volume that is made for the claim.
    pub make: Option<PersistentVolume>,
    /// A volume, and the merge patch that makes it the claim's.
    pub reserve: Option<(Arc<PersistentVolume>, Value)>,
    /// Merge patch of the claim.
    pub claim: Option<Value>,
    pub status: Option<PersistentVolumeClaimStatus>,
}

impl Plan {
    fn phase(&mut self, claim: &PersistentVolumeClaim, phase: &str) {
        let mut status = claim.status.clone().unwrap_or_default();
        status.phase = Some(phase.into());
        self.status = Some(status);
    }
}

pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let claim = snapshot.claim;
    let mut plan = Plan::default();
    let named =
        claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).filter(|name| !name.is_empty());
    match named {
        // Nothing happens on the account of what can't be read.
        Some(_) if snapshot.volume_is_unreadable => {}
        Some(name) => {
            let volume = snapshot.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name));
            meet(claim, name, volume, &mut plan);
        }
        None if claim.metadata.deletion_timestamp.is_some() => {}
        None => find(snapshot, &mut plan),
    }
    plan
}

/// The claim names its volume: both come together, or what keeps them apart is told.
fn meet(claim: &PersistentVolumeClaim, name: &str, volume: Option<&Arc<PersistentVolume>>, plan: &mut Plan) {
    let was_bound = is_bound(claim);
    let Some(volume) = volume else {
        return if was_bound {
            lose(
                claim,
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
                plan,
            );
        } else {
            plan.phase(claim, "Pending");
        };
    };
    match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
        Some(reference) if refers_to(reference, claim) => bind(claim, volume, plan),
        Some(_) if was_bound => {
            let text = "Two claims are bound to the same volume, this one is bound incorrectly";
            lose(claim, "ClaimMisbound", text, plan);
        }
        Some(_) => {
            plan.news.push(News::warning(
                "FailedBinding",
                format!("volume \"{name}\" already bound to a different claim."),
            ));
            plan.phase(claim, "Pending");
        }
        None if was_bound => {
            // Somebody took the volume's side back.
            lose(
                claim,
                "ClaimLost",
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
                plan,
            );
        }
        None => match mismatch(claim, volume) {
            Some(why) => {
                let text = format!("Cannot bind to requested volume \"{name}\": {why}");
                plan.news.push(News::warning("VolumeMismatch", text));
                plan.phase(claim, "Pending");
            }
            None => bind(claim, volume, plan),
        },
    }
}

fn lose(claim: &PersistentVolumeClaim, reason: &'static str, text: &str, plan: &mut Plan) {
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Lost") {
        plan.news.push(News::warning(reason, text));
    }
    plan.phase(claim, "Lost");
}

/// Each side that does not say so yet.
fn bind(claim: &PersistentVolumeClaim, volume: &Arc<PersistentVolume>, plan: &mut Plan) {
    let spec = volume.spec.clone().unwrap_or_default();
    let has_uid = spec.claim_ref.as_ref().is_some_and(|reference| reference.uid == claim.metadata.uid);
    if !has_uid {
        let mut patch = json!({"spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "namespace": claim.namespace(), "name": claim.name_any(), "uid": claim.uid(),
            "resourceVersion": claim.resource_version()}}});
        if spec.claim_ref.is_none() {
            patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
        }
        plan.reserve = Some((volume.clone(), patch));
    }
    let name = volume.name_any();
    let by_user = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref()) == Some(&name);
    if !by_user || !claim.annotations().contains_key(BIND_COMPLETED) {
        let mut patch =
            json!({"spec": {"volumeName": name}, "metadata": {"annotations": {BIND_COMPLETED: "yes"}}});
        if !by_user {
            patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
        }
        plan.claim = Some(patch);
    }
    let mut status = claim.status.clone().unwrap_or_default();
    status.phase = Some("Bound".into());
    status.access_modes = spec.access_modes;
    status.capacity = spec.capacity;
    plan.status = Some(status);
}

/// The claim leaves the choice open.
fn find(snapshot: &Snapshot<'_>, plan: &mut Plan) {
    let claim = snapshot.claim;
    plan.phase(claim, "Pending");
    if class_of(claim).is_none()
        && let Some(class) = default_class(snapshot.classes)
    {
        plan.claim = Some(json!({"spec": {"storageClassName": class.name_any()}}));
        return;
    }
    let name = class_of(claim).unwrap_or_default();
    let class = snapshot.classes.iter().find(|class| class.metadata.name.as_deref() == Some(name));
    let waits =
        class.is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let selected = claim.annotations().get(SELECTED_NODE);
    let no_labels = std::collections::BTreeMap::new();
    let place = snapshot.node.and_then(|node| {
        let labels = node.metadata.labels.as_ref().unwrap_or(&no_labels);
        node.metadata.name.as_ref().map(|name| Place { name, labels })
    });
    if let Some(volume) = best(claim, snapshot.volumes, place, waits) {
        return bind(claim, volume, plan);
    }
    let news = match class {
        None if name.is_empty() => News::fine(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
        None => {
            News::warning("ProvisioningFailed", format!("storageclass.storage.k8s.io {name:?} not found"))
        }
        Some(_) if waits && selected.is_none() => {
            News::fine("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
        }
        Some(class) if class.provisioner == NO_PROVISIONER => News::fine(
            "FailedBinding",
            "no persistent volumes available for this claim, and its class makes none",
        ),
        Some(class) if class.provisioner == LOCAL_PATH => match (selected, snapshot.node) {
            (None, _) => News::warning(
                "ProvisioningFailed",
                format!(
                    "class {name:?} must have volumeBindingMode WaitForFirstConsumer: a folder is on the node of the \
                     claim's first pod"
                ),
            ),
            (Some(node), None) => News::warning("ProvisioningFailed", format!("node {node:?} not found")),
            (Some(_), Some(node)) => match local::made(claim, class, node) {
                Ok(volume) => {
                    plan.make = Some(volume);
                    return;
                }
                Err(why) => News::warning(
                    "ProvisioningFailed",
                    format!("failed to provision volume with StorageClass {name:?}: {why}"),
                ),
            },
        },
        Some(class) => {
            let by = &class.provisioner;
            if claim.annotations().get(PROVISIONER) != Some(by) {
                let annotations = json!({PROVISIONER: by, OLD_PROVISIONER: by});
                plan.claim = Some(json!({"metadata": {"annotations": annotations}}));
            }
            let text = format!(
                "Waiting for a volume to be created either by the external provisioner '{by}' or manually by the system \
                 administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered."
            );
            News::fine("ExternalProvisioning", text)
        }
    };
    plan.news.push(news);
}

/// Of several the newest, as at the API server's admission.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let default = |class: &&Arc<StorageClass>| {
        class.annotations().get(DEFAULT_CLASS).is_some_and(|text| text == "true")
    };
    let age = |class: &&Arc<StorageClass>| {
        let made = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (std::cmp::Reverse(made), class.name_any())
    };
    classes.iter().filter(default).min_by_key(age)
}

#[cfg(test)]
mod tests;
