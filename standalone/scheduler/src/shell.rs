//! The thin half: one task owns the core, drains what changed, runs cycles, and sends bindings off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use kube::ResourceExt;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use skerry_informer::{EventType, Kind, ObjectKey, Recorder, Regarding, Store, WriteError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::binding::{Volumes, Waiting, WaitingPods};
use crate::cycle::{Decision, Diagnosis, schedule};
use crate::inbox::{Inbox, Item};
use crate::message;
use crate::nodes::Nodes;
use crate::plugins::Namespaces;
use crate::pod::PodInfo;
use crate::queue::{Events, Queue};
use crate::run::Config;
use crate::volumes::Demands;

pub struct Shell {
    scheduler_name: String,
    max_bindings: usize,
    pods: Arc<Kind<Pod>>,
    nodes: Kind<Node>,
    namespaces: Arc<Store<Namespace>>,
    volumes: Volumes,
    recorder: Recorder,
    inbox: Arc<Inbox>,
    core: Nodes,
    /// They hold no place among the writes: what makes their volumes may take its time.
    waiting: WaitingPods,
    queue: Queue,
    /// Uid that the core knows under each key: a namesake is another pod.
    known: HashMap<ObjectKey, String>,
    start: usize,
    epoch: Instant,
    /// Writes under way: bindings, and conditions of pods that found no node.
    writes: JoinSet<Written>,
}

/// How a write ended.
enum Written {
    Bound {
        pod: Arc<PodInfo>,
        node: String,
        outcome: Result<(), kube::Error>,
    },
    /// What the pod's claims need on the node.
    Reserved {
        pod: Arc<PodInfo>,
        node: String,
        outcome: Result<(), WriteError>,
    },
    Marked,
}

impl Shell {
    pub fn new(
        config: &Config,
        pods: Arc<Kind<Pod>>,
        nodes: Kind<Node>,
        namespaces: Arc<Store<Namespace>>,
        volumes: Volumes,
        recorder: Recorder,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self {
            scheduler_name: config.scheduler_name.clone(),
            max_bindings: config.max_bindings.max(1),
            pods,
            nodes,
            namespaces,
            volumes,
            recorder,
            inbox,
            core: Nodes::default(),
            waiting: WaitingPods::default(),
            queue: Queue::default(),
            known: HashMap::new(),
            start: 0,
            epoch: Instant::now(),
            writes: JoinSet::new(),
        }
    }

    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            for item in self.inbox.drain() {
                self.take(item);
            }
            for waiting in self.waiting.overdue(self.now_ms()) {
                self.give_up(&waiting, "binding volumes: timed out waiting for the condition");
            }
            let next_backoff = self.queue.ripen(self.now_ms());
            while self.writes.len() < self.max_bindings
                && let Some(pod) = self.queue.pop()
            {
                self.attempt(pod);
            }
            let next = next_backoff.into_iter().chain(self.waiting.next_deadline()).min();
            let wake = next.map(|at| self.epoch + Duration::from_millis(at));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.inbox.filled() => {}
                Some(done) = self.writes.join_next() => {
                    if let Ok(written) = done {
                        self.written(written);
                    }
                }
                () = tokio::time::sleep_until(wake.unwrap_or(self.epoch)), if wake.is_some() => {}
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Brings the core up to date with one object.
    fn take(&mut self, item: Item) {
        match item {
            Item::Node(key) => {
                // A node that can't be read takes no more pods.
                let Some(node) = self.nodes.store.get(&key) else {
                    self.core.remove(&key.name);
                    return;
                };
                let change = self.core.set(&node);
                for (changed, event) in [
                    (change.added, Events::NODE_ADDED),
                    (change.allocatable, Events::NODE_ALLOCATABLE),
                    (change.labels, Events::NODE_LABELS),
                    (change.taints, Events::NODE_TAINTS),
                ] {
                    if changed {
                        self.queue.happened(event, self.now_ms());
                    }
                }
            }
            Item::Pod(key) => self.take_pod(key),
            Item::Claim(key) => {
                self.queue.happened(Events::VOLUMES, self.now_ms());
                for waiting in self.waiting.for_claim(&key) {
                    self.look_at_volumes(waiting);
                }
            }
            Item::Volume(_) => self.queue.happened(Events::VOLUMES, self.now_ms()),
        }
    }

    /// Binds a pod whose volumes are bound by now; gives its node back where they can't be any more.
    fn look_at_volumes(&mut self, waiting: Waiting) {
        let demands = Demands::of(&waiting.pod, &self.volumes);
        if let Some(text) = &demands.refusal {
            return self.give_up(&waiting, text);
        }
        if !demands.all_promised(&waiting.node) {
            return self.give_up(&waiting, "a volume could not be made on the node");
        }
        if !demands.open.is_empty() {
            return;
        }
        match self.core.facts_of(&waiting.node).map(|node| demands.choose(node)) {
            Some(Ok(_)) => {
                self.waiting.remove(&waiting.pod.key);
                self.bind(waiting.pod, waiting.node);
            }
            Some(Err(lack)) => self.give_up(&waiting, lack.text()),
            None => self.give_up(&waiting, "the node is gone"),
        }
    }

