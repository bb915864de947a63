//! CronJobs and ReplicationControllers, against the real API server.

use crate::support::{Cluster, DONE, eventually, is_ready};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::ResourceExt;
use serde_json::{Value, json};

fn cron_job(name: &str, schedule: &str, image: &str, extra: Value) -> Value {
    let mut cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedule": schedule, "jobTemplate": {"metadata": {"labels": {"cron": name}}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}}}}}});
    for (name, value) in extra.as_object().unwrap() {
        cron["spec"][name] = value.clone();
    }
    cron
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_jobs_follows_them_and_tells_of_it() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster.apply(cron_job("hello", "@every 1s", DONE, json!({}))).await;
    let job =
        eventually("a job is started", async || cluster.list::<Job>("default").await.into_iter().next())
            .await;
    let minute = job.name_any().strip_prefix("hello-").unwrap().parse::<i64>().unwrap();
    assert!((jiff::Timestamp::now().as_second() / 60 - minute).abs() <= 1);
    assert!(job.annotations().contains_key("batch.kubernetes.io/cronjob-scheduled-timestamp"));
    assert_eq!((&*job.owner_references()[0].kind, &*job.labels()["cron"]), ("CronJob", "hello"));
    let status = eventually("it is seen to its end", async || {
        let cron = cluster.api::<CronJob>("default").get("hello").await.unwrap();
        let status = cron.status?;
        (status.last_successful_time.is_some() && status.last_schedule_time.is_some()).then_some(status)
    })
    .await;
    assert!(status.last_schedule_time.is_some());
    eventually("what happened is told", async || {
        let events = cluster.events("default", "hello").await;
        let has = |reason: &str, text: String| events.contains(&(reason.to_owned(), text));
        let name = job.name_any();
        (has("SuccessfulCreate", format!("Created job {name}"))
            && has("SawCompletedJob", format!("Saw completed job: {name}, condition: Complete")))
        .then_some(())
    })
    .await;
    cluster.api::<CronJob>("default").delete("hello", &Default::default()).await.unwrap();
    eventually("its jobs go with it", async || {
        let (jobs, pods) = (cluster.list::<Job>("default").await, cluster.list::<Pod>("default").await);
        (jobs.is_empty() && pods.is_empty()).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_with_a_zone_or_schedule_that_nobody_knows_is_refused() {
    let cluster = Cluster::start(&[]).await;
    let refused = async |extra: Value| {
        let cron: CronJob = serde_json::from_value(cron_job("bad", "* * * * *", "x", extra)).unwrap();
        let answer = cluster.api::<CronJob>("default").create(&Default::default(), &cron).await;
        answer.unwrap_err().to_string()
    };
    let text = refused(json!({"timeZone": "Mars/Olympus"})).await;
    assert!(
        text.contains("spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus"),
        "{text}"
    );
    let text = refused(json!({"timeZone": ""})).await;
    assert!(text.contains("timeZone must be nil or non-empty string"), "{text}");
    let text = refused(json!({"schedule": "TZ=UTC 0 * * * *"})).await;
    assert!(text.contains("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_keeps_its_number_of_pods() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"replicas": 2, "selector": {"app": "web"}, "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}}))
        .await;
    let ready = async |count: i32| {
        eventually("all pods are ready", async || {
            let controller = cluster.api::<ReplicationController>("default").get("web").await.unwrap();
            let status = controller.status?;
            let is = status.ready_replicas.unwrap_or(0) == count && status.replicas == count;
            (is && status.observed_generation == controller.metadata.generation).then_some(())
        })
        .await;
    };
    ready(2).await;
    let pods = cluster.list::<Pod>("default").await;
    assert!(pods.iter().all(|pod| pod.owner_references()[0].kind == "ReplicationController"));
    cluster.api::<Pod>("default").delete(&pods[0].name_any(), &Default::default()).await.unwrap();
    eventually("a lost pod is replaced", async || {
        let now = cluster.list::<Pod>("default").await;
        let fresh = now
            .iter()
            .filter(|pod| is_ready(pod))
            .any(|pod| pods.iter().all(|old| old.metadata.uid != pod.metadata.uid));
        fresh.then_some(())
    })
    .await;
    cluster.patch::<ReplicationController>("default", "web", json!({"spec": {"replicas": 1}})).await;
    ready(1).await;
    cluster.stop().await;
}
