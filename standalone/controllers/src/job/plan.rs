//! One step of a Job: what is counted, made, ended, said. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::indexes::{format_indexes, parse_indexes};
use super::is_tracked;
use super::per_index::{Failures, Retry};
use super::pods::{Create, index, is_indexed};
use super::policy::{self, Verdict};
use crate::condition;
use crate::pod::{is_active, is_ready, is_terminating, phase, restarts};

/// Why a Job fails: the reason of its conditions and of its event.
const FAILURES: [&str; 5] = [BACKOFF_LIMIT, DEADLINE, POLICY, MAX_FAILED_INDEXES, FAILED_INDEXES];
const BACKOFF_LIMIT: &str = "BackoffLimitExceeded";
const DEADLINE: &str = "DeadlineExceeded";
const POLICY: &str = "PodFailurePolicy";
const MAX_FAILED_INDEXES: &str = "MaxFailedIndexesExceeded";
const FAILED_INDEXES: &str = "FailedIndexes";
const DEFAULT_BACKOFF_LIMIT: i32 = 6;
/// Pause after the first failed pod; doubles with each further one.
const FIRST_PAUSE_S: u64 = 10;
const MAX_PAUSE_S: u64 = 600;
/// Pods noted as uncounted in one step: a status must not grow without bound.
const MAX_UNCOUNTED: usize = 500;
/// Pods made in one step.
const MAX_CREATED: i32 = 500;

pub struct Snapshot<'a> {
    pub job: &'a Job,
    pub pods: &'a [Arc<Pod>],
    /// What could be read of its pods that are unreadable: each may be running.
    pub unreadable: &'a [Arc<Pod>],
    pub now: Time,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub status: JobStatus,
    /// Pods that the status (once written) notes: their finalizer may go.
    pub counted: Vec<Arc<Pod>>,
    /// Pods to make.
    pub create: Vec<Create>,
    pub delete: Vec<Arc<Pod>>,
    /// Whether pods to delete count as failed: those of a Job that fails do, those that are merely too many
    /// do not.
    pub deleted_count: bool,
    /// Events: reason, message, whether it is good news.
    pub news: Vec<(&'static str, String, bool)>,
    pub again: Option<Duration>,
    /// The finished Job's time is up (`ttlSecondsAfterFinished`).
    pub expired: bool,
}

fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

fn seconds_since(time: &Time, now: &Time) -> i64 {
    now.0.as_second() - time.0.as_second()
}

pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let Some(spec) = &snapshot.job.spec else { return Plan::default() };
    let mut plan = Plan { status: snapshot.job.status.clone().unwrap_or_default(), ..Default::default() };
    let is = |plan: &Plan, type_: &str| {
        let conditions = plan.status.conditions.as_deref().unwrap_or_default();
        condition::find(conditions, type_).is_some_and(|condition| condition.status == "True")
    };
    if is(&plan, "Complete") || is(&plan, "Failed") {
        // Its counts are final: whatever of it is still held is let go.
        plan.counted.extend(snapshot.pods.iter().filter(|pod| is_tracked(pod)).cloned());
        expire(spec, &mut plan, &snapshot.now);
        return plan;
    }
    let totals = count(snapshot, spec, &mut plan);
    let active: Vec<&Arc<Pod>> = snapshot.pods.iter().filter(|pod| is_active(pod)).collect();
    plan.status.active = some((active.len() + snapshot.unreadable.len()) as i32);
    plan.status.ready = Some(active.iter().filter(|pod| is_ready(pod)).count() as i32);
    plan.status.terminating = Some(snapshot.pods.iter().filter(|pod| is_terminating(pod)).count() as i32);
    if suspended(snapshot, spec, &mut plan, &active) {
        return plan;
    }
    if plan.status.start_time.is_none() {
        plan.status.start_time = Some(snapshot.now.clone());
    }
    let none_active = active.is_empty() && snapshot.unreadable.is_empty();
    if !is(&plan, "FailureTarget") && !is(&plan, "SuccessCriteriaMet") {
        if let Some((reason, message)) = failure(snapshot, spec, &mut plan, &totals) {
            say(&mut plan, "FailureTarget", reason, message, &snapshot.now);
        } else if let Some(rule) = policy::fulfilled(spec, &totals.done) {
            let text = format!("Matched rules at index {rule}");
            say(&mut plan, "SuccessCriteriaMet", "SuccessPolicy", text, &snapshot.now);
        } else if has_succeeded(snapshot.job, spec, &totals, none_active) {
            let text = "Reached expected number of succeeded pods".to_owned();
            say(&mut plan, "SuccessCriteriaMet", "CompletionsReached", text, &snapshot.now);
        }
    }
    let (fails, ends) = (is(&plan, "FailureTarget"), is(&plan, "SuccessCriteriaMet"));
    if fails || ends {
        plan.delete.extend(active.iter().map(|pod| (*pod).clone()));
        plan.deleted_count = fails;
        let uncounted = plan.status.uncounted_terminated_pods.is_some();
        let runs = |pod: &Arc<Pod>| is_active(pod) || (is_terminating(pod) && !ended_without_phase(pod));
        let running = snapshot.pods.iter().any(runs) || !snapshot.unreadable.is_empty();
        if !uncounted && !running {
            finish(&mut plan, fails, &snapshot.now);
        }
        return plan;
    }
    scale(snapshot, spec, &mut plan, &totals, &active);
    plan
}

