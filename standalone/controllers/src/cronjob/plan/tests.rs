//! CronJobs played out on a model whose clock is set at will.

use serde_json::{Value, json};

use super::*;

struct Model {
    cron: CronJob,
    jobs: Vec<Job>,
    now: Timestamp,
    seen: Option<Timestamp>,
    news: Vec<(&'static str, String)>,
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

impl Model {
    fn new(spec: Value) -> Self {
        let mut all = json!({"schedule": "*/10 * * * *", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}});
        for (name, value) in spec.as_object().unwrap() {
            all[name] = value.clone();
        }
        let cron = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "c",
            "creationTimestamp": "2026-01-01T00:05:00Z"}, "spec": all});
        Self {
            cron: serde_json::from_value(cron).unwrap(),
            jobs: Vec::new(),
            now: at("2026-01-01T00:05:00Z"),
            seen: None,
            news: Vec::new(),
        }
    }

    fn step(&mut self) -> Plan {
        let jobs: Vec<Arc<Job>> = self.jobs.iter().cloned().map(Arc::new).collect();
        let (seen, local) = (self.seen.replace(self.now), TimeZone::UTC);
        let (cron, now) = (&self.cron, self.now);
        let mut plan = plan(&Snapshot { cron, jobs: &jobs, unreadable: &[], now, seen, local: &local });
        self.news.extend(plan.news.iter().map(|news| (news.reason, news.message.clone())));
        self.jobs.retain(|job| !plan.delete.iter().any(|gone| gone.metadata.uid == job.metadata.uid));
        if let Some(due) = plan.start {
            let mut job = job::made(&self.cron, due);
            job.metadata.uid = Some(job.name_any());
            job.metadata.creation_timestamp = Some(Time(self.now));
            plan.started(due, &job);
            self.jobs.push(job);
        }
        self.cron.status = Some(plan.status.clone());
        plan
    }

    fn go_to(&mut self, time: &str) -> Plan {
        self.now = at(time);
        self.step()
    }

    fn end(&mut self, condition: &str) {
        let job = self.jobs.iter_mut().find(|job| end(job).is_none()).expect("a running job");
        let status = json!({"conditions": [{"type": condition, "status": "True"}],
            "startTime": job.metadata.creation_timestamp, "completionTime": self.now});
        job.status = Some(serde_json::from_value(status).unwrap());
    }

    fn active(&self) -> Vec<String> {
        let active = self.cron.status.as_ref().and_then(|status| status.active.clone()).unwrap_or_default();
        active.into_iter().filter_map(|job| job.name).collect()
    }

    fn told(&self, reason: &str) -> usize {
        self.news.iter().filter(|(told, _)| *told == reason).count()
    }

    fn last_schedule(&self) -> Option<Timestamp> {
        Some(self.cron.status.as_ref()?.last_schedule_time.as_ref()?.0)
    }
}

#[test]
fn a_job_starts_when_it_is_due_and_not_before() {
    let mut model = Model::new(json!({}));
    let plan = model.step();
    assert_eq!((plan.start, model.jobs.len()), (None, 0));
    assert_eq!(model.go_to("2026-01-01T00:09:30.5Z").again, Some(Duration::from_millis(29_500)));
    assert_eq!(model.go_to("2026-01-01T00:10:00.2Z").start, Some(at("2026-01-01T00:10:00Z")));
    assert_eq!(model.active(), ["c-29453770"]);
    assert_eq!(model.step().start, None, "it is started once");
    assert_eq!(model.last_schedule(), Some(at("2026-01-01T00:10:00Z")));
}

#[test]
fn policies_say_what_becomes_of_a_job_that_still_runs() {
    for (policy, running, told) in
        [("Allow", 2, None), ("Forbid", 1, Some("JobAlreadyActive")), ("Replace", 1, None)]
    {
        let mut model = Model::new(json!({"concurrencyPolicy": policy}));
        model.go_to("2026-01-01T00:10:00Z");
        let first = model.active();
        let plan = model.go_to("2026-01-01T00:20:00Z");
        assert_eq!((model.jobs.len(), model.active().len()), (running, running), "{policy}");
        assert_eq!(plan.news.first().map(|news| news.reason), told, "{policy}");
        assert_eq!(model.active() == first, policy == "Forbid", "{policy}");
    }
}

#[test]
fn a_forbidden_start_is_made_up_for_when_the_running_job_has_ended() {
    let mut model = Model::new(json!({"concurrencyPolicy": "Forbid"}));
    model.go_to("2026-01-01T00:10:00Z");
    model.go_to("2026-01-01T00:20:00Z");
    model.now = at("2026-01-01T00:23:00Z");
    model.end("Complete");
    assert_eq!(model.step().start, Some(at("2026-01-01T00:20:00Z")));
    assert_eq!(model.told("SawCompletedJob"), 1);
    assert!(model.news.iter().any(|(_, text)| text == "Saw completed job: c-29453770, condition: Complete"));
}

#[test]
fn of_many_missed_starts_the_last_is_made_up_for() {
    let mut model = Model::new(json!({}));
    assert_eq!(model.go_to("2026-01-01T02:07:00Z").start, Some(at("2026-01-01T02:00:00Z")));
    assert_eq!(model.told("TooManyMissedTimes"), 0);
    assert_eq!(model.go_to("2026-01-02T02:07:00Z").start, Some(at("2026-01-02T02:00:00Z")));
    assert_eq!((model.told("TooManyMissedTimes"), model.jobs.len()), (1, 2));
}

