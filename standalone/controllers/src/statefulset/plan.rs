//! One step of a StatefulSet: which pod is made or ended next. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::pods::{ordinal, wanted};
use crate::deployment::share_of;
use crate::pod::{Availability, availability, is_ready, phase};
use crate::revisions::HASH_LABEL;

pub struct Snapshot<'a> {
    pub set: &'a StatefulSet,
    /// Pods that the set controls.
    pub pods: &'a [Arc<Pod>],
    /// What could be read of its pods that are unreadable: their names are taken, and what comes after them
    /// waits.
    pub unreadable: &'a [Arc<Pod>],
    /// Name of the revision that pods below the partition are of.
    pub current: &'a str,
    /// Name of the present template's revision.
    pub update: &'a str,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    pub ordinal: i32,
    /// Of the update revision, or of the current one.
    pub updated: bool,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<Create>,
    pub delete: Vec<Arc<Pod>>,
    pub status: StatefulSetStatus,
    pub again: Option<Duration>,
}

pub fn revision_of(pod: &Pod) -> Option<&str> {
    pod.labels().get(HASH_LABEL).map(String::as_str)
}

fn ends(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_available(snapshot: &Snapshot<'_>, pod: &Pod) -> Availability {
    if ends(pod) || phase(pod) != "Running" || is_unreadable(snapshot, pod) {
        return Availability::No;
    }
    let min_ready = snapshot.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    availability(pod, min_ready, snapshot.now)
}

pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let Some(spec) = &snapshot.set.spec else { return Plan::default() };
    let wanted = wanted(snapshot.set);
    let mut pods: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
    for pod in snapshot.pods.iter().chain(snapshot.unreadable) {
        if let Some(ordinal) = ordinal(snapshot.set, pod) {
            pods.insert(ordinal, pod);
        }
    }
    let mut plan = Plan::default();
    if let Some(left) = pods
        .values()
        .filter_map(|pod| match is_available(snapshot, pod) {
            Availability::In(left) => Some(left),
            _ => None,
        })
        .min()
    {
        plan.again = Some(left);
    }
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let rolling = strategy.rolling_update.clone().unwrap_or_default();
    let partition = rolling.partition.unwrap_or(0);
    let one_by_one = spec.pod_management_policy.as_deref() != Some("Parallel");
    let on_delete = strategy.type_.as_deref() == Some("OnDelete");

    let settled = fill(snapshot, &mut plan, &pods, wanted.clone(), partition, one_by_one)
        && shrink(snapshot, &mut plan, &pods, &wanted, one_by_one);
    if settled && !on_delete {
        match &rolling.max_unavailable {
            None => update(snapshot, &mut plan, &pods, &wanted, partition),
            Some(max) => {
                let max = share_of(max, wanted.len() as i32, false).max(1);
                update_several(snapshot, &mut plan, &pods, &wanted, (partition, max));
            }
        }
    }
    plan.delete.retain(|pod| !is_unreadable(snapshot, pod));
    plan.status = status(snapshot, &pods, &wanted, partition);
    plan
}

fn is_unreadable(snapshot: &Snapshot<'_>, pod: &Pod) -> bool {
    snapshot.unreadable.iter().any(|other| other.metadata.name == pod.metadata.name)
}

/// Makes what is missing, lowest ordinal first; false when something must come first.
fn fill(
    snapshot: &Snapshot<'_>,
    plan: &mut Plan,
    pods: &BTreeMap<i32, &Arc<Pod>>,
    wanted: std::ops::Range<i32>,
    partition: i32,
    one_by_one: bool,
) -> bool {
    for ordinal in wanted {
        match pods.get(&ordinal) {
            None => plan.create.push(Create { ordinal, updated: ordinal >= partition }),
            Some(pod) if matches!(phase(pod), "Failed" | "Succeeded") && !ends(pod) => {
                plan.delete.push((*pod).clone());
            }
            Some(pod) if is_available(snapshot, pod) == Availability::Yes => continue,
            Some(_) => {}
        }
        if one_by_one {
            return false;
        }
    }
    plan.create.is_empty() && plan.delete.is_empty()
}

