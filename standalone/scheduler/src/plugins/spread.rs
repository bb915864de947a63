//! PodTopologySpread, <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use skerry_informer::{matches_selector, tolerated};

use super::node_affinity::selects;
use super::{Attempt, MAX_SCORE, Refusal};
use crate::nodes::{NodeFacts, Nodes};
use crate::pod::PodInfo;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The system's default constraints for pods without their own: topology and maxSkew, ScheduleAnyway.
const DEFAULTS: [(&str, i32); 2] = [(ZONE, 5), (HOSTNAME, 3)];

/// Pods that count for one constraint, by topology value.
struct Constraint {
    topology: String,
    max_skew: i64,
    counts: HashMap<String, i64>,
    /// Fewest pods in any eligible topology value.
    least: i64,
    /// 1 when the pod itself counts.
    itself: i64,
}

/// Counted once for all nodes.
pub struct Counted {
    hard: Vec<Constraint>,
    soft: Vec<Constraint>,
    /// The soft ones are the system's defaults: nodes without a zone are no worse.
    defaults: bool,
}

impl Counted {
    pub fn new(pod: &PodInfo, nodes: &Nodes) -> Self {
        if pod.spread.is_empty() {
            return Self { hard: Vec::new(), soft: defaults(pod, nodes), defaults: true };
        }
        let (hard, soft): (Vec<_>, Vec<_>) =
            pod.spread.iter().partition(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
        let count = |all: Vec<&TopologySpreadConstraint>| {
            all.iter().map(|constraint| Constraint::new(constraint, &all, pod, nodes)).collect()
        };
        Self { hard: count(hard), soft: count(soft), defaults: false }
    }
}

/// By the controller's own counters: the pods of one ReplicaSet, without a scan.
fn defaults(pod: &PodInfo, nodes: &Nodes) -> Vec<Constraint> {
    let Some(by_slot) = pod.owner.as_deref().and_then(|owner| nodes.of_owner(owner)) else {
        return Vec::new();
    };
    let constraint = |(topology, max_skew): (&str, i32)| {
        let mut counts: HashMap<String, i64> = HashMap::new();
        for (slot, count) in by_slot {
            let facts = nodes.facts(*slot);
            if let Some(value) = facts.and_then(|node| value_of(node, topology)) {
                *counts.entry(value.to_owned()).or_insert(0) += *count as i64;
            }
        }
        let topology = topology.to_owned();
        Constraint { topology, max_skew: i64::from(max_skew), counts, least: 0, itself: 1 }
    };
    DEFAULTS.map(constraint).into()
}

/// A node's value of a topology; its name is its hostname when it has no such label.
fn value_of<'a>(node: &'a NodeFacts, topology: &str) -> Option<&'a str> {
    let label = node.labels.get(topology).map(String::as_str);
    label.or((topology == HOSTNAME).then_some(&node.name))
}

impl Constraint {
    fn new(
        constraint: &TopologySpreadConstraint,
        all: &[&TopologySpreadConstraint],
        pod: &PodInfo,
        nodes: &Nodes,
    ) -> Self {
        let fixed: BTreeMap<&String, Option<&String>> =
            constraint.match_label_keys.iter().flatten().map(|key| (key, pod.labels.get(key))).collect();
        let selected = |other: &PodInfo| {
            constraint.label_selector.as_ref().is_some_and(|s| matches_selector(s, Some(&other.labels)))
                && fixed.iter().all(|(key, value)| value.is_none() || other.labels.get(*key) == *value)
        };
        let eligible = |node: &NodeFacts| {
            let affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
            let taints = constraint.node_taints_policy.as_deref() == Some("Honor");
            all.iter().all(|constraint| value_of(node, &constraint.topology_key).is_some())
                && (!affinity || selects(pod, node))
                && (!taints
                    || node
                        .taints
                        .iter()
                        .all(|t| t.effect == "PreferNoSchedule" || tolerated(t, &pod.tolerations)))
        };
        let mut counts: HashMap<String, i64> = HashMap::new();
        let mut slots = HashSet::new();
        for slot in nodes.present() {
            let Some(node) = nodes.facts(slot).filter(|node| eligible(node)) else { continue };
            if let Some(value) = value_of(node, &constraint.topology_key) {
                counts.entry(value.to_owned()).or_insert(0);
                slots.insert(slot);
            }
        }
        for (slot, other) in nodes.placed() {
            if !slots.contains(&slot)
                || other.key.namespace() != pod.key.namespace()
                || other.terminating
                || !selected(other)
            {
                continue;
            }
            let value = nodes.facts(slot).and_then(|node| value_of(node, &constraint.topology_key));
            if let Some(count) = value.and_then(|value| counts.get_mut(value)) {
                *count += 1;
            }
        }
        let enough = counts.len() as i64 >= i64::from(constraint.min_domains.unwrap_or(1));
        let least = if enough { counts.values().copied().min().unwrap_or(0) } else { 0 };
        Self {
            topology: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            counts,
            least,
            itself: i64::from(selected(pod)),
        }
    }
}

pub fn filter(attempt: &Attempt<'_>, _: usize, node: &NodeFacts) -> Result<(), Refusal> {
    for constraint in &attempt.spread.hard {
        let Some(value) = value_of(node, &constraint.topology) else {
            return Err(Refusal::by_node(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
        };
        let there = constraint.counts.get(value).copied().unwrap_or(0);
        if there + constraint.itself - constraint.least > constraint.max_skew {
            return Err(Refusal::by_pods("node(s) didn't match pod topology spread constraints"));
        }
    }
    Ok(())
}

/// The fewer pods that count stand in a node's topology values, the better. A value weighs the more, the more
/// values its topology has.
pub fn score(attempt: &Attempt<'_>, slots: &[usize]) -> Option<Vec<i64>> {
    let Counted { soft, defaults, .. } = &attempt.spread;
    if soft.is_empty() {
        return None;
    }
    let values = |constraint: &Constraint| {
        let nodes = slots.iter().filter_map(|slot| attempt.nodes.facts(*slot));
        nodes.filter_map(|node| value_of(node, &constraint.topology)).collect::<HashSet<_>>().len()
    };
    let weights: Vec<f64> = soft.iter().map(|constraint| ((values(constraint) + 2) as f64).ln()).collect();
    let crowd = |slot: &usize| -> Option<i64> {
        let node = attempt.nodes.facts(*slot)?;
        let mut sum = 0.0;
        for (constraint, weight) in soft.iter().zip(&weights) {
            match value_of(node, &constraint.topology) {
                Some(value) => {
                    let there = constraint.counts.get(value).copied().unwrap_or(0);
                    sum += there as f64 * weight + (constraint.max_skew - 1) as f64;
                }
                None if *defaults => {}
                None => return None,
            }
        }
        Some(sum.round() as i64)
    };
    let crowds: Vec<Option<i64>> = slots.iter().map(crowd).collect();
    let most = crowds.iter().flatten().copied().max().unwrap_or(0);
    let least = crowds.iter().flatten().copied().min().unwrap_or(0);
    let score = |crowd: Option<i64>| match crowd {
        None => 0,
        Some(_) if most == 0 => MAX_SCORE,
        Some(crowd) => MAX_SCORE * (most + least - crowd) / most,
    };
    Some(crowds.into_iter().map(score).collect())
}
