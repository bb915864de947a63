//! Rollouts played out on a model: plans are applied to sets whose pods become ready in a random order.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use proptest::prelude::*;
use serde_json::Value;

use super::plan::{Plan, Snapshot, Step, plan, replicas};
use super::revision;

fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..Default::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container { name: "c".into(), image: Some(image.into()), ..Default::default() }],
            ..Default::default()
        }),
    }
}

/// A cluster of one Deployment: sets take patches, pods become ready when told to.
struct Model {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    second: i64,
}

impl Model {
    fn new(count: i32, surge: IntOrString, unavailable: IntOrString) -> Self {
        let deployment = Deployment {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("default".into()),
                uid: Some("uid".into()),
                generation: Some(1),
                ..Default::default()
            },
            spec: Some(DeploymentSpec {
                replicas: Some(count),
                selector: LabelSelector {
                    match_labels: Some([("app".to_owned(), "web".to_owned())].into()),
                    ..Default::default()
                },
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(surge),
                        max_unavailable: Some(unavailable),
                    }),
                }),
                template: template("v1"),
                progress_deadline_seconds: Some(600),
                ..Default::default()
            }),
            status: None,
        };
        Self { deployment, sets: Vec::new(), second: 0 }
    }

    fn spec(&mut self) -> &mut DeploymentSpec {
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
        self.deployment.spec.as_mut().unwrap()
    }

    fn now(&self) -> Time {
        Time(Timestamp::from_second(1_000_000 + self.second).unwrap())
    }

    fn step(&mut self) -> Plan {
        self.second += 1;
        let sets: Vec<Arc<ReplicaSet>> = self.sets.iter().cloned().map(Arc::new).collect();
        let snapshot = Snapshot { deployment: &self.deployment, sets: &sets, pods: &[], now: self.now() };
        let plan = plan(&snapshot);
        for step in &plan.steps {
            self.apply(step);
        }
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.into(), revision.to_string());
        }
        self.deployment.status = Some(plan.status.clone());
        plan
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Create(set) => {
                let mut set = (**set).clone();
                set.metadata.uid = Some(set.name_any());
                set.metadata.creation_timestamp = Some(self.now());
                set.metadata.generation = Some(1);
                assert!(self.sets.iter().all(|there| there.name_any() != set.name_any()), "made twice");
                self.sets.push(set);
            }
            Step::Update { set, patch, scale } => {
                let there = self.sets.iter_mut().find(|there| there.name_any() == set.name_any()).unwrap();
                if let Some(annotations) = patch["metadata"]["annotations"].as_object() {
                    for (name, value) in annotations {
                        let value = value.as_str().unwrap_or_default().to_owned();
                        there.annotations_mut().insert(name.clone(), value);
                    }
                }
                let size = patch["spec"]["replicas"].as_i64().map(|size| size as i32);
                assert_eq!(size, scale.map(|(_, to)| to));
                if let Some(size) = size {
                    there.spec.as_mut().unwrap().replicas = Some(size);
                    // Pods that are too many go at once, those not ready first.
                    let status = there.status.get_or_insert_default();
                    status.replicas = size;
                    let ready = status.ready_replicas.unwrap_or(0).min(size);
                    status.ready_replicas = Some(ready);
                    status.available_replicas = Some(ready);
                }
                if let Value::Number(seconds) = &patch["spec"]["minReadySeconds"] {
                    there.spec.as_mut().unwrap().min_ready_seconds = seconds.as_i64().map(|s| s as i32);
                }
            }
            Step::Delete(set) => self.sets.retain(|there| there.name_any() != set.name_any()),
        }
    }

    /// Lets the sets' controllers make their pods, and `ready` of those not ready become so.
    fn pods(&mut self, mut ready: i32) {
        for set in &mut self.sets {
            let size = replicas(set);
            let has = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
            let more = (size - has).min(ready).max(0);
            ready -= more;
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(has + more),
                available_replicas: Some(has + more),
                observed_generation: set.metadata.generation,
                ..Default::default()
            });
        }
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(replicas).sum()
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(super::plan::available).sum()
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            let plan = self.step();
            self.pods(i32::MAX);
            if plan.steps.is_empty() && self.reason("Progressing") == "NewReplicaSetAvailable" {
                return;
            }
        }
        panic!("did not settle: {:#?}", self.deployment.status);
    }

    fn reason(&self, type_: &str) -> String {
        let conditions = self.deployment.status.as_ref().and_then(|s| s.conditions.clone());
        let conditions = conditions.unwrap_or_default();
        conditions.into_iter().find(|c| c.type_ == type_).and_then(|c| c.reason).unwrap_or_default()
    }

    fn set(&self, revision: i64) -> &ReplicaSet {
        self.sets.iter().find(|set| revision::of(*set) == revision).expect("a set of this revision")
    }
}

