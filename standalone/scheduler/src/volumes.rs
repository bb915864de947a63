//! A pod's claims: what they ask of nodes, and what has to be written before the pod is bound to one. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use skerry_informer::volume::{
    NO_PROVISIONER, Place, SELECTED_NODE, best, class_of, is_bound, is_own, reaches, size_asked,
};

use crate::nodes::NodeFacts;
use crate::pod::PodInfo;

/// An object that is there, but can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// What is known of claims, volumes and classes at one moment.
pub trait Known {
    /// `Ok(None)`: there is none.
    fn claim(&self, namespace: &str, name: &str) -> Result<Option<Arc<PersistentVolumeClaim>>, Unreadable>;
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    fn volumes(&self) -> Vec<Arc<PersistentVolume>>;
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
}

/// A claim whose volume is chosen with the node.
#[derive(Clone, Debug)]
pub struct Open {
    /// As it was when the pod was looked at.
    pub claim: Arc<PersistentVolumeClaim>,
    class: Arc<StorageClass>,
}

/// What a pod's claims ask of nodes.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// Why no node at all will do.
    pub refusal: Option<String>,
    bound: Vec<Arc<PersistentVolume>>,
    /// A claim of it is bound to a volume that is not there.
    lost: bool,
    /// Larger ones come last, so that they find what smaller ones leave.
    pub open: Vec<Open>,
    /// Volumes that open claims could have.
    free: Vec<Arc<PersistentVolume>>,
    /// Claims that one pod alone may use (`ReadWriteOncePod`).
    pub exclusive: Vec<String>,
}

/// How an open claim comes to its volume.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// One that is there.
    Take(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    /// One that is made for it on the node.
    Make(Arc<PersistentVolumeClaim>),
}

/// Why a node can't have the pod's volumes, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A volume that it is bound to can't be used there.
    Reach,
    /// A volume that it is bound to is gone.
    Lost,
    /// No volume is free for an open claim, and none can be made there.
    Free,
}

impl Lack {
    pub fn text(self) -> &'static str {
        match self {
            Self::Reach => "node(s) had volume node affinity conflict",
            Self::Lost => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            Self::Free => "node(s) didn't find available persistent volumes to bind",
        }
    }
}

impl Demands {
    /// All of them, at the moment that `known` shows.
    pub fn of(pod: &PodInfo, known: &impl Known) -> Self {
        let mut demands = Self::default();
        for name in &pod.claims {
            if let Err(text) = demands.add(pod, name, known) {
                demands.refusal = Some(text);
                return demands;
            }
        }
        if !demands.open.is_empty() {
            demands.open.sort_by_key(|open| size_asked(&open.claim));
            demands.free = known.volumes();
        }
        demands
    }

    fn add(&mut self, pod: &PodInfo, name: &str, known: &impl Known) -> Result<(), String> {
        let own = pod.own_claims.iter().any(|own| own == name);
        let claim = known
            .claim(pod.key.namespace(), name)
            .map_err(|Unreadable| format!("persistentvolumeclaim {name:?} can't be read"))?;
        let claim = claim.ok_or_else(|| match own {
            true => {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                )
            }
            false => format!("persistentvolumeclaim {name:?} not found"),
        })?;
        if own {
            is_own(&claim, pod.key.name(), &pod.uid)?;
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
            return Err(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        let spec = claim.spec.as_ref();
        if spec
            .and_then(|spec| spec.access_modes.as_ref())
            .is_some_and(|modes| modes == &["ReadWriteOncePod"])
        {
            self.exclusive.push(name.to_owned());
        }
        if is_bound(&claim) {
            match spec.and_then(|spec| spec.volume_name.as_ref()).and_then(|name| known.volume(name)) {
                Some(volume) => self.bound.push(volume),
                None => self.lost = true,
            }
            return Ok(());
        }
        let class = class_of(&claim).and_then(|name| known.class(name));
        let is_named = spec.and_then(|spec| spec.volume_name.as_deref()).is_some_and(|name| !name.is_empty());
        match class {
            Some(class)
                if !is_named && class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") =>
            {
                self.open.push(Open { claim, class });
                Ok(())
            }
            _ => Err("pod has unbound immediate PersistentVolumeClaims".to_owned()),
        }
    }

    /// Whether each open claim has a volume of its own, or one that is being made on this node.
    pub fn all_promised(&self, node: &str) -> bool {
        self.open.iter().all(|Open { claim, .. }| {
            let selected = claim.metadata.annotations.as_ref().and_then(|all| all.get(SELECTED_NODE));
            selected.is_some_and(|selected| selected == node) || best(claim, &self.free, None, true).is_some()
        })
    }

    /// How the open claims come to their volumes on this node.
    ///
    /// # Errors
    /// What the node lacks.
    pub fn choose(&self, node: &NodeFacts) -> Result<Vec<Choice>, Lack> {
        let place = Place { name: &node.name, labels: &node.labels };
        if self.lost {
            return Err(Lack::Lost);
        }
        if self.bound.iter().any(|volume| !reaches(volume, place)) {
            return Err(Lack::Reach);
        }
        let mut free = self.free.clone();
        let mut choices = Vec::new();
        for Open { claim, class } in &self.open {
            // One that was promised to another node stays there until its provisioner gives up.
            let selected = claim.metadata.annotations.as_ref().and_then(|all| all.get(SELECTED_NODE));
            if let Some(selected) = selected {
                if *selected != node.name {
                    return Err(Lack::Free);
                }
                choices.push(Choice::Make(claim.clone()));
                continue;
            }
            if let Some(volume) = best(claim, &free, Some(place), false).cloned() {
                free.retain(|other| !Arc::ptr_eq(other, &volume));
                choices.push(Choice::Take(claim.clone(), volume));
            } else if class.provisioner != NO_PROVISIONER && is_allowed(class, &node.labels) {
                choices.push(Choice::Make(claim.clone()));
            } else {
                return Err(Lack::Free);
            }
        }
        Ok(choices)
    }
}

/// Whether the class makes volumes for such nodes (`allowedTopologies`).
fn is_allowed(class: &StorageClass, labels: &BTreeMap<String, String>) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let holds = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        expressions
            .iter()
            .all(|wanted| labels.get(&wanted.key).is_some_and(|value| wanted.values.contains(value)))
    };
    terms.is_empty() || terms.iter().any(holds)
}

#[cfg(test)]
mod tests;
