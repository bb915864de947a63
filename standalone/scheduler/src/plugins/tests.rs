//! Each plugin by its documented behaviour, and the whole core against a naive reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::cycle::{Decision, Diagnosis, schedule};
use crate::message;
use crate::nodes::Nodes;
use crate::plugins::Namespaces;
use crate::pod::PodInfo;
use crate::preempt::preempt;
use crate::volumes::Demands;

fn node(name: &str, cpu: &str, extra: Value) -> Node {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}},
    });
    json_patch::merge(&mut node, &extra);
    serde_json::from_value(node).unwrap()
}

fn pod(name: &str, spec: Value) -> PodInfo {
    with_meta(name, json!({}), spec)
}

fn with_meta(name: &str, meta: Value, spec: Value) -> PodInfo {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"containers": [{"name": "c"}]},
    });
    json_patch::merge(&mut pod["metadata"], &meta);
    json_patch::merge(&mut pod["spec"], &spec);
    PodInfo::of(&serde_json::from_value::<Pod>(pod).unwrap())
}

fn asking(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
}

struct Cluster {
    nodes: Nodes,
    demands: Demands,
    start: usize,
}

impl Cluster {
    fn new(nodes: impl IntoIterator<Item = Node>) -> Self {
        let mut cluster = Self { nodes: Nodes::default(), demands: Demands::default(), start: 0 };
        for node in nodes {
            cluster.nodes.set(&node);
        }
        cluster
    }

    fn decide(&mut self, pod: &PodInfo) -> Decision {
        schedule(pod, &self.nodes, &Namespaces::new(), &self.demands, &mut self.start)
    }

    fn place(&mut self, pod: PodInfo) -> String {
        match self.decide(&pod) {
            Decision::Place(node) => {
                self.nodes.place(Arc::new(pod), &node);
                node
            }
            Decision::Refuse(diagnosis) => panic!("refused: {diagnosis:?}"),
        }
    }

    fn refusal(&mut self, pod: &PodInfo) -> Diagnosis {
        match self.decide(pod) {
            Decision::Place(node) => panic!("placed on {node}"),
            Decision::Refuse(diagnosis) => diagnosis,
        }
    }
}

fn tainted(key: &str, effect: &str) -> Value {
    json!({"spec": {"taints": [{"key": key, "effect": effect}]}})
}

fn three_workers_and_a_server() -> Cluster {
    Cluster::new([
        node("server", "2", tainted("node-role.kubernetes.io/control-plane", "NoSchedule")),
        node("node1", "2", json!({})),
        node("node2", "2", json!({})),
        node("node3", "2", json!({})),
    ])
}

