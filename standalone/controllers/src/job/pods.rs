//! The pods of a Job. Pure.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::ResourceExt;

use super::TRACKING;
use crate::template::pod_for;

/// Label and annotation of an Indexed Job's pods.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotations of pods whose failures are limited index by index: failures before this pod that count …
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// … and that the pod failure policy ignored.
pub const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// A pod to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create {
    /// Completion index; 0 when the Job is not Indexed.
    pub index: i32,
    /// What it carries of its predecessors: failures that count, and those that do not.
    pub failures: Option<(i32, i32)>,
}

pub fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

/// The completion index of a pod of an Indexed Job.
pub fn index(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX).and_then(|index| index.parse().ok())
}

pub fn made(job: &Job, wanted: &[Create]) -> Vec<Pod> {
    let Some(spec) = &job.spec else { return Vec::new() };
    let indexed = is_indexed(job);
    wanted
        .iter()
        .map(|create| {
            let mut pod = pod_for(job, &spec.template);
            let finalizers = pod.metadata.finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == TRACKING) {
                finalizers.push(TRACKING.into());
            }
            if indexed {
                give_index(&mut pod, &job.name_any(), create.index);
            }
            if let Some((counted, ignored)) = create.failures {
                let annotations = pod.metadata.annotations.get_or_insert_default();
                annotations.insert(FAILURES.into(), counted.to_string());
                if ignored > 0 {
                    annotations.insert(IGNORED.into(), ignored.to_string());
                }
            }
            pod
        })
        .collect()
}

fn give_index(pod: &mut Pod, job: &str, index: i32) {
    pod.metadata.generate_name = Some(format!("{job}-{index}-"));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname = Some(format!("{job}-{index}"));
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let variables = container.env.get_or_insert_default();
        if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
            continue;
        }
        variables.push(EnvVar {
            name: INDEX_VARIABLE.into(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: format!("metadata.labels['{INDEX}']"),
                }),
                ..Default::default()
            }),
        });
    }
}