#[derive(Debug)]
struct Totals {
    succeeded: i32,
    failed: i32,
    /// Indexes that have succeeded.
    done: BTreeSet<i32>,
    /// Failures by index, where these are limited one by one.
    per_index: Option<Failures>,
    /// Why the pod failure policy fails the Job.
    policy: Option<String>,
}

/// Moves pods on their way from ended to counted, and says what the totals are with those on their way.
fn count(snapshot: &Snapshot<'_>, spec: &JobSpec, plan: &mut Plan) -> Totals {
    let held: BTreeSet<&String> = snapshot
        .pods
        .iter()
        .filter(|pod| is_tracked(pod))
        .filter_map(|pod| pod.metadata.uid.as_ref())
        .collect();
    let uncounted = plan.status.uncounted_terminated_pods.take().unwrap_or_default();
    let mut done = parse_indexes(plan.status.completed_indexes.as_deref().unwrap_or(""));
    for pod in snapshot.pods.iter().filter(|pod| phase(pod) == "Succeeded") {
        done.extend(index(pod));
    }
    let all = snapshot.pods;
    let per_index = spec.backoff_limit_per_index.map(|limit| {
        let failed = parse_indexes(plan.status.failed_indexes.as_deref().unwrap_or(""));
        Failures::of(spec, limit, all, failed, &done)
    });
    let settle = |uids: Option<Vec<String>>, total: &mut Option<i32>| -> Vec<String> {
        let (waiting, counted): (Vec<_>, Vec<_>) =
            uids.unwrap_or_default().into_iter().partition(|uid| held.contains(uid));
        *total = some(total.unwrap_or(0) + counted.len() as i32);
        waiting
    };
    let mut succeeded = settle(uncounted.succeeded, &mut plan.status.succeeded);
    let mut failed = settle(uncounted.failed, &mut plan.status.failed);
    let mut policy = None;
    for pod in snapshot.pods.iter().filter(|pod| is_tracked(pod)) {
        let Some(uid) = &pod.metadata.uid else { continue };
        let known = succeeded.contains(uid) || failed.contains(uid);
        let list = match phase(pod) {
            "Succeeded" => &mut succeeded,
            "Failed" => &mut failed,
            // Deleted: it may never get a phase (it had no node, its image was never there), and need not be
            // waited for.
            _ if is_given_up(spec, pod) => &mut failed,
            _ => continue,
        };
        if phase(pod) != "Succeeded" {
            let verdict = policy::verdict(spec, pod);
            if let Verdict::FailJob(message) = &verdict {
                policy.get_or_insert_with(|| message.clone());
            }
            // The next pod of its index takes over how often it has failed: until then this one is the only
            // record.
            if policy.is_none() && per_index.as_ref().is_some_and(|failures| failures.is_last_record(pod)) {
                continue;
            }
            if verdict == Verdict::Ignore {
                plan.counted.push(pod.clone());
                continue;
            }
        }
        if !known {
            if list.len() >= MAX_UNCOUNTED {
                continue;
            }
            list.push(uid.clone());
        }
        plan.counted.push(pod.clone());
    }
    let indexed = is_indexed(snapshot.job);
    if indexed {
        plan.status.completed_indexes = Some(format_indexes(&done)).filter(|text| !text.is_empty());
    }
    if let Some(failures) = &per_index {
        plan.status.failed_indexes = Some(format_indexes(&failures.failed));
    }
    let totals = Totals {
        succeeded: if indexed {
            done.len() as i32
        } else {
            plan.status.succeeded.unwrap_or(0) + succeeded.len() as i32
        },
        failed: plan.status.failed.unwrap_or(0) + failed.len() as i32,
        done,
        per_index,
        policy,
    };
    if !succeeded.is_empty() || !failed.is_empty() {
        let list = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
        plan.status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: list(succeeded), failed: list(failed) });
    }
    totals
}

