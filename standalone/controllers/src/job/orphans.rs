//! Pods that no Job counts: their Job is gone or going, or they are its no more. The finalizer must not hold
//! them.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, ResourceExt};
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, key_of};

use super::{free, is_tracked};
use crate::context::Context;
use crate::owner::controller_of;

/// Who counts a pod.
enum Counter<'a> {
    Nobody,
    /// The Job of this name and uid, if it is there and stays.
    Job(&'a str, &'a str),
    /// A controller that is none of ours.
    Other,
}

fn counter(pod: &Pod) -> Counter<'_> {
    match controller_of(pod) {
        None => Counter::Nobody,
        Some(owner) if owner.kind == "Job" && owner.api_version == Job::api_version(&()) => {
            Counter::Job(&owner.name, &owner.uid)
        }
        Some(_) => Counter::Other,
    }
}

fn counts(job: &Job, uid: &str) -> bool {
    job.metadata.uid.as_deref() == Some(uid) && job.metadata.deletion_timestamp.is_none()
}

/// Keys are pods.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        let (Some(pod), Some(context)) = (change.known().filter(|pod| is_tracked(pod)), weak.upgrade())
        else {
            return;
        };
        let is_counted = match counter(pod) {
            Counter::Nobody => false,
            Counter::Other => true,
            Counter::Job(name, uid) => {
                let job = context.cache.jobs.store.get(&ObjectKey::new(change.key.namespace(), name));
                job.is_some_and(|job| counts(&job, uid))
            }
        };
        if !is_counted {
            keys.add(change.key.clone());
        }
    });
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.jobs.store.on_change(move |change: &Change<Job>| {
        let going = change.new.as_ref().filter(|job| job.metadata.deletion_timestamp.is_some());
        let gone = change.old.as_ref().filter(|_| change.is_gone());
        let (Some(job), Some(context)) = (going.or(gone), weak.upgrade()) else { return };
        let owned = Term::Owner(job.uid().unwrap_or_default());
        let pods = &context.cache.pods.store;
        for pod in pods.by_term(&owned).into_iter().chain(pods.unreadable_by_term(&owned)) {
            if is_tracked(&pod) {
                keys.add(key_of(&*pod));
            }
        }
    });
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let (pods, jobs) = (&context.cache.pods, &context.cache.jobs);
    let pod = pods.store.get(&key).or_else(|| pods.store.unreadable_at(&key));
    let Some(pod) = pod.filter(|pod| is_tracked(pod)) else { return Ok(Next::Change) };
    let is_counted = match counter(&pod) {
        Counter::Nobody => false,
        Counter::Other => true,
        Counter::Job(name, uid) => {
            let key = ObjectKey::new(key.namespace(), name);
            let cached = jobs.store.get(&key).or_else(|| jobs.store.unreadable_at(&key));
            match cached.filter(|job| job.metadata.uid.as_deref() == Some(uid)) {
                Some(job) => counts(&job, uid),
                // The pod may be of a Job that the cache has not seen yet.
                None => jobs.live(&key).await?.is_some_and(|job| counts(&job, uid)),
            }
        }
    };
    if !is_counted {
        free(&context, &pod).await?;
    }
    Ok(Next::Change)
}
