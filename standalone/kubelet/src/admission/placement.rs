//! Room, ports, labels and taints: what the scheduler checks too, by the scheduler's own rules.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skerry_informer::tolerated;
use skerry_scheduler::{
    nodes::NodeFacts,
    plugins::{insufficient, selects},
    pod::PodInfo,
    resources::Resources,
};

use super::Rejection;

const OS_LABEL: &str = "kubernetes.io/os";
const OWN_OS: &str = "linux";

/// A pod for another operating system.
pub fn operating_system(pod: &Pod) -> Result<(), Rejection> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL));
    if label.is_some_and(|os| os != OWN_OS) {
        return Err(Rejection::new(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    let field = pod.spec.as_ref().and_then(|spec| spec.os.as_ref());
    if field.is_some_and(|os| os.name != OWN_OS) {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(Rejection::new("PodOSNotSupported", message));
    }
    Ok(())
}

pub fn check(pod: &PodInfo, node: &NodeFacts, others: &[Arc<PodInfo>]) -> Result<(), Rejection> {
    let mut used = Resources::default();
    for other in others {
        used.add(&other.requests);
    }
    if let Some(lack) = insufficient(&known_here(&pod.requests, node), &used, others.len(), node).first() {
        return Err(Rejection::new(
            format!("OutOf{}", lack.resource),
            format!(
                "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
                lack.resource, lack.requested, lack.used, lack.capacity
            ),
        ));
    }
    if !selects(pod, node) {
        return Err(predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if pod.node.as_ref().is_some_and(|name| *name != node.name) {
        return Err(predicate("NodeName", "node(s) didn't match the requested node name"));
    }
    let mut taken = others.iter().flat_map(|other| &other.ports);
    if taken.any(|port| pod.ports.iter().any(|wanted| wanted.conflicts(port))) {
        return Err(predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let mut evicting = node.taints.iter().filter(|taint| taint.effect == "NoExecute");
    if evicting.any(|taint| !tolerated(taint, &pod.tolerations)) {
        return Err(predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

/// Extended resources that the node does not know are the cluster's (a scheduler extender's): not the node's
/// to count.
fn known_here(requests: &Resources, node: &NodeFacts) -> Resources {
    let mut known = requests.clone();
    let extended = |name: &str| name.contains('/') && !name.contains("kubernetes.io/");
    known.others.retain(|name, _| !extended(name) || node.allocatable.others.contains_key(name));
    known
}

fn predicate(name: &str, why: &str) -> Rejection {
    Rejection::new(name, format!("Predicate {name} failed: {why}"))
}