/// Whether how a pod ends is waited for (`podReplacementPolicy: Failed`, which a pod failure policy implies).
fn waits_for_end(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether a pod that has not ended counts as failed: one that is being deleted does, unless the Job asks for
/// how it ends (`podReplacementPolicy`).
fn is_given_up(spec: &JobSpec, pod: &Pod) -> bool {
    ended_without_phase(pod) || (is_terminating(pod) && !waits_for_end(spec))
}

/// Deleted before it had a node, or with its grace period over: no agent will say how it ended.
fn ended_without_phase(pod: &Pod) -> bool {
    let grace_is_over = pod.metadata.deletion_grace_period_seconds == Some(0);
    pod.metadata.deletion_timestamp.is_some() && (grace_is_over || crate::pod::node_name(pod).is_none())
}

fn suspended(snapshot: &Snapshot<'_>, spec: &JobSpec, plan: &mut Plan, active: &[&Arc<Pod>]) -> bool {
    let conditions = plan.status.conditions.get_or_insert_default();
    let was = condition::find(conditions, "Suspended").map(|condition| condition.status == "True");
    if spec.suspend == Some(true) {
        plan.delete.extend(active.iter().map(|pod| (*pod).clone()));
        plan.status.start_time = None;
        if was != Some(true) {
            say(plan, "Suspended", "JobSuspended", "Job suspended".into(), &snapshot.now);
            plan.news.push(("Suspended", "Job suspended".into(), true));
        }
        return true;
    }
    if was == Some(true) {
        let mut resumed = condition_of("Suspended", "JobResumed", "Job resumed".into(), &snapshot.now);
        resumed.status = "False".into();
        condition::set(conditions, resumed);
        plan.news.push(("Resumed", "Job resumed".into(), true));
    }
    plan.status.conditions = plan.status.conditions.take().filter(|conditions| !conditions.is_empty());
    false
}

fn failure(
    snapshot: &Snapshot<'_>,
    spec: &JobSpec,
    plan: &mut Plan,
    totals: &Totals,
) -> Option<(&'static str, String)> {
    if let Some(message) = &totals.policy {
        return Some((POLICY, message.clone()));
    }
    let limit = spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
    let on_failure =
        spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
    let in_place: i32 = if on_failure {
        snapshot.pods.iter().filter(|pod| is_active(pod)).map(|pod| restarts(pod)).sum()
    } else {
        0
    };
    if totals.failed > limit || (in_place > 0 && in_place >= limit.max(1)) {
        return Some((BACKOFF_LIMIT, "Job has reached the specified backoff limit".into()));
    }
    if let Some(failures) = &totals.per_index {
        let failed = failures.failed.len() as i32;
        if spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let text = "Job has exceeded the specified maximal number of failed indexes";
            return Some((MAX_FAILED_INDEXES, text.into()));
        }
        if failed > 0 && failed + totals.done.len() as i32 >= spec.completions.unwrap_or(0) {
            return Some((FAILED_INDEXES, "Job has failed indexes".into()));
        }
    }
    let (Some(deadline), Some(start)) = (spec.active_deadline_seconds, &plan.status.start_time) else {
        return None;
    };
    let left = deadline - seconds_since(start, &snapshot.now);
    if left <= 0 {
        return Some((DEADLINE, "Job was active longer than specified deadline".into()));
    }
    look_again_in(plan, u64::try_from(left).unwrap_or(1));
    None
}

