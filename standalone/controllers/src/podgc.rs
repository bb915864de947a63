//! Pods that nobody else ends: those of nodes that are gone, those that were deleted before they had a node,
//! and too many ended ones.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, key_of};

use crate::context::{Context, now};
use crate::pod::{is_terminal, node_name};

/// A node that vanished may be registered anew (its agent restarted): so long its pods are left alone.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Keys are pods; that of too many ended pods is [`ENDED`].
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.nodes.store.on_change(move |change: &Change<Node>| {
        let (true, Some(context)) = (change.is_gone(), weak.upgrade()) else { return };
        for pod in context.cache.pods.store.by_term(&Term::Node(change.key.name().to_string())) {
            keys.add_after(key_of(&*pod), QUARANTINE);
        }
    });
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        let (Some(new), Some(context)) = (change.known(), weak.upgrade()) else { return };
        match node_name(new) {
            None if new.metadata.deletion_timestamp.is_some() => keys.add(change.key.clone()),
            None => {}
            Some(node) => {
                let was = change.old.as_deref().and_then(|old| node_name(old));
                if was.is_none() && !context.cache.nodes.store.exists(&ObjectKey::cluster(node)) {
                    keys.add_after(change.key.clone(), QUARANTINE);
                }
            }
        }
        let ended_now =
            change.new.is_some() && is_terminal(new) && !change.old.as_deref().is_some_and(is_terminal);
        if ended_now && context.terminated_pods > 0 {
            keys.add(ObjectKey::cluster(ENDED));
        }
    });
}

/// No pod has this key: pods have a namespace.
const ENDED: &str = "ended";

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    if key.namespace().is_empty() {
        return delete_oldest_ended(&context).await;
    }
    let cache = &context.cache;
    let unreadable = cache.pods.store.unreadable_at(&key);
    // An unreadable pod is ended only where that was asked for: then nobody else does it.
    let unreadable = unreadable.filter(|pod| pod.metadata.deletion_timestamp.is_some());
    let Some(pod) = cache.pods.store.get(&key).or(unreadable) else { return Ok(Next::Change) };
    let Some(node) = node_name(&pod) else {
        if pod.metadata.deletion_timestamp.is_some() {
            cache.pods.delete(&pod, DeleteParams::default().grace_period(0)).await?;
        }
        return Ok(Next::Change);
    };
    let node = ObjectKey::cluster(node);
    if cache.nodes.store.exists(&node) || cache.nodes.live(&node).await?.is_some() {
        return Ok(Next::Change);
    }
    if !is_terminal(&pod) {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists", "lastTransitionTime": now(),
        });
        let mut conditions =
            json!(pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default());
        if let Some(list) = conditions.as_array_mut() {
            list.retain(|there| there["type"] != "DisruptionTarget");
            list.push(condition);
        }
        let patch = json!({"phase": "Failed", "conditions": conditions});
        match cache.pods.patch_status(&key, pod.metadata.resource_version.as_deref(), patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    cache.pods.delete(&pod, DeleteParams::default().grace_period(0)).await?;
    Ok(Next::Change)
}

async fn delete_oldest_ended(context: &Context) -> Result<Next, WriteError> {
    let pods = &context.cache.pods;
    let mut ended: Vec<Arc<Pod>> = pods.store.list().into_iter().filter(|pod| is_terminal(pod)).collect();
    let surplus = ended.len().saturating_sub(context.terminated_pods);
    ended.sort_by_key(|pod| (pod.metadata.creation_timestamp.clone().map(|time| time.0), pod.name_any()));
    for pod in ended.into_iter().take(surplus) {
        pods.delete(&pod, DeleteParams::default().grace_period(0)).await?;
    }
    Ok(Next::Change)
}