#[test]
fn three_replicas_land_on_three_workers_and_none_on_the_tainted_server() {
    let owner = json!({"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]});
    let mut cluster = three_workers_and_a_server();
    // What stands on a node already does not weigh more than the replicas' own spread.
    cluster.nodes.place(Arc::new(pod("dns", asking("100m"))), "node2");
    cluster.nodes.place(Arc::new(pod("metrics", asking("100m"))), "node2");
    let mut landed: Vec<String> =
        (0..3).map(|n| cluster.place(with_meta(&format!("p{n}"), owner.clone(), json!({})))).collect();
    landed.sort();
    assert_eq!(landed, ["node1", "node2", "node3"]);
}

#[test]
fn refusal_is_told_in_the_words_users_know() {
    let mut cluster = three_workers_and_a_server();
    let diagnosis = cluster.refusal(&pod("big", asking("64")));
    let mut told = |diagnosis: &Diagnosis| {
        let big = pod("big", asking("64"));
        message::unschedulable(
            diagnosis,
            &preempt(&big, &mut cluster.nodes, (&Namespaces::new(), &Demands::default()), diagnosis, &[]),
        )
    };
    assert_eq!(
        told(&diagnosis),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 3 Insufficient cpu. \
         preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling."
    );
    let crowded = Diagnosis { crowded: vec![0, 1, 2], ..diagnosis };
    let text = told(&crowded);
    let expected = ". preemption: 0/4 nodes are available: 1 Preemption is not helpful for scheduling, \
                    3 No preemption victims found for incoming pod.";
    assert!(text.ends_with(expected), "{text}");
    let nowhere = Cluster::new([]).refusal(&pod("a", json!({})));
    assert_eq!(told(&nowhere), "no nodes available to schedule pods");
}

#[test]
fn cordoned_node_takes_only_who_tolerates_it() {
    let mut cluster = Cluster::new([node("a", "2", json!({"spec": {"unschedulable": true}}))]);
    let diagnosis = cluster.refusal(&pod("p", json!({})));
    assert_eq!(diagnosis.reasons, BTreeMap::from([("node(s) were unschedulable".to_owned(), 1)]));
    let tolerant = json!({"tolerations": [{"operator": "Exists"}]});
    assert_eq!(cluster.place(pod("daemon", tolerant)), "a");
}

#[test]
fn node_selector_and_required_affinity_pick_and_preferred_affinity_weighs() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone, "cores": "8"}}});
    let mut cluster = Cluster::new([node("a", "2", zone("east")), node("b", "2", zone("west"))]);
    assert_eq!(cluster.place(pod("p1", json!({"nodeSelector": {"zone": "west"}}))), "b");
    let required = |expression: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}})
    };
    let east = required(json!({"key": "zone", "operator": "NotIn", "values": ["west"]}));
    assert_eq!(cluster.place(pod("p2", east)), "a");
    let many = required(json!({"key": "cores", "operator": "Gt", "values": ["16"]}));
    let reasons = cluster.refusal(&pod("p3", many)).reasons;
    assert_eq!(reasons["node(s) didn't match Pod's node affinity/selector"], 2);
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 50, "preference": {"matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["west"]}]}}]}}});
    assert_eq!(cluster.place(pod("p4", preferred)), "b");
}

#[test]
fn host_port_belongs_to_one_pod_a_node_and_protocols_do_not_meet() {
    let port = |port: i32, protocol: &str| {
        json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": port, "protocol": protocol}]}]})
    };
    let mut cluster = Cluster::new([node("a", "2", json!({}))]);
    cluster.place(pod("p1", port(8080, "TCP")));
    cluster.place(pod("p2", port(8080, "UDP")));
    let reasons = cluster.refusal(&pod("p3", port(8080, "TCP"))).reasons;
    assert_eq!(reasons["node(s) didn't have free ports for the requested pod ports"], 1);
}

fn tolerating(toleration: &Value) -> Value {
    json!({"tolerations": [toleration]})
}

/// Each in turn, without and with a toleration of its effect, of another, and of any.
#[test]
fn hard_taints_keep_out_who_does_not_tolerate_their_effect() {
    let mut cluster = Cluster::new([
        node("a", "8", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}})),
        node("b", "8", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}})),
    ]);
    assert_eq!(cluster.refusal(&pod("none", json!({}))).reasons["node(s) had untolerated taint(s)"], 2);
    for (effect, lands) in [("NoSchedule", "a"), ("NoExecute", "b")] {
        for toleration in [json!({"operator": "Exists"}), json!({"value": "v"})] {
            let mut toleration = toleration;
            (toleration["key"], toleration["effect"]) = (json!("k"), json!(effect));
            let asks = pod("p", tolerating(&toleration));
            assert!(matches!(cluster.decide(&asks), Decision::Place(node) if node == lands), "{toleration}");
        }
    }
    let other = tolerating(&json!({"key": "k", "operator": "Exists", "effect": "PreferNoSchedule"}));
    assert_eq!(cluster.refusal(&pod("soft", other)).reasons["node(s) had untolerated taint(s)"], 2);
    let value = tolerating(&json!({"key": "k", "value": "w"}));
    assert_eq!(cluster.refusal(&pod("value", value)).reasons["node(s) had untolerated taint(s)"], 2);
}

