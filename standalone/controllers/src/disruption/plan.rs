//! A budget's status, from its pods and what their owners want: pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::deployment::share_of;
use crate::pod::is_ready;

/// An evicted pod that is still there after this long, without being deleted, is not going.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);
const ALLOWED: &str = "DisruptionAllowed";

pub struct Snapshot<'a> {
    pub budget: &'a PodDisruptionBudget,
    /// Those that it selects.
    pub pods: &'a [Arc<Pod>],
    /// Those that it selects and that can't be read: expected, and not known to be healthy.
    pub unreadable: usize,
    /// What the pods' owners want, where [`needs_scale`]; or why that is not known.
    pub scale: &'a Result<Scale, String>,
    pub now: Time,
}

#[derive(Debug, Default)]
pub struct Scale {
    pub replicas: i32,
    /// Names of pods that nobody controls.
    pub unmanaged: Vec<String>,
}

pub struct Plan {
    pub status: PodDisruptionBudgetStatus,
    /// When an eviction that nothing came of runs out.
    pub again: Option<Duration>,
    /// Pods that were evicted and are not going.
    pub not_deleted: Vec<String>,
}

/// Whether the budget is a share of what is wanted, rather than a number of what is there.
pub fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.clone().unwrap_or_default();
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

pub fn plan(snapshot: &Snapshot) -> Plan {
    let old = snapshot.budget.status.clone().unwrap_or_default();
    let Evicted { pending, again, not_deleted } = evicted(snapshot, &old);
    let scale = match snapshot.scale {
        Ok(scale) => scale.replicas,
        // Nothing more may go until that is known.
        Err(error) => {
            let status = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..old.clone() };
            let condition = condition(snapshot, &old, ("False", "SyncFailed", error));
            return Plan { status: with(status, condition), again, not_deleted };
        }
    };
    let (expected, desired) = wanted(snapshot, scale);
    let current = snapshot.pods.iter().filter(|pod| is_healthy(pod, &pending)).count();
    let current = i32::try_from(current).unwrap_or(i32::MAX);
    // While a budget selects nothing, the first pods that it will select are safe too.
    let allowed = if expected > 0 { current.saturating_sub(desired).max(0) } else { 0 };
    let status = PodDisruptionBudgetStatus {
        conditions: old.conditions.clone(),
        current_healthy: Some(current),
        desired_healthy: Some(desired),
        disrupted_pods: (!pending.is_empty()).then_some(pending),
        disruptions_allowed: Some(allowed),
        expected_pods: Some(expected),
        observed_generation: snapshot.budget.metadata.generation,
    };
    let verdict =
        if allowed > 0 { ("True", "SufficientPods", "") } else { ("False", "InsufficientPods", "") };
    let condition = condition(snapshot, &old, verdict);
    Plan { status: with(status, condition), again, not_deleted }
}

/// How many pods there should be, and how many healthy ones must stay.
fn wanted(snapshot: &Snapshot, scale: i32) -> (i32, i32) {
    let spec = snapshot.budget.spec.clone().unwrap_or_default();
    let there = i32::try_from(snapshot.pods.len() + snapshot.unreadable).unwrap_or(i32::MAX);
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => (scale, scale.saturating_sub(share_of(unavailable, scale, true)).max(0)),
        (None, Some(IntOrString::Int(number))) => (there, (*number).max(0)),
        (None, Some(percent)) => (scale, share_of(percent, scale, true)),
        (None, None) => (there, 0),
    }
}

/// Ready, not on its way out, and not about to be.
fn is_healthy(pod: &Pod, pending: &BTreeMap<String, Time>) -> bool {
    is_ready(pod) && pod.metadata.deletion_timestamp.is_none() && !pending.contains_key(&pod.name_any())
}

struct Evicted {
    pending: BTreeMap<String, Time>,
    again: Option<Duration>,
    not_deleted: Vec<String>,
}

