//! The text of a FailedScheduling event and of the pod's condition, in the form users know.

use crate::cycle::Diagnosis;

/// `0/4 nodes are available: 1 node(s) had …, 3 Insufficient cpu. preemption: …` Of preemption only where it could not help
/// is said: nobody looks for victims on the other nodes.
pub fn unschedulable(diagnosis: &Diagnosis) -> String {
    if diagnosis.nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut counts: Vec<String> =
        diagnosis.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    counts.sort();
    counts.extend(diagnosis.whole.clone());
    let all = diagnosis.nodes;
    let mut text = format!("0/{all} nodes are available: {}.", counts.join(", "));
    let hopeless = all.saturating_sub(diagnosis.crowded.len());
    if hopeless > 0 {
        let not_helpful = format!("{hopeless} Preemption is not helpful for scheduling");
        text.push_str(&format!(" preemption: 0/{all} nodes are available: {not_helpful}."));
    }
    text
}