/// A toleration counts for a soft taint if it has its effect or none: one of a hard effect does not.
#[test]
fn preferred_taint_is_avoided_while_another_node_is_there() {
    let soft = |node: &str| tainted(node, "PreferNoSchedule");
    let mut cluster = Cluster::new([node("a", "2", soft("slow")), node("b", "2", json!({}))]);
    assert_eq!(cluster.place(pod("p1", json!({}))), "b");
    for effect in ["NoSchedule", "NoExecute", "PreferNoSchedule", ""] {
        let mut toleration = json!({"key": "slow", "operator": "Exists"});
        if !effect.is_empty() {
            toleration["effect"] = json!(effect);
        }
        let mut cluster = Cluster::new([node("a", "2", soft("slow")), node("b", "2", soft("other"))]);
        // Both nodes count the same but for what is tolerated: the tolerated one wins, or the draw is even.
        let landed: Vec<String> = (0..4).map(|_| cluster.place(pod("p", tolerating(&toleration)))).collect();
        let counts = matches!(effect, "" | "PreferNoSchedule");
        assert_eq!(landed.iter().all(|node| node == "a"), counts, "{effect}: {landed:?}");
    }
}

#[test]
fn anti_affinity_keeps_apart_in_both_directions_and_affinity_brings_together() {
    let labelled =
        |name: &str, app: &str, spec: Value| with_meta(name, json!({"labels": {"app": app}}), spec);
    let term = |app: &str| json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"}]);
    let away = |app: &str| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}});
    let near = |app: &str| json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app)}}});
    let mut cluster = Cluster::new([node("a", "2", json!({})), node("b", "2", json!({}))]);
    let first = cluster.place(labelled("w1", "web", away("web")));
    let second = cluster.place(labelled("w2", "web", away("web")));
    assert_ne!(first, second);
    let third = cluster.refusal(&labelled("w3", "web", away("web")));
    assert_eq!(third.reasons["node(s) didn't match pod anti-affinity rules"], 2);
    let plain = cluster.refusal(&labelled("w4", "web", json!({})));
    assert_eq!(plain.reasons["node(s) didn't satisfy existing pods anti-affinity rules"], 2);
    let lonely = cluster.refusal(&labelled("n1", "near", near("db")));
    assert_eq!(lonely.reasons["node(s) didn't match pod affinity rules"], 2);
    let db = cluster.place(labelled("db", "db", near("db")));
    assert_eq!(cluster.place(labelled("n2", "near", near("db"))), db, "the first of a group may go anywhere");
}

#[test]
fn hard_spread_constraint_bounds_the_skew() {
    let zone = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}});
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let mut cluster = Cluster::new([
        node("a", "64", zone("east")),
        node("b", "1", zone("west")),
        node("c", "64", json!({})),
    ]);
    let meta = json!({"labels": {"app": "web"}});
    let mut counts = BTreeMap::new();
    for n in 0..6 {
        *counts
            .entry(cluster.place(with_meta(&format!("p{n}"), meta.clone(), spread.clone())))
            .or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("a".to_owned(), 3), ("b".to_owned(), 3)]));
    cluster.nodes.set(&node("b", "1", merged(zone("west"), json!({"spec": {"unschedulable": true}}))));
    cluster.place(with_meta("p6", meta.clone(), spread.clone()));
    let refused = cluster.refusal(&with_meta("p7", meta, spread));
    assert_eq!(refused.reasons["node(s) didn't match pod topology spread constraints"], 1);
    assert_eq!(
        refused.reasons["node(s) didn't match pod topology spread constraints (missing required label)"],
        1
    );
}

fn merged(mut a: Value, b: Value) -> Value {
    json_patch::merge(&mut a, &b);
    a
}

