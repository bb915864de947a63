//! ReplicaSet: keeps the wanted number of pods.

mod plan;
mod rank;

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, merge_diff};

use crate::context::{Context, now};
use crate::owner::{adoption, claim, controller_of, controller_reference, disowning};
use crate::template::pod_for;
use plan::{Plan, plan};

/// Pods created or deleted at most in one go; the rest follows in the next.
const BURST: usize = 500;

/// Registers what makes a ReplicaSet be looked at.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let keys = queue.clone();
    context
        .cache
        .replica_sets
        .store
        .on_change(move |change: &Change<ReplicaSet>| keys.add(change.key.clone()));
    let (keys, cache) = (queue.clone(), Arc::downgrade(context));
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        for pod in change.old.iter().chain(&change.new) {
            if let Some(owner) = controller_of(&**pod).filter(|owner| owner.kind == "ReplicaSet") {
                keys.add(ObjectKey::new(&change.key.namespace, &owner.name));
            }
        }
        // An orphan may be wanted by someone.
        let orphan = change.new.as_deref().filter(|pod| controller_of(*pod).is_none());
        if let (Some(orphan), Some(context)) = (orphan, cache.upgrade()) {
            for set in context.cache.replica_sets.store.in_namespace(&change.key.namespace) {
                let selector = set.spec.as_ref().map(|spec| &spec.selector);
                if selector.is_some_and(|s| skerry_informer::matches_selector(s, Some(orphan.labels()))) {
                    keys.add(ObjectKey::of(&*set));
                }
            }
        }
    });
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(set) = cache.replica_sets.store.get(&key) else { return Ok(Next::Change) };
    let pods = claim_pods(&context, &key, &set).await?;
    let related = related_pods(&context, &set);
    let plan = plan(&set, &pods, &related, now().0);

    let failure = carry_out(&context, &set, &plan).await;

    let status = plan.status(&set, failure.as_ref().err(), now());
    let patch = merge_diff(&set.status.clone().unwrap_or_default(), &status);
    if let Some(patch) = patch {
        match cache.replica_sets.patch_status(&key, None, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    match failure {
        Err(failure) if failure.error.is_namespace_terminating() => return Ok(Next::Change),
        Err(failure) => return Err(failure.error),
        Ok(()) => {}
    }
    Ok(plan.again.map_or(Next::Change, Next::After))
}

/// What is owned, after adopting and releasing.
async fn claim_pods(
    context: &Context,
    key: &ObjectKey,
    set: &Arc<ReplicaSet>,
) -> Result<Vec<Arc<Pod>>, WriteError> {
    let pods = &context.cache.pods;
    let Some(spec) = &set.spec else { return Ok(Vec::new()) };
    let mut candidates = pods.store.by_term(&Term::Owner(set.uid().unwrap_or_default()));
    let selected = match &spec.selector.match_labels {
        Some(labels) => pods.store.with_labels(&key.namespace, labels),
        None => pods.store.in_namespace(&key.namespace),
    };
    candidates.extend(selected.into_iter().filter(|pod| controller_of(&**pod).is_none()));
    let mut claims = claim(&**set, &spec.selector, candidates);
    for pod in &claims.release {
        let patch = disowning(&**pod, &[&set.uid().unwrap_or_default()]);
        ignore_gone(pods.patch(&ObjectKey::of(&**pod), &patch).await)?;
    }
    if !claims.adopt.is_empty() {
        // The cache may not know yet that the set is going: an adopted pod would then be deleted with it.
        let live = context.cache.replica_sets.live(key).await?;
        if live.is_none_or(|live| live.uid() != set.uid() || live.metadata.deletion_timestamp.is_some()) {
            return Ok(claims.owned);
        }
    }
    for pod in claims.adopt {
        let patch = adoption(&*pod, controller_reference(&**set));
        if let Some(adopted) = ignore_gone(pods.patch(&ObjectKey::of(&*pod), &patch).await)? {
            claims.owned.push(Arc::new(adopted));
        }
    }
    Ok(claims.owned)
}

fn ignore_gone<K>(outcome: Result<K, WriteError>) -> Result<Option<K>, WriteError> {
    match outcome {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Pods of all ReplicaSets with the same controller: a node that has many of them loses one first.
fn related_pods(context: &Context, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let cache = &context.cache;
    let owner = controller_of(set).map(|owner| Term::Owner(owner.uid.clone()));
    let siblings = owner.map(|term| cache.replica_sets.store.by_term(&term)).unwrap_or_default();
    let uids: Vec<String> = match siblings.is_empty() {
        true => set.uid().into_iter().collect(),
        false => siblings.iter().filter_map(|sibling| sibling.uid()).collect(),
    };
    uids.into_iter().flat_map(|uid| cache.pods.store.by_term(&Term::Owner(uid))).collect()
}

/// A write that did not succeed, and which of the two kinds of writes it was.
pub(super) struct Failure {
    pub reason: &'static str,
    pub error: WriteError,
}

async fn carry_out(context: &Context, set: &ReplicaSet, plan: &Plan) -> Result<(), Failure> {
    if plan.create > 0 {
        create_pods(context, set, plan.create.min(BURST)).await
    } else if !plan.delete.is_empty() {
        delete_pods(context, set, &plan.delete[..plan.delete.len().min(BURST)]).await
    } else {
        Ok(())
    }
}

/// Creates in batches of 1, 2, 4, …: when pods cannot be created at all (quota, webhook) one failure is enough.
async fn create_pods(context: &Context, set: &ReplicaSet, count: usize) -> Result<(), Failure> {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return Ok(()) };
    let pod = pod_for(set, template);
    let (mut left, mut batch) = (count, 1);
    while left > 0 {
        let outcomes = join_all((0..batch.min(left)).map(|_| context.cache.pods.create(&pod))).await;
        let mut failed = None;
        for outcome in outcomes {
            left -= 1;
            match outcome {
                Ok(made) => {
                    context.normal(set, "SuccessfulCreate", format!("Created pod: {}", made.name_any()));
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            if !error.is_namespace_terminating() {
                context.warning(set, "FailedCreate", format!("Error creating: {}", error.server_message()));
            }
            return Err(Failure { reason: "FailedCreate", error });
        }
        batch *= 2;
    }
    Ok(())
}

async fn delete_pods(context: &Context, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Result<(), Failure> {
    let deletes = pods.iter().map(|pod| context.cache.pods.delete(pod, DeleteParams::default()));
    let mut failed = None;
    for (pod, outcome) in pods.iter().zip(join_all(deletes).await) {
        match outcome {
            Ok(()) => context.normal(set, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any())),
            Err(error) => {
                context.warning(set, "FailedDelete", format!("Error deleting: {}", error.server_message()));
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(Failure { reason: "FailedDelete", error }))
}