fn has_succeeded(job: &Job, spec: &JobSpec, totals: &Totals, none_active: bool) -> bool {
    match spec.completions {
        // A work queue: one success ends it, once all are through.
        None => totals.succeeded > 0 && none_active,
        Some(completions) if is_indexed(job) => {
            totals.done.range(0..completions.max(0)).count() as i32 >= completions
        }
        Some(completions) => totals.succeeded >= completions,
    }
}

fn scale(snapshot: &Snapshot<'_>, spec: &JobSpec, plan: &mut Plan, totals: &Totals, active: &[&Arc<Pod>]) {
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    // Pods that are ending keep their places where only those that have ended are replaced.
    let ending: Vec<&Arc<Pod>> = match waits_for_end(spec) {
        true => snapshot.pods.iter().filter(|pod| is_terminating(pod) && !ended_without_phase(pod)).collect(),
        false => Vec::new(),
    };
    let running = (active.len() + snapshot.unreadable.len()) as i32;
    let failed = totals.per_index.as_ref().map_or(0, |failures| failures.failed.len() as i32);
    let wanted = match spec.completions {
        None if totals.succeeded > 0 => running.min(parallelism),
        None => parallelism,
        Some(completions) => parallelism.min((completions - totals.succeeded - failed).max(0)),
    };
    // An index beyond an Indexed Job that was made smaller, or one that has failed, has no use.
    let is_of_no_use = |pod: &Pod| {
        is_indexed(snapshot.job)
            && index(pod).is_some_and(|index| {
                index >= spec.completions.unwrap_or(0)
                    || totals.per_index.as_ref().is_some_and(|failures| failures.failed.contains(&index))
            })
    };
    let useless = active.iter().filter(|pod| is_of_no_use(pod)).count();
    if running > wanted || useless > 0 {
        let too_many = ((active.len() as i32 - wanted).max(0) as usize).max(useless);
        // Those that are furthest from success first.
        let mut surplus: Vec<&&Arc<Pod>> = active.iter().collect();
        surplus.sort_by_key(|pod| {
            let age = pod.metadata.creation_timestamp.clone().map(|time| -time.0.as_second());
            (!is_of_no_use(pod), is_ready(pod), age)
        });
        plan.delete.extend(surplus.into_iter().take(too_many).map(|pod| (**pod).clone()));
        return;
    }
    let missing = (wanted - running - ending.len() as i32).min(MAX_CREATED);
    if missing <= 0 {
        return;
    }
    if totals.per_index.is_none()
        && let Some(left) = pause_left(snapshot, &snapshot.now)
    {
        look_again_in(plan, left);
        return;
    }
    if is_indexed(snapshot.job) {
        let there = active.iter().copied().chain(snapshot.unreadable).chain(ending);
        let taken: BTreeSet<i32> = there.filter_map(|pod| index(pod)).collect();
        let all = 0..spec.completions.unwrap_or(0);
        let free = all.filter(|index| !totals.done.contains(index) && !taken.contains(index));
        for index in free {
            if plan.create.len() as i32 >= missing {
                break;
            }
            match totals.per_index.as_ref().map(|failures| failures.retry(index, &snapshot.now)) {
                None => plan.create.push(Create { index, failures: None }),
                Some(Retry::Now(failures)) => plan.create.push(Create { index, failures: Some(failures) }),
                Some(Retry::In(seconds)) => look_again_in(plan, seconds),
                Some(Retry::Never) => {}
            }
        }
    } else {
        plan.create = vec![Create { index: 0, failures: None }; missing as usize];
    }
}

