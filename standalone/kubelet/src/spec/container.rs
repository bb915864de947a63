//! One container as `CreateContainer` wants it.

use std::collections::{BTreeMap, HashMap};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{PodId, env, names, profiles, resources, resources::QosClass, sandbox};
use crate::cri::labels;

/// Parts of /proc and /sys that a container does not see or write unless it is privileged (the runtime spec's
/// usual set).
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
];
const MASKED_SYS: [&str; 2] = ["/sys/firmware", "/sys/devices/virtual/powercap"];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What was worked out before: image, environment, mounts.
pub struct ContainerParts {
    pub attempt: u32,
    /// As `ImageStatus` gave it.
    pub image: v1::Image,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<v1::Mount>,
    pub log_path: String,
    pub termination_file: String,
    pub node_memory_bytes: u64,
    /// Id of a container whose processes this one sees, where the pod's are not all in one view anyway.
    pub target: Option<String>,
}

/// The container's request; `$(NAME)` in command and args is replaced.
///
/// # Errors
/// When its security context asks for what can't be asked of a runtime.
pub fn config(
    pod: &Pod,
    container: &Container,
    parts: ContainerParts,
) -> Result<v1::ContainerConfig, String> {
    let id = PodId::of(pod);
    let values: BTreeMap<&str, &str> =
        parts.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let lookup = |name: &str| values.get(name).map(|value| (*value).to_owned());
    let expanded = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|text| env::expand(text, &lookup)).collect::<Vec<String>>()
    };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let grace_s = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let annotations = HashMap::from([
        (labels::CONTAINER_HASH.to_owned(), names::spec_hash(container)),
        (labels::RESTART_COUNT.to_owned(), parts.attempt.to_string()),
        (labels::GRACE_PERIOD.to_owned(), grace_s.to_string()),
        (labels::TERMINATION_MESSAGE_PATH.to_owned(), termination_path(container).to_owned()),
        (
            labels::TERMINATION_MESSAGE_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
        (labels::TERMINATION_MESSAGE_FILE.to_owned(), parts.termination_file.clone()),
    ]);
    let container_labels = HashMap::from([
        (labels::POD_NAME.to_owned(), id.name.clone()),
        (labels::POD_NAMESPACE.to_owned(), id.namespace.clone()),
        (labels::POD_UID.to_owned(), id.uid.clone()),
        (labels::CONTAINER_NAME.to_owned(), container.name.clone()),
    ]);
    let mut security = security(pod, container, &parts.image)?;
    if let (Some(id), Some(namespaces)) = (parts.target, &mut security.namespace_options)
        && namespaces.pid == v1::NamespaceMode::Container as i32
    {
        namespaces.pid = v1::NamespaceMode::Target as i32;
        namespaces.target_id = id;
    }
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: parts.attempt }),
        image: Some(v1::ImageSpec {
            image: parts.image.id,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: parts.env.into_iter().map(|(key, value)| v1::KeyValue { key, value }).collect(),
        mounts: parts.mounts,
        labels: container_labels,
        annotations,
        log_path: parts.log_path,
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::cgroup(container, QosClass::of(pod), parts.node_memory_bytes)),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}

/// Where the container finds the file for its last words.
pub fn termination_path(container: &Container) -> &str {
    container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/dev/termination-log")
}

/// The user that the container will run as if its or its pod's specification says one.
pub fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|security| security.run_as_user);
    own.or_else(|| pod.spec.as_ref()?.security_context.as_ref()?.run_as_user)
}

/// Whether the container must not run as root; `Err` says why it would (upstream's texts).
pub fn verify_non_root(pod: &Pod, container: &Container, image: &v1::Image) -> Result<(), String> {
    let own = container.security_context.as_ref().and_then(|security| security.run_as_non_root);
    let pods = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.run_as_non_root);
    if own.or(pods) != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", PodId::of(pod), container.name);
    match run_as_user(pod, container) {
        Some(0) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        Some(_) => Ok(()),
        None if image.uid.as_ref().is_some_and(|uid| uid.value == 0)
            || (image.uid.is_none() && image.username.is_empty()) =>
        {
            Err(format!("container has runAsNonRoot and image will run as root {place}"))
        }
        None if image.uid.is_none() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        )),
        None => Ok(()),
    }
}

fn security(
    pod: &Pod,
    container: &Container,
    image: &v1::Image,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let own = container.security_context.clone().unwrap_or_default();
    let pods = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let unmasked = match own.proc_mount.as_deref() {
        None | Some("" | "Default") => privileged,
        Some("Unmasked") => true,
        Some(other) => return Err(format!("unknown procMount {other:?}")),
    };
    let paths = |list: &[&str]| list.iter().map(|path| (*path).to_owned()).collect::<Vec<String>>();
    let capabilities = own.capabilities.map(|capabilities| v1::Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        ..Default::default()
    });
    let group = own.run_as_group.or(pods.run_as_group);
    let (user, username) = match own.run_as_user.or(pods.run_as_user) {
        // The runtime refuses a group without a user: the image's is named to it.
        None if group.is_some() => match image.uid.as_ref() {
            Some(uid) => (Some(uid.value), String::new()),
            None if image.username.is_empty() => (Some(0), String::new()),
            None => (None, image.username.clone()),
        },
        user => (user, String::new()),
    };
    let seccomp = own.seccomp_profile.as_ref().or(pods.seccomp_profile.as_ref());
    Ok(v1::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(sandbox::namespaces(pod)),
        selinux_options: profiles::selinux(own.se_linux_options.as_ref().or(pods.se_linux_options.as_ref())),
        run_as_user: user.map(|value| v1::Int64Value { value }),
        run_as_username: username,
        run_as_group: group.map(|value| v1::Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: sandbox::supplemental_groups(pod),
        supplemental_groups_policy: sandbox::supplemental_groups_policy(pod) as i32,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: if unmasked {
            Vec::new()
        } else {
            paths(&MASKED).into_iter().chain(paths(&MASKED_SYS)).collect()
        },
        readonly_paths: if unmasked { Vec::new() } else { paths(&READ_ONLY) },
        seccomp: Some(profiles::seccomp(seccomp.filter(|_| !privileged))?),
        apparmor: profiles::apparmor(pod, container)?,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests;
