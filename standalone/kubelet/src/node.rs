//! The Node object: registered, and registered again when it vanishes; its status is compared with what the
//! API server holds and written when they differ and every few minutes; its lease every 10 s.

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
use skerry_client::{EventType, Item, Target};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    objects::{self, Known},
    stored::Stored,
};

pub use object::{RuntimeFacts, node_object, node_status};

/// CRI has no event for its own readiness: asked this often until it is there, so that the node is ready in
/// time …
const ASK_WHILE_UNREADY: Duration = Duration::from_millis(100);
/// … and this often after the first minute without, and while all is well (a call on a local socket, 0.2 ms).
const ASK: Duration = Duration::from_secs(5);
const HASTE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Registers the node and keeps object, status and lease until shutdown.
pub async fn run(agent: Arc<Agent>, shutdown: CancellationToken) {
    let work = async {
        let (registered, written) = register(&agent).await;
        let (known, seen) = watch::channel(Known::Loading);
        let (uid, lease_uid) = watch::channel(registered.metadata.uid.clone());
        let own = Target::named("/api/v1/nodes", &agent.config.node_name);
        let keeper = Keeper {
            agent: &agent,
            stored: Stored::new(registered),
            seen,
            uid,
            begun: Instant::now(),
            vanished: false,
            written,
        };
        tokio::join!(
            objects::follow(agent.client.clone(), own, known),
            keeper.run(),
            lease::keep(&agent, lease_uid)
        );
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// A status that the API server has taken, and when.
type Written = (NodeStatus, Instant);

/// Creates the Node with its status, or brings labels and annotations of the one that is there up to date;
/// tries until it is done.
async fn register(agent: &Agent) -> (Arc<Node>, Option<Written>) {
    let api: Api<Item<Node>> = Api::all(agent.client.clone());
    let name = &agent.config.node_name;
    let mut pause = RETRY;
    loop {
        let facts = facts(agent).await;
        let object = node_object(&agent.config, &agent.machine, &facts, Timestamp::now());
        let done = match api.create(&PostParams::default(), &object.clone().into()).await {
            Ok(node) => {
                let node = node.any();
                tracing::info!(node = name, "node registered");
                agent.recorder.node(name, EventType::Normal, "Starting", "Starting kubelet.".to_owned());
                let written = node.status.clone().map(|status| (status, Instant::now()));
                Ok((node, written))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let (labels, annotations) = (&object.metadata.labels, &object.metadata.annotations);
                let ours = json!({"metadata": {"labels": labels, "annotations": annotations}});
                let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&ours)).await;
                patched.map(|node| (node.any(), None))
            }
            Err(error) => Err(error),
        };
        match done {
            Ok((node, written)) => return (Arc::new(node), written),
            Err(error) => {
                tracing::warn!(
                    node = name,
                    error = skerry_vocabulary::chain(&error),
                    "node not registered, trying again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
            }
        }
    }
}

/// Keeps the stored Node as the node has it.
struct Keeper<'a> {
    agent: &'a Agent,
    /// The newest reading, by the watch or as the answer to a write.
    stored: Stored<Node>,
    seen: watch::Receiver<Known<Node>>,
    /// For the lease, which the Node owns.
    uid: watch::Sender<Option<String>>,
    begun: Instant,
    vanished: bool,
    written: Option<Written>,
}

impl Keeper<'_> {
    async fn run(mut self) {
        loop {
            self.look();
            if self.vanished {
                let (registered, written) = register(self.agent).await;
                self.stored.take_answer(registered, Instant::now());
                self.written = written;
                self.vanished = false;
            }
            let uid = self.stored.object().metadata.uid.clone();
            self.uid.send_if_modified(|known| std::mem::replace(known, uid.clone()) != uid);
            let pause = self.bring_up_to_date().await;
            self.rest(pause).await;
        }
    }

    /// Until the pause is over, or the watch has told something that was not looked at yet.
    async fn rest(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // To be told of it is not to have looked at it.
            Ok(()) = self.seen.changed() => self.seen.mark_changed(),
        }
    }

    /// Takes in what the watch has told since the last look.
    fn look(&mut self) {
        if !self.seen.has_changed().unwrap_or(false) {
            return;
        }
        match &*self.seen.borrow_and_update() {
            Known::Present(node) => self.stored.see(node.clone(), Instant::now()),
            Known::Absent => self.vanished = true,
            Known::Loading | Known::Failed(_) => {}
        }
    }

    /// Writes the status if it is due or not what is stored; for how long there is nothing to do then.
    async fn bring_up_to_date(&mut self) -> Duration {
        let agent = self.agent;
        let before = self.stored.object().status.clone().unwrap_or_default();
        let facts = facts(agent).await;
        let status = node_status(&agent.config, &agent.machine, &facts, &before, Timestamp::now());
        let age = self.written.as_ref().map(|(_, at)| at.elapsed());
        let due = age.is_none_or(|age| age >= agent.config.status_interval);
        let differs = object::differs(&status, &before);
        if !due && !differs {
            let hasty = !object::ready(&status) && self.begun.elapsed() < HASTE;
            return if hasty { ASK_WHILE_UNREADY } else { ASK };
        }
        // Somebody else writes another one again and again: no faster than this.
        let same = self.written.as_ref().is_some_and(|(last, _)| !object::differs(&status, last));
        if let Some(age) = age.filter(|age| same && *age < RETRY) {
            return RETRY - age;
        }
        match write(agent, &before, &status).await {
            Ok(node) => {
                if object::ready(&status) && !object::ready(&before) {
                    let name = &agent.config.node_name;
                    tracing::info!(node = name, "node is ready");
                    let message = format!("Node {name} status is now: NodeReady");
                    agent.recorder.node(name, EventType::Normal, "NodeReady", message);
                }
                self.written = Some((status, Instant::now()));
                self.stored.take_answer(Arc::new(node), Instant::now());
                Duration::ZERO
            }
            Err(error) => {
                tracing::warn!(
                    error = skerry_vocabulary::chain(&error),
                    "node status not written, trying again"
                );
                self.vanished = matches!(&error, kube::Error::Api(answer) if answer.code == 404);
                if self.vanished { Duration::ZERO } else { RETRY }
            }
        }
    }
}

async fn write(agent: &Agent, before: &NodeStatus, status: &NodeStatus) -> kube::Result<Node> {
    let api: Api<Item<Node>> = Api::all(agent.client.clone());
    let patch = Patch::Strategic(object::status_patch(before, status));
    let written = api.patch_status(&agent.config.node_name, &PatchParams::default(), &patch).await;
    // What others have written into it may be unreadable; what was written here is there.
    written.map(Item::any)
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

#[cfg(test)]
mod tests;