/// A pod and a node of a small world, drawn at random.
#[derive(Debug, Clone)]
struct Draw {
    cpu: u32,
    zone: Option<u8>,
    tolerant: bool,
    port: Option<u8>,
}

fn draws() -> impl Strategy<Value = Vec<Draw>> {
    let draw = (0u32..9, prop::option::of(0u8..3), any::<bool>(), prop::option::weighted(0.2, 0u8..3))
        .prop_map(|(cpu, zone, tolerant, port)| Draw { cpu: cpu * 100, zone, tolerant, port });
    prop::collection::vec(draw, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn core_agrees_with_a_naive_reference_and_never_overcommits(
        nodes in prop::collection::vec((1u32..20, 0u8..3, any::<bool>(), 1i64..6), 1..6),
        pods in draws(),
        leaves in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut cluster = Cluster::new(nodes.iter().enumerate().map(|(n, (cpu, zone, taint, slots))| {
            let mut extra = json!({
                "metadata": {"labels": {"zone": format!("z{zone}")}},
                "status": {"allocatable": {"pods": slots.to_string()}},
            });
            if *taint { json_patch::merge(&mut extra, &tainted("t", "NoSchedule")); }
            node(&format!("n{n}"), &format!("{}m", cpu * 100), extra)
        }));
        let mut placed: Vec<(usize, String, Draw)> = Vec::new();
        for (index, draw) in pods.iter().enumerate() {
            let mut spec = asking(&format!("{}m", draw.cpu));
            if let Some(zone) = draw.zone { spec["nodeSelector"] = json!({"zone": format!("z{zone}")}); }
            if draw.tolerant { spec["tolerations"] = json!([{"key": "t", "operator": "Exists"}]); }
            if let Some(port) = draw.port {
                spec["containers"][0]["ports"] = json!([{"containerPort": 1, "hostPort": 8000 + i32::from(port)}]);
            }
            let name = format!("p{index}");
            let pod = pod(&name, spec);
            let fits = |n: usize| {
                let (cpu, zone, taint, slots) = nodes[n];
                let here: Vec<_> = placed.iter().filter(|(on, _, _)| *on == n).collect();
                (here.len() as i64) < slots
                    && (draw.cpu == 0 || here.iter().map(|(_, _, d)| d.cpu).sum::<u32>() + draw.cpu <= cpu * 100)
                    && draw.zone.is_none_or(|wanted| wanted == zone)
                    && (!taint || draw.tolerant)
                    && (draw.port.is_none() || here.iter().all(|(_, _, d)| d.port != draw.port))
            };
            let feasible: Vec<usize> = (0..nodes.len()).filter(|n| fits(*n)).collect();
            match cluster.decide(&pod) {
                Decision::Place(node) => {
                    let n: usize = node[1..].parse().unwrap();
                    prop_assert!(feasible.contains(&n), "{node} of {feasible:?}");
                    cluster.nodes.place(Arc::new(pod), &node);
                    placed.push((n, name, draw.clone()));
                }
                Decision::Refuse(diagnosis) => {
                    prop_assert!(feasible.is_empty(), "{diagnosis:?} but {feasible:?}");
                    prop_assert_eq!(diagnosis.nodes, nodes.len());
                }
            }
            if leaves[index] && !placed.is_empty() {
                let (_, name, _) = placed.remove(index % placed.len());
                prop_assert!(cluster.nodes.unplace(&name));
            }
        }
        // Whatever came and went, the columns say what is there.
        for slot in cluster.nodes.present() {
            let n: usize = cluster.nodes.facts(slot).unwrap().name[1..].parse().unwrap();
            let cpu: u32 = placed.iter().filter(|(on, _, _)| *on == n).map(|(_, _, d)| d.cpu).sum();
            prop_assert_eq!(cluster.nodes.requested(slot).milli_cpu, i64::from(cpu));
            prop_assert!(i64::from(cpu) <= cluster.nodes.facts(slot).unwrap().allocatable.milli_cpu);
        }
    }
}
