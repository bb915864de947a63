//! One step of a rollout: from a Deployment and its ReplicaSets to the next writes. Pure.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use super::{revision, rolling, scale, status, template};
use crate::owner::{controller_of, controller_reference};
use crate::pod::is_terminal;

/// What a decision is taken on.
pub struct Snapshot<'a> {
    pub deployment: &'a Deployment,
    /// ReplicaSets that the Deployment controls.
    pub sets: &'a [Arc<ReplicaSet>],
    /// Their pods.
    pub pods: &'a [Arc<Pod>],
    pub now: Time,
}

#[derive(Debug, Clone)]
pub enum Step {
    Create(Box<ReplicaSet>),
    /// Merge patch of a set; `scale` is (from, to) when it changes the number of replicas.
    Update {
        set: Arc<ReplicaSet>,
        patch: Value,
        scale: Option<(i32, i32)>,
    },
    Delete(Arc<ReplicaSet>),
}

#[derive(Debug)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Revision to write on the Deployment.
    pub revision: Option<i64>,
    pub status: DeploymentStatus,
    /// When the progress deadline passes.
    pub again: Option<Duration>,
}

/// A Deployment's numbers with the API's defaults resolved.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub replicas: i32,
    pub max_surge: i32,
    pub max_unavailable: i32,
    pub recreate: bool,
}

/// The sets in the roles they have.
pub struct Sets<'a> {
    /// The one with the Deployment's template.
    pub new: Option<&'a Arc<ReplicaSet>>,
    /// All others, oldest first.
    pub old: Vec<&'a Arc<ReplicaSet>>,
}

impl<'a> Sets<'a> {
    fn sort(spec: &DeploymentSpec, sets: &'a [Arc<ReplicaSet>]) -> Self {
        let mut sorted: Vec<_> = sets.iter().collect();
        sorted.sort_by_key(|set| (set.metadata.creation_timestamp.clone().map(|t| t.0), set.name_any()));
        let is_new =
            |set: &&Arc<ReplicaSet>| template::of(set).is_some_and(|t| template::same(t, &spec.template));
        let new = sorted.iter().position(is_new).map(|index| sorted.remove(index));
        Self { new, old: sorted }
    }

    pub fn all(&self) -> impl Iterator<Item = &'a Arc<ReplicaSet>> {
        self.old.iter().copied().chain(self.new)
    }
}

pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let deployment = snapshot.deployment;
    let Some(spec) = &deployment.spec else {
        let status = deployment.status.clone().unwrap_or_default();
        return Plan { steps: Vec::new(), revision: None, status, again: None };
    };
    let sets = Sets::sort(spec, snapshot.sets);
    let wanted = Wanted::of(spec);
    let mut steps = Vec::new();
    let mut revision = None;
    let ends = deployment.metadata.deletion_timestamp.is_some();
    if !ends && !selects_everything(&spec.selector) {
        revision = revision::sync(deployment, &sets, &mut steps);
        if !steps.is_empty() {
            // The set's revision first, everything else once it is written.
        } else if spec.paused == Some(true) || scale::is_wanted(&sets, wanted) {
            steps = scale::proportionally(deployment, &sets, wanted);
        } else if wanted.recreate {
            steps = recreate(snapshot, &sets, wanted);
        } else {
            steps = rolling::roll(deployment, &sets, wanted);
        }
    }
    let status = status::of(snapshot, &sets, wanted, &steps);
    let done = status::is_complete(deployment, &status, wanted) || spec.paused == Some(true);
    if steps.is_empty() && done && !ends {
        steps = revision::surplus(spec, &sets).into_iter().map(Step::Delete).collect();
    }
    let again = status::deadline_in(spec, &status, &snapshot.now);
    Plan { steps, revision, status, again }
}

/// Ends every old pod before the first new one is made.
fn recreate(snapshot: &Snapshot<'_>, sets: &Sets<'_>, wanted: Wanted) -> Vec<Step> {
    let deployment = snapshot.deployment;
    let down: Vec<Step> = sets
        .old
        .iter()
        .filter(|set| replicas(set) > 0)
        .map(|set| scale::to(deployment, set, 0, wanted))
        .collect();
    if !down.is_empty() {
        return down;
    }
    let new_uid = sets.new.and_then(|set| set.uid());
    let old_runs = |pod: &Arc<Pod>| {
        !is_terminal(pod) && controller_of(&**pod).is_some_and(|owner| Some(&owner.uid) != new_uid.as_ref())
    };
    if snapshot.pods.iter().any(old_runs) {
        return Vec::new();
    }
    match sets.new {
        None => vec![create(deployment, sets, wanted, wanted.replicas)],
        Some(new) if replicas(new) != wanted.replicas => {
            vec![scale::to(deployment, new, wanted.replicas, wanted)]
        }
        Some(_) => Vec::new(),
    }
}

/// The step that makes the set for the Deployment's template, with so many replicas.
pub fn create(deployment: &Deployment, sets: &Sets<'_>, wanted: Wanted, replicas: i32) -> Step {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template::hash(&spec.template, collisions);
    let labelled = |labels: &mut Option<std::collections::BTreeMap<String, String>>| {
        labels.get_or_insert_default().insert(template::HASH_LABEL.into(), hash.clone());
    };
    let mut pods = spec.template;
    labelled(&mut pods.metadata.get_or_insert_default().labels);
    let mut selector: LabelSelector = spec.selector;
    labelled(&mut selector.match_labels);
    let mut annotations = revision::inherited(deployment);
    annotations.insert(revision::REVISION.into(), (revision::newest(&sets.old) + 1).to_string());
    annotations.extend(scale::annotations(wanted));
    Step::Create(Box::new(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: pods.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(pods),
        }),
        status: None,
    }))
}

fn selects_everything(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|expressions| expressions.is_empty())
}

/// Replicas that the set is asked for.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Of its replicas, those that are available.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// The merge patch for a set's `spec.replicas` and annotations.
pub fn patch(replicas: Option<i32>, annotations: Value) -> Value {
    match replicas {
        Some(replicas) => json!({"metadata": {"annotations": annotations}, "spec": {"replicas": replicas}}),
        None => json!({"metadata": {"annotations": annotations}}),
    }
}