    fn give_up(&mut self, waiting: &Waiting, why: &str) {
        self.waiting.remove(&waiting.pod.key);
        self.not_bound(&waiting.pod, &waiting.node, why);
    }

    /// The pod has its node no more, and is tried again.
    fn not_bound(&mut self, pod: &PodInfo, node: &str, why: &str) {
        self.core.unplace(&pod.uid);
        self.queue.happened(Events::POD_LEFT, self.now_ms());
        self.queue.retry(&pod.key, self.now_ms());
        let text = format!("Binding to {node} failed: {why}");
        self.recorder.event(regarding(pod), EventType::Warning, "FailedScheduling", text);
    }

    fn take_pod(&mut self, key: ObjectKey) {
        if let Some(unreadable) = self.pods.store.unreadable_at(&key) {
            return self.take_unreadable(&key, &unreadable);
        }
        let pod = self.pods.store.get(&key);
        let uid = pod.as_ref().and_then(|pod| pod.uid());
        if let Some(was) = self.known.get(&key)
            && Some(was) != uid.as_ref()
        {
            let was = was.clone();
            self.known.remove(&key);
            self.queue.forget(&key);
            self.waiting.remove(&key);
            if self.core.unplace(&was) {
                self.queue.happened(Events::POD_LEFT, self.now_ms());
            }
        }
        let Some(pod) = pod else { return };
        let info = Arc::new(PodInfo::of(&pod));
        self.known.insert(key.clone(), info.uid.clone());
        if let Some(node) = &info.node {
            self.queue.forget(&key);
            let (was_there, terminal) = (self.core.node_of(&info.uid).is_some(), info.terminal);
            self.core.place(info.clone(), node);
            let event = match (was_there, terminal) {
                (true, true) => Some(Events::POD_LEFT),
                (false, false) => Some(Events::POD_PLACED),
                _ => None,
            };
            if let Some(event) = event {
                self.queue.happened(event, self.now_ms());
            }
        } else if info.scheduler != self.scheduler_name || info.terminal || info.terminating || info.gated {
            self.queue.forget(&key);
        } else if self.core.node_of(&info.uid).is_none() && !self.queue.waits_unchanged(&info) {
            // Not while it is assumed: its binding is under way.
            self.queue.offer(info);
        }
    }

    /// A pod that can't be read is given no node; where it has one it keeps its room there, as far as that is known.
    fn take_unreadable(&mut self, key: &ObjectKey, pod: &Pod) {
        self.queue.forget(key);
        let info = Arc::new(PodInfo::of(pod));
        if self.known.get(key).is_some_and(|uid| *uid == info.uid) && self.core.node_of(&info.uid).is_some() {
            return;
        }
        if let Some(was) = self.known.insert(key.clone(), info.uid.clone())
            && was != info.uid
            && self.core.unplace(&was)
        {
            self.queue.happened(Events::POD_LEFT, self.now_ms());
        }
        if let Some(node) = &info.node {
            self.core.place(info.clone(), node);
        }
    }

    fn attempt(&mut self, pod: Arc<PodInfo>) {
        let namespaces = self.namespace_labels(&pod);
        let demands = Demands::of(&pod, &self.volumes);
        match schedule(&pod, &self.core, &namespaces, &demands, &mut self.start) {
            Decision::Place(node) => {
                self.core.place(pod.clone(), &node);
                if demands.open.is_empty() { self.bind(pod, node) } else { self.reserve(pod, node, &demands) }
            }
            Decision::Refuse(diagnosis) => {
                self.queue.unschedulable(&pod.key, diagnosis.wakes, self.now_ms());
                self.mark(&pod, &diagnosis);
            }
        }
    }

    /// Labels of namespaces; only affinity terms with a namespace selector read them.
    fn namespace_labels(&self, pod: &PodInfo) -> Namespaces {
        let has_terms = !pod.affinity.required.is_empty()
            || !pod.anti_affinity.required.is_empty()
            || !pod.affinity.preferred.is_empty()
            || !pod.anti_affinity.preferred.is_empty()
            || self.core.guarded().next().is_some()
            || self.core.social().next().is_some();
        if !has_terms {
            return Namespaces::new();
        }
        let all = self.namespaces.list().into_iter().chain(self.namespaces.unreadable());
        all.map(|namespace| (namespace.name_any(), namespace.labels().clone())).collect()
    }

