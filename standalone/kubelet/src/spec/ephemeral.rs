//! Ephemeral containers (KEP-277): made like any other, without what only containers have that stay.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

/// The pod's ephemeral containers, as containers.
pub fn containers(pod: &Pod) -> impl Iterator<Item = Container> {
    listed(pod).map(as_container)
}

pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a EphemeralContainer> {
    listed(pod).find(|ephemeral| ephemeral.name == name)
}

fn listed(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten())
}

/// Probes, hooks, ports and resources can't be asked for.
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let one = ephemeral.clone();
    Container {
        args: one.args,
        command: one.command,
        env: one.env,
        env_from: one.env_from,
        image: one.image,
        image_pull_policy: one.image_pull_policy,
        name: one.name,
        security_context: one.security_context,
        stdin: one.stdin,
        stdin_once: one.stdin_once,
        termination_message_path: one.termination_message_path,
        termination_message_policy: one.termination_message_policy,
        tty: one.tty,
        volume_devices: one.volume_devices,
        volume_mounts: one.volume_mounts,
        working_dir: one.working_dir,
        ..Default::default()
    }
}
