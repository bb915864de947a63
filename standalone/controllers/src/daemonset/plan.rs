//! Which nodes a DaemonSet lacks a pod on, which pods are too many or outdated. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodTemplateSpec, Toleration,
};
use kube::ResourceExt;
use skerry_informer::{matches_labels, selects_node, tolerated};

use crate::deployment::share_of;
use crate::pod::{Availability, availability, is_ready, node_name, phase};
use crate::revisions::HASH_LABEL;
use crate::template::pod_for;

/// A failed pod is replaced no sooner than this after it was made, so that a pod which fails at once does not
/// spin.
const FAILED_PAUSE: Duration = Duration::from_secs(10);
/// Taints that every DaemonSet's pod tolerates: key, effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// The same, of pods on the host's network.
const TOLERATED_ON_HOST: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

pub struct Snapshot<'a> {
    pub set: &'a DaemonSet,
    /// Pods that the set controls.
    pub pods: &'a [Arc<Pod>],
    /// What could be read of its pods that are unreadable.
    pub unreadable: &'a [Arc<Pod>],
    pub nodes: &'a [Arc<Node>],
    /// Nodes that are there and can't be read: their pods stay, and none is made for them.
    pub unreadable_nodes: &'a [Arc<Node>],
    /// Hash of the present template.
    pub hash: &'a str,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// Names of nodes to make a pod for.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    pub status: DaemonSetStatus,
    pub again: Option<Duration>,
}

impl Plan {
    fn look_again_in(&mut self, time: Duration) {
        self.again = Some(self.again.map_or(time, |again| again.min(time)));
    }
}

pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let Some(spec) = &snapshot.set.spec else { return Plan::default() };
    let mut plan = Plan::default();
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in snapshot.pods {
        match target(pod) {
            Some(node) => by_node.entry(node).or_default().push(pod),
            // Nothing we made: it has no node and asks for none.
            None if pod.metadata.deletion_timestamp.is_none() => plan.delete.push(pod.clone()),
            None => {}
        }
    }
    // A node with a pod that can't be read is left as it is; if it is not known which node that is, none gets
    // a new pod.
    let held: Vec<Option<&str>> = snapshot.unreadable.iter().map(|pod| target(pod)).collect();
    let tolerations = tolerations(&spec.template);
    let mut rollout = Vec::new();
    let status =
        &mut DaemonSetStatus { observed_generation: snapshot.set.metadata.generation, ..Default::default() };
    let (mut available, mut updated) = (0, 0);
    for node in snapshot.nodes {
        let name = node.name_any();
        let pods = by_node.remove(name.as_str()).unwrap_or_default();
        let (runs, stays) = wanted(&spec.template, &tolerations, node);
        if held.contains(&Some(name.as_str())) {
            status.desired_number_scheduled += i32::from(runs);
            status.current_number_scheduled += i32::from(runs);
            continue;
        }
        let (pods, leaving) = sort_out(snapshot, &mut plan, pods, stays);
        let lives = pods.first();
        if !runs {
            status.number_misscheduled += i32::from(lives.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += i32::from(lives.is_some());
        if lives.is_none() && !leaving {
            plan.create.push(name.clone());
        }
        if lives.is_some() {
            status.number_ready += i32::from(pods.iter().any(|pod| is_ready(pod)));
            match best_availability(snapshot, &pods) {
                Availability::Yes => available += 1,
                Availability::In(left) => plan.look_again_in(left),
                Availability::No => {}
            }
            updated += i32::from(pods.iter().any(|pod| is_current(pod, snapshot.hash)));
        }
        rollout.push((name, pods));
    }
    // Pods for nodes that are gone and that were never bound: no agent and no node controller ends them.
    let is_known =
        |name: &str| snapshot.unreadable_nodes.iter().any(|node| node.metadata.name.as_deref() == Some(name));
    let left = by_node.into_iter().filter(|(name, _)| !is_known(name)).flat_map(|(_, pods)| pods);
    plan.delete.extend(left.filter(|pod| node_name(pod).is_none()).cloned());
    let some = |count: i32| (count > 0).then_some(count);
    status.number_available = some(available);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    status.updated_number_scheduled = some(updated);
    if spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete") {
        roll(snapshot, &mut plan, &rollout, status.desired_number_scheduled);
    }
    if held.contains(&None) {
        plan.create.clear();
    }
    plan.status = std::mem::take(status);
    plan
}

