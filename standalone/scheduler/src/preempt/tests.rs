use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::cycle::{Decision, schedule};

/// A pod that asks for CPUs, of a priority.
fn pod(name: &str, cpu: u32, priority: i32) -> PodInfo {
    with(name, cpu, priority, json!({}), json!({}))
}

fn with(name: &str, cpu: u32, priority: i32, spec: Value, status: Value) -> PodInfo {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": name}},
        "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu.to_string()}}}]},
        "status": status,
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    PodInfo::of(&serde_json::from_value::<Pod>(pod).unwrap())
}

/// Nodes of some CPUs each with the pods that stand there.
fn cluster(nodes: Vec<(&str, u32, Vec<PodInfo>)>) -> Nodes {
    let mut made = Nodes::default();
    for (name, cpu, pods) in nodes {
        let node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {"allocatable": {"cpu": cpu.to_string(), "memory": "8Gi", "pods": "10"}},
        });
        made.set(&serde_json::from_value(node).unwrap());
        for pod in pods {
            made.place(Arc::new(pod), name);
        }
    }
    made
}

fn budget(app: &str, allowed: i32) -> Budget {
    let made = json!({
        "metadata": {"name": app, "namespace": "ns"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1},
    });
    Budget::of(&serde_json::from_value(made).unwrap()).unwrap()
}

fn search(pod: &PodInfo, nodes: &mut Nodes, budgets: &[Budget]) -> Preemption {
    match schedule(pod, nodes, &Namespaces::new(), &Demands::default(), &mut 0) {
        Decision::Place(node) => panic!("{} fits on {node}", pod.key),
        Decision::Refuse(diagnosis) => {
            preempt(pod, nodes, (&Namespaces::new(), &Demands::default()), &diagnosis, budgets)
        }
    }
}

/// `node: victims`, or why there are none.
fn told(pod: &PodInfo, nodes: &mut Nodes, budgets: &[Budget]) -> String {
    let before: Vec<(String, usize)> = placed(nodes);
    let told = match search(pod, nodes, budgets) {
        Preemption::Victims { node, victims } => {
            let names: Vec<&str> = victims.iter().map(|victim| victim.key.name()).collect();
            format!("{node}: {}", names.join(" "))
        }
        Preemption::Hopeless(reasons) => format!("{reasons:?}"),
        Preemption::NotEligible(why) => why.to_owned(),
    };
    assert_eq!(placed(nodes), before, "a search changes nothing");
    told
}

fn placed(nodes: &Nodes) -> Vec<(String, usize)> {
    let mut all: Vec<(String, usize)> = nodes.placed().map(|(slot, pod)| (pod.uid.clone(), slot)).collect();
    all.sort();
    all
}

#[test]
fn only_pods_of_lower_priority_go_and_no_more_than_must() {
    let mut nodes =
        cluster(vec![("n", 4, vec![pod("a", 1, 0), pod("b", 1, 5), pod("c", 1, 10), pod("d", 1, 20)])]);
    assert_eq!(told(&pod("new", 1, 10), &mut nodes, &[]), "n: a");
    assert_eq!(told(&pod("new", 2, 10), &mut nodes, &[]), "n: b a");
    assert_eq!(told(&pod("new", 3, 10), &mut nodes, &[]), "{\"Insufficient cpu\": 1}");
    assert_eq!(told(&pod("new", 3, 11), &mut nodes, &[]), "n: c b a");
    let none = "{\"No preemption victims found for incoming pod\": 1}";
    assert_eq!(told(&pod("new", 1, 0), &mut nodes, &[]), none);
    assert_eq!(
        told(&pod("new", 5, 99), &mut nodes, &[]),
        "{\"Preemption is not helpful for scheduling\": 1}"
    );
}

