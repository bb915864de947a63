//! DaemonSet: one pod on each node that it is meant for.

mod plan;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use skerry_informer::{Change, Next, ObjectKey, Queue, WriteError, merge_diff};

use crate::context::{Context, now};
use crate::dependents::{claim_pods, create_pods, delete_pods};
use crate::listening::listen_to_pods;
use crate::revisions;
use plan::{Snapshot, plan, pod_on};

const DEFAULT_HISTORY: i32 = 10;
/// Pods created or deleted at most in one go; the rest follows in the next.
const BURST: usize = 250;

/// Registers what makes a DaemonSet be looked at.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    listen_to_pods(
        context,
        queue,
        |context| &context.cache.daemon_sets,
        |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.selector.clone()),
    );
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.nodes.store.on_change(move |change: &Change<Node>| {
        let reads = |node: &Option<Arc<Node>>| {
            let node = node.as_ref()?;
            Some((node.metadata.labels.clone(), node.spec.as_ref().and_then(|spec| spec.taints.clone())))
        };
        let is_news = change.unreadable.is_none() && reads(&change.old) != reads(&change.new);
        let (Some(context), true) = (weak.upgrade(), is_news) else {
            return;
        };
        for key in context.cache.daemon_sets.store.keys() {
            keys.add(key);
        }
    });
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(set) = cache.daemon_sets.store.get(&key) else { return Ok(Next::Change) };
    let Some(spec) = &set.spec else { return Ok(Next::Change) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    let current = match revisions::current(&context, &*set, &spec.template).await {
        Err(error) if error.is_namespace_terminating() => return Ok(Next::Change),
        other => other?,
    };
    let hash = revisions::hash(&current);
    let claimed = claim_pods(&context, &cache.daemon_sets, &*set, &spec.selector).await?;
    let nodes = cache.nodes.store.list();
    let unreadable_nodes = cache.nodes.store.unreadable();
    let plan = plan(&Snapshot {
        set: &set,
        pods: &claimed.pods,
        unreadable: &claimed.unreadable,
        nodes: &nodes,
        unreadable_nodes: &unreadable_nodes,
        hash,
        now: now().0,
    });

    let deleted = delete_pods(&context, &*set, &plan.delete[..plan.delete.len().min(BURST)]).await;
    let create: Vec<_> =
        plan.create.iter().take(BURST).map(|node| pod_on(&set, &spec.template, node, hash)).collect();
    let created = create_pods(&context, &*set, &create).await;

    if let Some(patch) = merge_diff(&set.status.clone().unwrap_or_default(), &plan.status) {
        match cache.daemon_sets.patch_status(&key, None, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    for failure in [deleted, created].into_iter().filter_map(Result::err) {
        if !failure.error.is_namespace_terminating() {
            return Err(failure.error);
        }
    }
    let limit = usize::try_from(spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(0);
    let pods = claimed.pods.iter().chain(&claimed.unreadable);
    let labels = pods.filter_map(|pod| pod.labels().get(revisions::HASH_LABEL));
    let live: Vec<&str> = labels.map(String::as_str).chain([hash]).collect();
    revisions::clean_up(&context, &*set, &live, limit).await?;
    Ok(plan.again.map_or(Next::Change, Next::After))
}
