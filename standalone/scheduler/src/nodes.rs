//! The nodes with what is placed on them: columns, kept up to date change by change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;

use crate::pod::PodInfo;
use crate::resources::Resources;

/// What does not change when pods come and go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`, of all effects.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`: cordoned.
    pub unschedulable: bool,
    /// What pods may ask for in all: `status.allocatable`, or else `status.capacity`.
    pub allocatable: Resources,
    /// Most pods at a time.
    pub max_pods: i64,
}

impl NodeFacts {
    /// What can't be read of amounts is 0: a Node without any takes no pod.
    pub fn of(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let max_pods = allocatable.and_then(|all| all.get("pods")).and_then(skerry_informer::whole);
        Self {
            name: node.name_any(),
            labels: node.labels().clone(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: allocatable.map(Resources::of).unwrap_or_default(),
            max_pods: max_pods.unwrap_or(0),
        }
    }
}

/// What changed of a node, so that only pods whom it may help are woken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeChange {
    /// It was not there before: the others are false then.
    pub added: bool,
    /// `allocatable` or `max_pods`.
    pub allocatable: bool,
    /// Any label.
    pub labels: bool,
    /// A taint, or whether it is cordoned.
    pub taints: bool,
}

/// Columns, all of the same length; a slot is a node. Slots of nodes that left are used again.
#[derive(Clone, Default)]
pub(crate) struct Nodes {
    slots: HashMap<String, usize>,
    free: Vec<usize>,
    /// `None` for a free slot, and for a node that pods are bound to but that is not there (any more, or
    /// yet).
    facts: Vec<Option<Arc<NodeFacts>>>,
    names: Vec<String>,
    requested: Vec<Resources>,
    scoring: Vec<(i64, i64)>,
    pods: Vec<HashSet<String>>,
    placed: HashMap<String, (usize, Arc<PodInfo>)>,
    /// Pods of one controller, by slot.
    owners: HashMap<String, HashMap<usize, usize>>,
    /// Placed pods that keep others away: their required anti-affinity concerns every newcomer.
    guarded: HashSet<String>,
    /// Placed pods with any other affinity: it weighs in when newcomers are scored.
    social: HashSet<String>,
    present: usize,
}

impl Nodes {
    /// Takes the node's present state; what of it changed.
    pub fn set(&mut self, node: &Node) -> NodeChange {
        let new = NodeFacts::of(node);
        let slot = self.slot(&new.name);
        let change = match &self.facts[slot] {
            None => NodeChange { added: true, ..Default::default() },
            Some(old) => NodeChange {
                added: false,
                allocatable: old.allocatable != new.allocatable || old.max_pods != new.max_pods,
                labels: old.labels != new.labels,
                taints: old.taints != new.taints || old.unschedulable != new.unschedulable,
            },
        };
        self.present += usize::from(change.added);
        self.facts[slot] = Some(Arc::new(new));
        change
    }

    /// The node is gone; pods that are still bound to it stay noted until they go.
    pub fn remove(&mut self, name: &str) {
        let Some(&slot) = self.slots.get(name) else { return };
        if self.facts[slot].take().is_some() {
            self.present -= 1;
        }
        self.recycle(slot);
    }