    /// Says which volumes the pod's claims take or need on the node; it is bound once they have them.
    fn reserve(&mut self, pod: Arc<PodInfo>, node: String, demands: &Demands) {
        let choices =
            self.core.facts_of(&node).and_then(|node| demands.choose(node).ok()).unwrap_or_default();
        let volumes = self.volumes.clone();
        self.writes.spawn(async move {
            let outcome = volumes.reserve(choices, &node).await;
            Written::Reserved { pod, node, outcome }
        });
    }

    fn reserved(&mut self, pod: Arc<PodInfo>, node: String, outcome: Result<(), WriteError>) {
        if self.known.get(&pod.key) != Some(&pod.uid) {
            return;
        }
        match outcome {
            Ok(()) => {
                self.waiting.add(pod.clone(), node, self.now_ms());
                if let Some(waiting) = self.waiting.of(&pod.key) {
                    self.look_at_volumes(waiting);
                }
            }
            // Somebody else was faster: what there is now is looked at.
            Err(error) if error.code() == Some(409) => {
                debug!(pod = %pod.key, %node, %error, "volumes changed meanwhile; trying again");
                self.core.unplace(&pod.uid);
                self.queue.happened(Events::POD_LEFT, self.now_ms());
                self.queue.retry(&pod.key, self.now_ms());
            }
            Err(error) => {
                warn!(pod = %pod.key, %node, %error, "volumes not reserved; trying again");
                self.not_bound(&pod, &node, &format!("binding volumes: {}", error.server_message()));
            }
        }
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let api = self.pods.api(&pod.key.namespace);
        self.writes.spawn(async move {
            let binding = Binding {
                metadata: ObjectMeta {
                    name: Some(pod.key.name.to_string()),
                    namespace: Some(pod.key.namespace.to_string()),
                    uid: Some(pod.uid.clone()),
                    ..Default::default()
                },
                target: ObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Node".into()),
                    name: Some(node.clone()),
                    ..Default::default()
                },
            };
            let made = api
                .create_subresource::<_, serde_json::Value>(
                    "binding",
                    &pod.key.name,
                    &PostParams::default(),
                    &binding,
                )
                .await;
            Written::Bound { pod, node, outcome: made.map(drop) }
        });
    }

    fn written(&mut self, written: Written) {
        let (pod, node, outcome) = match written {
            Written::Bound { pod, node, outcome } => (pod, node, outcome),
            Written::Reserved { pod, node, outcome } => return self.reserved(pod, node, outcome),
            Written::Marked => return,
        };
        let about = regarding(&pod);
        match outcome {
            Ok(()) => {
                self.queue.forget(&pod.key);
                let text = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(about, EventType::Normal, "Scheduled", text);
            }
            Err(error) => {
                // The watch may have told meanwhile that the pod is bound after all (an answer that was lost).
                let there = self.pods.store.get(&pod.key);
                let bound = there.or_else(|| self.pods.store.unreadable_at(&pod.key)).is_some_and(|there| {
                    there.uid().as_ref() == Some(&pod.uid)
                        && there.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
                });
                if bound {
                    return;
                }
                let gone = matches!(&error, kube::Error::Api(status) if status.is_not_found());
                if gone {
                    self.core.unplace(&pod.uid);
                    self.queue.happened(Events::POD_LEFT, self.now_ms());
                    self.queue.forget(&pod.key);
                    debug!(pod = %pod.key, "pod went before it was bound");
                } else {
                    warn!(pod = %pod.key, %node, %error, "binding failed; trying again");
                    self.not_bound(&pod, &node, &error.to_string());
                }
            }
        }
    }

    /// Says on the pod, and in an event, why no node takes it.
    fn mark(&mut self, pod: &Arc<PodInfo>, diagnosis: &Diagnosis) {
        let text = message::unschedulable(diagnosis);
        self.recorder.event(regarding(pod), EventType::Warning, "FailedScheduling", text.clone());
        let Some(there) = self.pods.store.get(&pod.key) else { return };
        let conditions = there.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_said = conditions.into_iter().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.message.as_deref() == Some(&text)
        });
        if is_said {
            return;
        }
        let (kind, pod) = (self.pods.clone(), pod.clone());
        self.writes.spawn(async move {
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text,
                "lastProbeTime": null, "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            });
            let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
            let api = kind.api(&pod.key.namespace);
            match api.patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                Ok(made) => kind.store.wrote(made),
                Err(error) => debug!(pod = %pod.key, %error, "condition of an unschedulable pod not written"),
            }
            Written::Marked
        });
    }
}

fn regarding(pod: &PodInfo) -> Regarding {
    Regarding {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: Some(pod.key.namespace.to_string()),
        name: pod.key.name.to_string(),
        uid: pod.uid.clone(),
        resource_version: None,
    }
}
