//! Deployment: replaces pods by way of one ReplicaSet a template.

mod plan;
mod revision;
mod rolling;
mod scale;
mod status;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, key_of, merge_diff};

use crate::context::{Context, now};
use crate::owner::{adoption, claim, controller_of, controller_reference, disowning};
use plan::{Snapshot, Step, plan};
pub use rolling::share_of;
pub use template::hash as template_hash;

/// Registers what makes a Deployment be looked at.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let keys = queue.clone();
    context
        .cache
        .deployments
        .store
        .on_change(move |change: &Change<Deployment>| keys.add(change.key.clone()));
    let (keys, cache) = (queue.clone(), Arc::downgrade(context));
    context.cache.replica_sets.store.on_change(move |change: &Change<ReplicaSet>| {
        for set in change.old.iter().chain(change.known()) {
            if let Some(owner) = controller_of(&**set).filter(|owner| owner.kind == "Deployment") {
                keys.add(ObjectKey::new(change.key.namespace(), &owner.name));
            }
        }
        let orphan = change.new.as_deref().filter(|set| controller_of(*set).is_none());
        if let (Some(orphan), Some(context)) = (orphan, cache.upgrade()) {
            for deployment in context.cache.deployments.store.in_namespace(change.key.namespace()) {
                let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
                if selector.is_some_and(|s| skerry_informer::matches_selector(s, Some(orphan.labels()))) {
                    keys.add(key_of(&*deployment));
                }
            }
        }
    });
    // Only a Recreate waits for pods to be gone.
    let (keys, cache) = (queue.clone(), Arc::downgrade(context));
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        let (Some(old), true, Some(context)) = (&change.old, change.is_gone(), cache.upgrade()) else {
            return;
        };
        let Some(owner) = controller_of(&**old).filter(|owner| owner.kind == "ReplicaSet") else { return };
        let set = context.cache.replica_sets.store.get(&ObjectKey::new(change.key.namespace(), &owner.name));
        if let Some(owner) = set.as_deref().and_then(controller_of) {
            keys.add(ObjectKey::new(change.key.namespace(), &owner.name));
        }
    });
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(deployment) = cache.deployments.store.get(&key) else { return Ok(Next::Change) };
    let owned = Term::Owner(deployment.uid().unwrap_or_default());
    if !cache.replica_sets.store.unreadable_by_term(&owned).is_empty() {
        // Which template it has, and how many pods it wants, is not known: the rollout stands still.
        return Ok(Next::Change);
    }
    let sets = claim_sets(&context, &key, &deployment).await?;
    // Only whether pods are there is asked: unreadable ones are.
    let pods_of = |set: &Arc<ReplicaSet>| {
        let term = Term::Owner(set.uid().unwrap_or_default());
        let mut pods = cache.pods.store.by_term(&term);
        pods.extend(cache.pods.store.unreadable_by_term(&term));
        pods
    };
    let pods: Vec<Arc<Pod>> = sets.iter().flat_map(pods_of).collect();
    let plan = plan(&Snapshot { deployment: &deployment, sets: &sets, pods: &pods, now: now() });

    if let Some(revision) = plan.revision {
        let patch = json!({"metadata": {"annotations": {revision::REVISION: revision.to_string()}}});
        match cache.deployments.patch(&key, &patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    for step in plan.steps {
        if let Err(error) = carry_out(&context, &key, &deployment, step).await {
            if error.is_namespace_terminating() {
                return Ok(Next::Change);
            }
            return Err(error);
        }
    }
    if let Some(patch) = merge_diff(&deployment.status.clone().unwrap_or_default(), &plan.status) {
        match cache.deployments.patch_status(&key, None, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    Ok(plan.again.map_or(Next::Change, Next::After))
}

async fn claim_sets(
    context: &Context,
    key: &ObjectKey,
    deployment: &Deployment,
) -> Result<Vec<Arc<ReplicaSet>>, WriteError> {
    let kind = &context.cache.replica_sets;
    let Some(spec) = &deployment.spec else { return Ok(Vec::new()) };
    let mut claims = claim(deployment, &spec.selector, kind.store.in_namespace(key.namespace()));
    for set in &claims.release {
        let patch = disowning(&**set, &[&deployment.uid().unwrap_or_default()]);
        kind.patch(&key_of(&**set), &patch).await?;
    }
    if !claims.adopt.is_empty() {
        let live = context.cache.deployments.live(key).await?;
        let ends =
            |live: Deployment| live.metadata.deletion_timestamp.is_some() || live.uid() != deployment.uid();
        if live.is_none_or(ends) {
            return Ok(claims.owned);
        }
    }
    for set in claims.adopt {
        let patch = adoption(&*set, controller_reference(deployment));
        claims.owned.push(Arc::new(kind.patch(&key_of(&*set), &patch).await?));
    }
    Ok(claims.owned)
}

async fn carry_out(
    context: &Context,
    key: &ObjectKey,
    deployment: &Deployment,
    step: Step,
) -> Result<(), WriteError> {
    let sets = &context.cache.replica_sets;
    match step {
        Step::Create(set) => match sets.create(&set).await {
            Ok(made) => {
                let to = made.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                if to > 0 {
                    scaled(context, deployment, &made.name_any(), 0, to);
                }
                Ok(())
            }
            Err(error) if error.is_already_exists() => settle_collision(context, key, deployment, &set).await,
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let text = format!("Failed to create new replica set: {}", error.server_message());
                    context.warning(deployment, "ReplicaSetCreateError", text);
                }
                Err(error)
            }
        },
        Step::Update { set, patch, scale } => {
            sets.patch(&key_of(&*set), &patch).await?;
            if let Some((from, to)) = scale {
                scaled(context, deployment, &set.name_any(), from, to);
            }
            Ok(())
        }
        Step::Delete(set) => sets.delete(&set, DeleteParams::background()).await,
    }
}

/// A set of the wanted name is there. If it is ours and of the same template the cache just lags behind; else
/// the name's hash collided, and the counter that goes into it is raised.
async fn settle_collision(
    context: &Context,
    key: &ObjectKey,
    deployment: &Deployment,
    wanted: &ReplicaSet,
) -> Result<(), WriteError> {
    let live = context.cache.replica_sets.live(&key_of(wanted)).await?;
    let Some(live) = live else { return Ok(()) };
    let ours = controller_of(&live).is_some_and(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref());
    let same = template::of(&live).zip(template::of(wanted)).is_some_and(|(a, b)| template::same(a, b));
    if ours && same {
        context.cache.replica_sets.store.wrote(live);
        return Ok(());
    }
    let count = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    context
        .cache
        .deployments
        .patch_status(
            key,
            deployment.metadata.resource_version.as_deref(),
            json!({"collisionCount": count + 1}),
        )
        .await
        .map(drop)
}

fn scaled(context: &Context, deployment: &Deployment, set: &str, from: i32, to: i32) {
    let direction = if to > from { "up" } else { "down" };
    let text = format!("Scaled {direction} replica set {set} from {from} to {to}");
    context.normal(deployment, "ScalingReplicaSet", text);
}
