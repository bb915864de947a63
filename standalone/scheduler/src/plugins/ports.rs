//! NodePorts: a port of the node belongs to one pod.

use super::{Attempt, Refusal};
use crate::nodes::NodeFacts;

pub fn filter(attempt: &Attempt<'_>, slot: usize, _: &NodeFacts) -> Result<(), Refusal> {
    let wanted = &attempt.pod.ports;
    if wanted.is_empty() {
        return Ok(());
    }
    let mut taken = attempt.nodes.pods_on(slot).flat_map(|pod| &pod.ports);
    if taken.any(|port| wanted.iter().any(|wanted| wanted.conflicts(port))) {
        return Err(Refusal::by_pods("node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}
