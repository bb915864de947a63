//! Jobs played out on a model.

use serde_json::{Value, json};

use super::*;

/// A Job with its pods; plans are applied, pods end as told.
struct Model {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    second: i64,
    /// Reasons of the events so far.
    news: Vec<&'static str>,
}

impl Model {
    fn new(spec: Value) -> Self {
        let mut all =
            json!({"template": {"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}});
        for (name, value) in spec.as_object().unwrap() {
            all[name] = value.clone();
        }
        let job = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"}, "spec": all});
        Self {
            job: serde_json::from_value(job).unwrap(),
            pods: Vec::new(),
            made: 0,
            second: 0,
            news: Vec::new(),
        }
    }

    fn now(&self) -> Time {
        Time(Timestamp::from_second(1_000_000 + self.second).unwrap())
    }

    fn step(&mut self) -> Plan {
        let pods: Vec<Arc<Pod>> = self.pods.iter().cloned().map(Arc::new).collect();
        let plan = plan(&Snapshot { job: &self.job, pods: &pods, unreadable: &[], now: self.now() });
        self.job.status = Some(plan.status.clone());
        self.news.extend(plan.news.iter().map(|(reason, ..)| *reason));
        let named =
            |all: &[Arc<Pod>], pod: &Pod| all.iter().any(|other| other.metadata.uid == pod.metadata.uid);
        for pod in &mut self.pods {
            if named(&plan.counted, pod) {
                pod.metadata.finalizers = None;
            }
        }
        self.pods.retain(|pod| !named(&plan.delete, pod));
        for mut pod in super::super::pods::made(&self.job, &plan.create) {
            self.made += 1;
            let uid = format!("p{}", self.made);
            pod.metadata.name = Some(uid.clone());
            pod.metadata.uid = Some(uid);
            pod.metadata.creation_timestamp = Some(self.now());
            pod.spec.get_or_insert_default().node_name = Some("n".into());
            self.pods.push(pod);
        }
        plan
    }

    fn settle(&mut self) {
        for _ in 0..6 {
            self.step();
        }
    }

    fn running(&self) -> usize {
        self.pods.iter().filter(|pod| is_active(pod)).count()
    }

    /// Ends the first running pod.
    fn end(&mut self, phase: &str) {
        let pod = self.pods.iter_mut().find(|pod| is_active(pod)).expect("a running pod");
        pod.status.get_or_insert_default().phase = Some(phase.into());
    }

    fn reason(&self, type_: &str) -> Option<String> {
        let conditions = self.job.status.as_ref()?.conditions.clone()?;
        conditions
            .into_iter()
            .find(|condition| condition.type_ == type_ && condition.status == "True")?
            .reason
    }

    fn counts(&self) -> (i32, i32) {
        let status = self.job.status.clone().unwrap_or_default();
        (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0))
    }
}

#[test]
fn job_runs_so_many_at_a_time_until_enough_have_succeeded() {
    let mut model = Model::new(json!({"completions": 5, "parallelism": 2}));
    model.settle();
    assert_eq!(model.running(), 2);
    for _ in 0..5 {
        model.end("Succeeded");
        model.settle();
        assert!(model.running() <= 2);
    }
    assert_eq!(model.reason("Complete").as_deref(), Some("CompletionsReached"));
    assert_eq!((model.counts(), model.made, model.running()), ((5, 0), 5, 0));
    assert!(model.job.status.as_ref().unwrap().uncounted_terminated_pods.is_none());
}

#[test]
fn failed_pods_are_replaced_with_growing_pauses_until_the_limit() {
    let mut model = Model::new(json!({"completions": 1, "parallelism": 1, "backoffLimit": 2}));
    model.settle();
    model.end("Failed");
    model.settle();
    assert_eq!(model.running(), 0, "it pauses first");
    assert_eq!(model.step().again, Some(Duration::from_secs(10)));
    model.second += 10;
    model.settle();
    model.end("Failed");
    model.settle();
    model.second += 15;
    model.settle();
    assert_eq!(model.running(), 0, "the second pause is 20 s");
    model.second += 20;
    model.settle();
    model.end("Failed");
    model.settle();
    assert_eq!(model.reason("Failed").as_deref(), Some("BackoffLimitExceeded"));
    assert!(model.news.contains(&"BackoffLimitExceeded"), "its event says why");
    assert_eq!(model.counts(), (0, 3));
}

#[test]
fn indexed_job_makes_each_index_until_it_succeeds_once() {
    let mut model = Model::new(json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"}));
    model.settle();
    let mut indexes: Vec<_> = model.pods.iter().filter_map(index).collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [0, 1, 2, 3]);
    for _ in 0..3 {
        model.end("Succeeded");
    }
    model.settle();
    assert_eq!(model.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0-2"));
    model.end("Succeeded");
    model.settle();
    assert!(model.reason("Complete").is_some());
}

#[test]
fn suspended_job_has_no_pods_and_resumes() {
    let mut model = Model::new(json!({"completions": 2, "parallelism": 2}));
    model.settle();
    model.job.spec.as_mut().unwrap().suspend = Some(true);
    model.settle();
    assert_eq!((model.running(), model.reason("Suspended").as_deref()), (0, Some("JobSuspended")));
    model.job.spec.as_mut().unwrap().suspend = Some(false);
    model.settle();
    assert_eq!((model.running(), model.reason("Suspended")), (2, None));
}

#[test]
fn deadline_ends_the_job_and_its_time_after_that_deletes_it() {
    let spec = json!({"completions": 1, "parallelism": 1, "activeDeadlineSeconds": 30, "ttlSecondsAfterFinished": 60});
    let mut model = Model::new(spec);
    model.settle();
    assert_eq!(model.step().again, Some(Duration::from_secs(30)));
    model.second += 30;
    model.settle();
    assert_eq!(model.reason("Failed").as_deref(), Some("DeadlineExceeded"));
    assert_eq!(model.running(), 0);
    assert_eq!(model.step().again, Some(Duration::from_secs(60)));
    model.second += 60;
    assert!(model.step().expired);
}

#[test]
fn unreadable_pod_counts_as_one_that_runs() {
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"});
    let mut model = Model::new(spec);
    let unreadable = json!({"metadata": {"name": "x", "uid": "x", "annotations": {
        "batch.kubernetes.io/job-completion-index": "0"}}});
    let unreadable = [Arc::new(serde_json::from_value(unreadable).unwrap())];
    let step = |model: &Model, pods: &[Arc<Pod>]| {
        plan(&Snapshot { job: &model.job, pods, unreadable: &unreadable, now: model.now() })
    };
    let made: Vec<i32> = step(&model, &[]).create.iter().map(|create| create.index).collect();
    assert_eq!(made, [1], "its index is taken");
    model.job.spec.as_mut().unwrap().parallelism = Some(0);
    assert!(step(&model, &[]).delete.is_empty());
    model.job.spec.as_mut().unwrap().active_deadline_seconds = Some(0);
    let failed = step(&model, &[]).status.conditions.unwrap();
    assert!(failed.iter().all(|condition| condition.type_ != "Failed"), "it may still run");
}

#[test]
fn deleted_pod_is_counted_and_let_go_in_every_state() {
    let stuck = |node: Option<&str>, grace: i64| {
        json!({"metadata": {"name": "p", "uid": "p", "finalizers": [super::super::TRACKING],
        "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace},
        "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Pending"}})
    };
    let mut model = Model::new(json!({"completions": 1, "parallelism": 1}));
    let counted = |model: &Model, pod: Value| {
        let pods = [Arc::new(serde_json::from_value(pod).unwrap())];
        let plan = plan(&Snapshot { job: &model.job, pods: &pods, unreadable: &[], now: model.now() });
        let noted = plan.status.uncounted_terminated_pods.and_then(|pods| pods.failed).unwrap_or_default();
        (plan.counted.len(), noted.len())
    };
    for pod in [stuck(None, 30), stuck(Some("n"), 30), stuck(Some("n"), 0)] {
        assert_eq!(counted(&model, pod), (1, 1));
    }
    model.job.spec.as_mut().unwrap().pod_replacement_policy = Some("Failed".into());
    assert_eq!(counted(&model, stuck(Some("n"), 30)), (0, 0), "how it ends is waited for");
    assert_eq!(counted(&model, stuck(Some("n"), 0)), (1, 1));
    let done = json!({"conditions": [{"type": "Complete", "status": "True"}], "succeeded": 1});
    model.job.status = Some(serde_json::from_value(done).unwrap());
    let mut late = stuck(Some("n"), 30);
    late["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
    assert_eq!(counted(&model, late), (1, 0), "a Job that has ended holds nothing, and its counts stay");
}

#[test]
fn sets_of_indexes_are_written_as_the_api_does() {
    for text in ["", "0", "0,1", "0-2", "1,3-5,7"] {
        assert_eq!(format_indexes(&parse_indexes(text)), text);
    }
}

impl Model {
    /// Ends the running pod of an index with this exit code.
    fn fail(&mut self, at: i32, code: i32) {
        let now = self.now();
        let pod = self.pods.iter_mut().find(|pod| is_active(pod) && index(pod) == Some(at)).expect("it runs");
        pod.status = Some(
            serde_json::from_value(json!({"phase": "Failed", "containerStatuses": [
            {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": code, "finishedAt": now}}}]}))
            .unwrap(),
        );
    }

    fn succeed(&mut self, at: i32) {
        let pod = self.pods.iter_mut().find(|pod| is_active(pod) && index(pod) == Some(at)).expect("it runs");
        pod.status.get_or_insert_default().phase = Some("Succeeded".into());
    }

    /// Time goes by until nothing waits for it.
    fn pass(&mut self) {
        self.settle();
        self.second += MAX_PAUSE_S as i64;
        self.settle();
    }

    fn failed_indexes(&self) -> &str {
        self.job.status.as_ref().and_then(|status| status.failed_indexes.as_deref()).unwrap_or("-")
    }
}

fn policy(action: &str, code: i32) -> Value {
    json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [code]}}]})
}

#[test]
fn a_failure_that_the_policy_calls_fatal_ends_the_job_at_once() {
    let spec = json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "podFailurePolicy": policy("FailJob", 42)});
    let mut model = Model::new(spec);
    model.settle();
    model.fail(1, 42);
    model.settle();
    assert_eq!(model.reason("Failed").as_deref(), Some("PodFailurePolicy"));
    assert_eq!(model.running(), 0);
    assert!(model.news.contains(&"PodFailurePolicy"));
}

#[test]
fn a_failure_that_the_policy_ignores_does_not_count() {
    let spec = json!({"completions": 1, "parallelism": 1, "completionMode": "Indexed", "backoffLimit": 0,
        "podFailurePolicy": policy("Ignore", 3)});
    let mut model = Model::new(spec);
    model.settle();
    for _ in 0..3 {
        model.fail(0, 3);
        model.pass();
        assert_eq!((model.counts(), model.running()), ((0, 0), 1));
    }
    model.fail(0, 1);
    model.pass();
    assert_eq!(model.reason("Failed").as_deref(), Some("BackoffLimitExceeded"));
}

#[test]
fn each_index_has_failures_of_its_own_and_the_others_go_on() {
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": i32::MAX,
        "backoffLimitPerIndex": 1});
    let mut model = Model::new(spec);
    model.settle();
    model.fail(1, 1);
    model.settle();
    assert_eq!(model.running(), 2, "it pauses first");
    assert!(
        model.pods.iter().any(|pod| phase(pod) == "Failed" && pod.metadata.finalizers.is_some()),
        "the record stays"
    );
    model.pass();
    assert_eq!((model.running(), model.counts()), (3, (0, 1)));
    model.fail(1, 1);
    model.pass();
    assert_eq!((model.failed_indexes(), model.running()), ("1", 2));
    model.succeed(0);
    model.succeed(2);
    model.settle();
    assert_eq!(model.reason("Failed").as_deref(), Some("FailedIndexes"));
    assert_eq!(model.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("0,2"));
    assert!(model.pods.iter().all(|pod| pod.metadata.finalizers.is_none()), "nothing is held");
}

