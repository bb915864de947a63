//! The text of a FailedScheduling event and of the pod's condition, in the form users know.

use std::collections::BTreeMap;

use crate::cycle::Diagnosis;
use crate::preempt::Preemption;

/// `0/4 nodes are available: 1 node(s) had …, 3 Insufficient cpu. preemption: …`; of preemption nothing is
/// said where it helps.
pub fn unschedulable(diagnosis: &Diagnosis, preemption: &Preemption) -> String {
    if diagnosis.nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let text = of_nodes(diagnosis.nodes, &diagnosis.reasons, diagnosis.whole.as_deref());
    match preemption {
        Preemption::Victims { .. } => text,
        Preemption::NotEligible(why) => format!("{text} preemption: {why}"),
        Preemption::Hopeless(reasons) => {
            format!("{text} preemption: {}", of_nodes(diagnosis.nodes, reasons, None))
        }
    }
}

fn of_nodes(all: usize, reasons: &BTreeMap<String, usize>, whole: Option<&str>) -> String {
    let mut counts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    counts.sort();
    counts.extend(whole.map(str::to_owned));
    format!("0/{all} nodes are available: {}.", counts.join(", "))
}