/// Ends what must not be on a node. Returns the pods that live on, and whether one is still on its way out.
fn sort_out<'a>(
    snapshot: &Snapshot<'_>,
    plan: &mut Plan,
    pods: Vec<&'a Arc<Pod>>,
    stays: bool,
) -> (Vec<&'a Arc<Pod>>, bool) {
    let mut living: Vec<&Arc<Pod>> = Vec::new();
    let mut leaving = false;
    for pod in pods {
        if pod.metadata.deletion_timestamp.is_some() {
            leaving = true;
        } else if !stays {
            plan.delete.push(pod.clone());
        } else if matches!(phase(pod), "Failed" | "Succeeded") {
            leaving = true;
            let made = pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_millisecond());
            let age = Duration::from_millis(u64::try_from(snapshot.now.as_millisecond() - made).unwrap_or(0));
            match FAILED_PAUSE.checked_sub(age).filter(|left| !left.is_zero()) {
                Some(left) => plan.look_again_in(left),
                None => plan.delete.push(pod.clone()),
            }
        } else {
            living.push(pod);
        }
    }
    living.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone().map(|time| time.0), pod.name_any()));
    // While an update surges, one old and one new pod stand side by side; a second of a kind is too many.
    let mut kept: [Option<&Arc<Pod>>; 2] = [None, None];
    for pod in living {
        let place = &mut kept[usize::from(is_current(pod, snapshot.hash))];
        match place {
            None => *place = Some(pod),
            Some(_) => plan.delete.push(pod.clone()),
        }
    }
    (kept.into_iter().flatten().collect(), leaving)
}

/// Replaces outdated pods: deletes within maxUnavailable, or makes new ones beside them within maxSurge.
fn roll(snapshot: &Snapshot<'_>, plan: &mut Plan, rollout: &[(String, Vec<&Arc<Pod>>)], desired: i32) {
    let strategy =
        snapshot.set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
    let rolling = strategy.rolling_update.unwrap_or_default();
    let surge = rolling.max_surge.as_ref().map_or(0, |value| share_of(value, desired, true));
    let unavailable = rolling.max_unavailable.as_ref().map_or(1, |value| share_of(value, desired, true));
    let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
    let (mut down, mut surging) = (0, 0);
    let mut candidates: Vec<(&String, &Arc<Pod>)> = Vec::new();
    for (node, pods) in rollout {
        let old = pods.iter().find(|pod| !is_current(pod, snapshot.hash));
        let new = pods.iter().find(|pod| is_current(pod, snapshot.hash));
        let is_available = |pod: &Arc<Pod>| best_availability(snapshot, &[pod]) == Availability::Yes;
        match (old, new) {
            (None, None) => down += 1,
            (None, Some(new)) => down += i32::from(!is_available(new)),
            (Some(old), Some(new)) => {
                surging += 1;
                if is_available(new) {
                    plan.delete.push((*old).clone());
                } else if !is_available(old) {
                    down += 1;
                }
            }
            (Some(old), None) if !is_available(old) => {
                down += 1;
                // It serves nobody: it may go, or be joined, at once.
                if surge > 0 { plan.create.push(node.clone()) } else { plan.delete.push((*old).clone()) }
            }
            (Some(old), None) => candidates.push((node, old)),
        }
    }
    let room = if surge > 0 { surge - surging } else { unavailable - down };
    for (node, old) in candidates.into_iter().take(usize::try_from(room).unwrap_or(0)) {
        if surge > 0 {
            plan.create.push(node.clone());
        } else {
            plan.delete.push(old.clone());
        }
    }
}

