//! VolumeBinding and VolumeRestrictions.

use super::{Attempt, Refusal};
use crate::nodes::NodeFacts;

pub fn binding(attempt: &Attempt<'_>, _: usize, node: &NodeFacts) -> Result<(), Refusal> {
    attempt.demands.choose(node).map(drop).map_err(|lack| Refusal::by_node(lack.text()))
}

/// A claim for one pod alone is not given to a second, on whichever node.
pub fn exclusive(attempt: &Attempt<'_>, _: usize, _: &NodeFacts) -> Result<(), Refusal> {
    let demands = attempt.demands;
    if demands.exclusive.is_empty() {
        return Ok(());
    }
    let uses = |other: &crate::pod::PodInfo| {
        !other.terminal
            && other.uid != attempt.pod.uid
            && other.key.namespace() == attempt.pod.key.namespace()
            && other.claims.iter().any(|claim| demands.exclusive.contains(claim))
    };
    if attempt.nodes.placed().any(|(_, other)| uses(other)) {
        let text =
            "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
        return Err(Refusal::by_pods(text));
    }
    Ok(())
}
