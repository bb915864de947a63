//! InterPodAffinity, <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::PodAffinityTerm;
use skerry_informer::matches_selector;

use super::{Attempt, MAX_SCORE, Namespaces, Refusal};
use crate::nodes::{NodeFacts, Nodes};
use crate::pod::PodInfo;

/// What a required affinity of a pod that is there counts for newcomers it would like (upstream's default).
const REQUIRED_WEIGHT: i64 = 1;

/// A topology and one of its values.
type Place = (String, String);

/// Counted once for all nodes.
pub struct Counted {
    /// Where pods are whose anti-affinity keeps this one away.
    guarded: HashSet<Place>,
    /// For each of the pod's anti-affinity terms, where pods are that it avoids.
    avoided: Vec<(String, HashSet<String>)>,
    /// For each of the pod's affinity terms, where pods are that it wants to be with.
    wanted: Vec<(String, HashSet<String>)>,
    /// No such pod exists and the pod itself is one: the first of a group may go anywhere.
    first: bool,
    /// What being in a place is worth.
    worth: HashMap<Place, i64>,
}

impl Counted {
    pub fn new(pod: &PodInfo, nodes: &Nodes, namespaces: &Namespaces) -> Self {
        let place = |slot: usize, topology: &str| -> Option<Place> {
            let value = nodes.facts(slot)?.labels.get(topology)?;
            Some((topology.to_owned(), value.clone()))
        };
        let mut guarded = HashSet::new();
        for (slot, other) in nodes.guarded() {
            let against = other.anti_affinity.required.iter().filter(|t| concerns(t, other, pod, namespaces));
            guarded.extend(against.filter_map(|term| place(slot, &term.topology_key)));
        }
        let places_of = |terms: &[PodAffinityTerm], all: bool| -> Vec<(String, HashSet<String>)> {
            let mut found: Vec<(String, HashSet<String>)> =
                terms.iter().map(|term| (term.topology_key.clone(), HashSet::new())).collect();
            if terms.is_empty() {
                return found;
            }
            for (slot, other) in nodes.placed() {
                let meets = |term: &PodAffinityTerm| concerns(term, pod, other, namespaces);
                // Affinity wants pods that meet all terms at once; anti-affinity avoids each by itself.
                if all && !terms.iter().all(meets) {
                    continue;
                }
                for (term, (topology, values)) in terms.iter().zip(&mut found) {
                    if (all || meets(term))
                        && let Some((_, value)) = place(slot, topology)
                    {
                        values.insert(value);
                    }
                }
            }
            found
        };
        let wanted = places_of(&pod.affinity.required, true);
        let itself = pod.affinity.required.iter().all(|term| concerns(term, pod, pod, namespaces));
        Self {
            guarded,
            avoided: places_of(&pod.anti_affinity.required, false),
            first: itself && wanted.iter().all(|(_, values)| values.is_empty()),
            wanted,
            worth: worth(pod, nodes, namespaces, &place),
        }
    }
}

fn worth(
    pod: &PodInfo,
    nodes: &Nodes,
    namespaces: &Namespaces,
    place: &dyn Fn(usize, &str) -> Option<Place>,
) -> HashMap<Place, i64> {
    let mut worth: HashMap<Place, i64> = HashMap::new();
    let mut add = |slot: usize, term: &PodAffinityTerm, weight: i64| {
        if let Some(place) = place(slot, &term.topology_key) {
            *worth.entry(place).or_insert(0) += weight;
        }
    };
    if !pod.affinity.preferred.is_empty() || !pod.anti_affinity.preferred.is_empty() {
        for (slot, other) in nodes.placed() {
            for (terms, sign) in [(&pod.affinity.preferred, 1), (&pod.anti_affinity.preferred, -1)] {
                let met = terms.iter().filter(|t| concerns(&t.pod_affinity_term, pod, other, namespaces));
                met.for_each(|term| add(slot, &term.pod_affinity_term, sign * i64::from(term.weight)));
            }
        }
    }
    for (slot, other) in nodes.social() {
        for (terms, sign) in [(&other.affinity.preferred, 1), (&other.anti_affinity.preferred, -1)] {
            let met = terms.iter().filter(|t| concerns(&t.pod_affinity_term, other, pod, namespaces));
            met.for_each(|term| add(slot, &term.pod_affinity_term, sign * i64::from(term.weight)));
        }
        let met = other.affinity.required.iter().filter(|term| concerns(term, other, pod, namespaces));
        met.for_each(|term| add(slot, term, REQUIRED_WEIGHT));
    }
    worth
}

/// Whether `term`, a term of `owner`, picks `other`.
fn concerns(term: &PodAffinityTerm, owner: &PodInfo, other: &PodInfo, namespaces: &Namespaces) -> bool {
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let selector = term.namespace_selector.as_ref();
    let namespace = other.key.namespace();
    let in_scope = if listed.is_empty() && selector.is_none() {
        owner.key.namespace() == other.key.namespace()
    } else {
        listed.iter().any(|name| name == namespace)
            || selector.is_some_and(|selector| matches_selector(selector, namespaces.get(namespace)))
    };
    in_scope && term.label_selector.as_ref().is_some_and(|s| matches_selector(s, Some(&other.labels)))
}

pub fn filter(attempt: &Attempt<'_>, _: usize, node: &NodeFacts) -> Result<(), Refusal> {
    let counted = &attempt.interpod;
    let value = |topology: &String| node.labels.get(topology);
    for (topology, values) in &counted.wanted {
        let with = value(topology).is_some_and(|value| counted.first || values.contains(value));
        if !with {
            return Err(Refusal::by_node("node(s) didn't match pod affinity rules"));
        }
    }
    if counted.avoided.iter().any(|(topology, values)| value(topology).is_some_and(|v| values.contains(v))) {
        return Err(Refusal::by_pods("node(s) didn't match pod anti-affinity rules"));
    }
    let guarded = |(topology, guarded): &Place| value(topology) == Some(guarded);
    if counted.guarded.iter().any(guarded) {
        return Err(Refusal::by_pods("node(s) didn't satisfy existing pods anti-affinity rules"));
    }
    Ok(())
}

pub fn score(attempt: &Attempt<'_>, slots: &[usize]) -> Option<Vec<i64>> {
    let worth = &attempt.interpod.worth;
    if worth.is_empty() {
        return None;
    }
    let sum = |slot: &usize| {
        let labels = attempt.nodes.facts(*slot).map(|node| &node.labels);
        let here =
            |(topology, value): &Place| labels.is_some_and(|labels| labels.get(topology) == Some(value));
        worth.iter().filter(|(place, _)| here(place)).map(|(_, worth)| worth).sum::<i64>()
    };
    let sums: Vec<i64> = slots.iter().map(sum).collect();
    let (least, most) = (sums.iter().copied().min()?, sums.iter().copied().max()?);
    let score = |sum: i64| if most == least { 0 } else { MAX_SCORE * (sum - least) / (most - least) };
    Some(sums.into_iter().map(score).collect())
}
