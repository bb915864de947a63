//! ReplicaSet: keeps the wanted number of pods.

mod plan;
mod rank;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use skerry_informer::{Next, ObjectKey, Queue, Term, WriteError, merge_diff};

use crate::context::{Context, now};
use crate::dependents::{Failure, claim_pods, create_pods, delete_pods};
use crate::listening::listen_to_pods;
use crate::owner::controller_of;
use crate::template::pod_for;
use plan::{Plan, plan};

/// Pods created or deleted at most in one go; the rest follows in the next.
const BURST: usize = 500;

/// Registers what makes a ReplicaSet be looked at.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    listen_to_pods(
        context,
        queue,
        |context| &context.cache.replica_sets,
        |set: &ReplicaSet| set.spec.as_ref().map(|spec| &spec.selector),
    );
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(set) = cache.replica_sets.store.get(&key) else { return Ok(Next::Change) };
    let Some(spec) = &set.spec else { return Ok(Next::Change) };
    let claimed = claim_pods(&context, &cache.replica_sets, &*set, &spec.selector).await?;
    let related = related_pods(&context, &set);
    let plan = plan(&set, &claimed.pods, claimed.unreadable.len(), &related, now().0);

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

async fn carry_out(context: &Context, set: &ReplicaSet, plan: &Plan) -> Result<(), Failure> {
    if plan.create > 0 {
        let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return Ok(()) };
        create_pods(context, set, &vec![pod_for(set, template); plan.create.min(BURST)]).await
    } else if !plan.delete.is_empty() {
        delete_pods(context, set, &plan.delete[..plan.delete.len().min(BURST)]).await
    } else {
        Ok(())
    }
}
