//! TaintToleration.

use k8s_openapi::api::core::v1::Toleration;
use skerry_informer::tolerated;

use super::{Attempt, MAX_SCORE, Refusal};
use crate::nodes::NodeFacts;

pub fn filter(attempt: &Attempt<'_>, _: usize, node: &NodeFacts) -> Result<(), Refusal> {
    let mut hard = node.taints.iter().filter(|taint| matches!(&*taint.effect, "NoSchedule" | "NoExecute"));
    if hard.all(|taint| tolerated(taint, &attempt.pod.tolerations)) {
        return Ok(());
    }
    // Which taints is no longer said (Kubernetes 1.35): as many texts as nodes would hide the other reasons.
    Err(Refusal::by_node("node(s) had untolerated taint(s)"))
}

/// The fewer `PreferNoSchedule` taints are not tolerated, the better.
pub fn score(attempt: &Attempt<'_>, slots: &[usize]) -> Option<Vec<i64>> {
    let soft = |toleration: &&Toleration| {
        matches!(toleration.effect.as_deref().unwrap_or(""), "" | "PreferNoSchedule")
    };
    let tolerations: Vec<&Toleration> = attempt.pod.tolerations.iter().filter(soft).collect();
    let count = |slot: &usize| {
        let taints = attempt.nodes.facts(*slot).map(|node| &node.taints[..]).unwrap_or_default();
        let soft = taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !tolerated(taint, tolerations.iter().copied())).count() as i64
    };
    let counts: Vec<i64> = slots.iter().map(count).collect();
    let most = counts.iter().copied().max().unwrap_or(0);
    let score = |count| if most == 0 { MAX_SCORE } else { MAX_SCORE - MAX_SCORE * count / most };
    Some(counts.into_iter().map(score).collect())
}
