//! Kernel parameters that a pod may set: those that are safe (of the pod's own namespaces, without an effect
//! on its neighbours), and those that the node's owner allows besides.

use k8s_openapi::api::core::v1::Pod;

use super::Rejection;

/// Upstream's safe list: the name, and the first kernel in which it belongs to a network namespace.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// The kernel's namespace that a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

impl Namespace {
    fn name(self) -> &'static str {
        match self {
            Namespace::Ipc => "ipc",
            Namespace::Net => "net",
        }
    }
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    #[error("sysctl {0:?} is no name of a kernel parameter, nor one that ends in *")]
    Pattern(String),
    #[error("the sysctl {0:?} is not known to be namespaced: it would be set for the whole node")]
    NotNamespaced(String),
}

/// Names and prefixes that pods of this node may set.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    names: Vec<(String, Namespace)>,
    prefixes: Vec<(String, Namespace)>,
}

impl Allowed {
    /// The safe ones of this kernel, and what the node's owner adds (`kernel.msg*`, `net.core.somaxconn`).
    ///
    /// # Errors
    /// When an addition is no name, or one of a parameter that no pod has for itself.
    pub fn new(kernel_release: &str, more: &[String]) -> Result<Allowed, SysctlError> {
        let kernel = version(kernel_release);
        let safe = SAFE.iter().filter(|(_, since)| kernel >= *since).map(|(name, _)| (*name).to_owned());
        let mut allowed = Allowed::default();
        for pattern in safe.chain(more.iter().cloned()) {
            let (name, is_prefix) = match pattern.strip_suffix('*') {
                Some(prefix) => (prefix, true),
                None => (pattern.as_str(), false),
            };
            // A prefix may end at a separator, where a name goes on.
            if !is_name(if is_prefix { name.trim_end_matches(['.', '/']) } else { name }) {
                return Err(SysctlError::Pattern(pattern.clone()));
            }
            let name = with_dots(name);
            let space = namespace(&name).ok_or_else(|| SysctlError::NotNamespaced(pattern.clone()))?;
            if is_prefix { &mut allowed.prefixes } else { &mut allowed.names }.push((name, space));
        }
        Ok(allowed)
    }

    fn find(&self, name: &str) -> Option<Namespace> {
        let exact = self.names.iter().find(|(known, _)| known == name);
        let known = exact.or_else(|| self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix)));
        known.map(|(_, namespace)| *namespace)
    }
}

pub fn check(pod: &Pod, allowed: &Allowed) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let asked = spec.security_context.as_ref().and_then(|security| security.sysctls.as_ref());
    for sysctl in asked.into_iter().flatten() {
        let name = with_dots(&sysctl.name);
        let why = match allowed.find(&name).filter(|_| is_name(&sysctl.name)) {
            None => format!("{name:?} not allowlisted"),
            Some(space @ Namespace::Ipc) if spec.host_ipc == Some(true) => of_the_host(&name, space),
            Some(space @ Namespace::Net) if spec.host_network == Some(true) => of_the_host(&name, space),
            Some(_) => continue,
        };
        return Err(Rejection::new("SysctlForbidden", format!("forbidden sysctl: {why}")));
    }
    Ok(())
}

fn of_the_host(name: &str, namespace: Namespace) -> String {
    format!("{name:?} not allowed with host {} enabled", namespace.name())
}

/// Parameters that exist once for each namespace, as far as is known.
fn namespace(name: &str) -> Option<Namespace> {
    let ipc = name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    match ipc {
        true => Some(Namespace::Ipc),
        false => name.starts_with("net.").then_some(Namespace::Net),
    }
}

/// The name with dots between its parts. One that is written with slashes may have dots inside a part
/// (`net/ipv4/conf/eth0.1/arp_filter`); they become slashes (sysctl.d(5)).
pub fn with_dots(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// What upstream's validation takes for a name: parts of lower-case letters, digits, `-` and `_`.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            edge(part.chars().next()) && edge(part.chars().next_back()) && part.chars().all(inner)
        })
}

