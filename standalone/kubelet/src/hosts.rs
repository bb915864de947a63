//! The `/etc/hosts` that a pod's containers share.

use std::{fs, io, path::Path};

use k8s_openapi::api::core::v1::Pod;

use crate::spec::sandbox;

/// The file's text: loopback names, the pod's own addresses and name, its aliases.
pub fn text(pod: &Pod, pod_ips: &[String], node_hosts: &str, cluster_domain: &str) -> String {
    let Some(spec) = &pod.spec else { return String::new() };
    let mut out = String::from("# Kubernetes-managed hosts file");
    if spec.host_network == Some(true) {
        out.push_str(" (host network).\n");
        out.push_str(node_hosts);
    } else {
        out.push_str(".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str(
            "fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let host = sandbox::hostname(pod);
        let domain = sandbox::domain(pod, cluster_domain);
        for ip in pod_ips {
            match &domain {
                Some(domain) => out.push_str(&format!("{ip}\t{host}.{domain}\t{host}\n")),
                None => out.push_str(&format!("{ip}\t{host}\n")),
            }
        }
    }
    let aliases: Vec<String> = spec
        .host_aliases
        .iter()
        .flatten()
        .map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")))
        .collect();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        out.push_str(&aliases.concat());
    }
    out
}

/// Writes the file unless it already holds that text; the inode stays, containers have it mounted.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|have| have == text) {
        return Ok(());
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_pod_finds_itself_and_its_aliases() {
        let pod = pod(json!({"containers": [], "subdomain": "sub",
            "hostAliases": [{"ip": "192.0.2.5", "hostnames": ["a", "b"]}]}));
        let text = text(&pod, &["10.244.1.2".to_owned()], "", "cluster.local");
        assert!(text.contains("10.244.1.2\tp.sub.ns.svc.cluster.local\tp\n"), "{text}");
        assert!(text.ends_with("192.0.2.5\ta\tb\n"), "{text}");
    }

    #[test]
    fn a_pod_on_the_hosts_network_has_the_nodes_names() {
        let text = text(
            &pod(json!({"containers": [], "hostNetwork": true})),
            &[],
            "127.0.0.1 node\n",
            "cluster.local",
        );
        assert!(text.contains("127.0.0.1 node\n") && !text.contains("ip6-localnet"), "{text}");
    }
}
