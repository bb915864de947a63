//! One step of a CronJob: which Job is started or goes, what is said. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt};

use super::job;
use super::schedule::{Missed, Schedule, ScheduleError, zone};
use crate::condition;

/// Longest sleep: a clock that was set meanwhile is noticed after it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

pub struct Snapshot<'a> {
    pub cron: &'a CronJob,
    /// Jobs that it controls.
    pub jobs: &'a [Arc<Job>],
    /// What could be read of its Jobs that are unreadable: each may be running.
    pub unreadable: &'a [Arc<Job>],
    pub now: Timestamp,
    /// When it was looked at before, if it was: what was so then is not told again.
    pub seen: Option<Timestamp>,
    /// The zone of schedules that name none.
    pub local: &'a TimeZone,
}

/// An event about the CronJob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub reason: &'static str,
    pub message: String,
    pub is_warning: bool,
}

#[derive(Debug, Default)]
pub struct Plan {
    /// What the status is to be before anything is started.
    pub status: CronJobStatus,
    /// Ended Jobs beyond the history's limits, and those that a new one takes the place of.
    pub delete: Vec<Arc<Job>>,
    /// When the Job to be made now was due.
    pub start: Option<Timestamp>,
    pub news: Vec<News>,
    pub again: Option<Duration>,
}

impl Plan {
    fn say(&mut self, reason: &'static str, message: String) {
        self.news.push(News { reason, message, is_warning: false });
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.news.push(News { reason, message, is_warning: true });
    }

    /// Notes in the status that this Job was started.
    pub fn started(&mut self, due: Timestamp, job: &Job) {
        let active = self.status.active.get_or_insert_default();
        if !active.iter().any(|known| known.uid == job.metadata.uid) {
            active.push(reference(job));
        }
        self.status.last_schedule_time = Some(Time(due));
    }
}

pub fn plan(snapshot: &Snapshot<'_>) -> Plan {
    let cron = snapshot.cron;
    let spec = &cron.spec;
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Default::default() };
    follow_jobs(snapshot, &mut plan);
    trim_history(snapshot, spec, &mut plan);
    if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
        match schedule(spec, snapshot.local) {
            Ok(schedule) => start(snapshot, spec, &schedule, &mut plan),
            Err(ScheduleError::Zone(name)) => {
                plan.warn("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
            }
            Err(error) => plan
                .warn("UnparseableSchedule", format!("unparseable schedule: {:?} : {error}", spec.schedule)),
        }
    }
    plan.status.active = plan.status.active.take().filter(|active| !active.is_empty());
    plan
}

fn schedule(spec: &CronJobSpec, local: &TimeZone) -> Result<Schedule, ScheduleError> {
    let zone = match spec.time_zone.as_deref() {
        Some(name) => zone(name)?,
        None => local.clone(),
    };
    Schedule::parse(&spec.schedule, zone)
}

/// The end of a Job: `Complete` or `Failed`.
fn end(job: &Job) -> Option<&'static str> {
    let conditions = job.status.as_ref()?.conditions.as_deref().unwrap_or_default();
    ["Complete", "Failed"]
        .into_iter()
        .find(|type_| condition::find(conditions, type_).is_some_and(|condition| condition.status == "True"))
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some(Job::api_version(&()).into_owned()),
        kind: Some(Job::kind(&()).into_owned()),
        namespace: job.namespace(),
        name: Some(job.name_any()),
        uid: job.uid(),
        resource_version: job.resource_version(),
        field_path: None,
    }
}

/// Whether it became so since the last look.
fn is_new(time: Option<Timestamp>, snapshot: &Snapshot<'_>) -> bool {
    // The API's times are whole seconds.
    time.is_none_or(|time| snapshot.seen.is_none_or(|seen| time.as_second() >= seen.as_second()))
}

