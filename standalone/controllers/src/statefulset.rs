//! StatefulSet: pods with names, claims and an order.

mod plan;
mod pods;
mod retention;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::ResourceExt;
use kube::api::DeleteParams;
use skerry_informer::{Next, ObjectKey, Queue, WriteError, key_of, merge_diff};

use crate::context::{Context, now};
use crate::dependents::{claim_pods, create_pods, delete_pods, unless_gone};
use crate::listening::listen_to_pods;
use crate::revisions;
use plan::{Create, Snapshot, plan};

const DEFAULT_HISTORY: i32 = 10;

/// Registers what makes a StatefulSet be looked at.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    listen_to_pods(
        context,
        queue,
        |context| &context.cache.stateful_sets,
        |set: &StatefulSet| set.spec.as_ref().map(|spec| spec.selector.clone()),
    );
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(set) = cache.stateful_sets.store.get(&key) else { return Ok(Next::Change) };
    let Some(spec) = &set.spec else { return Ok(Next::Change) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    let update = match revisions::current(&context, &*set, &spec.template).await {
        Err(error) if error.is_namespace_terminating() => return Ok(Next::Change),
        other => other?,
    };
    let history = revisions::of(&context, &*set);
    let named = |name: &String| {
        let key = ObjectKey::new(key.namespace(), name);
        let readable = history.iter().find(|revision| revision.name_any() == *name).cloned();
        readable.or_else(|| cache.revisions.store.unreadable_at(&key))
    };
    let current = set.status.as_ref().and_then(|status| status.current_revision.as_ref()).and_then(named);
    let current = current.unwrap_or_else(|| update.clone());
    let claimed = claim_pods(&context, &cache.stateful_sets, &*set, &spec.selector).await?;
    let snapshot = Snapshot {
        set: &set,
        pods: &claimed.pods,
        unreadable: &claimed.unreadable,
        current: &current.name_any(),
        update: &update.name_any(),
        now: now().0,
    };
    let plan = plan(&snapshot);

    // Before the pods that are too many go: what goes with them must say so.
    keep_claims(&context, &set, &claimed.pods).await?;
    let mut outcome = delete_pods(&context, &*set, &plan.delete).await;
    for create in &plan.create {
        if outcome.is_ok() {
            outcome = make(&context, &set, create, if create.updated { &update } else { &current }).await;
        }
    }
    if let Some(patch) = merge_diff(&set.status.clone().unwrap_or_default(), &plan.status) {
        match cache.stateful_sets.patch_status(&key, None, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    match outcome {
        Err(failure) if failure.error.is_namespace_terminating() => return Ok(Next::Change),
        Err(failure) => return Err(failure.error),
        Ok(()) => {}
    }
    let pods: Vec<_> = claimed.pods.into_iter().chain(claimed.unreadable).collect();
    clean_up(&context, &set, &current, &update, &pods).await?;
    Ok(plan.again.map_or(Next::Change, Next::After))
}

/// Gives the claims of all pods the owners that the retention policy asks for.
async fn keep_claims(context: &Context, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<(), WriteError> {
    let wanted = pods::wanted(set);
    for pod in pods {
        let Some(ordinal) = pods::ordinal(set, pod) else { continue };
        for claim in pods::claims(set, ordinal) {
            let key = key_of(&claim);
            let Some(claim) = context.cache.claims.store.get(&key) else { continue };
            if let Some(patch) = retention::patch(set, pod, &claim, !wanted.contains(&ordinal)) {
                unless_gone(context.cache.claims.patch(&key, &patch).await)?;
            }
        }
    }
    Ok(())
}

/// The pod's claims first, then the pod.
async fn make(
    context: &Context,
    set: &StatefulSet,
    create: &Create,
    revision: &ControllerRevision,
) -> Result<(), crate::dependents::Failure> {
    for claim in pods::claims(set, create.ordinal) {
        if context.cache.claims.store.exists(&key_of(&claim)) {
            continue;
        }
        match context.cache.claims.create(&claim).await {
            Ok(_) => {
                let text = format!("create Claim {} for StatefulSet {}", claim.name_any(), set.name_any());
                context.normal(set, "SuccessfulCreate", text);
            }
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(crate::dependents::Failure { reason: "FailedCreate", error }),
        }
    }
    let Some(template) = template_of(revision).or_else(|| Some(set.spec.as_ref()?.template.clone())) else {
        return Ok(());
    };
    let pod = pods::pod(set, &template, create.ordinal, &revision.name_any());
    create_pods(context, set, &[pod]).await
}

/// The template that a revision holds.
fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

async fn clean_up(
    context: &Context,
    set: &StatefulSet,
    current: &ControllerRevision,
    update: &ControllerRevision,
    pods: &[Arc<Pod>],
) -> Result<(), WriteError> {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(DEFAULT_HISTORY);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut dead = revisions::of(context, set);
    let in_use = |name: &str| pods.iter().any(|pod| plan::revision_of(pod) == Some(name));
    dead.retain(|revision| {
        let name = revision.name_any();
        name != current.name_any() && name != update.name_any() && !in_use(&name)
    });
    let surplus = dead.len().saturating_sub(limit);
    for revision in dead.into_iter().take(surplus) {
        context.cache.revisions.delete(&revision, DeleteParams::default()).await?;
    }
    Ok(())
}
