//! Node life cycle: a node whose lease is not renewed is Unknown, its taints follow its conditions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, key_of};
use tokio::time::Instant;

use super::judge::{is_ready, silenced, taints};
use crate::cache::LEASE_NAMESPACE;
use crate::context::{Context, now};

/// When each node was last heard of, by our own clock: the nodes' clocks may be wrong.
pub struct Heartbeats {
    grace: Duration,
    heard: Mutex<HashMap<String, (Instant, Option<String>)>>,
}

impl Heartbeats {
    pub fn new(grace: Duration) -> Self {
        Self { grace, heard: Mutex::default() }
    }

    /// How long the node may still be silent; zero when it was for too long. `beat` changes with each sign of
    /// life.
    fn left(&self, node: &str, beat: Option<String>) -> Duration {
        let mut heard = self.heard.lock().expect("not poisoned");
        let now = Instant::now();
        let entry = heard.entry(node.to_owned()).or_insert_with(|| (now, beat.clone()));
        if entry.1 != beat {
            *entry = (now, beat);
        }
        self.grace.saturating_sub(now - entry.0)
    }

    fn forget(&self, node: &str) {
        self.heard.lock().expect("not poisoned").remove(node);
    }
}

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.nodes.store.on_change(move |change: &Change<Node>| {
        if change.is_gone()
            && let Some(context) = weak.upgrade()
        {
            context.heartbeats.forget(change.key.name());
        }
        keys.add(change.key.clone());
    });
    let keys = queue.clone();
    context
        .cache
        .leases
        .store
        .on_change(move |change: &Change<Lease>| keys.add(ObjectKey::cluster(change.key.name())));
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(node) = cache.nodes.store.get(&key) else { return Ok(Next::Change) };
    let lease = ObjectKey::new(LEASE_NAMESPACE, key.name());
    let beat = match cache.leases.store.unreadable_at(&lease) {
        // That it is written is a sign of life, too.
        Some(unreadable) => unreadable.metadata.resource_version.clone(),
        None => beat(&node, cache.leases.store.get(&lease).as_deref()),
    };
    let left = context.heartbeats.left(key.name(), beat);
    let mut node = (*node).clone();
    if left.is_zero()
        && let Some(conditions) = silenced(&node, &now())
    {
        let was_ready = is_ready(&node);
        let patch = json!({"conditions": conditions});
        let written = cache.nodes.patch_status(&key, node.metadata.resource_version.as_deref(), patch).await;
        node = match written {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other?,
        };
        if was_ready {
            let text = format!("Node {} status is now: NodeNotReady", node.name_any());
            context.normal(&node, "NodeNotReady", text);
        }
    }
    if let Some(taints) = taints(&node, &now()) {
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        match cache.nodes.patch(&key, &patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    if left.is_zero() {
        // Nobody else will say that these pods do not answer any more: they must leave their Services.
        mark_pods_not_ready(&context, &key).await?;
        return Ok(Next::Change);
    }
    Ok(Next::After(left))
}

/// What changes with each sign of life: the lease's renewal and the Ready condition's heartbeat.
fn beat(node: &Node, lease: Option<&Lease>) -> Option<String> {
    let renewed =
        lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0.to_string()));
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions.into_iter().filter(|condition| condition.type_ == "Ready");
    let reported =
        ready.find_map(|condition| condition.last_heartbeat_time.as_ref().map(|time| time.0.to_string()));
    match (renewed, reported) {
        (None, None) => None,
        (renewed, reported) => {
            Some(format!("{} {}", renewed.unwrap_or_default(), reported.unwrap_or_default()))
        }
    }
}

async fn mark_pods_not_ready(context: &Context, node: &ObjectKey) -> Result<(), WriteError> {
    let pods = &context.cache.pods;
    for pod in pods.store.by_term(&Term::Node(node.name().to_string())) {
        let mut conditions =
            pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let Some(ready) = conditions.iter_mut().find(|c| c.type_ == "Ready" && c.status == "True") else {
            continue;
        };
        ready.status = "False".into();
        ready.last_transition_time = Some(now());
        let patch = json!({"conditions": conditions});
        let written =
            pods.patch_status(&key_of(&*pod), pod.metadata.resource_version.as_deref(), patch).await;
        match written {
            Err(error) if error.is_not_found() => {}
            other => other.map(drop)?,
        }
    }
    Ok(())
}
