//! The volumes of pods that were given a node: what is written for them, and which pods wait until theirs are
//! bound.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::json;
use skerry_informer::volume::{BOUND_BY_CONTROLLER, SELECTED_NODE};
use skerry_informer::{Kind, ObjectKey, Store, WriteError, key_of};

use crate::pod::PodInfo;
use crate::volumes::{Choice, Known, Unreadable};

/// How long a pod waits for its volumes before it is scheduled anew, in milliseconds (upstream's
/// `bindTimeoutSeconds`).
const TIMEOUT_MS: u64 = 600_000;

/// Caches of claims, volumes and classes.
#[derive(Clone)]
pub struct Volumes {
    pub claims: Arc<Kind<PersistentVolumeClaim>>,
    pub volumes: Arc<Kind<PersistentVolume>>,
    pub classes: Arc<Store<StorageClass>>,
}

impl Known for Volumes {
    fn claim(&self, namespace: &str, name: &str) -> Result<Option<Arc<PersistentVolumeClaim>>, Unreadable> {
        let key = ObjectKey::new(namespace, name);
        match self.claims.store.unreadable_at(&key) {
            Some(_) => Err(Unreadable),
            None => Ok(self.claims.store.get(&key)),
        }
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.store.get(&ObjectKey::cluster(name))
    }

    fn volumes(&self) -> Vec<Arc<PersistentVolume>> {
        self.volumes.store.list()
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectKey::cluster(name))
    }
}

impl Volumes {
    /// Says for each claim which volume it takes, or on which node one is to be made. Under the versions that
    /// were decided on: of two pods one gets a volume, the other looks again.
    pub async fn reserve(&self, choices: Vec<Choice>, node: &str) -> Result<(), WriteError> {
        for choice in choices {
            match choice {
                Choice::Take(claim, volume) => {
                    let patch = json!({
                        "metadata": {"resourceVersion": volume.resource_version(), "uid": volume.uid(),
                            "annotations": {BOUND_BY_CONTROLLER: "yes"}},
                        "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
                            "name": claim.name_any(), "uid": claim.uid(), "resourceVersion": claim.resource_version()}},
                    });
                    self.volumes.patch(&key_of(&*volume), &patch).await?;
                }
                Choice::Make(claim) if claim.annotations().contains_key(SELECTED_NODE) => {}
                Choice::Make(claim) => {
                    let patch = json!({"metadata": {"resourceVersion": claim.resource_version(), "uid": claim.uid(),
                        "annotations": {SELECTED_NODE: node}}});
                    self.claims.patch(&key_of(&*claim), &patch).await?;
                }
            }
        }
        Ok(())
    }
}

/// A pod that has a node and waits for its volumes.
#[derive(Clone)]
pub struct Waiting {
    pub pod: Arc<PodInfo>,
    pub node: String,
    deadline_ms: u64,
}

/// Bounded by the pods that are not bound.
#[derive(Default)]
pub struct WaitingPods(HashMap<ObjectKey, Waiting>);

impl WaitingPods {
    pub fn add(&mut self, pod: Arc<PodInfo>, node: String, now_ms: u64) {
        let key = pod.key.clone();
        self.0.insert(key, Waiting { pod, node, deadline_ms: now_ms + TIMEOUT_MS });
    }

    pub fn remove(&mut self, key: &ObjectKey) -> Option<Waiting> {
        self.0.remove(key)
    }

    pub fn of(&self, key: &ObjectKey) -> Option<Waiting> {
        self.0.get(key).cloned()
    }

    pub fn for_claim(&self, claim: &ObjectKey) -> Vec<Waiting> {
        let uses = |pod: &PodInfo| {
            pod.key.namespace() == claim.namespace() && pod.claims.iter().any(|name| **name == *claim.name())
        };
        self.0.values().filter(|waiting| uses(&waiting.pod)).cloned().collect()
    }

    pub fn overdue(&self, now_ms: u64) -> Vec<Waiting> {
        self.0.values().filter(|waiting| waiting.deadline_ms <= now_ms).cloned().collect()
    }

    /// When the first of them has waited too long.
    pub fn next_deadline(&self) -> Option<u64> {
        self.0.values().map(|waiting| waiting.deadline_ms).min()
    }
}
