//! Job: runs pods until enough have succeeded or too many have failed.
//!
//! Pods carry a finalizer until they are counted (KEP-2307): an ended pod is first noted in the status as
//! uncounted, then loses the finalizer, and only when that is gone is it added to the counts. A crash in
//! between counts nothing twice.

mod indexes;
pub mod orphans;
mod per_index;
mod plan;
mod pods;
mod policy;

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use skerry_informer::{Next, ObjectKey, Queue, WriteError, key_of, merge_diff};

use crate::context::{Context, now};
use crate::dependents::{claim_pods, create_pods, delete_pods, unless_gone};
use crate::listening::listen_to_pods;
use plan::{Snapshot, plan};

/// Finalizer of pods that are not counted yet.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";

/// Registers what makes a Job be looked at.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    listen_to_pods(
        context,
        queue,
        |context| &context.cache.jobs,
        |job: &Job| job.spec.as_ref().and_then(|spec| spec.selector.clone()),
    );
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    // The pods of a Job that is gone or going are let go in `orphans`.
    let job = cache.jobs.store.get(&key).filter(|job| job.metadata.deletion_timestamp.is_none());
    let Some(job) = job else { return Ok(Next::Change) };
    let Some(spec) = &job.spec else { return Ok(Next::Change) };
    if spec.managed_by.as_deref().is_some_and(|by| by != "kubernetes.io/job-controller") {
        return Ok(Next::Change);
    }
    let selector = spec.selector.clone().unwrap_or_default();
    let claimed = claim_pods(&context, &cache.jobs, &*job, &selector).await?;
    let (pods, unreadable) = (&claimed.pods, &claimed.unreadable);
    let plan = plan(&Snapshot { job: &job, pods, unreadable, now: now() });

    if let Some(patch) = merge_diff(&job.status.clone().unwrap_or_default(), &plan.status) {
        let revision = job.metadata.resource_version.as_deref();
        match cache.jobs.patch_status(&key, revision, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
        for (reason, message, fine) in plan.news {
            if fine {
                context.normal(&*job, reason, message)
            } else {
                context.warning(&*job, reason, message)
            }
        }
    }
    let freed = join_all(plan.counted.iter().map(|pod| free(&context, pod))).await;
    freed.into_iter().collect::<Result<(), WriteError>>()?;
    if !plan.deleted_count {
        for pod in plan.delete.iter().filter(|pod| is_tracked(pod)) {
            free(&context, pod).await?;
        }
    }
    let outcomes = [
        delete_pods(&context, &*job, &plan.delete).await,
        create_pods(&context, &*job, &pods::made(&job, &plan.create)).await,
    ];
    for failure in outcomes.into_iter().filter_map(Result::err) {
        if !failure.error.is_namespace_terminating() {
            return Err(failure.error);
        }
    }
    if plan.expired {
        cache.jobs.delete(&job, DeleteParams::background()).await?;
    }
    Ok(plan.again.map_or(Next::Change, Next::After))
}

fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == TRACKING)
}

/// Takes the finalizer off a pod that is noted, or that nobody will count.
async fn free(context: &Context, pod: &Pod) -> Result<(), WriteError> {
    let left: Vec<&String> = pod.finalizers().iter().filter(|f| *f != TRACKING).collect();
    let patch = json!({"metadata": {
        "uid": pod.metadata.uid,
        "resourceVersion": pod.metadata.resource_version,
        "finalizers": if left.is_empty() { Value::Null } else { json!(left) },
    }});
    unless_gone(context.cache.pods.patch(&key_of(pod), &patch).await).map(drop)
}
