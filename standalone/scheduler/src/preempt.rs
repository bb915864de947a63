//! Preemption: which pods of lower priority must go so that a pod fits. Pure; the order of what is tried and
//! preferred is upstream's (`pkg/scheduler/framework/preemption`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use skerry_informer::matches_selector;

use crate::cycle::{Diagnosis, refusal};
use crate::nodes::Nodes;
use crate::plugins::{Attempt, Namespaces};
use crate::pod::PodInfo;
use crate::volumes::Demands;

/// Nodes for which victims are sought, at least, and of a hundred that may be helped.
const LEAST_CANDIDATES: usize = 100;
const CANDIDATE_PERCENT: usize = 10;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// In upstream's words: no node would take the pod if others left.
pub const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// What became of the search.
#[derive(Debug)]
pub enum Preemption {
    /// These pods go, most important first; then the pod fits on this node.
    Victims { node: String, victims: Vec<Arc<PodInfo>> },
    /// No set of pods of lower priority makes room: the number of nodes for each reason.
    Hopeless(BTreeMap<String, usize>),
    /// The pod may not preempt, or waits for those that it has preempted.
    NotEligible(&'static str),
}

/// A PodDisruptionBudget, as far as preemption heeds it: victims that it covers are the last choice.
#[derive(Clone, Debug)]
pub struct Budget {
    namespace: String,
    selector: LabelSelector,
    allowed: i32,
    /// Pods whose end is counted in `allowed` already.
    disrupted: HashSet<String>,
}

impl Budget {
    /// `None` for one that selects nothing.
    pub fn of(budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = budget.spec.as_ref()?.selector.clone()?;
        if selector.match_labels.is_none() && selector.match_expressions.is_none() {
            return None;
        }
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        Some(Self {
            namespace: budget.namespace().unwrap_or_default(),
            selector,
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
        })
    }

    fn covers(&self, pod: &PodInfo) -> bool {
        self.namespace == pod.key.namespace()
            && !self.disrupted.contains(pod.key.name())
            && matches_selector(&self.selector, Some(&pod.labels))
    }
}

/// What a pod's fate depends on besides nodes and pods.
type Around<'a> = (&'a Namespaces, &'a Demands);

struct Candidate {
    slot: usize,
    victims: Vec<Arc<PodInfo>>,
    /// Victims that a budget does not allow.
    violations: usize,
}

/// Seeks victims on the nodes that `diagnosis` says would take the pod if others left. `nodes` is as before
/// afterwards.
pub fn preempt(
    pod: &PodInfo,
    nodes: &mut Nodes,
    (namespaces, demands): Around<'_>,
    diagnosis: &Diagnosis,
    budgets: &[Budget],
) -> Preemption {
    if let Some(why) = not_eligible(pod, nodes) {
        return Preemption::NotEligible(why);
    }
    let mut reasons = BTreeMap::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    let enough = (diagnosis.crowded.len() * CANDIDATE_PERCENT / 100).max(LEAST_CANDIDATES);
    for slot in &diagnosis.crowded {
        match victims_on(pod, nodes, *slot, (namespaces, demands), budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(refused) => {
                for reason in refused {
                    *reasons.entry(reason).or_insert(0) += 1;
                }
            }
        }
        if candidates.len() >= enough {
            break;
        }
    }
    match candidates.into_iter().min_by_key(|candidate| cost(candidate, nodes)) {
        Some(Candidate { slot, victims, .. }) => {
            let node = nodes.facts(slot).map(|node| node.name.clone()).unwrap_or_default();
            Preemption::Victims { node, victims }
        }
        None => {
            let hopeless = diagnosis.nodes.saturating_sub(diagnosis.crowded.len());
            if hopeless > 0 {
                reasons.insert(NOT_HELPFUL.to_owned(), hopeless);
            }
            Preemption::Hopeless(reasons)
        }
    }
}

fn not_eligible(pod: &PodInfo, nodes: &Nodes) -> Option<&'static str> {
    if pod.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let slot = nodes.slot_of(pod.nominated.as_deref()?)?;
    let leaves = |other: &Arc<PodInfo>| other.terminating && other.preempted && other.priority < pod.priority;
    nodes.pods_on(slot).any(leaves).then_some("not eligible due to a terminating pod on the nominated node.")
}