#[test]
fn a_start_past_its_deadline_is_missed_and_that_is_told_once() {
    let mut model = Model::new(json!({"startingDeadlineSeconds": 60}));
    assert_eq!(model.go_to("2026-01-01T00:12:00Z").start, None);
    model.go_to("2026-01-01T00:13:00Z");
    assert_eq!(model.told("MissSchedule"), 1);
    let text = "Missed scheduled time to start a job: Thu, 01 Jan 2026 00:10:00 +0000";
    assert!(model.news.iter().any(|(_, told)| told == text), "{:?}", model.news);
    assert_eq!(model.go_to("2026-01-01T00:20:59Z").start, Some(at("2026-01-01T00:20:00Z")));
    // However long it was away: within the deadline there is but one.
    assert_eq!(model.go_to("2026-03-01T00:20:59Z").start, Some(at("2026-03-01T00:20:00Z")));
    assert_eq!(model.told("TooManyMissedTimes"), 0);
}

#[test]
fn a_suspended_cron_job_starts_nothing_and_follows_what_runs() {
    let mut model = Model::new(json!({}));
    model.go_to("2026-01-01T00:10:00Z");
    model.cron.spec.suspend = Some(true);
    model.end("Complete");
    let plan = model.go_to("2026-01-01T00:30:00Z");
    assert_eq!((plan.start, plan.again, model.active().len()), (None, None, 0));
    assert!(model.cron.status.as_ref().unwrap().last_successful_time.is_some());
    model.cron.spec.suspend = Some(false);
    assert_eq!(model.step().start, Some(at("2026-01-01T00:30:00Z")));
}

#[test]
fn a_clock_that_jumps_starts_nothing_twice_and_loses_nothing() {
    let mut model = Model::new(json!({}));
    model.go_to("2026-01-01T00:10:00Z");
    // Back: what was started is not started again, and the next start is that after the last.
    let plan = model.go_to("2025-12-31T23:50:00Z");
    assert_eq!(
        (plan.start, plan.again),
        (None, Some(LONGEST_SLEEP)),
        "it looks again before the day is over"
    );
    assert_eq!(model.go_to("2026-01-01T00:10:30Z").start, None);
    assert_eq!(model.last_schedule(), Some(at("2026-01-01T00:10:00Z")));
    // Forth: one start, the last.
    assert_eq!(model.go_to("2026-01-01T00:41:00Z").start, Some(at("2026-01-01T00:40:00Z")));
    assert_eq!(model.jobs.len(), 2);
}

#[test]
fn the_history_keeps_the_newest_of_each_kind() {
    let mut model = Model::new(json!({"successfulJobsHistoryLimit": 2, "failedJobsHistoryLimit": 0}));
    for minute in ["10", "20", "30", "40"] {
        model.go_to(&format!("2026-01-01T00:{minute}:00Z"));
        model.end(if minute == "30" { "Failed" } else { "Complete" });
    }
    model.step();
    let left: Vec<String> = model.jobs.iter().map(|job| job.name_any()).collect();
    assert_eq!(left, ["c-29453780", "c-29453800"]);
}

#[test]
fn a_start_that_was_cut_short_is_found_by_its_name() {
    let mut model = Model::new(json!({"concurrencyPolicy": "Forbid"}));
    model.go_to("2026-01-01T00:10:00Z");
    model.cron.status = None;
    let plan = model.go_to("2026-01-01T00:10:05Z");
    assert_eq!((plan.start, model.active().len()), (None, 1));
    assert_eq!((model.told("UnexpectedJob"), model.last_schedule()), (0, Some(at("2026-01-01T00:10:00Z"))));
}

#[test]
fn jobs_of_others_and_jobs_that_went_are_told_of() {
    let mut model = Model::new(json!({}));
    let mut by_hand = job::made(&model.cron, at("2026-01-01T00:00:00Z"));
    by_hand.metadata.name = Some("by-hand".into());
    by_hand.metadata.uid = Some("by-hand".into());
    by_hand.metadata.creation_timestamp = Some(Time(model.now));
    model.jobs.push(by_hand);
    model.go_to("2026-01-01T00:06:00Z");
    model.go_to("2026-01-01T00:07:00Z");
    assert_eq!((model.told("UnexpectedJob"), model.active().len()), (1, 0));
    model.go_to("2026-01-01T00:10:00Z");
    model.jobs.clear();
    model.step();
    assert_eq!((model.told("MissingJob"), model.active().len()), (1, 0));
}

#[test]
fn a_job_that_cannot_be_read_is_still_running() {
    let mut model = Model::new(json!({"concurrencyPolicy": "Replace"}));
    model.go_to("2026-01-01T00:10:00Z");
    let unreadable: Vec<Arc<Job>> = model.jobs.drain(..).map(Arc::new).collect();
    let (cron, local) = (&model.cron, TimeZone::UTC);
    let now = at("2026-01-01T00:20:00Z");
    let plan = plan(&Snapshot { cron, jobs: &[], unreadable: &unreadable, now, seen: None, local: &local });
    assert!(plan.start.is_some() && plan.delete.is_empty());
    assert_eq!(plan.status.active.map(|active| active.len()), Some(1));
}

#[test]
fn zones_and_schedules_that_cannot_be_used_are_told() {
    for (spec, reason) in [
        (json!({"timeZone": "Mars/Olympus"}), "UnknownTimeZone"),
        (json!({"schedule": "@every soon"}), "UnparseableSchedule"),
    ] {
        let mut model = Model::new(spec);
        let plan = model.go_to("2026-01-01T01:00:00Z");
        assert_eq!((plan.start, plan.again, plan.news[0].reason), (None, None, reason));
    }
    let mut zoned = Model::new(json!({"schedule": "0 9 * * *", "timeZone": "America/New_York"}));
    assert_eq!(zoned.go_to("2026-01-01T14:30:00Z").start, Some(at("2026-01-01T14:00:00Z")));
}
