//! Claiming, creating and deleting the pods of any kind of owner.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::DeleteParams;
use kube::{Resource, ResourceExt};
use skerry_informer::{Kind, Object, Term, WriteError, key_of};

use crate::context::Context;
use crate::owner::{adoption, claim, controller_of, controller_reference, disowning};

/// The pods of an owner.
#[derive(Debug, Default)]
pub struct Claimed {
    pub pods: Vec<Arc<Pod>>,
    /// What could be read of pods that are there and unreadable, its own and those that it would adopt: they
    /// count, and nothing is done to them.
    pub unreadable: Vec<Arc<Pod>>,
}

/// Pods that `owner` controls, after adopting orphans it selects and releasing what it selects no more.
pub async fn claim_pods<O>(
    context: &Context,
    owners: &Kind<O>,
    owner: &O,
    selector: &LabelSelector,
) -> Result<Claimed, WriteError>
where
    O: Object,
{
    // Looked for before and after: one that changes sides meanwhile is counted on one of them.
    let mut unreadable = unreadable_pods(context, owner, selector);
    let pods = claim_readable(context, owners, owner, selector).await?;
    unreadable.extend(unreadable_pods(context, owner, selector));
    let mut seen: HashSet<String> = pods.iter().filter_map(|pod| pod.uid()).collect();
    unreadable.retain(|pod| seen.insert(pod.uid().unwrap_or_default()));
    Ok(Claimed { pods, unreadable })
}

fn unreadable_pods<O: Resource>(context: &Context, owner: &O, selector: &LabelSelector) -> Vec<Arc<Pod>> {
    let pods = &context.cache.pods.store;
    let key = key_of(owner);
    let mut unreadable = pods.unreadable_by_term(&Term::Owner(owner.uid().unwrap_or_default()));
    let labels = selector.match_labels.clone().unwrap_or_default();
    let selected = pods.unreadable_with_labels(key.namespace(), &labels);
    let claims = claim(owner, selector, selected.into_iter().filter(|pod| controller_of(&**pod).is_none()));
    unreadable.extend(claims.adopt);
    unreadable
}

async fn claim_readable<O>(
    context: &Context,
    owners: &Kind<O>,
    owner: &O,
    selector: &LabelSelector,
) -> Result<Vec<Arc<Pod>>, WriteError>
where
    O: Object,
{
    let pods = &context.cache.pods;
    let key = key_of(owner);
    let uid = owner.uid().unwrap_or_default();
    let mut candidates = pods.store.by_term(&Term::Owner(uid.clone()));
    let selected = match &selector.match_labels {
        Some(labels) => pods.store.with_labels(key.namespace(), labels),
        None => pods.store.in_namespace(key.namespace()),
    };
    candidates.extend(selected.into_iter().filter(|pod| controller_of(&**pod).is_none()));
    let mut claims = claim(owner, selector, candidates);
    for pod in &claims.release {
        let patch = disowning(&**pod, &[&uid]);
        unless_gone(pods.patch(&key_of(&**pod), &patch).await)?;
    }
    if !claims.adopt.is_empty() {
        // The cache may not know yet that the owner is going: an adopted pod would then be deleted with it.
        let live = owners.live(&key).await?;
        let goes = |live: O| live.uid().as_ref() != Some(&uid) || live.meta().deletion_timestamp.is_some();
        if live.is_none_or(goes) {
            return Ok(claims.owned);
        }
    }
    for pod in claims.adopt {
        let patch = adoption(&*pod, controller_reference(owner));
        if let Some(adopted) = unless_gone(pods.patch(&key_of(&*pod), &patch).await)? {
            claims.owned.push(Arc::new(adopted));
        }
    }
    Ok(claims.owned)
}

/// `None` when the object went meanwhile.
pub fn unless_gone<K>(outcome: Result<K, WriteError>) -> Result<Option<K>, WriteError> {
    match outcome {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A write that did not succeed, and which of the two kinds of writes it was.
#[derive(Debug)]
pub struct Failure {
    pub reason: &'static str,
    pub error: WriteError,
}

/// Creates in batches of 1, 2, 4, …: when pods cannot be created at all (quota, webhook) one failure is
/// enough.
pub async fn create_pods<O>(context: &Context, owner: &O, pods: &[Pod]) -> Result<(), Failure>
where
    O: Resource<DynamicType = ()>,
{
    let (mut left, mut size) = (pods, 1);
    while !left.is_empty() {
        let (batch, rest) = left.split_at(size.min(left.len()));
        let mut failed = None;
        for outcome in join_all(batch.iter().map(|pod| context.cache.pods.create(pod))).await {
            match outcome {
                Ok(made) => {
                    context.normal(owner, "SuccessfulCreate", format!("Created pod: {}", made.name_any()));
                }
                // A pod with a fixed name that is there already is what was wanted; the cache lags behind.
                Err(error) if error.is_already_exists() => {}
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            if !error.is_namespace_terminating() {
                context.warning(owner, "FailedCreate", format!("Error creating: {}", error.server_message()));
            }
            return Err(Failure { reason: "FailedCreate", error });
        }
        (left, size) = (rest, size * 2);
    }
    Ok(())
}

/// Deletes all of them; the last error, if there was one.
pub async fn delete_pods<O>(context: &Context, owner: &O, pods: &[Arc<Pod>]) -> Result<(), Failure>
where
    O: Resource<DynamicType = ()>,
{
    let deletes = pods.iter().map(|pod| context.cache.pods.delete(pod, DeleteParams::default()));
    let mut failed = None;
    for (pod, outcome) in pods.iter().zip(join_all(deletes).await) {
        match outcome {
            Ok(()) => context.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any())),
            Err(error) => {
                context.warning(owner, "FailedDelete", format!("Error deleting: {}", error.server_message()));
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(Failure { reason: "FailedDelete", error }))
}
