//! The Node object: registered once, its status written when it changes and every few minutes, its lease every 10 s.

mod lease;
mod object;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{agent::Agent, recorder::Kind};

pub use object::{RuntimeFacts, node_object, node_status};

/// CRI has no event for its own readiness: asked this often until it is there, so that the node is ready in time …
const ASK_WHILE_UNREADY: Duration = Duration::from_millis(100);
/// … and this often after the first minute without, and while all is well (a call on a local socket, 0.2 ms).
const ASK: Duration = Duration::from_secs(5);
const HASTE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Registers the node and keeps its status and lease until shutdown.
pub async fn run(agent: Arc<Agent>, shutdown: CancellationToken) {
    let work = async {
        let known = register(&agent).await;
        let lease = lease::keep(&agent, &known);
        tokio::join!(keep_status(&agent, known.status.clone().unwrap_or_default()), lease);
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Creates the Node, or brings the labels of the one that is there up to date; tries until it is done.
async fn register(agent: &Agent) -> Node {
    let api: Api<Node> = Api::all(agent.client.clone());
    let name = &agent.config.node_name;
    let mut pause = RETRY;
    loop {
        let facts = facts(agent).await;
        let object = node_object(&agent.config, &agent.machine, &facts, Timestamp::now());
        let done = match api.create(&PostParams::default(), &object).await {
            Ok(node) => {
                tracing::info!(node = name, "node registered");
                agent.recorder.node(name, Kind::Normal, "Starting", "Starting kubelet.".to_owned());
                Ok(node)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let labels = json!({"metadata": {"labels": object.metadata.labels}});
                api.patch(name, &PatchParams::default(), &Patch::Merge(&labels)).await
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(node) => return node,
            Err(error) => {
                tracing::warn!(
                    node = name,
                    error = crate::error_chain(&error),
                    "node not registered, trying again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
    }
}

async fn keep_status(agent: &Agent, mut before: NodeStatus) {
    let begun = Instant::now();
    let mut written: Option<Instant> = None;
    loop {
        let facts = facts(agent).await;
        let status = node_status(&agent.config, &agent.machine, &facts, &before, Timestamp::now());
        let due = written.is_none_or(|at| at.elapsed() >= agent.config.status_interval);
        if due || object::differs(&status, &before) {
            match write(agent, &status).await {
                Ok(()) => {
                    if object::ready(&status) && !object::ready(&before) {
                        let name = &agent.config.node_name;
                        tracing::info!(node = name, "node is ready");
                        let message = format!("Node {name} status is now: NodeReady");
                        agent.recorder.node(name, Kind::Normal, "NodeReady", message);
                    }
                    written = Some(Instant::now());
                    before = status;
                }
                Err(error) => {
                    tracing::warn!(
                        error = crate::error_chain(&error),
                        "node status not written, trying again"
                    );
                    if matches!(&error, kube::Error::Api(answer) if answer.code == 404) {
                        before = register(agent).await.status.unwrap_or_default();
                    }
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            }
        }
        let hasty = !object::ready(&before) && begun.elapsed() < HASTE;
        tokio::time::sleep(if hasty { ASK_WHILE_UNREADY } else { ASK }).await;
    }
}

async fn write(agent: &Agent, status: &NodeStatus) -> kube::Result<()> {
    let api: Api<Node> = Api::all(agent.client.clone());
    let patch = object::status_patch(status);
    api.patch_status(&agent.config.node_name, &PatchParams::default(), &Patch::Strategic(&patch))
        .await
        .map(drop)
}

/// What the runtime says of itself at the moment.
async fn facts(agent: &Agent) -> RuntimeFacts {
    let network_fault = agent.config.network_fault.borrow().clone();
    let mut facts = RuntimeFacts { network_fault, ..RuntimeFacts::default() };
    match agent.cri.conditions().await {
        Ok(conditions) => facts.conditions = conditions,
        Err(error) => {
            facts.error = Some(error.runtime_message());
            return facts;
        }
    }
    if let Ok(version) = agent.cri.version().await {
        facts.version = format!("{}://{}", version.runtime_name, version.runtime_version);
    }
    facts.images = agent.cri.images().await.unwrap_or_default();
    facts
}
