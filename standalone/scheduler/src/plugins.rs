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
pub const MAX_SCORE: i64 = 100;

/// Labels of each namespace, for affinity terms with a namespace selector.
pub type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// Why a node does not take the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
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
pub struct Attempt<'a> {
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

pub struct Plugin {
    pub name: &'static str,
    pub filter: Option<Filter>,
    pub score: Option<Score>,
    pub weight: i64,
    /// Events that may make a node acceptable which this plugin refused.
    pub wakes: Events,
}

const NODE_ANY: Events = Events::NODE_ADDED.or(Events::NODE_LABELS);

/// Every plugin in the order of filtering, with Kubernetes' default weights.
pub const PLUGINS: &[Plugin] = &[
    Plugin {
        name: "NodeUnschedulable",
        filter: Some(basics::unschedulable),
        score: None,
        weight: 0,
        wakes: Events::NODE_ADDED.or(Events::NODE_TAINTS),
    },
    Plugin {
        name: "NodeName",
        filter: Some(basics::name),
        score: None,
        weight: 0,
        wakes: Events::NODE_ADDED,
    },
    Plugin {
        name: "TaintToleration",
        filter: Some(taints::filter),
        score: Some(taints::score),
        weight: 3,
        wakes: Events::NODE_ADDED.or(Events::NODE_TAINTS),
    },
    Plugin {
        name: "NodeAffinity",
        filter: Some(node_affinity::filter),
        score: Some(node_affinity::score),
        weight: 2,
        wakes: NODE_ANY,
    },
    Plugin {
        name: "NodePorts",
        filter: Some(ports::filter),
        score: None,
        weight: 0,
        wakes: Events::NODE_ADDED.or(Events::POD_LEFT),
    },
    Plugin {
        name: "NodeResourcesFit",
        filter: Some(fit::filter),
        score: Some(fit::least_allocated),
        weight: 1,
        wakes: Events::NODE_ADDED.or(Events::NODE_ALLOCATABLE).or(Events::POD_LEFT),
    },
    Plugin {
        name: "NodeResourcesBalancedAllocation",
        filter: None,
        score: Some(fit::balanced),
        weight: 1,
        wakes: Events::NONE,
    },
    Plugin {
        name: "VolumeRestrictions",
        filter: Some(volumes::exclusive),
        score: None,
        weight: 0,
        wakes: Events::NODE_ADDED.or(Events::POD_LEFT).or(Events::VOLUMES),
    },
    Plugin {
        name: "VolumeBinding",
        filter: Some(volumes::binding),
        score: None,
        weight: 0,
        wakes: NODE_ANY.or(Events::VOLUMES),
    },
    Plugin {
        name: "PodTopologySpread",
        filter: Some(spread::filter),
        score: Some(spread::score),
        weight: 2,
        wakes: NODE_ANY.or(Events::POD_LEFT).or(Events::POD_PLACED),
    },
    Plugin {
        name: "InterPodAffinity",
        filter: Some(interpod::filter),
        score: Some(interpod::score),
        weight: 2,
        wakes: NODE_ANY.or(Events::POD_LEFT).or(Events::POD_PLACED),
    },
];