fn best_availability(snapshot: &Snapshot<'_>, pods: &[&Arc<Pod>]) -> Availability {
    let min_ready = snapshot.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let all = pods.iter().map(|pod| availability(pod, min_ready, snapshot.now));
    all.fold(Availability::No, |best, this| match (best, this) {
        (Availability::Yes, _) | (_, Availability::Yes) => Availability::Yes,
        (Availability::In(a), Availability::In(b)) => Availability::In(a.min(b)),
        (Availability::In(left), _) | (_, Availability::In(left)) => Availability::In(left),
        (Availability::No, Availability::No) => Availability::No,
    })
}

fn is_current(pod: &Pod, hash: &str) -> bool {
    pod.labels().get(HASH_LABEL).is_some_and(|label| label == hash)
}

/// The node a pod is bound to, or was made for.
fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = node_name(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.first()?.match_fields.as_ref()?;
    fields.first()?.values.as_ref()?.first().map(String::as_str)
}

/// Whether the set wants a pod on the node, and whether one that is there may stay.
fn wanted(template: &PodTemplateSpec, tolerations: &[Toleration], node: &Node) -> (bool, bool) {
    let spec = template.spec.clone().unwrap_or_default();
    let name = node.name_any();
    let affinity = spec.affinity.and_then(|affinity| affinity.node_affinity);
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution);
    let fits = spec.node_name.as_ref().is_none_or(|wanted| *wanted == name)
        && spec.node_selector.as_ref().is_none_or(|wanted| matches_labels(wanted, Some(node.labels())))
        && required.as_ref().is_none_or(|selector| selects_node(selector, &name, node.labels()));
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let untolerated =
        |effect: &str| taints.iter().any(|taint| taint.effect == effect && !tolerated(taint, tolerations));
    let evicted = untolerated("NoExecute");
    (fits && !evicted && !untolerated("NoSchedule"), fits && !evicted)
}

/// The template's tolerations, and those that every DaemonSet's pod has.
fn tolerations(template: &PodTemplateSpec) -> Vec<Toleration> {
    let spec = template.spec.clone().unwrap_or_default();
    let on_host = (spec.host_network == Some(true)).then_some(TOLERATED_ON_HOST);
    let mut all = spec.tolerations.unwrap_or_default();
    for (key, effect) in TOLERATED.into_iter().chain(on_host) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        if !all.contains(&toleration) {
            all.push(toleration);
        }
    }
    all
}