/// Brings the list of active Jobs in line with the Jobs that there are.
fn follow_jobs(snapshot: &Snapshot<'_>, plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in snapshot.jobs {
        let place = active.iter().position(|known| known.uid == job.metadata.uid);
        match (place, end(job)) {
            (None, None) if is_new(job.metadata.creation_timestamp.as_ref().map(|time| time.0), snapshot) => {
                let text =
                    format!("Saw a job that the controller did not create or forgot: {}", job.name_any());
                plan.warn("UnexpectedJob", text);
            }
            (Some(place), Some(condition)) => {
                active.remove(place);
                let text = format!("Saw completed job: {}, condition: {condition}", job.name_any());
                plan.say("SawCompletedJob", text);
            }
            _ => {}
        }
        if end(job) == Some("Complete")
            && let Some(time) = job.status.as_ref().and_then(|status| status.completion_time.clone())
            && plan.status.last_successful_time.as_ref().is_none_or(|last| last.0 < time.0)
        {
            plan.status.last_successful_time = Some(time);
        }
    }
    active.retain(|known| {
        let all = snapshot.jobs.iter().chain(snapshot.unreadable);
        let is_there = all.clone().any(|job| job.metadata.uid == known.uid);
        if !is_there {
            let name = known.name.as_deref().unwrap_or_default();
            plan.news.push(News {
                reason: "MissingJob",
                message: format!("Active job went missing: {name}"),
                is_warning: false,
            });
        }
        is_there
    });
    plan.status.active = Some(active);
}

/// Of the ended Jobs the newest of each kind stay.
fn trim_history(snapshot: &Snapshot<'_>, spec: &CronJobSpec, plan: &mut Plan) {
    let limits =
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    for (condition, limit) in limits {
        let Some(limit) = limit else { continue };
        let mut ended: Vec<&Arc<Job>> = snapshot
            .jobs
            .iter()
            .filter(|job| end(job) == Some(condition) && job.metadata.deletion_timestamp.is_none())
            .collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.as_ref());
            (start.or(job.metadata.creation_timestamp.as_ref()).map(|time| time.0), job.name_any())
        });
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        plan.delete.extend(ended.into_iter().take(surplus).cloned());
    }
}

fn start(snapshot: &Snapshot<'_>, spec: &CronJobSpec, schedule: &Schedule, plan: &mut Plan) {
    let now = snapshot.now;
    let created = snapshot.cron.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let last = plan.status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    let from = match deadline.and_then(|deadline| now.checked_sub(deadline).ok()) {
        Some(earliest) => last.max(earliest),
        None => last,
    };
    let (due, missed) = schedule.due(from, now);
    // What is due next: after the last start even where the clock was set back since.
    let next = schedule.next(last.max(due.unwrap_or(now)));
    plan.again = next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
    plan.again = plan.again.map(|pause| pause.min(LONGEST_SLEEP));
    if let (None, Some(deadline)) = (due, deadline)
        && let (Some(missed), _) = schedule.due(last, now)
        && is_new(missed.checked_add(deadline).ok(), snapshot)
    {
        let at = missed.strftime("%a, %d %b %Y %H:%M:%S %z").to_string().replace("-0000", "+0000");
        plan.warn("MissSchedule", format!("Missed scheduled time to start a job: {at}"));
    }
    let Some(due) = due else { return };
    if missed == Missed::Many {
        let text =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.warn("TooManyMissedTimes", text.to_owned());
    }
    let name = job::name(snapshot.cron, due);
    let mut ours = snapshot.jobs.iter().chain(snapshot.unreadable);
    if let Some(job) = ours.find(|job| job.name_any() == name) {
        // Made before a crash, say: only the note is missing.
        plan.news
            .retain(|news| news.reason != "UnexpectedJob" || !news.message.ends_with(&format!(": {name}")));
        plan.status.last_schedule_time = Some(Time(due));
        if end(job).is_none() {
            plan.started(due, job);
        }
        return;
    }
    let active = plan.status.active.clone().unwrap_or_default();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.say("JobAlreadyActive", text.to_owned());
            return;
        }
        Some("Replace") => {
            let is_active = |job: &&Arc<Job>| active.iter().any(|known| known.uid == job.metadata.uid);
            plan.delete.extend(snapshot.jobs.iter().filter(is_active).cloned());
            // One that can't be read is not deleted: it stays among the active.
            let stays =
                |known: &ObjectReference| snapshot.unreadable.iter().any(|job| job.metadata.uid == known.uid);
            plan.status.active = Some(active.iter().filter(|known| stays(known)).cloned().collect());
        }
        _ => {}
    }
    plan.start = Some(due);
}

#[cfg(test)]
mod tests;
