//! Revisions: numbering, inheritance of annotations, history limit.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::plan::{Sets, Step, replicas};
use super::scale;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions that a set had before it became the newest again, separated by commas.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Longest text of [`HISTORY`]; the oldest entries go first.
const MAX_HISTORY: usize = 2_000;
const DEFAULT_LIMIT: i32 = 10;
/// Annotations of a Deployment that its sets do not inherit.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    scale::DESIRED,
    scale::MAX,
];

pub fn of<K: kube::Resource>(object: &K) -> i64 {
    let annotations = object.meta().annotations.as_ref();
    annotations.and_then(|a| a.get(REVISION)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub fn newest(sets: &[&Arc<ReplicaSet>]) -> i64 {
    sets.iter().map(|set| of(&***set)).max().unwrap_or(0)
}

/// What a set takes over of its Deployment's annotations.
pub fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let all = deployment.annotations().iter();
    all.filter(|(name, _)| !OWN.contains(&name.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Brings the new set's revision, annotations and minReadySeconds up to date (a step, if that is needed) and
/// returns the revision that the Deployment itself should carry, if it does not.
pub fn sync(deployment: &Deployment, sets: &Sets<'_>, steps: &mut Vec<Step>) -> Option<i64> {
    let new = sets.new?;
    let (has, wants) = (of(&**new), newest(&sets.old) + 1);
    let mut annotations = Map::new();
    for (name, value) in inherited(deployment) {
        if new.annotations().get(&name) != Some(&value) {
            annotations.insert(name, Value::from(value));
        }
    }
    if has < wants {
        annotations.insert(REVISION.into(), Value::from(wants.to_string()));
        if has > 0 {
            let past = new.annotations().get(HISTORY).map(String::as_str).unwrap_or("");
            annotations.insert(HISTORY.into(), Value::from(lengthened(past, has)));
        }
    }
    let min_ready = |spec: Option<i32>| spec.unwrap_or(0);
    let wants_ready = min_ready(deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    let has_ready = min_ready(new.spec.as_ref().and_then(|spec| spec.min_ready_seconds));
    let mut patch = Map::new();
    if !annotations.is_empty() {
        patch.insert("metadata".into(), json!({"annotations": annotations}));
    }
    if wants_ready != has_ready {
        patch.insert("spec".into(), json!({"minReadySeconds": wants_ready}));
    }
    if !patch.is_empty() {
        steps.push(Step::Update { set: new.clone(), patch: Value::Object(patch), scale: None });
    }
    let carries = has.max(wants);
    (of(deployment) != carries).then_some(carries)
}

fn lengthened(past: &str, revision: i64) -> String {
    let mut text = if past.is_empty() { revision.to_string() } else { format!("{past},{revision}") };
    while text.len() > MAX_HISTORY {
        match text.split_once(',') {
            Some((_, rest)) => text = rest.to_owned(),
            None => break,
        }
    }
    text
}

/// Old sets beyond the history limit, oldest revision first; only those that are empty and whose status says
/// so.
pub fn surplus(spec: &DeploymentSpec, sets: &Sets<'_>) -> Vec<Arc<ReplicaSet>> {
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(0);
    let mut old: Vec<_> = sets.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let count = old.len().saturating_sub(limit);
    old.sort_by_key(|set| of(&****set));
    let is_empty = |set: &ReplicaSet| {
        let status = set.status.clone().unwrap_or_default();
        replicas(set) == 0
            && status.replicas == 0
            && set.metadata.generation.unwrap_or(0) <= status.observed_generation.unwrap_or(0)
    };
    old.into_iter().take(count).filter(|set| is_empty(set)).map(|set| (*set).clone()).collect()
}
