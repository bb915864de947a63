//! A pod as the scheduler sees it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    NodeSelector, Pod, PodAffinityTerm, PreferredSchedulingTerm, Toleration, TopologySpreadConstraint,
    WeightedPodAffinityTerm,
};
use kube::ResourceExt;
use skerry_informer::volume::{claim_names, own_claim_names};
use skerry_informer::{ObjectKey, key_of};

use crate::resources::{self, Resources};

/// Condition of a pod that is about to be ended by the cluster (KEP-3329).
pub(crate) const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// That condition's reason where the scheduler ends it.
pub(crate) const PREEMPTED: &str = "PreemptionByScheduler";

/// A port of the node that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `0.0.0.0` stands for every address.
    pub address: String,
    /// 1 to 65535.
    pub port: i32,
}

impl HostPort {
    /// Whether both can't be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |address: &str| matches!(address, "0.0.0.0" | "::" | "");
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.address) || any(&other.address) || self.address == other.address)
    }
}

/// Affinity of a pod to other pods, required and preferred.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTerms {
    /// Every one must hold.
    pub required: Vec<PodAffinityTerm>,
    /// Each that holds adds its weight (1 to 100) to a node's score; for anti-affinity it is taken off.
    pub preferred: Vec<WeightedPodAffinityTerm>,
}

/// What is read of a pod, taken out once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`: tells it from an earlier pod of the same name.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.priority`; absent: 0. Who has more goes first, and may make others go.
    pub priority: i32,
    /// `spec.schedulerName`; absent: `default-scheduler`.
    pub scheduler: String,
    /// Node that the pod asks for by name or is bound to.
    pub node: Option<String>,
    /// With overhead, and with what its start needs (`resources::requests`).
    pub requests: Resources,
    /// CPU (thousandths) and memory (bytes) that scoring counts it with.
    pub scoring: (i64, i64),
    /// Of containers and sidecars; in the host's network also those that are not named host ports.
    pub ports: Vec<HostPort>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// `spec.nodeSelector`: labels that its node must have. Empty: any.
    pub node_selector: BTreeMap<String, String>,
    /// Node affinity that its node must meet. `None`: any.
    pub required_nodes: Option<NodeSelector>,
    /// Node affinity that counts in scoring.
    pub preferred_nodes: Vec<PreferredSchedulingTerm>,
    /// Pods that it wants to be near.
    pub affinity: PodTerms,
    /// Pods that it wants to be far from.
    pub anti_affinity: PodTerms,
    /// `spec.topologySpreadConstraints`, required ones and others.
    pub spread: Vec<TopologySpreadConstraint>,
    /// Uid of the controller, by which pods without constraints of their own are spread.
    pub owner: Option<String>,
    /// The claims that it mounts, by name.
    pub claims: Vec<String>,
    /// Those of them that are made for it alone (`volumes[].ephemeral`).
    pub own_claims: Vec<String>,
    /// It has scheduling gates: nobody looks for a node yet (KEP-3521).
    pub gated: bool,
    /// It has succeeded or failed: it takes no room any more.
    pub terminal: bool,
    /// It is being deleted, and takes room until it is gone.
    pub terminating: bool,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// The node on which others were made to go for it.
    pub nominated: Option<String>,
    /// It goes to make room for one of higher priority.
    pub preempted: bool,
    /// When its node took it.
    pub started: Option<Timestamp>,
}

impl PodInfo {
    /// What is absent in the API has its default. No field is checked: the API server has done that.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("");
        let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let affinity = spec.affinity.clone().unwrap_or_default();
        let nodes = affinity.node_affinity.unwrap_or_default();
        let near = affinity.pod_affinity.unwrap_or_default();
        let far = affinity.pod_anti_affinity.unwrap_or_default();
        let owners = pod.metadata.owner_references.iter().flatten();
        Self {
            key: key_of(pod),
            uid: pod.uid().unwrap_or_default(),
            labels: pod.labels().clone(),
            priority: spec.priority.unwrap_or(0),
            scheduler: spec.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".into()),
            node: spec.node_name.clone().filter(|name| !name.is_empty()),
            requests: resources::requests(&spec),
            scoring: resources::for_scoring(&spec),
            ports: host_ports(&spec),
            claims: claim_names(pod).collect(),
            own_claims: own_claim_names(pod).collect(),
            gated: spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            tolerations: spec.tolerations.unwrap_or_default(),
            node_selector: spec.node_selector.unwrap_or_default(),
            required_nodes: nodes.required_during_scheduling_ignored_during_execution,
            preferred_nodes: nodes.preferred_during_scheduling_ignored_during_execution.unwrap_or_default(),
            affinity: PodTerms {
                required: near.required_during_scheduling_ignored_during_execution.unwrap_or_default(),
                preferred: near.preferred_during_scheduling_ignored_during_execution.unwrap_or_default(),
            },
            anti_affinity: PodTerms {
                required: far.required_during_scheduling_ignored_during_execution.unwrap_or_default(),
                preferred: far.preferred_during_scheduling_ignored_during_execution.unwrap_or_default(),
            },
            spread: spec.topology_spread_constraints.unwrap_or_default(),
            owner: owners
                .filter(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.clone())
                .next(),
            terminal: matches!(phase, "Succeeded" | "Failed"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            nominated: status
                .and_then(|status| status.nominated_node_name.clone())
                .filter(|name| !name.is_empty()),
            preempted: conditions.any(|condition| {
                condition.type_ == DISRUPTION_TARGET && condition.reason.as_deref() == Some(PREEMPTED)
            }),
            started: status.and_then(|status| status.start_time.as_ref()).map(|at| at.0),
        }
    }
}

fn host_ports(spec: &k8s_openapi::api::core::v1::PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number =
                port.host_port.or(spec.host_network.and_then(|on| on.then_some(port.container_port)))?;
            (number > 0).then(|| HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                address: port.host_ip.clone().unwrap_or_else(|| "0.0.0.0".into()),
                port: number,
            })
        })
        .collect()
}
