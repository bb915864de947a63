//! What this node can't give at all, so that nothing runs less protected, or with less, than was asked for.

use k8s_openapi::api::core::v1::Pod;

use super::{Abilities, Rejection};
use crate::spec::profiles;

pub fn check(pod: &Pod, abilities: &Abilities) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.host_users == Some(false) {
        let message = "hostUsers=false is not supported in this node";
        return Err(Rejection::new("UserNamespacesNotSupported", message));
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        let message = "resourceClaims are not supported in this node";
        return Err(Rejection::new("ResourceClaimsNotSupported", message));
    }
    // systemd keeps the limits of its slices itself, and takes back what others write there.
    let limits = spec.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let enforced = |name: &str| abilities.pod_limits && matches!(name, "cpu" | "memory");
    if let Some(name) = limits.and_then(|limits| limits.keys().find(|name| !enforced(name))) {
        let message = format!("a limit of {name} for the pod as a whole is not supported in this node");
        return Err(Rejection::new("PodLevelResourcesNotSupported", message));
    }
    let security = spec.security_context.as_ref();
    let policy = security.and_then(|security| security.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !abilities.strict_groups {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(Rejection::new("SupplementalGroupsPolicyNotSupported", message));
    }
    let containers = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut mounts = containers().flat_map(|container| container.volume_mounts.iter().flatten());
    if let Some(mount) = mounts.find(|mount| mount.recursive_read_only.as_deref() == Some("Enabled")) {
        let message =
            format!("volume {:?} requested recursive read-only mount, but it is not supported", mount.name);
        return Err(Rejection::new("RecursiveReadOnlyMountsNotSupported", message));
    }
    let confined = containers().any(|container| profiles::wants_apparmor(pod, container));
    if confined && !abilities.apparmor {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Err(Rejection::new("AppArmor", message));
    }
    Ok(())
}