/// Of the evictions that the API server has noted those whose deletion is not seen yet.
fn evicted(snapshot: &Snapshot, old: &PodDisruptionBudgetStatus) -> Evicted {
    let mut evicted = Evicted { pending: BTreeMap::new(), again: None, not_deleted: Vec::new() };
    for (name, at) in old.disrupted_pods.iter().flatten() {
        let pod = snapshot.pods.iter().find(|pod| pod.name_any() == *name);
        if pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()) {
            continue;
        }
        let age = Duration::try_from(snapshot.now.0.duration_since(at.0)).unwrap_or_default();
        match DELETION_TIMEOUT.checked_sub(age).filter(|left| !left.is_zero()) {
            Some(left) => {
                evicted.pending.insert(name.clone(), at.clone());
                evicted.again = Some(evicted.again.map_or(left, |again| again.min(left)));
            }
            None => evicted.not_deleted.push(name.clone()),
        }
    }
    evicted
}

fn condition(snapshot: &Snapshot, old: &PodDisruptionBudgetStatus, verdict: (&str, &str, &str)) -> Condition {
    let (status, reason, message) = verdict;
    let before = old.conditions.iter().flatten().find(|condition| condition.type_ == ALLOWED);
    let since =
        before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: snapshot.budget.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| snapshot.now.clone()),
    }
}