/// The fewest and least important pods of one node whose end makes room, or why there are none.
fn victims_on(
    pod: &PodInfo,
    nodes: &mut Nodes,
    slot: usize,
    (namespaces, demands): Around<'_>,
    budgets: &[Budget],
) -> Result<Candidate, Vec<String>> {
    let Some(name) = nodes.facts(slot).map(|node| node.name.clone()) else { return Err(Vec::new()) };
    let lower = nodes.pods_on(slot).filter(|other| other.priority < pod.priority);
    let mut lower: Vec<Arc<PodInfo>> = lower.cloned().collect();
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.to_owned()]);
    }
    lower.sort_by_key(|pod| importance(pod));
    for victim in &lower {
        nodes.unplace(&victim.uid);
    }
    let chosen = match refused(pod, nodes, (namespaces, demands), slot) {
        Some(reasons) => Err(reasons),
        None => Ok(spare(pod, nodes, (namespaces, demands), slot, (&name, &lower), budgets)),
    };
    for victim in &lower {
        nodes.place(victim.clone(), &name);
    }
    chosen
}

/// Puts back whom the pod leaves room for: those that a budget protects first, and the more important ones
/// first.
fn spare(
    pod: &PodInfo,
    nodes: &mut Nodes,
    (namespaces, demands): Around<'_>,
    slot: usize,
    (name, lower): (&str, &[Arc<PodInfo>]),
    budgets: &[Budget],
) -> Candidate {
    let (protected, others) = by_budgets(lower, budgets);
    let mut candidate = Candidate { slot, victims: Vec::new(), violations: 0 };
    for (other, is_protected) in
        protected.iter().map(|other| (other, true)).chain(others.iter().map(|o| (o, false)))
    {
        nodes.place(other.clone(), name);
        if refused(pod, nodes, (namespaces, demands), slot).is_some() {
            nodes.unplace(&other.uid);
            candidate.victims.push(other.clone());
            candidate.violations += usize::from(is_protected);
        }
    }
    candidate.victims.sort_by_key(|pod| importance(pod));
    candidate
}

/// Pods whose end one of the budgets does not allow, and the rest; each in the order given.
fn by_budgets(pods: &[Arc<PodInfo>], budgets: &[Budget]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        for (_, left) in budgets.iter().zip(&mut left).filter(|(budget, _)| budget.covers(pod)) {
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    })
}

fn refused(
    pod: &PodInfo,
    nodes: &Nodes,
    (namespaces, demands): Around<'_>,
    slot: usize,
) -> Option<Vec<String>> {
    let facts = nodes.facts(slot)?;
    refusal(&Attempt::new(pod, nodes, namespaces, demands), slot, facts).map(|(_, refusal)| refusal.reasons)
}

/// More important pods first: of higher priority, then those that have run for longer.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Option<jiff::Timestamp>) {
    // One that has not started yet is younger than all.
    (Reverse(pod.priority), pod.started.or(Some(jiff::Timestamp::MAX)))
}

/// What upstream compares, in its order: budgets that are broken, the highest priority among the victims, the
/// sum of their priorities, their number, and how long the most important of them have run (the shorter the
/// better).
type Cost = (usize, i32, i64, usize, Reverse<Option<jiff::Timestamp>>, String);

fn cost(candidate: &Candidate, nodes: &Nodes) -> Cost {
    let victims = &candidate.victims;
    let highest = victims.first().map_or(i32::MIN, |victim| victim.priority);
    // Above zero each, so that of several small ones the sum is larger than of one.
    let sum = victims.iter().map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1).sum();
    let earliest = victims.iter().filter(|victim| victim.priority == highest);
    let earliest = earliest.map(|victim| victim.started.unwrap_or(jiff::Timestamp::MAX)).min();
    let name = nodes.facts(candidate.slot).map(|node| node.name.clone()).unwrap_or_default();
    (candidate.violations, highest, sum, victims.len(), Reverse(earliest), name)
}

#[cfg(test)]
mod tests;