/// Ends what is too many, highest ordinal first; false when something must come first.
fn shrink(
    snapshot: &Snapshot<'_>,
    plan: &mut Plan,
    pods: &BTreeMap<i32, &Arc<Pod>>,
    wanted: &std::ops::Range<i32>,
    one_by_one: bool,
) -> bool {
    let condemned: Vec<&&Arc<Pod>> =
        pods.iter().rev().filter(|(ordinal, _)| !wanted.contains(ordinal)).map(|(_, pod)| pod).collect();
    let unhealthy = condemned.iter().rev().find(|pod| is_available(snapshot, pod) != Availability::Yes);
    for pod in &condemned {
        if !ends(pod) {
            // One that is not healthy goes only when it is the first such one: order is kept on the way down
            // too.
            let waits = one_by_one
                && is_available(snapshot, pod) != Availability::Yes
                && unhealthy.is_some_and(|first| !Arc::ptr_eq(first, pod));
            if !waits {
                plan.delete.push((**pod).clone());
            }
        }
        if one_by_one {
            return false;
        }
    }
    condemned.is_empty()
}

/// Replaces outdated pods from the highest ordinal down to the partition, each once the one above is
/// available.
fn update(
    snapshot: &Snapshot<'_>,
    plan: &mut Plan,
    pods: &BTreeMap<i32, &Arc<Pod>>,
    wanted: &std::ops::Range<i32>,
    partition: i32,
) {
    for (_, pod) in
        pods.iter().rev().filter(|(ordinal, _)| wanted.contains(ordinal) && **ordinal >= partition)
    {
        if revision_of(pod) != Some(snapshot.update) {
            if !ends(pod) {
                plan.delete.push((*pod).clone());
            }
            return;
        }
        if is_available(snapshot, pod) != Availability::Yes {
            return;
        }
    }
}

/// Replaces outdated pods from the highest ordinal down to the partition, as many at once as leave no more
/// than `max` of the wanted pods unavailable (KEP-961).
fn update_several(
    snapshot: &Snapshot<'_>,
    plan: &mut Plan,
    pods: &BTreeMap<i32, &Arc<Pod>>,
    wanted: &std::ops::Range<i32>,
    (partition, max): (i32, i32),
) {
    let available =
        |ordinal: &i32| pods.get(ordinal).is_some_and(|pod| is_available(snapshot, pod) == Availability::Yes);
    let unavailable = wanted.clone().filter(|ordinal| !available(ordinal)).count() as i32;
    let outdated = pods.iter().rev().filter(|(ordinal, pod)| {
        wanted.contains(ordinal)
            && **ordinal >= partition
            && !ends(pod)
            && revision_of(pod) != Some(snapshot.update)
    });
    let room = usize::try_from(max - unavailable).unwrap_or(0);
    plan.delete.extend(outdated.take(room).map(|(_, pod)| (*pod).clone()));
}

