//! Who answers for a load-balancer address, and what health checks are told.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::{self, apply_node, apply_service, apply_slice};
use proxy_state::{ObjectKey, State};
use serde_json::{Value, json};

const NODES: [&str; 3] = ["a", "b", "c"];

/// One state for each node: what its agent would know.
struct Cluster(BTreeMap<&'static str, State>);

impl Cluster {
    fn new() -> Cluster {
        let mut cluster = Cluster(NODES.iter().map(|name| (*name, State::new(name))).collect());
        NODES.iter().for_each(|name| cluster.node(node(name)));
        cluster
    }

    fn node(&mut self, object: Value) {
        self.0.values_mut().for_each(|state| apply_node(state, object.clone()));
    }

    fn service(&mut self, object: Value) {
        self.0.values_mut().for_each(|state| apply_service(state, object.clone()));
    }

    /// (address, node, ready, serving, terminating)
    fn endpoints(&mut self, service: &str, list: &[(&str, &str, bool, bool, bool)]) {
        let endpoints: Vec<Value> = list
            .iter()
            .map(|(ip, node, ready, serving, terminating)| {
                json!({"addresses": [ip], "nodeName": node,
                       "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
            })
            .collect();
        let slice = json!({
            "metadata": {"name": format!("{service}-1"), "namespace": "ns",
                         "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"port": 8080, "name": ""}], "endpoints": endpoints,
        });
        self.0.values_mut().for_each(|state| apply_slice(state, slice.clone()));
    }

    /// The nodes that answer for an address.
    fn announcers(&self, ip: &str) -> Vec<&'static str> {
        let ip = ip.parse().unwrap();
        self.0.iter().filter(|(_, state)| state.announced().contains(&ip)).map(|(name, _)| *name).collect()
    }

    fn local_endpoints(&self, port: u16) -> Vec<Option<usize>> {
        let count = |state: &State| state.health().services.get(&port).map(|health| health.local_endpoints);
        self.0.values().map(count).collect()
    }
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn service(name: &str, ips: &[&str], policy: &str) -> Value {
    let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    json!({
        "metadata": {"name": name, "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "externalTrafficPolicy": policy,
                 "healthCheckNodePort": if policy == "Local" { 32000 } else { 0 }, "ports": [{"port": 80}]},
        "status": {"loadBalancer": {"ingress": ingress},
                   "conditions": [{"type": "skerry.io/AddressAssigned", "status": "True"}]},
    })
}

#[test]
fn every_address_has_one_node_and_all_nodes_have_some() {
    let mut cluster = Cluster::new();
    let ips: Vec<String> = (0..200).map(|n| format!("192.0.2.{n}")).collect();
    cluster.service(service("web", &ips.iter().map(String::as_str).collect::<Vec<_>>(), "Cluster"));
    let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
    for ip in &ips {
        let announcers = cluster.announcers(ip);
        assert_eq!(announcers.len(), 1, "{ip}: {announcers:?}");
        *shares.entry(announcers[0]).or_default() += 1;
    }
    assert!(NODES.iter().all(|name| shares[name] > 40), "{shares:?}");
}

#[test]
fn only_the_addresses_of_a_node_that_goes_move() {
    let mut cluster = Cluster::new();
    let ips: Vec<String> = (0..100).map(|n| format!("2001:db8::{n:x}")).collect();
    cluster.service(service("web", &ips.iter().map(String::as_str).collect::<Vec<_>>(), "Cluster"));
    let before: Vec<_> = ips.iter().map(|ip| cluster.announcers(ip)).collect();
    let mut silent = node("b");
    silent["status"]["conditions"][0]["status"] = json!("Unknown");
    cluster.node(silent);
    for (ip, before) in ips.iter().zip(before) {
        let now = cluster.announcers(ip);
        assert_eq!(now.len(), 1);
        assert!(now == before || before == ["b"], "{ip}: {before:?} {now:?}");
        assert_ne!(now, ["b"]);
    }
}

#[test]
fn excluded_leaving_and_unready_nodes_do_not_stand() {
    let ip = "192.0.2.1";
    let changes: [fn(&mut Value); 4] = [
        |node| {
            node["metadata"]["labels"] =
                json!({"node.kubernetes.io/exclude-from-external-load-balancers": ""})
        },
        |node| {
            node["spec"] =
                json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]})
        },
        |node| node["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        |node| node["status"] = json!({}),
    ];
    for change in changes {
        let mut cluster = Cluster::new();
        cluster.service(service("web", &[ip], "Cluster"));
        let elected = cluster.announcers(ip)[0];
        let mut changed = node(elected);
        change(&mut changed);
        cluster.node(changed.clone());
        assert!(!cluster.announcers(ip).contains(&elected), "{changed}");
        assert_eq!(cluster.announcers(ip).len(), 1, "{changed}");
    }
}

#[test]
fn a_local_service_is_announced_where_its_endpoints_are() {
    let (mut cluster, ip) = (Cluster::new(), "192.0.2.1");
    cluster.service(service("web", &[ip], "Local"));
    assert!(cluster.announcers(ip).is_empty(), "nobody could serve it");
    for host in NODES {
        cluster.endpoints("web", &[("10.244.1.1", host, true, true, false)]);
        assert_eq!(cluster.announcers(ip), [host]);
    }
    // Of a terminating one and a ready one, the ready one's node; a terminating one alone is better than
    // none.
    cluster
        .endpoints("web", &[("10.244.1.1", "a", false, true, true), ("10.244.2.1", "b", true, true, false)]);
    assert_eq!(cluster.announcers(ip), ["b"]);
    cluster.endpoints("web", &[("10.244.1.1", "a", false, true, true)]);
    assert_eq!(cluster.announcers(ip), ["a"]);
    cluster.endpoints("web", &[("10.244.1.1", "a", false, false, true)]);
    assert!(cluster.announcers(ip).is_empty());
}

#[test]
fn a_shared_address_is_announced_where_all_its_services_are_served() {
    let (mut cluster, ip) = (Cluster::new(), "192.0.2.1");
    cluster.service(service("http", &[ip], "Local"));
    cluster.service(service("dns", &[ip], "Local"));
    cluster
        .endpoints("http", &[("10.244.1.1", "a", true, true, false), ("10.244.2.1", "b", true, true, false)]);
    cluster
        .endpoints("dns", &[("10.244.2.2", "b", true, true, false), ("10.244.3.2", "c", true, true, false)]);
    assert_eq!(cluster.announcers(ip), ["b"]);
}

#[test]
fn addresses_that_others_gave_are_not_ours_to_announce() {
    let (mut cluster, ip) = (Cluster::new(), "192.0.2.1");
    let mut foreign = service("web", &[ip], "Cluster");
    foreign["status"]["conditions"] = json!([]);
    cluster.service(foreign);
    assert!(cluster.announcers(ip).is_empty());
    let mut proxied = service("web", &[ip], "Cluster");
    proxied["status"]["loadBalancer"]["ingress"][0]["ipMode"] = json!("Proxy");
    cluster.service(proxied);
    assert!(cluster.announcers(ip).is_empty());
    cluster.service(service("web", &[ip], "Cluster"));
    assert_eq!(cluster.announcers(ip).len(), 1);
    let mut internal = service("web", &[ip], "Cluster");
    internal["spec"]["type"] = json!("ClusterIP");
    cluster.service(internal);
    assert!(cluster.announcers(ip).is_empty());
}

#[test]
fn health_counts_ready_local_endpoints_once_and_terminating_ones_not() {
    let mut cluster = Cluster::new();
    cluster.service(service("web", &[], "Local"));
    assert_eq!(cluster.local_endpoints(32000), [Some(0); 3]);
    cluster.endpoints(
        "web",
        &[
            ("10.244.1.1", "a", true, true, false),
            ("10.244.1.1", "a", true, true, false),
            ("10.244.1.2", "a", true, true, false),
            ("10.244.1.3", "a", false, false, false),
            ("10.244.2.1", "b", false, true, true),
            // publishNotReadyAddresses says ready even of what ends.
            ("10.244.2.2", "b", true, true, true),
        ],
    );
    assert_eq!(cluster.local_endpoints(32000), [Some(2), Some(0), Some(0)]);
    // Cluster policy, or another type: no port.
    cluster.service(service("web", &[], "Cluster"));
    assert_eq!(cluster.local_endpoints(32000), [None; 3]);
}

#[test]
fn of_two_services_with_one_health_port_the_older_has_it() {
    let mut state = State::new("a");
    let mut older = service("older", &[], "Local");
    older["metadata"]["creationTimestamp"] = json!("2025-01-01T00:00:00Z");
    apply_service(&mut state, service("a-newer", &[], "Local"));
    apply_service(&mut state, older);
    assert_eq!(state.health().services[&32000].service, ObjectKey::new("ns", "older"));
}

#[test]
fn a_node_that_is_to_go_or_is_gone_is_not_eligible() {
    let mut state = State::new("a");
    assert!(!state.health().is_eligible);
    apply_node(&mut state, node("a"));
    assert!(state.health().is_eligible);
    let mut leaving = node("a");
    leaving["spec"] = json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]});
    apply_node(&mut state, leaving);
    assert!(!state.health().is_eligible);
    // A node that is not Ready serves on: others judge that.
    let mut unready = node("a");
    unready["status"] = json!({});
    apply_node(&mut state, unready);
    assert!(state.health().is_eligible);
}

#[test]
fn only_what_concerns_the_outside_makes_it_be_looked_at_again() {
    let mut state = State::new("a");
    assert!(state.take_outside_dirty() && !state.take_outside_dirty());
    apply_service(&mut state, world::service("inner", "10.96.0.1"));
    apply_slice(&mut state, world::slice("inner-1", "inner", &["10.244.1.1"]));
    assert!(!state.take_outside_dirty());
    apply_service(&mut state, service("web", &["192.0.2.1"], "Local"));
    assert!(state.take_outside_dirty());
    apply_slice(&mut state, world::slice("web-1", "web", &["10.244.1.1"]));
    assert!(state.take_outside_dirty());
    state.delete_service(&ObjectKey::new("ns", "web"));
    assert!(state.take_outside_dirty());
    apply_slice(&mut state, world::slice("web-1", "web", &[]));
    assert!(!state.take_outside_dirty());
    let names: BTreeSet<_> = state.announced();
    assert!(names.is_empty());
}