/// Major and minor of `6.1.0-28-amd64`.
fn version(release: &str) -> (u32, u32) {
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().unwrap_or(0)
    };
    let (major, rest) = release.split_once('.').unwrap_or((release, ""));
    (digits(major), digits(rest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn allowed(more: &[&str]) -> Allowed {
        let more: Vec<String> = more.iter().map(|name| (*name).to_owned()).collect();
        Allowed::new("6.1.0-28-amd64", &more).unwrap()
    }

    fn judged(spec: serde_json::Value, name: &str, allowed: &Allowed) -> Result<(), String> {
        let mut spec = spec;
        spec["containers"] = json!([]);
        spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        check(&pod, allowed).map_err(|rejection| {
            assert_eq!(rejection.reason, "SysctlForbidden");
            rejection.message
        })
    }

    #[test]
    fn safe_sysctls_are_set_and_others_only_where_the_node_allows_them() {
        let (own, host_net) = (json!({}), json!({"hostNetwork": true}));
        let cases = [
            (&own, "net.ipv4.tcp_syncookies", Ok(())),
            (&own, "net/ipv4/tcp_syncookies", Ok(())),
            (&own, "kernel.shm_rmid_forced", Ok(())),
            (&host_net, "kernel.shm_rmid_forced", Ok(())),
            (&json!({"hostIPC": true}), "net.ipv4.tcp_rmem", Ok(())),
            (&host_net, "net.ipv4.tcp_rmem", Err("\"net.ipv4.tcp_rmem\" not allowed with host net enabled")),
            (
                &json!({"hostIPC": true}),
                "kernel.shm_rmid_forced",
                Err("\"kernel.shm_rmid_forced\" not allowed with host ipc enabled"),
            ),
            (&own, "net.core.somaxconn", Err("\"net.core.somaxconn\" not allowlisted")),
            (&own, "vm.swappiness", Err("\"vm.swappiness\" not allowlisted")),
            (&own, "kernel.msgmax", Err("\"kernel.msgmax\" not allowlisted")),
            (&own, "net.ipv4.no_such", Err("\"net.ipv4.no_such\" not allowlisted")),
        ];
        for (spec, name, expected) in cases {
            let expected = expected.map_err(|why| format!("forbidden sysctl: {why}"));
            assert_eq!(judged(spec.clone(), name, &allowed(&[])), expected, "{name} with {spec}");
        }
        let more = allowed(&["net.core.somaxconn", "kernel.msg*", "net.ipv4.conf.*"]);
        for name in ["net.core.somaxconn", "kernel.msgmax", "net/ipv4/conf/eth0.1/arp_filter"] {
            assert_eq!(judged(own.clone(), name, &more), Ok(()), "{name}");
        }
        assert!(judged(host_net.clone(), "net.core.somaxconn", &more).is_err(), "still not the node's own");
        for name in ["kernel.msg../../vm", "kernel.msg max", "kernel.MSG", "kernel.msg."] {
            assert!(judged(own.clone(), name, &more).is_err(), "{name} is no name");
        }
    }

    #[test]
    fn an_old_kernel_has_fewer_safe_sysctls() {
        let old = Allowed::new("4.4.0", &[]).unwrap();
        assert!(judged(json!({}), "net.ipv4.tcp_keepalive_time", &old).is_err());
        assert_eq!(judged(json!({}), "net.ipv4.ip_local_reserved_ports", &old), Ok(()));
    }

    #[test]
    fn a_node_can_allow_only_what_a_pod_has_for_itself() {
        let refused = |name: &str| Allowed::new("6.1.0", &[name.to_owned()]).unwrap_err();
        assert_eq!(refused("vm.swappiness"), SysctlError::NotNamespaced("vm.swappiness".into()));
        assert_eq!(refused("kernel.*"), SysctlError::NotNamespaced("kernel.*".into()));
        for name in ["*", "", "net.*.x", "Net.core", "net..core"] {
            assert_eq!(refused(name), SysctlError::Pattern(name.into()), "{name:?}");
        }
    }
}
