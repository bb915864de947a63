//! Whether this node takes a pod that was bound to it: the scheduler's word is not enough, since a pod may
//! name its node itself, and the node knows best what its kernel and its runtime can do. A pod that is not
//! taken ends as Failed, with upstream's reasons and messages.

mod ledger;
mod placement;
mod security;
pub mod sysctls;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use skerry_scheduler::{nodes::NodeFacts, pod::PodInfo};

pub use ledger::Ledger;

/// Why a pod is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `OutOfcpu`, `SysctlForbidden` …
    pub reason: String,
    pub message: String,
}

impl Rejection {
    fn new(reason: impl Into<String>, message: impl Into<String>) -> Rejection {
        Rejection { reason: reason.into(), message: message.into() }
    }
}

/// What the machine and its runtime can do for pods.
#[derive(Clone, Debug, Default)]
pub struct Abilities {
    pub sysctls: sysctls::Allowed,
    /// The kernel enforces AppArmor profiles.
    pub apparmor: bool,
    /// The runtime knows `supplementalGroupsPolicy`.
    pub strict_groups: bool,
    /// The pods' cgroups are the node agent's own to limit.
    pub pod_limits: bool,
}

impl Abilities {
    /// Whether the kernel enforces AppArmor; asked anew each time, it is one small file.
    pub fn kernel_has_apparmor() -> bool {
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.trim() == "Y")
    }
}

/// Judges a pod beside `others`, which the node has taken before. The first objection counts, in upstream's
/// order.
///
/// # Errors
/// Why the node does not take the pod.
pub fn decide(
    pod: &Pod,
    info: &PodInfo,
    node: &NodeFacts,
    others: &[Arc<PodInfo>],
    abilities: &Abilities,
) -> Result<(), Rejection> {
    sysctls::check(pod, &abilities.sysctls)?;
    placement::operating_system(pod)?;
    security::check(pod, abilities)?;
    placement::check(info, node, others)
}

#[cfg(test)]
mod tests;
