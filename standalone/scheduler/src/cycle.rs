//! One scheduling cycle: which node a pod goes to, or why to none. Pure.

use std::collections::BTreeMap;

use crate::nodes::{NodeFacts, Nodes};
use crate::plugins::{Attempt, Namespaces, PLUGINS, Plugin, Refusal};
use crate::pod::PodInfo;
use crate::queue::Events;
use crate::volumes::Demands;

/// Up to so many nodes all are looked at.
const ALWAYS_ALL: usize = 100;
/// Of very many nodes, at least so many of a hundred that fit are scored.
const LEAST_PERCENT: usize = 5;

/// What a cycle ends with.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// The name of the node.
    Place(String),
    /// No node takes the pod.
    Refuse(Diagnosis),
}

/// Why no node takes the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnosis {
    /// Nodes that there are.
    pub nodes: usize,
    /// Why none was looked at: what the pod asks for is not there.
    pub whole: Option<String>,
    /// Number of nodes for each reason.
    pub reasons: BTreeMap<String, usize>,
    /// What may change it.
    pub wakes: Events,
    /// Slots of nodes that would take the pod if enough others left.
    pub crowded: Vec<usize>,
}

/// Decides for one pod. `start` is where the search begins: it is moved on, so that with many nodes each gets
/// its turn.
pub fn schedule(
    pod: &PodInfo,
    nodes: &Nodes,
    namespaces: &Namespaces,
    demands: &Demands,
    start: &mut usize,
) -> Decision {
    if let Some(text) = demands.refusal.as_ref().filter(|_| !nodes.is_empty()) {
        let mut diagnosis = Diagnosis::new(nodes.len());
        diagnosis.whole = Some(text.clone());
        diagnosis.wakes = Events::VOLUMES;
        return Decision::Refuse(diagnosis);
    }
    let attempt = Attempt::new(pod, nodes, namespaces, demands);
    // Where others made room for it, unless that node does not take it after all.
    if let Some(slot) = pod.nominated.as_deref().and_then(|name| nodes.slot_of(name))
        && let Some(facts) = nodes.facts(slot)
        && refusal(&attempt, slot, facts).is_none()
    {
        return Decision::Place(facts.name.clone());
    }
    let (feasible, diagnosis) = filter(&attempt, start);
    match best(&attempt, &feasible) {
        Some(slot) => {
            let name = nodes.facts(slot).map(|node| node.name.clone()).unwrap_or_default();
            Decision::Place(name)
        }
        None => Decision::Refuse(diagnosis),
    }
}

/// Whether this one node takes the pod.
///
/// # Errors
/// Why not.
pub fn fits(
    pod: &PodInfo,
    nodes: &Nodes,
    namespaces: &Namespaces,
    demands: &Demands,
    node: &str,
) -> Result<(), Diagnosis> {
    let attempt = Attempt::new(pod, nodes, namespaces, demands);
    let slot = nodes.slot_of(node);
    let facts = slot.and_then(|slot| Some((slot, nodes.facts(slot)?)));
    let mut diagnosis = Diagnosis::new(nodes.len());
    let refused = facts.and_then(|(slot, facts)| Some((slot, refusal(&attempt, slot, facts)?)));
    match refused {
        None => Ok(()),
        Some((slot, (plugin, refusal))) => {
            diagnosis.note(slot, plugin, refusal);
            Err(diagnosis)
        }
    }
}

impl Diagnosis {
    fn new(nodes: usize) -> Self {
        Self { nodes, whole: None, reasons: BTreeMap::new(), wakes: Events::NODE_ADDED, crowded: Vec::new() }
    }

    fn note(&mut self, slot: usize, plugin: &Plugin, refusal: Refusal) {
        self.wakes = self.wakes.or(plugin.wakes);
        if refusal.pods_matter {
            self.crowded.push(slot);
        }
        for reason in refusal.reasons {
            *self.reasons.entry(reason).or_insert(0) += 1;
        }
    }
}

/// How many nodes that fit are enough to choose from: all up to a hundred, a shrinking share of more.
fn enough(nodes: usize) -> usize {
    if nodes <= ALWAYS_ALL {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(LEAST_PERCENT);
    (nodes * percent / 100).max(ALWAYS_ALL)
}

fn filter(attempt: &Attempt<'_>, start: &mut usize) -> (Vec<usize>, Diagnosis) {
    let nodes = attempt.nodes;
    let (width, enough) = (nodes.width(), enough(nodes.len()));
    let mut feasible = Vec::new();
    let mut diagnosis = Diagnosis::new(nodes.len());
    let mut looked_at = 0;
    while looked_at < width && feasible.len() < enough {
        let slot = (*start + looked_at) % width;
        looked_at += 1;
        let Some(facts) = nodes.facts(slot) else { continue };
        match refusal(attempt, slot, facts) {
            None => feasible.push(slot),
            Some((plugin, refusal)) => diagnosis.note(slot, plugin, refusal),
        }
    }
    // Looking at all nodes leaves the start where it is: equal inputs give equal answers.
    if width > 0 && looked_at < width {
        *start = (*start + looked_at) % width;
    }
    (feasible, diagnosis)
}

/// The first plugin that refuses the node, with what it says.
pub(crate) fn refusal(
    attempt: &Attempt<'_>,
    slot: usize,
    facts: &NodeFacts,
) -> Option<(&'static Plugin, Refusal)> {
    PLUGINS.iter().find_map(|plugin| {
        let refusal = plugin.filter.and_then(|filter| filter(attempt, slot, facts).err());
        refusal.map(|refusal| (plugin, refusal))
    })
}

/// The slot with the best weighted sum of scores; among equals the one with the fewest pods, then by name.
fn best(attempt: &Attempt<'_>, feasible: &[usize]) -> Option<usize> {
    if feasible.len() < 2 {
        return feasible.first().copied();
    }
    let mut totals = vec![0i64; feasible.len()];
    for plugin in PLUGINS {
        let Some(scores) = plugin.score.and_then(|score| score(attempt, feasible)) else { continue };
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += plugin.weight * score;
        }
    }
    let name = |slot: usize| attempt.nodes.facts(slot).map(|node| node.name.as_str()).unwrap_or_default();
    let rank = |(index, slot): &(usize, &usize)| {
        let slot = **slot;
        (std::cmp::Reverse(totals[*index]), attempt.nodes.pod_count(slot), name(slot))
    };
    feasible.iter().enumerate().min_by_key(rank).map(|(_, slot)| *slot)
}