fn number(n: i32) -> IntOrString {
    IntOrString::Int(n)
}

fn percent(text: &str) -> IntOrString {
    IntOrString::String(text.into())
}

#[test]
fn first_rollout_makes_one_set_of_revision_one() {
    let mut model = Model::new(3, percent("25%"), percent("25%"));
    model.settle();
    assert_eq!(model.sets.len(), 1);
    assert_eq!(replicas(model.set(1)), 3);
    assert_eq!(revision::of(&model.deployment), 1);
    assert_eq!(model.reason("Available"), "MinimumReplicasAvailable");
    let status = model.deployment.status.as_ref().unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.unavailable_replicas),
        (Some(3), Some(3), None)
    );
}

#[test]
fn new_image_rolls_and_undo_takes_the_old_set_with_a_new_revision() {
    let mut model = Model::new(4, number(1), number(0));
    model.settle();
    model.spec().template = template("v2");
    model.settle();
    assert_eq!((replicas(model.set(1)), replicas(model.set(2))), (0, 4));
    model.spec().template = template("v1");
    model.settle();
    assert_eq!(model.sets.len(), 2, "the old set is used again");
    assert_eq!(replicas(model.set(3)), 4);
    assert_eq!(model.set(3).annotations()["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(revision::of(&model.deployment), 3);
}

#[test]
fn history_beyond_the_limit_is_deleted_oldest_first() {
    let mut model = Model::new(1, number(1), number(0));
    model.spec().revision_history_limit = Some(2);
    for version in 1..=5 {
        model.spec().template = template(&format!("v{version}"));
        model.settle();
    }
    for _ in 0..3 {
        model.step();
    }
    let mut revisions: Vec<i64> = model.sets.iter().map(revision::of).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn paused_deployment_scales_but_does_not_roll() {
    let mut model = Model::new(2, number(1), number(0));
    model.settle();
    model.spec().paused = Some(true);
    model.spec().template = template("v2");
    model.spec().replicas = Some(5);
    for _ in 0..5 {
        model.step();
        model.pods(i32::MAX);
    }
    assert_eq!((model.sets.len(), model.total()), (1, 5));
    assert_eq!(model.reason("Progressing"), "DeploymentPaused");
    model.spec().paused = Some(false);
    model.settle();
    assert_eq!(replicas(model.set(2)), 5);
}

#[test]
fn scaling_in_mid_rollout_keeps_the_proportions() {
    let mut model = Model::new(10, number(3), number(2));
    model.settle();
    model.spec().template = template("v2");
    model.step();
    model.step();
    model.step();
    let (old, new) = (replicas(model.set(1)), replicas(model.set(2)));
    assert_eq!((old, new), (8, 5));
    model.spec().replicas = Some(15);
    model.step();
    assert_eq!((replicas(model.set(1)), replicas(model.set(2))), (11, 7), "of 15 + 3");
}

#[test]
fn stuck_rollout_is_said_to_have_timed_out() {
    let mut model = Model::new(1, number(1), number(0));
    model.settle();
    model.spec().template = template("broken");
    let mut again = None;
    for _ in 0..4 {
        again = model.step().again;
        model.pods(0);
    }
    assert!(again.is_some_and(|again| again.as_secs() > 500), "a timer waits for the deadline: {again:?}");
    model.second += 700;
    model.step();
    assert_eq!(model.reason("Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(model.available(), 1, "the old pod stays");
}

#[test]
fn recreate_ends_the_old_pods_first() {
    let mut model = Model::new(3, number(1), number(0));
    model.spec().strategy = Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    model.settle();
    model.spec().template = template("v2");
    model.step();
    assert_eq!((model.sets.len(), model.total()), (1, 0));
    model.settle();
    assert_eq!(replicas(model.set(2)), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn rollout_stays_between_floor_and_ceiling_and_ends(
        count in 1i32..12,
        surge in 0i32..5,
        unavailable in 0i32..5,
        ready in prop::collection::vec(0i32..4, 1..40),
    ) {
        let mut model = Model::new(count, number(surge), number(unavailable));
        model.settle();
        model.spec().template = template("v2");
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        for ready in ready {
            model.step();
            prop_assert!(model.total() <= count + surge, "{} pods of {count} + {surge}", model.total());
            prop_assert!(model.available() >= (count - unavailable).max(0));
            model.pods(ready);
        }
        model.settle();
        prop_assert_eq!(replicas(model.set(2)), count);
        prop_assert_eq!(model.total(), count);
    }
}
