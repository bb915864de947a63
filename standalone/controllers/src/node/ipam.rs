//! Gives each node its ranges of pod addresses.

use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;
use skerry_informer::{Change, Next, ObjectKey, Queue, WriteError};
use tracing::warn;

use crate::context::Context;

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.nodes.store.on_change(move |change: &Change<Node>| {
        let Some(context) = weak.upgrade() else { return };
        let mut ranges = context.ranges.lock().expect("not poisoned");
        let Some(node) = change.known() else {
            ranges.release(change.key.name());
            return;
        };
        let there = of(node);
        if there.is_empty() && change.new.is_none() {
            // Whether it has any is not known: those that it had before stay its own.
        } else if there.is_empty() {
            keys.add(change.key.clone());
        } else if change.old.as_deref().is_none_or(|old| of(old) != there)
            && let Err(error) = ranges.occupy(change.key.name(), &there)
        {
            warn!(%error, "two nodes have the same range of pod addresses");
        }
    });
}

/// The ranges a node has. What does not parse is left out: the API server's validation is not ours to repeat.
fn of(node: &Node) -> Vec<IpNetwork> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    let mut ranges: Vec<IpNetwork> = all.filter_map(|text| text.parse().ok()).collect();
    ranges.dedup();
    ranges
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let nodes = &context.cache.nodes;
    let Some(node) = nodes.store.get(&key) else { return Ok(Next::Change) };
    if !of(&node).is_empty() || node.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    let assigned = context.ranges.lock().expect("not poisoned").assign(&node.name_any());
    let ranges = match assigned {
        Ok(ranges) => ranges,
        Err(error) => {
            context.warning(
                &*node,
                "CIDRNotAvailable",
                format!("Node {} has no range: {error}", node.name_any()),
            );
            // A node that leaves frees one; nothing else does.
            return Ok(Next::After(std::time::Duration::from_secs(60)));
        }
    };
    let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    let patch =
        json!({"metadata": {"uid": node.uid()}, "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges}});
    match nodes.patch(&key, &patch).await {
        Ok(_) => Ok(Next::Change),
        Err(error) if error.is_not_found() => Ok(Next::Change),
        Err(error) => Err(error),
    }
}
