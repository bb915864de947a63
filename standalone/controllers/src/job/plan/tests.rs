//! Jobs played out on a model.

use serde_json::{Value, json};

use super::*;

/// A Job with its pods; plans are applied, pods end as told.
struct Model {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    second: i64,
}

impl Model {
    fn new(spec: Value) -> Self {
        let mut all =
            json!({"template": {"spec": {"containers": [{"name": "c"}], "restartPolicy": "Never"}}});
        for (name, value) in spec.as_object().unwrap() {
            all[name] = value.clone();
        }
        let job = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "j"}, "spec": all});
        Self { job: serde_json::from_value(job).unwrap(), pods: Vec::new(), made: 0, second: 0 }
    }

    fn now(&self) -> Time {
        Time(Timestamp::from_second(1_000_000 + self.second).unwrap())
    }

    fn step(&mut self) -> Plan {
        let pods: Vec<Arc<Pod>> = self.pods.iter().cloned().map(Arc::new).collect();
        let plan = plan(&Snapshot { job: &self.job, pods: &pods, now: self.now() });
        self.job.status = Some(plan.status.clone());
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
fn sets_of_indexes_are_written_as_the_api_does() {
    for text in ["", "0", "0,1", "0-2", "1,3-5,7"] {
        assert_eq!(format_indexes(&parse_indexes(text)), text);
    }
}
