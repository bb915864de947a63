//! The worker's first step: the node judges the pod, before anything of it is made.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::Api;
use skerry_client::{EventType, Item};
use skerry_scheduler::nodes::NodeFacts;

use super::{
    conditions::conditions,
    memory::{Admission, StepFailure},
    status::time,
    view::View,
    worker::Worker,
};
use crate::{
    admission::{Abilities, Rejection},
    cri::PodRuntime,
    spec::resources::QosClass,
};

/// Whether the node has taken the pod before, so that a restarted agent does not judge it again: labels and
/// taints may have changed since, and what runs is not to be ended for that.
pub fn taken_before(pod: &Pod, runtime: &PodRuntime) -> bool {
    let begun = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    begun || !runtime.sandboxes.is_empty() || !runtime.containers.is_empty()
}

impl Worker {
    /// Reads the node's own object for it, as it is now: the scheduler may have acted on a label of a moment
    /// ago.
    pub(super) async fn admit(&mut self) {
        let node = match self.own_node().await {
            Ok(node) => node,
            Err(message) => {
                tracing::warn!(pod = %self.id, error = message, "pod not judged yet, trying again");
                // Without growing pauses: the pod waits for nothing but one answer of the API server.
                let failure = StepFailure::after(None, message, Timestamp::now());
                self.memory.admission = Admission::Unasked(Some(failure));
                return;
            }
        };
        let abilities = Abilities {
            sysctls: self.agent.sysctls.clone(),
            apparmor: Abilities::kernel_has_apparmor(),
            strict_groups: self.agent.runtime.strict_groups,
            pod_limits: !self.agent.runtime.systemd_cgroups,
        };
        self.memory.admission = match self.agent.ledger.admit(&self.pod, &node, &abilities) {
            Ok(()) => Admission::Taken,
            Err(rejection) => {
                let Rejection { reason, message } = rejection.clone();
                self.event(None, EventType::Warning, reason, message);
                Admission::Rejected(rejection)
            }
        };
    }

    async fn own_node(&self) -> Result<NodeFacts, String> {
        let api: Api<Item<Node>> = Api::all(self.agent.client.clone());
        let node = api.get(&self.agent.config.node_name).await;
        let node = node.map_err(|error| skerry_vocabulary::chain(&error))?.any();
        let status = node.status.as_ref();
        if status.is_none_or(|status| status.allocatable.is_none() && status.capacity.is_none()) {
            return Err("the node has not told yet what it has for pods".to_owned());
        }
        Ok(NodeFacts::of(&node))
    }
}

/// The status of a pod that the node did not take: it has ended, and no container of it was there to tell of.
pub fn rejected_status(view: View, before: &PodStatus, rejection: &Rejection) -> PodStatus {
    let qos = before.qos_class.clone().unwrap_or_else(|| QosClass::of(view.pod).as_str().to_owned());
    let mut status = PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(rejection.reason.clone()),
        message: Some(format!("Pod was rejected: {}", rejection.message)),
        start_time: before.start_time.clone().or_else(|| view.memory.start_time.map(time)),
        qos_class: Some(qos),
        observed_generation: view.pod.metadata.generation,
        ..Default::default()
    };
    status.conditions = Some(conditions(view, &status, before));
    status
}