fn status(
    snapshot: &Snapshot<'_>,
    pods: &BTreeMap<i32, &Arc<Pod>>,
    wanted: &std::ops::Range<i32>,
    partition: i32,
) -> StatefulSetStatus {
    let count = |holds: &dyn Fn(&Pod) -> bool| pods.values().filter(|pod| holds(pod)).count() as i32;
    let some = |count: i32| (count > 0).then_some(count);
    let lives = |pod: &Pod| !ends(pod);
    let of = |revision: &str| count(&|pod| lives(pod) && revision_of(pod) == Some(revision));
    let was = snapshot.set.status.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        observed_generation: snapshot.set.metadata.generation,
        replicas: pods.len() as i32,
        ready_replicas: some(count(&|pod| lives(pod) && is_ready(pod))),
        available_replicas: Some(count(&|pod| is_available(snapshot, pod) == Availability::Yes)),
        current_replicas: some(of(snapshot.current)),
        updated_replicas: some(of(snapshot.update)),
        current_revision: Some(snapshot.current.to_owned()),
        update_revision: Some(snapshot.update.to_owned()),
        collision_count: was.collision_count,
        conditions: was.conditions,
    };
    let replicas = wanted.len() as i32;
    let updated =
        status.updated_replicas.unwrap_or(0) == replicas && status.ready_replicas.unwrap_or(0) == replicas;
    if partition <= wanted.start && updated && status.replicas == replicas {
        // The update is through: it is what is current now.
        status.current_revision = Some(snapshot.update.to_owned());
        status.current_replicas = status.updated_replicas;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(replicas: i32, extra: Value) -> StatefulSet {
        let mut spec = json!({"replicas": replicas, "serviceName": "web", "selector": {}, "template": {}});
        for (name, value) in extra.as_object().unwrap() {
            spec[name] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn pod(ordinal: i32, revision: &str, ready: bool, ends: bool) -> Arc<Pod> {
        let name = format!("web-{ordinal}");
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "labels": {"controller-revision-hash": revision}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        if ends {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn step(set: &StatefulSet, pods: &[Arc<Pod>]) -> (Vec<i32>, Vec<String>) {
        beside(set, pods, &[])
    }

    fn beside(set: &StatefulSet, pods: &[Arc<Pod>], unreadable: &[Arc<Pod>]) -> (Vec<i32>, Vec<String>) {
        let now = Timestamp::from_second(1_000).unwrap();
        let plan = plan(&Snapshot { set, pods, unreadable, current: "old", update: "new", now });
        (plan.create.iter().map(|c| c.ordinal).collect(), plan.delete.iter().map(|p| p.name_any()).collect())
    }

    #[test]
    fn pods_come_one_after_the_other_each_once_the_one_before_is_ready() {
        let set = set(3, json!({}));
        assert_eq!(step(&set, &[]), (vec![0], vec![]));
        assert_eq!(step(&set, &[pod(0, "new", false, false)]), (vec![], vec![]));
        assert_eq!(step(&set, &[pod(0, "new", true, false)]), (vec![1], vec![]));
        assert_eq!(step(&set, &[pod(0, "new", true, true), pod(2, "new", true, false)]), (vec![], vec![]));
    }

    #[test]
    fn pods_go_from_the_highest_down_one_at_a_time() {
        let set = set(1, json!({}));
        let all = [pod(0, "new", true, false), pod(1, "new", true, false), pod(2, "new", true, false)];
        assert_eq!(step(&set, &all), (vec![], vec!["web-2".to_owned()]));
        let going = [pod(0, "new", true, false), pod(1, "new", true, false), pod(2, "new", true, true)];
        assert_eq!(step(&set, &going), (vec![], vec![]));
    }

    #[test]
    fn unreadable_pod_has_its_name_and_nobody_passes_it() {
        let (zero, two) = ([pod(0, "old", true, false)], [pod(2, "old", true, false)]);
        let unreadable = [pod(1, "old", true, false)];
        assert_eq!(beside(&set(3, json!({})), &zero, &unreadable), (vec![], vec![]));
        assert_eq!(beside(&set(1, json!({})), &zero, &unreadable), (vec![], vec![]), "it is not deleted");
        let parallel = json!({"podManagementPolicy": "Parallel"});
        assert_eq!(beside(&set(4, parallel.clone()), &two, &unreadable), (vec![0, 3], vec![]));
        assert_eq!(beside(&set(0, parallel), &two, &unreadable), (vec![], vec!["web-2".to_owned()]));
    }

    #[test]
    fn update_goes_from_the_highest_down_to_the_partition() {
        let pods = [pod(0, "old", true, false), pod(1, "old", true, false), pod(2, "new", true, false)];
        assert_eq!(step(&set(3, json!({})), &pods), (vec![], vec!["web-1".to_owned()]));
        let partition =
            json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
        assert_eq!(step(&set(3, partition), &pods), (vec![], vec![]));
        let waits = [pod(0, "old", true, false), pod(1, "old", true, false), pod(2, "new", false, false)];
        assert_eq!(step(&set(3, json!({})), &waits), (vec![], vec![]));
        let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
        assert_eq!(step(&set(3, on_delete), &pods), (vec![], vec![]));
    }

    #[test]
    fn several_are_updated_at_once_where_that_is_allowed() {
        let allowing = |max: Value, policy: &str| {
            let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": max}});
            set(4, json!({"updateStrategy": rolling, "podManagementPolicy": policy}))
        };
        let old: Vec<Arc<Pod>> = (0..4).map(|ordinal| pod(ordinal, "old", true, false)).collect();
        assert_eq!(step(&allowing(json!(2), "OrderedReady"), &old).1, ["web-3", "web-2"]);
        assert_eq!(step(&allowing(json!("75%"), "OrderedReady"), &old).1, ["web-3", "web-2", "web-1"]);
        assert_eq!(step(&allowing(json!("10%"), "OrderedReady"), &old).1, ["web-3"], "never none");
        let mut one_away = old;
        one_away[0] = pod(0, "old", false, false);
        assert_eq!(step(&allowing(json!(2), "Parallel"), &one_away).1, ["web-3"]);
        one_away[3] = pod(3, "old", true, true);
        assert_eq!(step(&allowing(json!(2), "Parallel"), &one_away), (vec![], vec![]));
    }

    #[test]
    fn parallel_set_makes_and_ends_all_at_once() {
        let parallel = json!({"podManagementPolicy": "Parallel"});
        assert_eq!(step(&set(3, parallel.clone()), &[]), (vec![0, 1, 2], vec![]));
        let pods = [pod(0, "new", true, false), pod(1, "new", true, false), pod(2, "new", true, false)];
        assert_eq!(step(&set(1, parallel), &pods).1, ["web-2", "web-1"]);
    }
}
