//! Which pod of a ReplicaSet goes first when there are too many, as
//! <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset> documents.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::pod::{is_active, is_ready, node_name, phase, ready_since, restarts};

/// Annotation by which users say which pod is cheap to lose.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Active pods a node, over all sets with the same owner.
pub struct NodeCounts(HashMap<String, usize>);

impl NodeCounts {
    pub fn of(pods: &[Arc<Pod>]) -> Self {
        let mut counts = HashMap::new();
        for node in pods.iter().filter(|pod| is_active(pod)).filter_map(|pod| node_name(pod)) {
            *counts.entry(node.to_owned()).or_insert(0) += 1;
        }
        Self(counts)
    }

    fn on_node_of(&self, pod: &Pod) -> usize {
        node_name(pod).and_then(|node| self.0.get(node)).copied().unwrap_or(0)
    }
}

/// `Less` when `a` goes before `b`.
pub fn first_to_go(a: &Pod, b: &Pod, counts: &NodeCounts, now: Timestamp) -> Ordering {
    let newer_first = |a: Option<Timestamp>, b: Option<Timestamp>| match (a, b) {
        (Some(a), Some(b)) if a != b => age_class(a, now).cmp(&age_class(b, now)),
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        _ => Ordering::Equal,
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    node_name(a)
        .is_some()
        .cmp(&node_name(b).is_some())
        .then_with(|| phase_order(a).cmp(&phase_order(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| counts.on_node_of(b).cmp(&counts.on_node_of(a)))
        .then_with(|| newer_first(ready_since(a), ready_since(b)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| newer_first(created(a), created(b)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn phase_order(pod: &Pod) -> u8 {
    match phase(pod) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Ages are compared by their magnitude only, so that the youngest of many about equally old pods is not
/// always the one (KEP-2185).
fn age_class(time: Timestamp, now: Timestamp) -> u32 {
    let age = now.as_nanosecond() - time.as_nanosecond();
    u64::try_from(age).ok().filter(|age| *age > 0).map_or(0, |age| age.ilog2() + 1)
}
