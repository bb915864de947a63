//! NodeResourcesFit and NodeResourcesBalancedAllocation.

use super::{Attempt, MAX_SCORE, Refusal};
use crate::nodes::NodeFacts;
use crate::resources::Resources;

/// A resource of which a node has too little left for a pod, in the units of [`Resources`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insufficient {
    /// `pods` for the number of pods itself.
    pub resource: String,
    /// What the pod asks for, more than 0.
    pub requested: i64,
    /// What the other pods ask for.
    pub used: i64,
    /// What the node has in all.
    pub capacity: i64,
}

/// What of the request does not fit beside `used` and so many pods: every lacking resource. The node agent
/// asks the same.
pub fn insufficient(
    request: &Resources,
    used: &Resources,
    pods: usize,
    node: &NodeFacts,
) -> Vec<Insufficient> {
    let has = &node.allocatable;
    let mut lacking = Vec::new();
    let mut check = |resource: &str, requested: i64, used: i64, capacity: i64| {
        if requested > 0 && requested > capacity.saturating_sub(used) {
            lacking.push(Insufficient { resource: resource.to_owned(), requested, used, capacity });
        }
    };
    check("pods", 1, i64::try_from(pods).unwrap_or(i64::MAX), node.max_pods);
    check("cpu", request.milli_cpu, used.milli_cpu, has.milli_cpu);
    check("memory", request.memory, used.memory, has.memory);
    check("ephemeral-storage", request.ephemeral_storage, used.ephemeral_storage, has.ephemeral_storage);
    for (name, asked) in &request.others {
        let amount = |of: &Resources| of.others.get(name).copied().unwrap_or(0);
        check(name, *asked, amount(used), amount(has));
    }
    lacking
}

pub fn filter(attempt: &Attempt<'_>, slot: usize, node: &NodeFacts) -> Result<(), Refusal> {
    let (request, used) = (&attempt.pod.requests, attempt.nodes.requested(slot));
    let lacking = insufficient(request, used, attempt.nodes.pod_count(slot), node);
    if lacking.is_empty() {
        return Ok(());
    }
    // More than the whole node has: no pod that leaves helps.
    let pods_matter = lacking.iter().all(|lack| lack.resource == "pods" || lack.requested <= lack.capacity);
    let reason = |lack: &Insufficient| match lack.resource.as_str() {
        "pods" => "Too many pods".to_owned(),
        resource => format!("Insufficient {resource}"),
    };
    Err(Refusal { reasons: lacking.iter().map(reason).collect(), pods_matter })
}

/// CPU and memory of the node once the pod is there: (used, allocatable) of each.
fn after(attempt: &Attempt<'_>, slot: usize, pod: (i64, i64), used: (i64, i64)) -> [(i64, i64); 2] {
    let has = attempt.nodes.facts(slot).map(|node| (node.allocatable.milli_cpu, node.allocatable.memory));
    let has = has.unwrap_or((0, 0));
    [(used.0.saturating_add(pod.0), has.0), (used.1.saturating_add(pod.1), has.1)]
}

/// The more of CPU and memory stays free, the better.
pub fn least_allocated(attempt: &Attempt<'_>, slots: &[usize]) -> Option<Vec<i64>> {
    let score = |slot: &usize| {
        let both = after(attempt, *slot, attempt.pod.scoring, attempt.nodes.scoring(*slot));
        let counted = both.iter().filter(|(_, has)| *has > 0);
        let free = counted.clone().map(|(used, has)| {
            let left = i128::from((has - used).max(0));
            (left * i128::from(MAX_SCORE) / i128::from(*has)) as i64
        });
        free.sum::<i64>() / (counted.count() as i64).max(1)
    };
    Some(slots.iter().map(score).collect())
}

/// The closer the shares of CPU and memory in use, the better. A pod that asks for neither changes nothing.
pub fn balanced(attempt: &Attempt<'_>, slots: &[usize]) -> Option<Vec<i64>> {
    let request = &attempt.pod.requests;
    if request.milli_cpu == 0 && request.memory == 0 {
        return None;
    }
    let score = |slot: &usize| {
        let used = attempt.nodes.requested(*slot);
        let pod = (request.milli_cpu, request.memory);
        let [cpu, memory] = after(attempt, *slot, pod, (used.milli_cpu, used.memory));
        let share = |(used, has): (i64, i64)| if has > 0 { (used as f64 / has as f64).min(1.0) } else { 0.0 };
        // With two values the standard deviation is half their distance.
        let deviation = (share(cpu) - share(memory)).abs() / 2.0;
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    };
    Some(slots.iter().map(score).collect())
}