#[test]
fn the_node_is_chosen_by_budgets_then_priorities_then_number_then_age() {
    let at = |second: u32| json!({"startTime": format!("2026-01-01T00:00:{second:02}Z")});
    let aged = |name: &str, priority, second| with(name, 1, priority, json!({}), at(second));
    let new = pod("new", 1, 100);
    let two = |a: Vec<PodInfo>, b: Vec<PodInfo>| cluster(vec![("a", 1, a), ("b", 1, b)]);
    // A budget that allows nothing weighs more than a lower priority.
    let mut nodes = two(vec![pod("x", 1, 0)], vec![pod("y", 1, 50)]);
    assert_eq!(told(&new, &mut nodes, &[]), "a: x");
    assert_eq!(told(&new, &mut nodes, &[budget("x", 0)]), "b: y");
    assert_eq!(told(&new, &mut nodes, &[budget("x", 1)]), "a: x");
    assert_eq!(told(&new, &mut nodes, &[budget("x", 0), budget("y", 0)]), "a: x");
    // Fewer victims, where the highest priority is the same.
    let mut nodes =
        cluster(vec![("a", 2, vec![pod("x", 1, 0), pod("y", 1, 0)]), ("b", 2, vec![pod("z", 2, 0)])]);
    assert_eq!(told(&pod("new", 2, 100), &mut nodes, &[]), "b: z");
    // Who has run for a shorter time.
    let mut nodes = two(vec![aged("old", 0, 1)], vec![aged("young", 0, 9)]);
    assert_eq!(told(&new, &mut nodes, &[]), "b: young");
    let mut nodes = two(vec![aged("young", 0, 9)], vec![aged("old", 0, 1)]);
    assert_eq!(told(&new, &mut nodes, &[]), "a: young");
    // On one node the younger goes, too.
    let mut nodes = cluster(vec![("n", 2, vec![aged("old", 0, 1), aged("young", 0, 9)])]);
    assert_eq!(told(&new, &mut nodes, &[]), "n: young");
}

#[test]
fn what_a_budget_protects_stays_if_others_can_go() {
    let mut nodes = cluster(vec![("n", 2, vec![pod("kept", 1, 0), pod("other", 1, 5)])]);
    assert_eq!(told(&pod("new", 1, 10), &mut nodes, &[]), "n: kept");
    assert_eq!(told(&pod("new", 1, 10), &mut nodes, &[budget("kept", 0)]), "n: other");
    assert_eq!(told(&pod("new", 2, 10), &mut nodes, &[budget("kept", 0)]), "n: other kept");
}

#[test]
fn victims_that_keep_the_pod_away_by_their_affinity_go() {
    let far = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "new"}}}]}}});
    let mut nodes = cluster(vec![("n", 4, vec![with("hermit", 1, 0, far, json!({})), pod("other", 1, 0)])]);
    assert_eq!(told(&pod("new", 1, 10), &mut nodes, &[]), "n: hermit");
}

#[test]
fn who_may_not_preempt_or_waits_for_its_victims_does_not() {
    let mut nodes = cluster(vec![("n", 1, vec![pod("a", 1, 0)])]);
    let never = with("new", 1, 10, json!({"preemptionPolicy": "Never"}), json!({}));
    assert_eq!(told(&never, &mut nodes, &[]), "not eligible due to preemptionPolicy=Never.");
    let leaving = || {
        let condition =
            json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"});
        let mut leaving = with("a", 1, 0, json!({}), json!({"conditions": [condition]}));
        leaving.terminating = true;
        leaving
    };
    let mut nodes = cluster(vec![("n", 1, vec![leaving()]), ("m", 1, vec![pod("b", 1, 0)])]);
    let waits = with("new", 1, 10, json!({}), json!({"nominatedNodeName": "n"}));
    assert_eq!(told(&waits, &mut nodes, &[]), "not eligible due to a terminating pod on the nominated node.");
    let elsewhere = with("new", 1, 10, json!({}), json!({"nominatedNodeName": "m"}));
    assert_eq!(told(&elsewhere, &mut nodes, &[]), "m: b");
}

#[test]
fn a_pod_goes_where_room_was_made_for_it() {
    let nodes = cluster(vec![("a", 4, vec![]), ("b", 4, vec![pod("x", 1, 0)])]);
    let place = |pod: &PodInfo| schedule(pod, &nodes, &Namespaces::new(), &Demands::default(), &mut 0);
    assert_eq!(place(&pod("new", 1, 0)), Decision::Place("a".into()));
    let kept = |cpu| with("new", cpu, 0, json!({}), json!({"nominatedNodeName": "b"}));
    assert_eq!(place(&kept(1)), Decision::Place("b".into()));
    assert_eq!(place(&kept(4)), Decision::Place("a".into()), "its own node is full again");
}
