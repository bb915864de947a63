//! How many pods a ReplicaSet lacks, which it has too many, what its status says. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skerry_informer::matches_labels;

use super::rank::{NodeCounts, first_to_go};
use crate::condition;
use crate::dependents::Failure;
use crate::pod::{Availability, availability, is_active, is_ready, is_terminating};

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub create: usize,
    /// In the order of deletion.
    pub delete: Vec<Arc<Pod>>,
    counts: Counts,
    /// When a pod that is ready becomes available.
    pub again: Option<Duration>,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Counts {
    replicas: i32,
    fully_labeled: i32,
    ready: i32,
    available: i32,
    terminating: i32,
}

/// `pods` are those the set controls, `related` those of all sets with the same owner (this one's too).
/// `unreadable` pods stand beside them: none is made in their place, and no other goes because of them.
pub fn plan(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    unreadable: usize,
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Plan {
    let Some(spec) = &set.spec else { return Plan::default() };
    let active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let mut plan = Plan::default();
    count(&mut plan, set, pods, &active, now);
    plan.counts.replicas += i32::try_from(unreadable).unwrap_or(i32::MAX);
    if set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    plan.create = wanted.saturating_sub(active.len() + unreadable);
    let surplus = active.len().saturating_sub(wanted);
    if surplus > 0 {
        let counts = NodeCounts::of(related);
        let mut ranked: Vec<Arc<Pod>> = active.into_iter().cloned().collect();
        ranked.sort_by(|a, b| first_to_go(a, b, &counts, now));
        ranked.truncate(surplus);
        plan.delete = ranked;
    }
    plan
}

fn count(plan: &mut Plan, set: &ReplicaSet, pods: &[Arc<Pod>], active: &[&Arc<Pod>], now: Timestamp) {
    let Some(spec) = &set.spec else { return };
    let template_labels =
        spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    for pod in active {
        let counts = &mut plan.counts;
        counts.replicas += 1;
        if template_labels.is_none_or(|labels| matches_labels(labels, pod.metadata.labels.as_ref())) {
            counts.fully_labeled += 1;
        }
        counts.ready += i32::from(is_ready(pod));
        match availability(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Availability::Yes => counts.available += 1,
            Availability::In(left) => plan.again = Some(plan.again.map_or(left, |again| again.min(left))),
            Availability::No => {}
        }
    }
    plan.counts.terminating = pods.iter().filter(|pod| is_terminating(pod)).count() as i32;
}

impl Plan {
    /// The status that says what was found, and what failed in carrying the plan out.
    pub(super) fn status(&self, set: &ReplicaSet, failure: Option<&Failure>, now: Time) -> ReplicaSetStatus {
        let some = |count: i32| (count != 0).then_some(count);
        let was = set.status.clone().unwrap_or_default();
        let mut conditions = was.conditions.unwrap_or_default();
        match failure {
            Some(failure) => condition::set(
                &mut conditions,
                ReplicaSetCondition {
                    type_: "ReplicaFailure".into(),
                    status: "True".into(),
                    reason: Some(failure.reason.into()),
                    message: Some(failure.error.server_message()),
                    last_transition_time: Some(now),
                },
            ),
            None => condition::remove(&mut conditions, "ReplicaFailure"),
        }
        ReplicaSetStatus {
            replicas: self.counts.replicas,
            fully_labeled_replicas: some(self.counts.fully_labeled),
            ready_replicas: some(self.counts.ready),
            available_replicas: some(self.counts.available),
            terminating_replicas: Some(self.counts.terminating),
            observed_generation: set.metadata.generation,
            conditions: (!conditions.is_empty()).then_some(conditions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use k8s_openapi::api::core::v1::{PodCondition, PodSpec, PodStatus};
    use kube::ResourceExt;
    use kube::api::ObjectMeta;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn set(replicas: i32, min_ready_seconds: i32) -> ReplicaSet {
        ReplicaSet {
            metadata: ObjectMeta { generation: Some(7), ..Default::default() },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                min_ready_seconds: Some(min_ready_seconds),
                ..Default::default()
            }),
            status: None,
        }
    }

    fn pod(name: &str, node: Option<&str>, ready_at: Option<i64>) -> Arc<Pod> {
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                uid: Some(name.into()),
                creation_timestamp: Some(Time(at(0))),
                ..Default::default()
            },
            spec: Some(PodSpec { node_name: node.map(str::to_owned), ..Default::default() }),
            status: Some(PodStatus {
                phase: Some(if ready_at.is_some() { "Running" } else { "Pending" }.into()),
                conditions: ready_at.map(|second| {
                    vec![PodCondition {
                        type_: "Ready".into(),
                        status: "True".into(),
                        last_transition_time: Some(Time(at(second))),
                        ..Default::default()
                    }]
                }),
                ..Default::default()
            }),
        })
    }

    fn deleted(pods: &[Arc<Pod>], replicas: i32) -> Vec<String> {
        let plan = plan(&set(replicas, 0), pods, 0, pods, at(1000));
        plan.delete.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn missing_pods_are_created_and_ended_ones_replaced() {
        let mut ended = (*pod("ended", Some("n"), None)).clone();
        ended.status.as_mut().unwrap().phase = Some("Failed".into());
        let pods = [pod("a", Some("n"), Some(1)), Arc::new(ended)];
        let plan = plan(&set(3, 0), &pods, 0, &pods, at(100));
        assert_eq!((plan.create, plan.delete.len(), plan.counts.replicas), (2, 0, 1));
    }

    #[test]
    fn unreadable_pod_counts_and_costs_no_other_its_place() {
        let pods = [pod("a", Some("n"), Some(1)), pod("b", Some("n"), Some(1))];
        let plan = |replicas: i32| plan(&set(replicas, 0), &pods, 1, &pods, at(100));
        assert_eq!((plan(3).create, plan(3).delete.len(), plan(3).counts.replicas), (0, 0, 3));
        assert_eq!(
            (plan(2).create, plan(2).delete.len()),
            (0, 0),
            "which of the three is too many is not known"
        );
        assert_eq!((plan(5).create, plan(1).delete.len()), (2, 1));
    }

    #[test]
    fn unassigned_then_pending_then_doubled_up_pods_go_first() {
        let pods = [
            pod("ready", Some("n1"), Some(1)),
            pod("doubled", Some("n2"), Some(1)),
            pod("doubled-too", Some("n2"), Some(1)),
            pod("pending", Some("n1"), None),
            pod("unassigned", None, None),
        ];
        assert_eq!(deleted(&pods, 4), ["unassigned"]);
        assert_eq!(deleted(&pods, 3), ["unassigned", "pending"]);
        assert!(deleted(&pods, 2)[2].starts_with("doubled"));
    }

    #[test]
    fn younger_ready_pod_goes_before_one_that_is_ready_for_long() {
        let pods = [pod("old", Some("n1"), Some(1)), pod("new", Some("n2"), Some(990))];
        assert_eq!(deleted(&pods, 1), ["new"]);
    }

    #[test]
    fn ready_pod_is_available_after_min_ready_seconds_and_a_timer_is_set() {
        let pods = [pod("a", Some("n"), Some(95)), pod("b", Some("n"), Some(10))];
        let plan = plan(&set(2, 10), &pods, 0, &pods, at(100));
        assert_eq!((plan.counts.ready, plan.counts.available), (2, 1));
        assert_eq!(plan.again, Some(Duration::from_secs(5)));
    }

    proptest! {
        #[test]
        fn carrying_the_plan_out_gives_the_wanted_number(
            wanted in 0i32..20,
            shape in prop::collection::vec((prop::option::of(0u8..3), prop::option::of(0i64..100), any::<bool>()), 0..25),
        ) {
            let pods: Vec<Arc<Pod>> = shape.iter().enumerate().map(|(n, (node, ready, ended))| {
                let node = node.map(|n| format!("n{n}"));
                let mut pod = (*pod(&format!("p{n}"), node.as_deref(), *ready)).clone();
                if *ended { pod.status.as_mut().unwrap().phase = Some("Succeeded".into()); }
                Arc::new(pod)
            }).collect();
            let plan = plan(&set(wanted, 0), &pods, 0, &pods, at(200));
            let active = pods.iter().filter(|p| is_active(p)).count();
            prop_assert_eq!(active + plan.create - plan.delete.len(), wanted as usize);
            prop_assert!(plan.create == 0 || plan.delete.is_empty());
            // Nothing that stays would have gone before something that goes.
            let counts = NodeCounts::of(&pods);
            let gone = |p: &Arc<Pod>| plan.delete.iter().any(|d| d.name_any() == p.name_any());
            for goes in &plan.delete {
                for stays in pods.iter().filter(|p| is_active(p) && !gone(p)) {
                    prop_assert!(first_to_go(stays, goes, &counts, at(200)).is_ge());
                }
            }
        }
    }
}
