//! What `/etc/resolv.conf` of a pod holds.

use std::net::IpAddr;

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

/// Kernel resolvers read no more than this many (resolv.conf(5); upstream's own bounds).
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// The cluster's resolver as pods see it.
#[derive(Clone, Debug, Default)]
pub struct ClusterDns {
    pub servers: Vec<IpAddr>,
    pub domain: String,
}

/// Resolver settings by the pod's dnsPolicy and dnsConfig; `host` is the node's own resolv.conf.
pub fn config(pod: &Pod, cluster: &ClusterDns, host: &DnsConfig) -> DnsConfig {
    let Some(spec) = &pod.spec else { return host.clone() };
    let host_network = spec.host_network == Some(true);
    let mut dns = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => DnsConfig::default(),
        "ClusterFirstWithHostNet" if !cluster.servers.is_empty() => cluster_first(pod, cluster, host),
        "ClusterFirst" if !cluster.servers.is_empty() && !host_network => cluster_first(pod, cluster, host),
        _ => host.clone(),
    };
    if let Some(own) = &spec.dns_config {
        extend(&mut dns.servers, own.nameservers.iter().flatten().cloned());
        extend(&mut dns.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            dns.options.retain(|have| have.split(':').next() != Some(name.as_str()));
            dns.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    dns
}

fn cluster_first(pod: &Pod, cluster: &ClusterDns, host: &DnsConfig) -> DnsConfig {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = &cluster.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    extend(&mut searches, host.searches.iter().cloned());
    DnsConfig {
        servers: cluster.servers.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

/// Reads resolv.conf(5): comments, `nameserver`, the last `search` line, `options`.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => extend(&mut dns.options, words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

fn extend(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn cluster() -> ClusterDns {
        ClusterDns { servers: vec!["10.96.0.10".parse().unwrap()], domain: "cluster.local".to_owned() }
    }

    #[test]
    fn cluster_first_searches_the_pods_namespace_before_the_hosts_domains() {
        let host = parse_resolv_conf("# c\nnameserver 192.0.2.1\nsearch example.org\noptions rotate\n");
        let dns = config(&pod(json!({"containers": []})), &cluster(), &host);
        assert_eq!(dns.servers, ["10.96.0.10"]);
        let searches = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"];
        assert_eq!(dns.searches, searches);
        assert_eq!(dns.options, ["ndots:5"]);
    }

    #[test]
    fn pods_on_the_hosts_network_and_clusters_without_dns_get_the_hosts_resolver() {
        let host = parse_resolv_conf("nameserver 192.0.2.1\n");
        let dns = config(&pod(json!({"containers": [], "hostNetwork": true})), &cluster(), &host);
        assert_eq!(dns, host);
        assert_eq!(config(&pod(json!({"containers": []})), &ClusterDns::default(), &host), host);
    }

    #[test]
    fn the_pods_own_settings_come_last_and_replace_options_of_the_same_name() {
        let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1", "1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}]}});
        let dns = config(&pod(spec), &cluster(), &DnsConfig::default());
        assert_eq!((dns.servers, dns.options), (vec!["1.1.1.1".to_owned()], vec!["ndots:2".to_owned()]));
    }
}
