//! The plugins: each may refuse a node for a pod (filter), and weigh those that fit (score). All pure.

mod basics;
mod fit;
mod interpod;
mod node_affinity;
mod ports;
mod spread;
mod taints;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::{BTreeMap, HashMap};

use crate::nodes::{NodeFacts, Nodes};
use crate::pod::PodInfo;
use crate::queue::Events;
use crate::volumes::Demands;

pub use fit::{Insufficient, insufficient};
pub use node_affinity::selects;

/// Best score a plugin gives a node.
pub(crate) const MAX_SCORE: i64 = 100;

/// Labels of each namespace, for affinity terms with a namespace selector.
pub(crate) type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// Why a node does not take the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For people; counted over nodes in the pod's event.
    pub reasons: Vec<String>,
    /// Whether it could change if pods left the node.
    pub pods_matter: bool,
}

impl Refusal {
    fn by_node(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], pods_matter: false }
    }

    fn by_pods(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], pods_matter: true }
    }
}

/// One attempt: the pod, the nodes, and what plugins counted once for all nodes.
pub(crate) struct Attempt<'a> {
    pub pod: &'a PodInfo,
    pub nodes: &'a Nodes,
    /// What its claims ask.
    pub demands: &'a Demands,
    spread: spread::Counted,
    interpod: interpod::Counted,
}

impl<'a> Attempt<'a> {
    pub fn new(pod: &'a PodInfo, nodes: &'a Nodes, namespaces: &Namespaces, demands: &'a Demands) -> Self {
        Self {
            pod,
            nodes,
            demands,
            spread: spread::Counted::new(pod, nodes),
            interpod: interpod::Counted::new(pod, nodes, namespaces),
        }
    }
}

type Filter = fn(&Attempt<'_>, usize, &NodeFacts) -> Result<(), Refusal>;
/// A score from 0 to [`MAX_SCORE`] for each of the slots, or `None` when the plugin has no opinion on this
/// pod.
type Score = fn(&Attempt<'_>, &[usize]) -> Option<Vec<i64>>;

/// One row of [`PLUGINS`].
pub(crate) struct Plugin {
    pub filter: Option<Filter>,
    pub score: Option<Score>,
    pub weight: i64,
    /// Events that may make a node acceptable which this plugin refused.
    pub wakes: Events,
}

const NODE_ANY: Events = Events::NODE_ADDED.or(Events::NODE_LABELS);

/// Every plugin in the order of filtering, with Kubernetes' default weights, above each its name there.
pub(crate) const PLUGINS: &[Plugin] = &[
    // NodeUnschedulable
    Plugin {
        filter: Some(basics::unschedulable),
        score: None,
        weight: 0,
        wakes: Events::NODE_ADDED.or(Events::NODE_TAINTS),
    },
    // NodeName
    Plugin { filter: Some(basics::name), score: None, weight: 0, wakes: Events::NODE_ADDED },
    // TaintToleration
    Plugin {
        filter: Some(taints::filter),
        score: Some(taints::score),
        weight: 3,
        wakes: Events::NODE_ADDED.or(Events::NODE_TAINTS),
    },
    // NodeAffinity
    Plugin {
        filter: Some(node_affinity::filter),
        score: Some(node_affinity::score),
        weight: 2,
        wakes: NODE_ANY,
    },
    // NodePorts
    Plugin {
        filter: Some(ports::filter),
        score: None,
        weight: 0,
        wakes: Events::NODE_ADDED.or(Events::POD_LEFT),
    },
    // NodeResourcesFit
    Plugin {
        filter: Some(fit::filter),
        score: Some(fit::least_allocated),
        weight: 1,
        wakes: Events::NODE_ADDED.or(Events::NODE_ALLOCATABLE).or(Events::POD_LEFT),
    },
    // NodeResourcesBalancedAllocation
    Plugin { filter: None, score: Some(fit::balanced), weight: 1, wakes: Events::NONE },
    // VolumeRestrictions
    Plugin {
        filter: Some(volumes::exclusive),
        score: None,
        weight: 0,
        wakes: Events::NODE_ADDED.or(Events::POD_LEFT).or(Events::VOLUMES),
    },
    // VolumeBinding
    Plugin { filter: Some(volumes::binding), score: None, weight: 0, wakes: NODE_ANY.or(Events::VOLUMES) },
    // PodTopologySpread
    Plugin {
        filter: Some(spread::filter),
        score: Some(spread::score),
        weight: 2,
        wakes: NODE_ANY.or(Events::POD_LEFT).or(Events::POD_PLACED),
    },
    // InterPodAffinity
    Plugin {
        filter: Some(interpod::filter),
        score: Some(interpod::score),
        weight: 2,
        wakes: NODE_ANY.or(Events::POD_LEFT).or(Events::POD_PLACED),
    },
];
