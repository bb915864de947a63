//! NodeUnschedulable and NodeName.

use k8s_openapi::api::core::v1::Taint;
use skerry_informer::tolerated;

use super::{Attempt, Refusal};
use crate::nodes::NodeFacts;

/// A cordoned node takes only pods that tolerate the taint which stands for being cordoned.
pub fn unschedulable(attempt: &Attempt<'_>, _: usize, node: &NodeFacts) -> Result<(), Refusal> {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Default::default()
    };
    if node.unschedulable && !tolerated(&taint, &attempt.pod.tolerations) {
        return Err(Refusal::by_node("node(s) were unschedulable"));
    }
    Ok(())
}

pub fn name(attempt: &Attempt<'_>, _: usize, node: &NodeFacts) -> Result<(), Refusal> {
    match &attempt.pod.node {
        Some(name) if *name != node.name => {
            Err(Refusal::by_node("node(s) didn't match the requested node name"))
        }
        _ => Ok(()),
    }
}
