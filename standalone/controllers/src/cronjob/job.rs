//! The Job of one start. Pure.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::schedule;
use crate::owner::controller_reference;

/// When the Job was due, RFC 3339, on the clock of `spec.timeZone`.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// One name for each minute: two controllers, or one before and after a crash, make one Job.
pub fn name(cron: &CronJob, due: Timestamp) -> String {
    format!("{}-{}", cron.name_any(), due.as_second().div_euclid(60))
}

pub fn made(cron: &CronJob, due: Timestamp) -> Job {
    let spec = cron.spec.clone();
    let template = spec.job_template;
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.into(), stamp(due, spec.time_zone.as_deref()));
    Job {
        metadata: ObjectMeta {
            name: Some(name(cron, due)),
            namespace: cron.namespace(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn stamp(due: Timestamp, zone: Option<&str>) -> String {
    match zone.and_then(|name| schedule::zone(name).ok()).filter(|zone| *zone != TimeZone::UTC) {
        Some(zone) => due.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        None => skerry_vocabulary::time::seconds(due),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_is_named_by_its_minute_and_says_when_it_was_due() {
        let cron = |zone: serde_json::Value| -> CronJob {
            serde_json::from_value(json!({"metadata": {"name": "hello", "namespace": "ns", "uid": "u"},
                "spec": {"schedule": "* * * * *", "timeZone": zone, "jobTemplate": {
                    "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                    "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}}}))
            .unwrap()
        };
        let due: Timestamp = "2026-07-01T10:30:00Z".parse().unwrap();
        let job = made(&cron(json!("Europe/Berlin")), due);
        assert_eq!(job.name_any(), format!("hello-{}", due.as_second() / 60));
        assert_eq!(job.annotations()[SCHEDULED], "2026-07-01T12:30:00+02:00");
        assert_eq!((&*job.annotations()["c"], &*job.labels()["a"]), ("d", "b"));
        assert_eq!(job.owner_references()[0].controller, Some(true));
        assert_eq!(made(&cron(json!(null)), due).annotations()[SCHEDULED], "2026-07-01T10:30:00Z");
    }
}