/// Seconds until the next pod may be made, after pods that failed one after the other.
fn pause_left(snapshot: &Snapshot<'_>, now: &Time) -> Option<u64> {
    let last = |phase_: &str| -> (u32, Option<Timestamp>) {
        let ended = snapshot.pods.iter().filter(|pod| phase(pod) == phase_);
        let times: Vec<Timestamp> = ended.filter_map(|pod| ended_at(pod)).collect();
        (times.len() as u32, times.into_iter().max())
    };
    let (failures, failed) = last("Failed");
    let failed = failed?;
    if last("Succeeded").1.is_some_and(|succeeded| succeeded > failed) {
        return None;
    }
    rest_of_pause(failures, failed, now)
}

/// Seconds that are left of the pause after so many failures, the last at `failed`.
pub fn rest_of_pause(failures: u32, failed: Timestamp, now: &Time) -> Option<u64> {
    let pause = FIRST_PAUSE_S.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(MAX_PAUSE_S);
    let so_far = u64::try_from(now.0.as_second() - failed.as_second()).unwrap_or(0);
    pause.checked_sub(so_far).filter(|left| *left > 0)
}

/// When the last container ended; a pod that tells nothing is taken to have ended when it was made.
pub fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses
        .filter_map(|s| s.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0));
    ends.max().or(pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

fn finish(plan: &mut Plan, fails: bool, now: &Time) {
    let target = if fails { "FailureTarget" } else { "SuccessCriteriaMet" };
    let conditions = plan.status.conditions.as_deref().unwrap_or_default();
    let cause = condition::find(conditions, target).cloned();
    let reason = cause.as_ref().and_then(|cause| cause.reason.clone()).unwrap_or_default();
    let message = cause.and_then(|cause| cause.message).unwrap_or_default();
    if fails {
        plan.news.push((
            FAILURES.into_iter().find(|known| *known == reason).unwrap_or("Failed"),
            message.clone(),
            false,
        ));
        let mut failed = condition_of("Failed", "", message, now);
        failed.reason = Some(reason);
        plan.status.conditions.get_or_insert_default().push(failed);
    } else {
        plan.news.push(("Completed", "Job completed".into(), true));
        let mut complete = condition_of("Complete", "", message, now);
        complete.reason = Some(reason);
        plan.status.conditions.get_or_insert_default().push(complete);
        plan.status.completion_time = Some(now.clone());
    }
    plan.status.ready = Some(0);
}

fn expire(spec: &JobSpec, plan: &mut Plan, now: &Time) {
    let Some(ttl) = spec.ttl_seconds_after_finished else { return };
    let conditions = plan.status.conditions.as_deref().unwrap_or_default();
    let end = condition::find(conditions, "Complete").or_else(|| condition::find(conditions, "Failed"));
    let Some(end) = end.and_then(|end| end.last_transition_time.clone()) else { return };
    match i64::from(ttl) - seconds_since(&end, now) {
        left if left <= 0 => plan.expired = true,
        left => look_again_in(plan, u64::try_from(left).unwrap_or(1)),
    }
}

fn look_again_in(plan: &mut Plan, seconds: u64) {
    let time = Duration::from_secs(seconds);
    plan.again = Some(plan.again.map_or(time, |again| again.min(time)));
}

fn condition_of(type_: &str, reason: &str, message: String, now: &Time) -> JobCondition {
    JobCondition {
        type_: type_.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

fn say(plan: &mut Plan, type_: &str, reason: &'static str, message: String, now: &Time) {
    let conditions = plan.status.conditions.get_or_insert_default();
    condition::set(conditions, condition_of(type_, reason, message, now));
}

#[cfg(test)]
mod tests;
