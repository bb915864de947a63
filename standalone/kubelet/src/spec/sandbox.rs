//! A pod's sandbox: namespaces, cgroup, resolver, hostname, ports, sysctls.

use std::{collections::HashMap, path::Path};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Pod, SeccompProfile};

use super::{PodId, resources::QosClass};
use crate::cri::labels;

/// Settings of the node that every sandbox is made with.
#[derive(Clone, Debug)]
pub struct SandboxSettings<'a> {
    pub node_name: &'a str,
    pub log_dir: &'a Path,
    pub cgroup_parent: &'a str,
    pub systemd_cgroups: bool,
    pub dns: v1::DnsConfig,
}

/// What `RunPodSandbox` and each `CreateContainer` of the pod are asked with.
pub fn config(pod: &Pod, attempt: u32, settings: SandboxSettings) -> v1::PodSandboxConfig {
    let id = PodId::of(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let security = spec.security_context.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let privileged = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(|container| container.security_context.as_ref().is_some_and(|c| c.privileged == Some(true)));
    let mut pod_labels: HashMap<String, String> = pod.metadata.labels.clone().into_iter().flatten().collect();
    pod_labels.insert(labels::POD_NAME.to_owned(), id.name.clone());
    pod_labels.insert(labels::POD_NAMESPACE.to_owned(), id.namespace.clone());
    pod_labels.insert(labels::POD_UID.to_owned(), id.uid.clone());
    pod_labels.insert(labels::NODE.to_owned(), settings.node_name.to_owned());
    let cgroup_parent = cgroup_parent(pod, settings.cgroup_parent, settings.systemd_cgroups);
    let mut annotations: HashMap<String, String> =
        pod.metadata.annotations.clone().into_iter().flatten().collect();
    annotations.insert(labels::CGROUP.to_owned(), cgroup_parent.clone());
    let sysctls = security.sysctls.iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect();
    v1::PodSandboxConfig {
        // The runtime refuses a hostname in the host's own UTS namespace.
        hostname: if host_network { String::new() } else { hostname(pod) },
        log_directory: settings.log_dir.join(id.log_folder()).display().to_string(),
        dns_config: Some(settings.dns),
        port_mappings: if host_network { Vec::new() } else { port_mappings(pod) },
        labels: pod_labels,
        annotations,
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(pod)),
                run_as_user: security.run_as_user.map(|value| v1::Int64Value { value }),
                // A group without a user is refused by the runtime.
                run_as_group: security
                    .run_as_group
                    .filter(|_| security.run_as_user.is_some())
                    .map(|value| v1::Int64Value { value }),
                supplemental_groups: supplemental_groups(pod),
                privileged,
                seccomp: Some(seccomp(security.seccomp_profile.as_ref())),
                ..Default::default()
            }),
            sysctls,
            ..Default::default()
        }),
        windows: None,
        metadata: Some(v1::PodSandboxMetadata {
            name: id.name,
            uid: id.uid,
            namespace: id.namespace,
            attempt,
        }),
    }
}

/// Namespaces of the pod's containers; each has its own process ids unless the pod shares them.
pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod.spec.as_ref();
    let asked = |flag: Option<bool>| flag == Some(true);
    let host = |flag| if asked(flag) { v1::NamespaceMode::Node } else { v1::NamespaceMode::Pod };
    let pid = match spec {
        Some(spec) if asked(spec.host_pid) => v1::NamespaceMode::Node,
        Some(spec) if asked(spec.share_process_namespace) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: host(spec.and_then(|spec| spec.host_network)) as i32,
        pid: pid as i32,
        ipc: host(spec.and_then(|spec| spec.host_ipc)) as i32,
        ..Default::default()
    }
}

/// `spec.hostname`, or the pod's name cut to what a host may be called.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let own = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let name = own.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Groups that every process of the pod is in besides its own.
pub fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let Some(security) = security else { return Vec::new() };
    security.supplemental_groups.iter().flatten().copied().chain(security.fs_group).collect()
}

/// No profile means none is applied, as upstream does without SeccompDefault.
pub fn seccomp(profile: Option<&SeccompProfile>) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType;
    let (profile_type, localhost_ref) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
            (ProfileType::Localhost, format!("/var/lib/kubelet/seccomp/{file}"))
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    v1::SecurityProfile { profile_type: profile_type as i32, localhost_ref }
}

/// The pod's cgroup: below `kubepods`, `kubepods/burstable` or `kubepods/besteffort`, in the driver's spelling.
pub fn cgroup_parent(pod: &Pod, parent: &str, systemd: bool) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let class = match QosClass::of(pod) {
        QosClass::Guaranteed => "",
        QosClass::Burstable => "burstable",
        QosClass::BestEffort => "besteffort",
    };
    let dash = if class.is_empty() { "" } else { "-" };
    let slash = if class.is_empty() { "" } else { "/" };
    if systemd {
        return format!("kubepods{dash}{class}-pod{}.slice", uid.replace('-', "_"));
    }
    let parent = parent.trim_end_matches('/');
    format!("{parent}/kubepods{slash}{class}/pod{uid}")
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let containers = pod.spec.iter().flat_map(|spec| {
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        spec.containers.iter().chain(sidecars)
    });
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let mappings = ports.map(|port| {
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => v1::Protocol::Udp,
            Some("SCTP") => v1::Protocol::Sctp,
            _ => v1::Protocol::Tcp,
        };
        v1::PortMapping {
            protocol: protocol as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        }
    });
    mappings.filter(|mapping| mapping.host_port > 0).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings() -> SandboxSettings<'static> {
        SandboxSettings {
            node_name: "n1",
            log_dir: Path::new("/logs"),
            cgroup_parent: "/lab/n1",
            systemd_cgroups: false,
            dns: v1::DnsConfig::default(),
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u-1"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn the_sandbox_carries_the_pods_identity() {
        let config = config(&pod(json!({"containers": []})), 3, settings());
        let metadata = config.metadata.unwrap();
        assert_eq!((metadata.name.as_str(), metadata.attempt), ("p", 3));
        assert_eq!(config.labels[labels::POD_UID], "u-1");
        assert_eq!(config.log_directory, "/logs/ns_p_u-1");
        assert_eq!(config.hostname, "p");
        let linux = config.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/lab/n1/kubepods/besteffort/podu-1");
        let namespaces = linux.security_context.unwrap().namespace_options.unwrap();
        assert_eq!(namespaces.pid, v1::NamespaceMode::Container as i32);
    }

    #[test]
    fn a_pod_on_the_hosts_network_has_neither_hostname_nor_port_mappings() {
        let config = config(
            &pod(
                json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}),
            ),
            0,
            settings(),
        );
        assert_eq!(config.hostname, "");
        assert!(config.port_mappings.is_empty());
    }

    #[test]
    fn host_ports_are_mapped_by_protocol() {
        let ports =
            json!([{"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}, {"containerPort": 80}]);
        let config = config(&pod(json!({"containers": [{"name": "c", "ports": ports}]})), 0, settings());
        assert_eq!(config.port_mappings.len(), 1);
        assert_eq!(config.port_mappings[0].protocol, v1::Protocol::Udp as i32);
    }

    #[test]
    fn systemd_wants_a_slice() {
        let pod = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(cgroup_parent(&pod, "/", true), "kubepods-burstable-podu_1.slice");
    }
}
