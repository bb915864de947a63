//! NodeAffinity, nodeSelector included.

use skerry_informer::{matches_labels, node_term_holds, selects_node};

use super::{Attempt, MAX_SCORE, Refusal};
use crate::nodes::NodeFacts;
use crate::pod::PodInfo;

pub fn filter(attempt: &Attempt<'_>, _: usize, node: &NodeFacts) -> Result<(), Refusal> {
    if selects(attempt.pod, node) {
        return Ok(());
    }
    Err(Refusal::by_node("node(s) didn't match Pod's node affinity/selector"))
}

/// Whether the pod's nodeSelector and required node affinity pick the node. Terms are alternatives.
pub fn selects(pod: &PodInfo, node: &NodeFacts) -> bool {
    matches_labels(&pod.node_selector, Some(&node.labels))
        && pod.required_nodes.as_ref().is_none_or(|selector| selects_node(selector, &node.name, &node.labels))
}

pub fn score(attempt: &Attempt<'_>, slots: &[usize]) -> Option<Vec<i64>> {
    if attempt.pod.preferred_nodes.is_empty() {
        return None;
    }
    let sum = |slot: &usize| {
        let Some(node) = attempt.nodes.facts(*slot) else { return 0 };
        let met = attempt
            .pod
            .preferred_nodes
            .iter()
            .filter(|term| node_term_holds(&term.preference, &node.name, &node.labels));
        met.map(|term| i64::from(term.weight)).sum::<i64>()
    };
    let sums: Vec<i64> = slots.iter().map(sum).collect();
    let best = sums.iter().copied().max().unwrap_or(0);
    Some(sums.into_iter().map(|sum| if best == 0 { 0 } else { MAX_SCORE * sum / best }).collect())
}
