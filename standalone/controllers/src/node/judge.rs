//! What a node's silence and conditions mean for its taints, and what taints mean for its pods. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skerry_informer::tolerates;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away while they are `True`.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that the node itself reports: a silent node's are not known.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Conditions of a node that is silent, or `None` when they say so already.
pub fn silenced(node: &Node, now: &Time) -> Option<Vec<NodeCondition>> {
    let mut conditions =
        node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for type_ in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            Some(there) if there.status == "Unknown" => {}
            Some(there) => {
                there.status = "Unknown".into();
                there.reason = Some("NodeStatusUnknown".into());
                there.message = Some("Kubelet stopped posting node status.".into());
                there.last_transition_time = Some(now.clone());
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: type_.into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_transition_time: Some(now.clone()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

/// The node's taints as its conditions ask for them, or `None` when they are so already. Taints of others
/// stay.
pub fn taints(node: &Node, now: &Time) -> Option<Vec<Taint>> {
    let spec = node.spec.clone().unwrap_or_default();
    let has = spec.taints.unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match condition(node, "Ready").map(|condition| condition.status.as_str()) {
        Some("True") => {}
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        // A node that never said that it is ready: not yet schedulable, but nothing to evict.
        None => wanted.push((NOT_READY, "NoSchedule")),
        Some(_) => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    for (type_, key) in PRESSURES {
        if condition(node, type_).is_some_and(|condition| condition.status == "True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |taint: &Taint| {
        let is_pressure = PRESSURES.iter().any(|(_, key)| *key == taint.key) && taint.effect == "NoSchedule";
        let is_state = matches!(taint.key.as_str(), NOT_READY | UNREACHABLE);
        let is_cordon = taint.key == UNSCHEDULABLE && taint.effect == "NoSchedule";
        (is_pressure || is_state || is_cordon) && taint.effect != "PreferNoSchedule"
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> =
        has.iter().filter(|taint| !ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in &wanted {
        if !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect) {
            taints.push(Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                value: None,
                time_added: Some(now.clone()),
            });
        }
    }
    (taints != has).then_some(taints)
}

/// What a node's NoExecute taints mean for one of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// As long as nothing changes.
    ForGood,
    /// For so long from when the taints came.
    For(Duration),
    /// One taint is not tolerated.
    NoMore,
}

/// How long the pod tolerates all of the node's NoExecute taints.
pub fn stay(pod: &Pod, taints: &[Taint]) -> Stay {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let mut shortest: Option<u64> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let matching: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if matching.is_empty() {
            return Stay::NoMore;
        }
        let seconds = matching.iter().filter_map(|t| t.toleration_seconds).min();
        if let Some(seconds) = seconds.map(|seconds| u64::try_from(seconds).unwrap_or(0)) {
            shortest = Some(shortest.map_or(seconds, |shortest| shortest.min(seconds)));
        }
    }
    match shortest {
        None => Stay::ForGood,
        Some(0) => Stay::NoMore,
        Some(seconds) => Stay::For(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH)
    }

    fn node(ready: Option<&str>, extra: Value) -> Node {
        let conditions: Vec<Value> =
            ready.iter().map(|status| json!({"type": "Ready", "status": status})).collect();
        let mut spec = json!({"taints": [{"key": "mine", "effect": "NoSchedule"}]});
        for (name, value) in extra.as_object().unwrap() {
            spec[name] = value.clone();
        }
        serde_json::from_value(json!({"spec": spec, "status": {"conditions": conditions}})).unwrap()
    }

    fn text(taints: Vec<Taint>) -> Vec<String> {
        taints.into_iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    }

    #[test]
    fn taints_follow_readiness_and_leave_others_alone() {
        assert_eq!(taints(&node(Some("True"), json!({})), &now()), None);
        let expected = |key: &str| {
            vec!["mine:NoSchedule".to_owned(), format!("{key}:NoSchedule"), format!("{key}:NoExecute")]
        };
        let silent = taints(&node(Some("Unknown"), json!({})), &now()).unwrap();
        assert_eq!(text(silent.clone()), expected(UNREACHABLE));
        let mut back = node(Some("True"), json!({}));
        back.spec.as_mut().unwrap().taints = Some(silent.clone());
        assert_eq!(text(taints(&back, &now()).unwrap()), ["mine:NoSchedule"]);
        let mut sick = node(Some("False"), json!({}));
        sick.spec.as_mut().unwrap().taints = Some(silent);
        assert_eq!(text(taints(&sick, &now()).unwrap()), expected(NOT_READY));
        let cordoned = node(Some("True"), json!({"unschedulable": true}));
        assert_eq!(
            text(taints(&cordoned, &now()).unwrap()),
            ["mine:NoSchedule", "node.kubernetes.io/unschedulable:NoSchedule"]
        );
    }

    #[test]
    fn silent_node_is_unknown_in_all_it_reported_and_said_so_once() {
        let mut silent = node(Some("True"), json!({}));
        let conditions = silenced(&silent, &now()).unwrap();
        assert!(conditions.iter().all(|condition| condition.status == "Unknown"));
        assert_eq!(conditions.len(), 4);
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        silent.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(silenced(&silent, &now()), None);
    }

    #[test]
    fn pod_stays_as_long_as_its_shortest_toleration() {
        let pod = |tolerations: Value| -> Pod {
            serde_json::from_value(json!({"spec": {"containers": [], "tolerations": tolerations}})).unwrap()
        };
        let taint =
            |key: &str, effect: &str| Taint { key: key.into(), effect: effect.into(), ..Default::default() };
        let both = [taint("a", "NoExecute"), taint("b", "NoExecute"), taint("c", "NoSchedule")];
        assert_eq!(stay(&pod(json!([])), &both[2..]), Stay::ForGood);
        assert_eq!(stay(&pod(json!([{"key": "a", "operator": "Exists"}])), &both), Stay::NoMore);
        let one = json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}]);
        assert_eq!(stay(&pod(one), &both), Stay::For(Duration::from_secs(30)));
        assert_eq!(stay(&pod(json!([{"operator": "Exists"}])), &both), Stay::ForGood);
    }
}
