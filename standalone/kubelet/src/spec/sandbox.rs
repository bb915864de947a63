//! A pod's sandbox: namespaces, cgroup, resolver, hostname, ports, sysctls.

use std::{collections::HashMap, path::Path};

use k8s_cri::v1::{self, security_profile::ProfileType};
use k8s_openapi::api::core::v1::Pod;

use super::{PodId, profiles, resources::QosClass};
use crate::{admission::sysctls, cri::labels};

/// Settings of the node that every sandbox is made with.
#[derive(Clone, Debug)]
pub struct SandboxSettings<'a> {
    pub node_name: &'a str,
    pub log_dir: &'a Path,
    pub cgroup_parent: &'a str,
    pub systemd_cgroups: bool,
    pub dns: v1::DnsConfig,
    pub cluster_domain: &'a str,
}

/// What `RunPodSandbox` and each `CreateContainer` of the pod are asked with.
///
/// # Errors
/// When the pod asks for a name that the kernel can't hold.
pub fn config(pod: &Pod, attempt: u32, settings: SandboxSettings) -> Result<v1::PodSandboxConfig, String> {
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
    let sysctls = security.sysctls.iter().flatten();
    let sysctls = sysctls.map(|s| (sysctls::with_dots(&s.name), s.value.clone())).collect();
    Ok(v1::PodSandboxConfig {
        // The runtime refuses a hostname in the host's own UTS namespace.
        hostname: if host_network { String::new() } else { kernel_hostname(pod, settings.cluster_domain)? },
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
                selinux_options: profiles::selinux(security.se_linux_options.as_ref()),
                supplemental_groups: supplemental_groups(pod),
                supplemental_groups_policy: supplemental_groups_policy(pod) as i32,
                privileged,
                // The pause program needs no more, and a profile of the pod's might not let it be.
                seccomp: Some(profiles::plain(ProfileType::RuntimeDefault)),
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
    })
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

/// What a kernel's node name can hold (`__NEW_UTS_LEN`).
const KERNEL_NAME_LIMIT: usize = 64;

/// `spec.hostnameOverride`, `spec.hostname`, or the pod's name, cut to what a host may be called.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let overriding = spec.and_then(|spec| spec.hostname_override.clone());
    let own = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    let name = overriding.or(own).or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// The domain below which a pod with a subdomain has its name.
pub fn domain(pod: &Pod, cluster_domain: &str) -> Option<String> {
    let spec = pod.spec.as_ref().filter(|spec| spec.hostname_override.is_none())?;
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty())?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    Some(format!("{subdomain}.{namespace}.svc.{cluster_domain}"))
}

/// What `hostname` says inside: with `setHostnameAsFQDN` the whole name.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> Result<String, String> {
    let short = hostname(pod);
    let whole = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    let Some(domain) = domain(pod, cluster_domain).filter(|_| whole) else { return Ok(short) };
    let name = format!("{short}.{domain}");
    if name.len() > KERNEL_NAME_LIMIT {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long \
             ({KERNEL_NAME_LIMIT} characters is the max, {} characters requested)",
            name.len()
        ));
    }
    Ok(name)
}

/// Groups that every process of the pod is in besides its own.
pub fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let Some(security) = security else { return Vec::new() };
    security.supplemental_groups.iter().flatten().copied().chain(security.fs_group).collect()
}

/// Whether the image's own groups of the user count as well.
pub fn supplemental_groups_policy(pod: &Pod) -> v1::SupplementalGroupsPolicy {
    let security = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    match security.and_then(|security| security.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict,
        _ => v1::SupplementalGroupsPolicy::Merge,
    }
}

/// The pod's cgroup: below `kubepods`, `kubepods/burstable` or `kubepods/besteffort`, in the driver's
/// spelling.
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
            cluster_domain: "cluster.local",
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
        let config = config(&pod(json!({"containers": []})), 3, settings()).unwrap();
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
        )
        .unwrap();
        assert_eq!(config.hostname, "");
        assert!(config.port_mappings.is_empty());
    }

    #[test]
    fn host_ports_are_mapped_by_protocol() {
        let ports =
            json!([{"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}, {"containerPort": 80}]);
        let pod = pod(json!({"containers": [{"name": "c", "ports": ports}]}));
        let config = config(&pod, 0, settings()).unwrap();
        assert_eq!(config.port_mappings.len(), 1);
        assert_eq!(config.port_mappings[0].protocol, v1::Protocol::Udp as i32);
    }

    #[test]
    fn systemd_wants_a_slice() {
        let pod = pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(cgroup_parent(&pod, "/", true), "kubepods-burstable-podu_1.slice");
    }
    #[test]
    fn the_kernel_is_told_the_whole_name_where_a_pod_asks_for_it() {
        let whole = |spec: serde_json::Value| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            kernel_hostname(&pod(spec), "cluster.local")
        };
        let cases = [
            (json!({}), "p"),
            (json!({"hostname": "h"}), "h"),
            (json!({"setHostnameAsFQDN": true}), "p"),
            (json!({"subdomain": "sub"}), "p"),
            (json!({"subdomain": "sub", "setHostnameAsFQDN": true}), "p.sub.ns.svc.cluster.local"),
            (json!({"hostnameOverride": "any.name", "subdomain": "sub"}), "any.name"),
        ];
        for (spec, expected) in cases {
            assert_eq!(whole(spec.clone()).unwrap(), expected, "{spec}");
        }
        let fits = whole(
            json!({"subdomain": "a".repeat(64 - "p..ns.svc.cluster.local".len()), "setHostnameAsFQDN": true}),
        )
        .unwrap();
        assert_eq!(fits.len(), 64);
        let error = whole(
            json!({"subdomain": "a".repeat(65 - "p..ns.svc.cluster.local".len()), "setHostnameAsFQDN": true}),
        )
        .unwrap_err();
        assert!(
            error.ends_with("is too long (64 characters is the max, 65 characters requested)"),
            "{error}"
        );
    }

    #[test]
    fn sysctls_reach_the_runtime_with_dots_between_their_parts() {
        let sysctls = json!([{"name": "net/ipv4/tcp_syncookies", "value": "0"}]);
        let pod = pod(json!({"containers": [], "securityContext": {"sysctls": sysctls}}));
        let linux = config(&pod, 0, settings()).unwrap().linux.unwrap();
        assert_eq!(linux.sysctls, [("net.ipv4.tcp_syncookies".to_owned(), "0".to_owned())].into());
    }
}
