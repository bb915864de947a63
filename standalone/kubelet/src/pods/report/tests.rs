use k8s_openapi::api::core::v1::PodCondition;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::*;
use crate::{
    pods::{fixture, status},
    test_server::{TestServer, until},
};

struct Case {
    server: TestServer,
    api: Api<Pod>,
    reporter: Reporter,
}

impl Case {
    /// A pod of the node and its reporter.
    async fn new() -> Case {
        let server = TestServer::new().await;
        let client = server.admin().await;
        let api: Api<Pod> = Api::namespaced(client.clone(), "default");
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
        let pod = api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        let reporter = Reporter::start(client, Arc::new(pod));
        Case { server, api, reporter }
    }

    fn report(&self, status: Value) {
        self.reporter.report(Arc::new(serde_json::from_value(status).unwrap()));
    }

    /// Writes a status as somebody else, and tells the reporter of it as the watch does.
    async fn others_write(&self, patch: Value) {
        let patch = Patch::Merge(json!({"status": patch}));
        let pod = self.api.patch_status("p", &PatchParams::default(), &patch).await.unwrap();
        self.reporter.seen(Arc::new(pod));
    }

    async fn until(&self, what: &str, test: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let look = async || self.api.get("p").await.ok()?.status.filter(|status| test(status));
        until(what, look).await
    }
}

fn running() -> Value {
    json!({"phase": "Running", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]})
}

fn condition(status: &PodStatus, kind: &str) -> Option<PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind).cloned()
}

fn ready(status: &PodStatus) -> bool {
    condition(status, "Ready").is_some_and(|condition| condition.status == "True")
}

#[tokio::test]
async fn a_status_that_others_wrote_is_repaired_and_what_is_theirs_stays() {
    let case = Case::new().await;
    case.report(running());
    case.until("Ready", ready).await;
    let theirs = json!({"type": "example.com/gate", "status": "True"});
    case.others_write(json!({"conditions": [{"type": "Ready", "status": "False",
        "lastTransitionTime": "2020-06-01T00:00:00Z"}, theirs], "phase": "Succeeded"}))
        .await;
    let repaired = case.until("Ready again", ready).await;
    assert_eq!(repaired.phase.as_deref(), Some("Running"));
    assert!(condition(&repaired, "example.com/gate").is_some());
    let turned = condition(&repaired, "Ready").unwrap().last_transition_time.unwrap();
    assert!(turned.0 > "2020-06-01T00:00:00Z".parse().unwrap(), "{turned:?}");
    // All of it taken away.
    let mut pod = case.api.get("p").await.unwrap();
    pod.status = Some(PodStatus::default());
    let emptied = case.api.replace_status("p", &PostParams::default(), &pod).await.unwrap();
    case.reporter.seen(Arc::new(emptied));
    let whole = case.until("whole again", |status| ready(status) && status.pod_ip.is_some()).await;
    assert_eq!((whole.phase.as_deref(), whole.pod_ip.as_deref()), (Some("Running"), Some("10.244.0.2")));
}

#[tokio::test]
async fn what_could_not_be_written_is_written_once_the_server_is_back() {
    let mut case = Case::new().await;
    case.report(running());
    case.until("Ready", ready).await;
    case.server.stop().await;
    let mut unready = running();
    unready["conditions"][0]["status"] = json!("False");
    case.report(unready);
    case.server.start().await;
    case.until("unready", |status| !ready(status)).await;
}

#[tokio::test]
async fn the_last_word_is_written_before_the_reporter_ends_and_a_pod_that_is_gone_ends_it() {
    let case = Case::new().await;
    case.report(running());
    let Case { server: _server, api, reporter } = case;
    reporter.finish(Duration::from_secs(60)).await;
    assert_eq!(api.get("p").await.unwrap().status.unwrap().phase.as_deref(), Some("Running"));
    let pod = Arc::new(api.get("p").await.unwrap());
    let now = kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    api.delete("p", &now).await.unwrap();
    let late = Reporter::start(api.clone().into_client(), pod);
    late.report(Arc::new(PodStatus { phase: Some("Failed".to_owned()), ..Default::default() }));
    late.task.await.unwrap();
}

#[test]
fn one_and_the_same_status_is_written_ever_more_slowly() {
    let (one, other) = (Arc::new(PodStatus::default()), Arc::new(PodStatus::default()));
    let (mut pace, mut now) = (Pace::default(), Instant::now());
    assert_eq!(pace.not_before(&one, now), None);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        pace.tried(one.clone(), now);
        let next = pace.not_before(&one, now).unwrap();
        pauses.push((next - std::mem::replace(&mut now, next)).as_millis());
    }
    assert_eq!(pauses, [200, 400, 800, 1600, 3200, 5000, 5000]);
    pace.tried(one.clone(), now);
    assert_eq!(pace.not_before(&other, now), None, "another one is not held back");
    pace.tried(one, now + 3 * LAST_RETRY);
    assert_eq!(pace.delay, FIRST_RETRY, "the last time is long ago");
}

#[tokio::test]
async fn what_was_written_reads_back_as_it_was_wanted() {
    let case = Case::new().await;
    let resources =
        json!({"requests": {"cpu": "0.1", "memory": "1048576Ki"}, "limits": {"memory": "2048Mi"}});
    let pod = json!({"metadata": {"name": "q"}, "spec": {"nodeName": "n1", "restartPolicy": "Never",
        "containers": [{"name": "a", "image": "i", "resources": resources}, {"name": "b", "image": "i"}]}});
    let pod = case.api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let mut node = fixture::Case::simple().sandbox(0).running("a", 0).exited("b", 0, 1, 5);
    node.pod = pod.clone();
    node.memory.run_errors.insert("b0".to_owned(), "no such file".to_owned());
    let before = pod.status.clone().unwrap_or_default();
    let wanted = status::build(node.view(), &["192.0.2.1".to_owned()], &before);
    let reporter = Reporter::start(case.api.clone().into_client(), Arc::new(pod.clone()));
    reporter.report(Arc::new(wanted.clone()));
    reporter.finish(Duration::from_secs(60)).await;
    let stored = case.api.get("q").await.unwrap().status.unwrap();
    let uid = pod.metadata.uid.unwrap();
    assert_eq!(status_patch(&uid, &stored, &wanted, Timestamp::now()), None);
}