    /// Places a pod on a node: bound, or assumed to be bound soon. Placing it again is no change, placing it
    /// elsewhere moves it. Ended pods take no room.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        if pod.terminal {
            self.unplace(&pod.uid);
            return;
        }
        if let Some((slot, there)) = self.placed.get(&pod.uid) {
            if self.names[*slot] == node && there.requests == pod.requests && there.labels == pod.labels {
                self.placed.insert(pod.uid.clone(), (*slot, pod));
                return;
            }
            self.unplace(&pod.uid);
        }
        let slot = self.slot(node);
        self.requested[slot].add(&pod.requests);
        self.scoring[slot].0 = self.scoring[slot].0.saturating_add(pod.scoring.0);
        self.scoring[slot].1 = self.scoring[slot].1.saturating_add(pod.scoring.1);
        self.pods[slot].insert(pod.uid.clone());
        if let Some(owner) = &pod.owner {
            *self.owners.entry(owner.clone()).or_default().entry(slot).or_insert(0) += 1;
        }
        if !pod.anti_affinity.required.is_empty() {
            self.guarded.insert(pod.uid.clone());
        }
        let affinities = (&pod.affinity.required, &pod.affinity.preferred, &pod.anti_affinity.preferred);
        if !affinities.0.is_empty() || !affinities.1.is_empty() || !affinities.2.is_empty() {
            self.social.insert(pod.uid.clone());
        }
        self.placed.insert(pod.uid.clone(), (slot, pod));
    }

    /// Takes a pod off its node; whether it was on one.
    pub fn unplace(&mut self, uid: &str) -> bool {
        let Some((slot, pod)) = self.placed.remove(uid) else { return false };
        self.requested[slot].subtract(&pod.requests);
        self.scoring[slot].0 -= pod.scoring.0;
        self.scoring[slot].1 -= pod.scoring.1;
        self.pods[slot].remove(uid);
        self.guarded.remove(uid);
        self.social.remove(uid);
        if let Some(owner) = &pod.owner
            && let Some(counts) = self.owners.get_mut(owner)
        {
            if let Some(count) = counts.get_mut(&slot) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&slot);
                }
            }
            if counts.is_empty() {
                self.owners.remove(owner);
            }
        }
        self.recycle(slot);
        true
    }

    /// Slots of nodes that are there.
    pub fn present(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.facts.len()).filter(|slot| self.facts[*slot].is_some())
    }

    pub fn len(&self) -> usize {
        self.present
    }

    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// Number of slots, used or not: the length of every column.
    pub fn width(&self) -> usize {
        self.facts.len()
    }

    pub fn facts(&self, slot: usize) -> Option<&NodeFacts> {
        self.facts[slot].as_deref()
    }

    /// A node by its name.
    pub fn facts_of(&self, name: &str) -> Option<&NodeFacts> {
        self.slots.get(name).and_then(|slot| self.facts(*slot))
    }

    pub fn requested(&self, slot: usize) -> &Resources {
        &self.requested[slot]
    }

    /// CPU (thousandths) and memory (bytes) that scoring counts.
    pub fn scoring(&self, slot: usize) -> (i64, i64) {
        self.scoring[slot]
    }

    pub fn pods_on(&self, slot: usize) -> impl Iterator<Item = &Arc<PodInfo>> {
        self.pods[slot].iter().filter_map(|uid| self.placed.get(uid)).map(|(_, pod)| pod)
    }

    /// Placed and assumed ones.
    pub fn pod_count(&self, slot: usize) -> usize {
        self.pods[slot].len()
    }

    /// Pods of this controller, by slot.
    pub fn of_owner(&self, owner: &str) -> Option<&HashMap<usize, usize>> {
        self.owners.get(owner)
    }

    pub fn placed(&self) -> impl Iterator<Item = (usize, &Arc<PodInfo>)> {
        self.placed.values().map(|(slot, pod)| (*slot, pod))
    }

    /// Placed pods with a required anti-affinity.
    pub fn guarded(&self) -> impl Iterator<Item = (usize, &Arc<PodInfo>)> {
        self.guarded.iter().filter_map(|uid| self.placed.get(uid)).map(|(slot, pod)| (*slot, pod))
    }

    /// Placed pods with an affinity that is preferred, or required towards others.
    pub fn social(&self) -> impl Iterator<Item = (usize, &Arc<PodInfo>)> {
        self.social.iter().filter_map(|uid| self.placed.get(uid)).map(|(slot, pod)| (*slot, pod))
    }

    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(|(slot, _)| self.names[*slot].as_str())
    }

    pub fn slot_of(&self, node: &str) -> Option<usize> {
        self.slots.get(node).copied()
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(&slot) = self.slots.get(name) {
            return slot;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.facts.push(None);
                self.names.push(String::new());
                self.requested.push(Resources::default());
                self.scoring.push((0, 0));
                self.pods.push(HashSet::new());
                self.facts.len() - 1
            }
        };
        self.names[slot] = name.to_owned();
        self.slots.insert(name.to_owned(), slot);
        slot
    }

    fn recycle(&mut self, slot: usize) {
        if self.facts[slot].is_none() && self.pods[slot].is_empty() {
            self.slots.remove(&self.names[slot]);
            self.names[slot].clear();
            self.free.push(slot);
        }
    }
}
