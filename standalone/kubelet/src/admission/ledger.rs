//! The pods that the node has taken and that have not come to their end: what a new one is judged beside.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;
use skerry_scheduler::{nodes::NodeFacts, pod::PodInfo};

use super::{Abilities, Rejection, decide};

/// By uid. Pods leave it in the order in which the API server tells of their ends: the scheduler, which is
/// told in the same order, does not place a pod here before the one whose room it takes has left.
#[derive(Default)]
pub struct Ledger {
    taken: Mutex<HashMap<String, Arc<PodInfo>>>,
}

impl Ledger {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<PodInfo>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod that was taken before, by this agent or the one before it.
    pub fn keep(&self, pod: &Pod) {
        let info = PodInfo::of(pod);
        if !info.terminal {
            self.lock().insert(info.uid.clone(), Arc::new(info));
        }
    }

    /// What a pod that was taken asks for has changed (it is resized): the newcomers are judged beside what
    /// it asks for now.
    pub fn follow(&self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if self.lock().contains_key(uid) {
            self.keep(pod);
        }
    }

    /// The pod has ended or is gone.
    pub fn release(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Takes the pod if the node can; of two that come at once the second one sees the first.
    ///
    /// # Errors
    /// Why the node does not take it.
    pub fn admit(&self, pod: &Pod, node: &NodeFacts, abilities: &Abilities) -> Result<(), Rejection> {
        let info = Arc::new(PodInfo::of(pod));
        let mut taken = self.lock();
        let others: Vec<Arc<PodInfo>> =
            taken.values().filter(|other| other.uid != info.uid).cloned().collect();
        decide(pod, &info, node, &others, abilities)?;
        taken.insert(info.uid.clone(), info);
        Ok(())
    }
}