#[test]
fn an_index_fails_by_policy_whatever_its_limit_and_too_many_of_them_fail_the_job() {
    let spec = json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimit": i32::MAX,
        "backoffLimitPerIndex": 9, "maxFailedIndexes": 1, "podFailurePolicy": policy("FailIndex", 7)});
    let mut model = Model::new(spec);
    model.settle();
    model.fail(2, 7);
    model.settle();
    assert_eq!((model.failed_indexes(), model.reason("Failed")), ("2", None));
    model.fail(0, 7);
    model.settle();
    assert_eq!(model.failed_indexes(), "0,2");
    assert_eq!(model.reason("Failed").as_deref(), Some("MaxFailedIndexesExceeded"));
    assert_eq!(model.running(), 0);
}

#[test]
fn a_success_policy_ends_the_job_before_all_is_done() {
    let spec = json!({"completions": 5, "parallelism": 5, "completionMode": "Indexed",
        "successPolicy": {"rules": [{"succeededIndexes": "0", "succeededCount": 1}]}});
    let mut model = Model::new(spec);
    model.settle();
    model.succeed(3);
    model.settle();
    assert_eq!(model.reason("SuccessCriteriaMet"), None);
    model.succeed(0);
    model.settle();
    assert_eq!(model.reason("Complete").as_deref(), Some("SuccessPolicy"));
    assert_eq!(model.running(), 0);
}

#[test]
fn a_pod_that_is_ending_is_replaced_at_once_or_when_it_has_ended() {
    for (replacement, made) in [("TerminatingOrFailed", 2), ("Failed", 1)] {
        let mut model =
            Model::new(json!({"completions": 1, "parallelism": 1, "podReplacementPolicy": replacement}));
        model.settle();
        let deleted = model.now();
        model.pods[0].metadata.deletion_timestamp = Some(deleted);
        model.pods[0].metadata.deletion_grace_period_seconds = Some(30);
        model.settle();
        assert_eq!(model.made, made, "{replacement}");
        model.pods[0].status.get_or_insert_default().phase = Some("Failed".into());
        model.pass();
        assert_eq!(model.made, 2, "{replacement}");
    }
}

#[test]
fn an_indexed_job_that_is_made_smaller_ends_what_has_no_index_any_more() {
    let mut model = Model::new(json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"}));
    model.settle();
    let spec = model.job.spec.as_mut().unwrap();
    (spec.completions, spec.parallelism) = (Some(2), Some(2));
    model.settle();
    let mut left: Vec<i32> = model.pods.iter().filter(|pod| is_active(pod)).filter_map(index).collect();
    left.sort_unstable();
    assert_eq!(left, [0, 1]);
}
