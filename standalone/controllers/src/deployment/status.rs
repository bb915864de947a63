//! A Deployment's status: counts and the conditions Available, Progressing, ReplicaFailure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::plan::{Sets, Snapshot, Step, Wanted};
use crate::condition;

const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// The status that describes the snapshot; `steps` are what is about to be done.
pub fn of(snapshot: &Snapshot<'_>, sets: &Sets<'_>, wanted: Wanted, steps: &[Step]) -> DeploymentStatus {
    let deployment = snapshot.deployment;
    let sum = |count: fn(&ReplicaSet) -> i32| sets.all().map(|set| count(set)).sum::<i32>();
    let available = sum(super::plan::available);
    let asked = sum(super::plan::replicas);
    let some = |count: i32| (count > 0).then_some(count);
    let was = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(|set| set.status.as_ref().map_or(0, |status| status.replicas))),
        updated_replicas: some(sets.new.and_then(|set| set.status.as_ref()).map_or(0, |s| s.replicas)),
        ready_replicas: some(sum(|set| set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(asked - available),
        terminating_replicas: Some(sum(|s| {
            s.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0)
        })),
        collision_count: was.collision_count,
        conditions: None,
    };
    let mut conditions = was.conditions.clone().unwrap_or_default();
    set_available(&mut conditions, available >= wanted.floor(), &snapshot.now);
    set_failure(&mut conditions, sets, &snapshot.now);
    set_progress(&mut conditions, snapshot, sets, wanted, &was, &status, steps);
    status.conditions = (!conditions.is_empty()).then_some(conditions);
    status
}

/// Every pod is of the new template, available, and no other is left.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus, wanted: Wanted) -> bool {
    let all = |count: Option<i32>| count.unwrap_or(0) == wanted.replicas;
    all(status.updated_replicas)
        && all(status.replicas)
        && all(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

/// Time until the progress deadline passes, for a rollout that is under way.
pub fn deadline_in(spec: &DeploymentSpec, status: &DeploymentStatus, now: &Time) -> Option<Duration> {
    let deadline = deadline(spec)?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let progress = condition::find(conditions, "Progressing")?;
    if progress.status != "True" || progress.reason.as_deref() == Some(NEW_SET_AVAILABLE) {
        return None;
    }
    let since = progress.last_update_time.as_ref()?.0.as_second();
    // One second more: times are whole seconds.
    let left = since + i64::from(deadline) + 1 - now.0.as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(1).max(1)))
}

fn deadline(spec: &DeploymentSpec) -> Option<i32> {
    spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

fn made(type_: &str, status: &str, reason: &str, message: String, now: &Time) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

fn set_available(conditions: &mut Vec<DeploymentCondition>, is: bool, now: &Time) {
    let new = if is {
        let text = "Deployment has minimum availability.".to_owned();
        made("Available", "True", "MinimumReplicasAvailable", text, now)
    } else {
        let text = "Deployment does not have minimum availability.".to_owned();
        made("Available", "False", "MinimumReplicasUnavailable", text, now)
    };
    condition::set(conditions, new);
}

fn set_failure(conditions: &mut Vec<DeploymentCondition>, sets: &Sets<'_>, now: &Time) {
    let failure_of = |set: &ReplicaSet| -> Option<ReplicaSetCondition> {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        condition::find(conditions, "ReplicaFailure").cloned()
    };
    let failure = sets.new.and_then(|set| failure_of(set));
    match failure.or_else(|| sets.old.iter().find_map(|set| failure_of(set))) {
        Some(failure) => {
            let (reason, text) = (failure.reason.unwrap_or_default(), failure.message.unwrap_or_default());
            condition::set(conditions, made("ReplicaFailure", &failure.status, &reason, text, now));
        }
        None => condition::remove(conditions, "ReplicaFailure"),
    }
}

fn set_progress(
    conditions: &mut Vec<DeploymentCondition>,
    snapshot: &Snapshot<'_>,
    sets: &Sets<'_>,
    wanted: Wanted,
    was: &DeploymentStatus,
    is: &DeploymentStatus,
    steps: &[Step],
) {
    let Some(spec) = &snapshot.deployment.spec else { return };
    let Some(deadline) = deadline(spec) else {
        condition::remove(conditions, "Progressing");
        return;
    };
    let now = &snapshot.now;
    let current = condition::find(conditions, "Progressing").cloned();
    let reason = current.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
    if spec.paused == Some(true) {
        if reason != TIMED_OUT {
            let text = "Deployment is paused".to_owned();
            condition::set(conditions, made("Progressing", "Unknown", "DeploymentPaused", text, now));
        }
        return;
    }
    if let Some(Step::Create(set)) = steps.first() {
        let text = format!("Created new replica set \"{}\"", set.name_any());
        condition::set(conditions, made("Progressing", "True", "NewReplicaSetCreated", text, now));
        return;
    }
    if reason == "DeploymentPaused" {
        let text = "Deployment is resumed".to_owned();
        condition::set(conditions, made("Progressing", "Unknown", "DeploymentResumed", text, now));
        return;
    }
    let name = match sets.new {
        Some(set) => format!("ReplicaSet \"{}\"", set.name_any()),
        None => format!("Deployment \"{}\"", snapshot.deployment.name_any()),
    };
    if current.is_none() && sets.new.is_some() {
        let text = format!(
            "Found existing new replica set \"{}\"",
            sets.new.map(|s| s.name_any()).unwrap_or_default()
        );
        condition::set(conditions, made("Progressing", "True", "FoundNewReplicaSet", text, now));
    }
    // A rollout that was complete stays so when pods come and go.
    let settled = is.replicas == is.updated_replicas && reason == NEW_SET_AVAILABLE;
    if settled {
        return;
    }
    if is_complete(snapshot.deployment, is, wanted) {
        let text = format!("{name} has successfully progressed.");
        condition::set(conditions, made("Progressing", "True", NEW_SET_AVAILABLE, text, now));
    } else if has_progressed(was, is) {
        let mut new =
            made("Progressing", "True", "ReplicaSetUpdated", format!("{name} is progressing."), now);
        if let Some(current) = current.filter(|current| current.status == "True") {
            new.last_transition_time = current.last_transition_time;
        }
        // Put in anew each time: its update time is what the deadline counts from.
        condition::remove(conditions, "Progressing");
        conditions.push(new);
    } else if reason != TIMED_OUT && reason != NEW_SET_AVAILABLE {
        let since = current.and_then(|current| current.last_update_time);
        let late = |since: Time| since.0.as_second() + i64::from(deadline) < now.0.as_second();
        if since.is_some_and(late) {
            let text = format!("{name} has timed out progressing.");
            condition::set(conditions, made("Progressing", "False", TIMED_OUT, text, now));
        }
    }
}

fn has_progressed(was: &DeploymentStatus, is: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    is.updated_replicas > was.updated_replicas
        || old(is) < old(was)
        || is.ready_replicas > was.ready_replicas
        || is.available_replicas > was.available_replicas
}
