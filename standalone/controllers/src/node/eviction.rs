//! Evicts pods from nodes whose NoExecute taints they do not tolerate, or not for longer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, key_of};
use tokio::time::Instant;

use super::judge::{Stay, UNREACHABLE, stay};
use crate::context::{Context, now};
use crate::pod::node_name;

/// For pods that tolerate a taint for a time: since when.
#[derive(Default)]
pub struct Since(Mutex<HashMap<String, Instant>>);

impl Since {
    /// How long the pod has tolerated already; taints may tell when they came (so that a restart forgets
    /// nothing).
    fn so_far(&self, uid: &str, taints: &[Taint]) -> Duration {
        let mut since = self.0.lock().expect("not poisoned");
        let start = *since.entry(uid.to_owned()).or_insert_with(|| {
            let added = taints.iter().filter(|taint| taint.effect == "NoExecute");
            let newest = added.filter_map(|taint| taint.time_added.as_ref()).map(|time| time.0).max();
            let age = newest.map_or(0, |at| Timestamp::now().as_millisecond() - at.as_millisecond());
            let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
            Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
        });
        start.elapsed()
    }

    fn forget(&self, uid: &str) {
        self.0.lock().expect("not poisoned").remove(uid);
    }
}

fn taints_of(node: &Option<Arc<Node>>) -> Vec<Taint> {
    let taints = node.as_ref().and_then(|node| node.spec.as_ref()?.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        let Some(context) = weak.upgrade() else { return };
        match (&change.old, &change.new) {
            (_, None) if !change.is_gone() => {}
            (Some(old), None) => context.since.forget(&old.uid().unwrap_or_default()),
            (old, Some(new)) => {
                let reads = |pod: &Pod| {
                    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
                    (node_name(pod).map(str::to_owned), tolerations)
                };
                if node_name(new).is_some() && old.as_deref().map(reads) != Some(reads(new)) {
                    keys.add(change.key.clone());
                }
            }
            (None, None) => {}
        }
    });
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.nodes.store.on_change(move |change: &Change<Node>| {
        let is_news = change.unreadable.is_none() && taints_of(&change.old) != taints_of(&change.new);
        let (Some(context), true) = (weak.upgrade(), is_news) else { return };
        for pod in context.cache.pods.store.by_term(&Term::Node(change.key.name().to_string())) {
            keys.add(key_of(&*pod));
        }
    });
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let pods = &context.cache.pods;
    let Some(pod) = pods.store.get(&key) else { return Ok(Next::Change) };
    let uid = pod.uid().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    let Some(node) = node_name(&pod) else { return Ok(Next::Change) };
    let nodes = &context.cache.nodes.store;
    let node = ObjectKey::cluster(node);
    if nodes.unreadable_at(&node).is_some() {
        // It is looked at again when its node can be read.
        return Ok(Next::Change);
    }
    let taints = taints_of(&nodes.get(&node));
    match stay(&pod, &taints) {
        Stay::ForGood => {
            context.since.forget(&uid);
            return Ok(Next::Change);
        }
        Stay::For(time) => {
            let left = time.saturating_sub(context.since.so_far(&uid, &taints));
            if !left.is_zero() {
                return Ok(Next::After(left));
            }
        }
        Stay::NoMore => {}
    }
    context.normal(&*pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    let mut conditions = json!(conditions);
    if let Some(list) = conditions.as_array_mut() {
        list.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": now(),
        }));
    }
    let mut patch = json!({"conditions": conditions});
    // Nobody is there to say how the pod ends: `Unknown`, where it would be `Terminating` for good. A node
    // that comes back takes the reason away.
    if taints.iter().any(|taint| taint.key == UNREACHABLE) {
        let (node, name) = (node.name(), pod.name_any());
        patch["reason"] = json!("NodeLost");
        patch["message"] = json!(format!("Node {node} which was running pod {name} is unresponsive"));
    }
    match pods.patch_status(&key, pod.metadata.resource_version.as_deref(), patch).await {
        Err(error) if error.is_not_found() => return Ok(Next::Change),
        other => other.map(drop)?,
    }
    pods.delete(&pod, DeleteParams::default()).await?;
    Ok(Next::Change)
}
