//! What a Job's policies say of its pods: how a failure counts (KEP-3329, KEP-3850), when enough have
//! succeeded (KEP-3998). Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use super::indexes::parse_indexes;
use crate::pod::phase;

/// What becomes of a pod's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the limits.
    Count,
    /// It does not.
    Ignore,
    /// The pod's index has failed, whatever its limit.
    FailIndex,
    /// The Job has failed: the message that says why.
    FailJob(String),
}

/// By the first rule that matches the pod. Only what has ended as Failed is judged; else it counts.
pub fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.as_ref().map(|policy| &policy.rules[..]).unwrap_or_default();
    if phase(pod) != "Failed" {
        return Verdict::Count;
    }
    let matched = rules.iter().enumerate().find_map(|(at, rule)| Some((at, rule, why(rule, pod)?)));
    let Some((at, rule, why)) = matched else { return Verdict::Count };
    match rule.action.as_str() {
        "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {at}")),
        "FailIndex" => Verdict::FailIndex,
        "Ignore" => Verdict::Ignore,
        _ => Verdict::Count,
    }
}

/// What of the pod matches the rule, in upstream's words.
fn why(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let status = pod.status.as_ref()?;
    if let Some(wanted) = &rule.on_exit_codes {
        let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let (container, code) = containers
            .filter(|container| wanted.container_name.as_ref().is_none_or(|name| *name == container.name))
            .filter_map(|container| Some((&container.name, exit_code(container)?)))
            .find(|(_, code)| holds(wanted, *code))?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    for wanted in rule.on_pod_conditions.iter().flatten() {
        let mut conditions = status.conditions.iter().flatten();
        let status = wanted.status.as_deref().unwrap_or("True");
        if conditions.any(|condition| condition.type_ == wanted.type_ && condition.status == status) {
            return Some(format!("Pod {name} has condition {}", wanted.type_));
        }
    }
    None
}

/// Of a container that has failed.
fn exit_code(container: &ContainerStatus) -> Option<i32> {
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    (code != 0).then_some(code)
}

fn holds(wanted: &PodFailurePolicyOnExitCodesRequirement, code: i32) -> bool {
    match wanted.operator.as_str() {
        "In" => wanted.values.contains(&code),
        "NotIn" => !wanted.values.contains(&code),
        _ => false,
    }
}

/// The first rule of the success policy that these indexes fulfil.
pub fn fulfilled(spec: &JobSpec, done: &BTreeSet<i32>) -> Option<usize> {
    let rules = spec.success_policy.as_ref().map(|policy| &policy.rules[..]).unwrap_or_default();
    rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(parse_indexes);
        let count = match &wanted {
            Some(wanted) => wanted.intersection(done).count(),
            None => done.len(),
        };
        let enough = match (rule.succeeded_count, &wanted) {
            (Some(count), _) => usize::try_from(count).unwrap_or(usize::MAX),
            (None, Some(wanted)) => wanted.len(),
            (None, None) => return false,
        };
        enough > 0 && count >= enough
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(rules: Value) -> JobSpec {
        serde_json::from_value(json!({"template": {}, "podFailurePolicy": {"rules": rules}})).unwrap()
    }

    fn pod(codes: Value, conditions: Value) -> Pod {
        let statuses: Vec<Value> = codes
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, code)| {
                json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}})
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"},
            "status": {"phase": "Failed", "containerStatuses": statuses, "conditions": conditions}}))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_says_how_a_failure_counts() {
        let codes = |action: &str, operator: &str, values: Value, container: Value| json!({"action": action, "onExitCodes": {"operator": operator, "values": values, "containerName": container}});
        let disrupted =
            json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let rules = json!([
            disrupted,
            codes("FailJob", "In", json!([42, 43]), json!("main")),
            codes("FailIndex", "In", json!([7]), json!(null)),
            codes("Count", "In", json!([1]), json!(null)),
            codes("FailJob", "NotIn", json!([2]), json!("side")),
        ]);
        let spec = spec(rules);
        let why = "Container main for pod ns/p failed with exit code 42 matching FailJob rule at index 1";
        let not_in = "Container side for pod ns/p failed with exit code 9 matching FailJob rule at index 4";
        for (codes, conditions, expected) in [
            (json!({"main": 42}), json!([]), Verdict::FailJob(why.into())),
            (json!({"main": 42}), json!([{"type": "DisruptionTarget", "status": "True"}]), Verdict::Ignore),
            (json!({"main": 5}), json!([{"type": "DisruptionTarget", "status": "False"}]), Verdict::Count),
            (
                json!({"side": 42, "main": 0}),
                json!([]),
                Verdict::FailJob(not_in.replace("code 9", "code 42")),
            ),
            (json!({"main": 7}), json!([]), Verdict::FailIndex),
            (json!({"main": 1, "side": 9}), json!([]), Verdict::Count),
            (json!({"main": 0, "side": 9}), json!([]), Verdict::FailJob(not_in.into())),
            (json!({"main": 0, "side": 0}), json!([]), Verdict::Count),
        ] {
            assert_eq!(verdict(&spec, &pod(codes.clone(), conditions)), expected, "{codes}");
        }
        let mut running = pod(json!({"main": 42}), json!([]));
        running.status.as_mut().unwrap().phase = Some("Running".into());
        assert_eq!(verdict(&spec, &running), Verdict::Count, "it has not failed yet");
    }

    #[test]
    fn a_success_policy_asks_for_indexes_a_number_of_them_or_both() {
        let policy = |rules: Value| -> JobSpec {
            serde_json::from_value(json!({"template": {}, "successPolicy": {"rules": rules}})).unwrap()
        };
        let done = |indexes: &[i32]| indexes.iter().copied().collect::<BTreeSet<i32>>();
        let rules = policy(json!([
            {"succeededIndexes": "0,2-3"},
            {"succeededIndexes": "4-9", "succeededCount": 2},
            {"succeededCount": 5},
        ]));
        for (indexes, expected) in [
            (&[0, 2][..], None),
            (&[0, 2, 3], Some(0)),
            (&[4, 9], Some(1)),
            (&[1, 5, 10, 11], None),
            (&[1, 5, 10, 11, 12], Some(2)),
        ] {
            assert_eq!(fulfilled(&rules, &done(indexes)), expected, "{indexes:?}");
        }
        assert_eq!(fulfilled(&policy(json!([])), &done(&[1])), None);
    }
}
