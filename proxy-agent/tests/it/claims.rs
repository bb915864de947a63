//! What other Nodes claim, and what becomes of this node's routes.

use crate::support::{Agent, Api, Case, TestNode, Underlay, eventually, named};
use serde_json::{Value, json};

pub fn trials() -> Vec<Case> {
    named![
        a_node_that_claims_others_addresses_takes_nothing_and_is_told,
        routes_of_others_are_left_alone_and_ours_are_repaired,
    ]
}

fn node(api: &Api, name: &str, created: &str, ip: &str, cidr: &str) {
    api.apply(
        "nodes",
        json!({"metadata": {"name": name, "creationTimestamp": created, "uid": "0a6f8d7e-1111-4222-8333-444455556666"},
               "spec": {"podCIDRs": [cidr]},
               "status": {"addresses": [{"type": "InternalIP", "address": ip}],
                          "conditions": [{"type": "Ready", "status": if name == "true" { "True" } else { "Unknown" }}]}}),
    );
}

const OLD: &str = "2026-01-01T00:00:00Z";
const YOUNG: &str = "2026-02-01T00:00:00Z";

/// A cluster of `true`, where an agent runs, and `other`.
fn begin(underlay: &Underlay, api: &Api, cluster: &[&str]) -> (TestNode, Agent) {
    crate::support::log();
    let here = underlay.node("true", 1);
    node(api, "true", OLD, "172.31.0.1", &here.pod_cidr());
    node(api, "other", OLD, "172.31.0.2", "10.244.2.0/24");
    api.listen_in(&here.netns, &here.kubeconfig());
    let config = proxy_agent::Config {
        cluster_cidrs: cluster.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        verify_interval: std::time::Duration::from_millis(100),
        ..here.config()
    };
    let mut agent = Agent::start(&here, config);
    agent.wait_ready();
    (here, agent)
}

fn routes(node: &TestNode, to: &str) -> String {
    node.netns.ip(&format!("route show {to}")).unwrap()
}

/// The Event of this reason about a Node.
fn event(api: &Api, reason: &str, node: &str) -> Value {
    eventually(&format!("an event {reason} about {node}"), || {
        let is_it = |event: &Value| event["reason"] == reason && event["regarding"]["name"] == node;
        api.all("events").into_iter().find(is_it)
    })
}

fn a_node_that_claims_others_addresses_takes_nothing_and_is_told() {
    for cluster in [&[][..], &["10.244.0.0/16"]] {
        let (underlay, api) = (Underlay::new(), Api::new());
        let (here, agent) = begin(&underlay, &api, cluster);
        let lan = routes(&here, "172.31.0.0/24");
        // The nodes' own network, a pod of another, the way to the metadata of a cloud; the first even as the
        // oldest of all.
        node(&api, "lan", "2025-01-01T00:00:00Z", "192.0.2.9", "172.31.0.0/24");
        node(&api, "pod", YOUNG, "172.31.0.67", "10.244.2.4/30");
        node(&api, "meta", YOUNG, "172.31.0.68", "169.254.169.0/24");
        let told = event(&api, "PodCIDRRefused", "pod");
        assert_eq!(
            (told["regarding"]["kind"].as_str(), told["metadata"]["namespace"].as_str()),
            (Some("Node"), Some("default"))
        );
        let note = told["note"].as_str().unwrap();
        assert!(
            note.starts_with("pod range 10.244.2.4/30 overlaps 10.244.2.0/24 of the older Node other"),
            "{note}"
        );
        event(&api, if cluster.is_empty() { "PodCIDRUnusable" } else { "PodCIDRRefused" }, "lan");
        event(&api, "PodCIDRRefused", "meta");
        // Whoever is honest is followed all the same: the API server is still reached.
        node(&api, "third", YOUNG, "172.31.0.3", "10.244.3.0/24");
        eventually("the honest one's route", || {
            routes(&here, "10.244.3.0/24").contains("skerry0").then_some(())
        });
        assert_eq!(routes(&here, "172.31.0.0/24"), lan);
        let ours = routes(&here, "proto 115");
        assert_eq!(ours.lines().count(), 2, "{ours}");
        agent.stop().unwrap();
    }
}

fn routes_of_others_are_left_alone_and_ours_are_repaired() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let (here, agent) = begin(&underlay, &api, &["10.244.0.0/16"]);
    // One with another metric: the kernel would let ours stand beside it, and prefer ours.
    here.netns.ip("route add 10.244.4.0/24 dev eth0 metric 50").unwrap();
    node(&api, "fourth", YOUNG, "172.31.0.4", "10.244.4.0/24");
    let told = event(&api, "PodCIDRUnusable", "fourth");
    assert!(told["note"].as_str().unwrap().contains("10.244.4.0/24 is there that is not Skerry's"), "{told}");
    assert!(!routes(&here, "10.244.4.0/24").contains("skerry0"));
    here.netns.ip("route del 10.244.4.0/24 dev eth0 metric 50").unwrap();
    eventually("the way is free", || routes(&here, "10.244.4.0/24").contains("skerry0").then_some(()));
    here.netns.ip("route del 10.244.2.0/24").unwrap();
    eventually("our own comes back", || routes(&here, "10.244.2.0/24").contains("proto 115").then_some(()));
    api.delete("nodes", "fourth");
    eventually("a node's route goes with it", || routes(&here, "10.244.4.0/24").is_empty().then_some(()));
    // What bears our mark and is on another device is not ours.
    here.netns.ip("route add 10.244.5.0/24 dev eth0 proto 115").unwrap();
    node(&api, "fifth", YOUNG, "172.31.0.5", "10.244.5.0/24");
    event(&api, "PodCIDRUnusable", "fifth");
    assert!(routes(&here, "10.244.5.0/24").contains("dev eth0"));
    agent.stop().unwrap();
}