/// The set's pod for one node: bound there by the scheduler, since it asks for that node by name.
pub fn pod_on(set: &DaemonSet, template: &PodTemplateSpec, node: &str, hash: &str) -> Pod {
    let mut pod = pod_for(set, template);
    pod.metadata.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(template));
    let only_there = vec![NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    }];
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(only_there),
        }],
    });
    pod
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(extra: Value) -> DaemonSet {
        let mut spec = json!({"selector": {"matchLabels": {"app": "d"}}, "template": {
            "metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "c"}]}}});
        for (name, value) in extra.as_object().unwrap() {
            *spec
                .pointer_mut("/template/spec")
                .unwrap()
                .as_object_mut()
                .unwrap()
                .entry(name)
                .or_insert(Value::Null) = value.clone();
        }
        serde_json::from_value(
            json!({"metadata": {"name": "d", "namespace": "ns", "uid": "d"}, "spec": spec}),
        )
        .unwrap()
    }

    fn node(name: &str, taint: Option<(&str, &str)>) -> Arc<Node> {
        let taints: Vec<Value> =
            taint.iter().map(|(key, effect)| json!({"key": key, "effect": effect})).collect();
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"taints": taints}})).unwrap(),
        )
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "labels": {"controller-revision-hash": hash}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
            }))
            .unwrap(),
        )
    }

    fn planned(set: &DaemonSet, pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> Plan {
        beside(set, pods, &[], nodes, &[])
    }

    /// With pods and nodes that can't be read.
    fn beside(
        set: &DaemonSet,
        pods: &[Arc<Pod>],
        unreadable: &[Arc<Pod>],
        nodes: &[Arc<Node>],
        unreadable_nodes: &[Arc<Node>],
    ) -> Plan {
        let now = Timestamp::from_second(1_000).unwrap();
        plan(&Snapshot { set, pods, unreadable, nodes, unreadable_nodes, hash: "new", now })
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn each_fitting_node_gets_a_pod_that_asks_for_it_by_name() {
        let nodes = [
            node("a", None),
            node("b", Some(("node-role.kubernetes.io/control-plane", "NoSchedule"))),
            node("c", Some(("node.kubernetes.io/not-ready", "NoExecute"))),
            node("d", Some(("node.kubernetes.io/unschedulable", "NoSchedule"))),
        ];
        let plain = set(json!({}));
        assert_eq!(planned(&plain, &[], &nodes).create, ["a", "c", "d"]);
        let tolerant = set(json!({"tolerations": [{"operator": "Exists"}]}));
        assert_eq!(planned(&tolerant, &[], &nodes).create, ["a", "b", "c", "d"]);
        let made = pod_on(&plain, &plain.spec.as_ref().unwrap().template, "a", "new");
        assert_eq!(target(&made), Some("a"));
        assert_eq!(made.labels()[HASH_LABEL], "new");
    }

    #[test]
    fn pod_leaves_a_node_that_is_not_meant_and_doubles_go() {
        let nodes = [node("a", None), node("b", Some(("x", "NoExecute")))];
        let pods = [pod("p1", "a", "new", true), pod("p2", "a", "new", true), pod("p3", "b", "new", true)];
        let plan = planned(&set(json!({})), &pods, &nodes);
        assert_eq!(names(&plan.delete), ["p2", "p3"]);
        assert_eq!((plan.status.desired_number_scheduled, plan.status.number_ready), (1, 1));
    }

    #[test]
    fn unreadable_pods_and_nodes_are_left_as_they_are() {
        let (set, nodes) = (set(json!({})), [node("a", None), node("b", None)]);
        let plan = beside(&set, &[], &[pod("p1", "a", "old", false)], &nodes, &[]);
        assert_eq!((names(&plan.delete), plan.create), (vec![], vec!["b".to_owned()]));
        assert_eq!(plan.status.current_number_scheduled, 1, "it counts");
        let nowhere: Arc<Pod> =
            Arc::new(serde_json::from_value(json!({"metadata": {"name": "p1"}})).unwrap());
        let plan = beside(&set, &[], &[nowhere], &nodes, &[]);
        assert_eq!((names(&plan.delete), plan.create), (vec![], vec![]), "it may be on any node");
        let waiting = pod_on(&set, &set.spec.as_ref().unwrap().template, "c", "new");
        let plan = beside(&set, &[Arc::new(waiting.clone())], &[], &nodes, &[node("c", None)]);
        assert!(plan.delete.is_empty(), "the node that it is for is there");
        assert_eq!(beside(&set, &[Arc::new(waiting)], &[], &nodes, &[]).delete.len(), 1);
    }

    #[test]
    fn update_replaces_unavailable_pods_at_once_and_others_one_at_a_time() {
        let nodes = [node("a", None), node("b", None), node("c", None)];
        let sick = [pod("p1", "a", "old", false), pod("p2", "b", "old", true), pod("p3", "c", "old", true)];
        assert_eq!(names(&planned(&set(json!({})), &sick, &nodes).delete), ["p1"]);
        let well = [pod("p1", "a", "new", true), pod("p2", "b", "old", true), pod("p3", "c", "old", true)];
        assert_eq!(names(&planned(&set(json!({})), &well, &nodes).delete), ["p2"]);
        let waits = [pod("p1", "a", "new", false), pod("p2", "b", "old", true), pod("p3", "c", "old", true)];
        assert!(planned(&set(json!({})), &waits, &nodes).delete.is_empty());
    }
}