fn with(mut status: PodDisruptionBudgetStatus, condition: Condition) -> PodDisruptionBudgetStatus {
    let others =
        status.conditions.take().into_iter().flatten().filter(|other| other.type_ != condition.type_);
    status.conditions = Some(others.chain([condition.clone()]).collect());
    status
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Time {
        Time(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_700_000_000 + seconds))
    }

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Pod>> {
        let pod = |number: usize| {
            let status = if number < ready { "True" } else { "False" };
            let pod = json!({"metadata": {"name": format!("p{number}")},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        (0..ready + unready).map(pod).collect()
    }

    fn budget(spec: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 3}, "spec": spec})).unwrap()
    }

    fn run(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], replicas: i32) -> Plan {
        let scale = Ok(Scale { replicas, unmanaged: Vec::new() });
        plan(&Snapshot { budget, pods, unreadable: 0, scale: &scale, now: at(0) })
    }

    /// Expected, desired, current, allowed.
    fn numbers(spec: Value, pods: &[Arc<Pod>], replicas: i32) -> [i32; 4] {
        let status = run(&budget(spec), pods, replicas).status;
        [status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed]
            .map(|number| number.expect("always told"))
    }

    #[test]
    fn numbers_and_percentages_allow_what_is_documented() {
        let seven = pods(7, 0);
        let cases = [
            (json!({"minAvailable": 5}), [7, 5, 7, 2]),
            (json!({"minAvailable": 8}), [7, 8, 7, 0]),
            // Rounded up: of 7 pods half is 4.
            (json!({"minAvailable": "50%"}), [7, 4, 7, 3]),
            (json!({"maxUnavailable": "50%"}), [7, 3, 7, 4]),
            (json!({"maxUnavailable": 1}), [7, 6, 7, 1]),
            (json!({"maxUnavailable": 0}), [7, 7, 7, 0]),
            (json!({"maxUnavailable": "0%"}), [7, 7, 7, 0]),
            (json!({"maxUnavailable": "100%"}), [7, 0, 7, 7]),
            (json!({"maxUnavailable": 9}), [7, 0, 7, 7]),
        ];
        for (spec, expected) in cases {
            assert_eq!(numbers(spec.clone(), &seven, 7), expected, "{spec}");
        }
    }

    #[test]
    fn what_is_wanted_counts_and_not_what_is_there() {
        // A rolling update has three of five pods up.
        assert_eq!(numbers(json!({"maxUnavailable": 2}), &pods(3, 0), 5), [5, 3, 3, 0]);
        assert_eq!(numbers(json!({"minAvailable": 2}), &pods(3, 0), 5), [3, 2, 3, 1]);
        assert_eq!(
            numbers(json!({"maxUnavailable": 1}), &pods(2, 1), 3),
            [3, 2, 2, 0],
            "one is unready already"
        );
    }

    #[test]
    fn a_budget_without_pods_allows_nothing() {
        assert_eq!(numbers(json!({"minAvailable": 0}), &[], 0), [0, 0, 0, 0]);
        assert_eq!(numbers(json!({"maxUnavailable": "100%"}), &[], 0), [0, 0, 0, 0]);
    }

    #[test]
    fn pods_that_cant_be_read_are_expected_and_not_healthy() {
        let (budget, pods, scale) = (budget(json!({"minAvailable": 1})), pods(1, 0), Ok(Scale::default()));
        let plan = plan(&Snapshot { budget: &budget, pods: &pods, unreadable: 2, scale: &scale, now: at(0) });
        assert_eq!(
            (plan.status.expected_pods, plan.status.current_healthy, plan.status.disruptions_allowed),
            (Some(3), Some(1), Some(0))
        );
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_until_it_goes_or_does_not_in_two_minutes() {
        let mut three = pods(3, 0);
        let deleting = |pod: &Arc<Pod>| {
            let mut pod = Pod::clone(pod);
            pod.metadata.deletion_timestamp = Some(at(0));
            Arc::new(pod)
        };
        let noted = |seconds: i64| {
            let mut budget = budget(json!({"minAvailable": 1}));
            let status = json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
                "disruptedPods": {"p0": serde_json::to_value(at(-seconds)).unwrap(), "long gone": at(0)}});
            budget.status = Some(serde_json::from_value(status).unwrap());
            budget
        };
        let young = run(&noted(20), &three, 3);
        assert_eq!((young.status.current_healthy, young.status.disruptions_allowed), (Some(2), Some(1)));
        assert_eq!(young.again, Some(Duration::from_secs(100)));
        assert_eq!(young.status.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["p0"]);
        let old = run(&noted(120), &three, 3);
        assert_eq!(
            (old.status.current_healthy, old.not_deleted, old.again),
            (Some(3), vec!["p0".to_owned()], None)
        );
        three[0] = deleting(&three[0]);
        let going = run(&noted(20), &three, 3);
        assert_eq!((going.status.current_healthy, going.status.disrupted_pods), (Some(2), None));
    }

    #[test]
    fn what_is_not_known_allows_nothing_and_says_why() {
        let mut budget = budget(json!({"maxUnavailable": 1}));
        budget.status = Some(run(&budget, &pods(3, 0), 3).status);
        let scale = Err("jobs.batch does not implement the scale subresource".to_owned());
        let failed =
            plan(&Snapshot { budget: &budget, pods: &pods(3, 0), unreadable: 0, scale: &scale, now: at(9) });
        let condition = &failed.status.conditions.as_ref().unwrap()[0];
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "SyncFailed"));
        assert_eq!(condition.last_transition_time, at(9));
        assert_eq!((failed.status.disruptions_allowed, failed.status.current_healthy), (Some(0), Some(3)));
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut budget = budget(json!({"maxUnavailable": 1}));
        let condition = |plan: &Plan| plan.status.conditions.clone().unwrap().remove(0);
        let first = run(&budget, &pods(3, 0), 3);
        assert_eq!(
            (condition(&first).status.as_str(), condition(&first).reason.as_str()),
            ("True", "SufficientPods")
        );
        budget.status = Some(first.status);
        let scale = Ok(Scale { replicas: 3, unmanaged: Vec::new() });
        let three = pods(3, 0);
        let later =
            plan(&Snapshot { budget: &budget, pods: &three, unreadable: 0, scale: &scale, now: at(60) });
        assert_eq!(condition(&later).last_transition_time, at(0));
        let two = pods(2, 0);
        let less = plan(&Snapshot { budget: &budget, pods: &two, unreadable: 0, scale: &scale, now: at(60) });
        assert_eq!(
            (condition(&less).reason.as_str(), condition(&less).last_transition_time),
            ("InsufficientPods", at(60))
        );
    }
}
