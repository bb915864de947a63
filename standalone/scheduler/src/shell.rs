//! The thin half: one task owns the core, drains what changed, runs cycles, and sends bindings off.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use skerry_informer::{EventType, Kind, ObjectKey, Recorder, Regarding, Store, WriteError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::binding::{Volumes, Waiting, WaitingPods};
use crate::cycle::{Decision, fits, schedule};
use crate::inbox::{Inbox, Item};
use crate::message;
use crate::nodes::Nodes;
use crate::plugins::Namespaces;
use crate::pod::PodInfo;
use crate::preempt::{Budget, Preemption, preempt};
use crate::queue::{Events, Queue};
use crate::run::Config;
use crate::volumes::Demands;
use crate::write;

pub struct Shell {
    scheduler_name: String,
    max_bindings: usize,
    pods: Arc<Kind<Pod>>,
    nodes: Kind<Node>,
    namespaces: Arc<Store<Namespace>>,
    budgets: Arc<Store<PodDisruptionBudget>>,
    volumes: Volumes,
    recorder: Recorder,
    inbox: Arc<Inbox>,
    core: Nodes,
    /// They hold no place among the writes: what makes their volumes may take its time.
    waiting: WaitingPods,
    queue: Queue,
    /// Uid that the core knows under each key: a namesake is another pod.
    known: HashMap<ObjectKey, String>,
    /// Pods that wait for their victims' end, by uid, each with the node that is kept for it.
    nominated: HashMap<String, (Arc<PodInfo>, String)>,
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
    Preempted {
        pod: Arc<PodInfo>,
        failed: bool,
    },
    /// What the pod's claims need on the node.
    Reserved {
        pod: Arc<PodInfo>,
        node: String,
        outcome: Result<(), WriteError>,
    },
    Marked,
}

/// What the watches fill.
pub struct Watched {
    pub pods: Arc<Kind<Pod>>,
    pub nodes: Kind<Node>,
    pub namespaces: Arc<Store<Namespace>>,
    pub budgets: Arc<Store<PodDisruptionBudget>>,
    pub volumes: Volumes,
}

impl Shell {
    pub fn new(config: &Config, watched: Watched, recorder: Recorder, inbox: Arc<Inbox>) -> Self {
        let Watched { pods, nodes, namespaces, budgets, volumes } = watched;
        Self {
            scheduler_name: config.scheduler_name.clone(),
            max_bindings: config.max_bindings.max(1),
            pods,
            nodes,
            namespaces,
            budgets,
            volumes,
            recorder,
            inbox,
            core: Nodes::default(),
            waiting: WaitingPods::default(),
            queue: Queue::default(),
            known: HashMap::new(),
            nominated: HashMap::new(),
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
                    self.core.remove(key.name());
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
            self.nominated.remove(&was);
            self.waiting.remove(&key);
            if self.core.unplace(&was) {
                self.queue.happened(Events::POD_LEFT, self.now_ms());
            }
        }
        let Some(pod) = pod else { return };
        let info = Arc::new(PodInfo::of(&pod));
        self.known.insert(key.clone(), info.uid.clone());
        if info.node.is_some() || info.terminal || info.terminating {
            self.nominated.remove(&info.uid);
        } else if let Some(node) = &info.nominated {
            self.nominated.insert(info.uid.clone(), (info.clone(), node.clone()));
        }
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

    /// A pod that can't be read is given no node; where it has one it keeps its room there, as far as that is
    /// known.
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
        let pod = self.with_nomination(pod);
        let namespaces = self.namespace_labels(&pod);
        let demands = Demands::of(&pod, &self.volumes);
        // Room that is kept for others of its priority or above is taken; and they may not be there in the
        // end.
        let guests = self.take_in_nominated(&pod);
        let mut decision = schedule(&pod, &self.core, &namespaces, &demands, &mut self.start);
        guests.iter().for_each(|uid| _ = self.core.unplace(uid));
        if !guests.is_empty()
            && let Decision::Place(node) = &decision
            && let Err(diagnosis) = fits(&pod, &self.core, &namespaces, &demands, node)
        {
            decision = Decision::Refuse(diagnosis);
        }
        match decision {
            Decision::Place(node) => {
                self.core.place(pod.clone(), &node);
                if demands.open.is_empty() { self.bind(pod, node) } else { self.reserve(pod, node, &demands) }
            }
            Decision::Refuse(diagnosis) => {
                // No pod's end makes room where nothing is crowded: most refusals look at no budget.
                let crowded = !diagnosis.crowded.is_empty();
                let budgets = if crowded { self.budgets.list() } else { Vec::new() };
                let budgets: Vec<Budget> = budgets.iter().filter_map(|budget| Budget::of(budget)).collect();
                let guests = if crowded { self.take_in_nominated(&pod) } else { Vec::new() };
                let preemption = preempt(&pod, &mut self.core, (&namespaces, &demands), &diagnosis, &budgets);
                guests.iter().for_each(|uid| _ = self.core.unplace(uid));
                self.queue.unschedulable(&pod.key, diagnosis.wakes, self.now_ms());
                let node = self.make_room(&pod, &preemption);
                self.mark(&pod, &message::unschedulable(&diagnosis, &preemption), node);
            }
        }
    }

    /// The pod with the node that is kept for it: the queue's may be older than our own decision.
    fn with_nomination(&self, pod: Arc<PodInfo>) -> Arc<PodInfo> {
        match self.nominated.get(&pod.uid) {
            Some((_, node)) if pod.nominated.as_ref() != Some(node) => {
                Arc::new(PodInfo { nominated: Some(node.clone()), ..(*pod).clone() })
            }
            _ => pod,
        }
    }

    /// Places other pods of at least this priority where room is kept for them; their uids, to be taken off
    /// again.
    fn take_in_nominated(&mut self, pod: &PodInfo) -> Vec<String> {
        let (core, waiting) = (&mut self.core, &self.nominated);
        let mut guests = Vec::new();
        for (uid, (other, node)) in waiting {
            if *uid != pod.uid && other.priority >= pod.priority && core.node_of(uid).is_none() {
                core.place(other.clone(), node);
                guests.push(uid.clone());
            }
        }
        guests
    }

    /// Ends the victims, if there are any; the node that is kept for the pod then.
    fn make_room(&mut self, pod: &Arc<PodInfo>, preemption: &Preemption) -> Option<String> {
        let Preemption::Victims { node, victims } = preemption else { return None };
        for victim in victims {
            let text = format!("Preempted by pod {} on node {node}", pod.uid);
            self.recorder.event(regarding(victim), EventType::Normal, "Preempted", text);
        }
        // Less important ones for whom room is kept there look for another place.
        let outdone = |other: &PodInfo, at: &String| other.priority < pod.priority && at == node;
        let outdone: Vec<Arc<PodInfo>> = self
            .nominated
            .values()
            .filter(|(other, at)| outdone(other, at))
            .map(|(other, _)| other.clone())
            .collect();
        for other in &outdone {
            self.nominated.remove(&other.uid);
            let (kind, other) = (self.pods.clone(), other.clone());
            self.writes.spawn(async move {
                write::nominate(&kind, &other, None).await;
                Written::Marked
            });
        }
        self.nominated.insert(pod.uid.clone(), (pod.clone(), node.clone()));
        let (kind, pod, victims) = (self.pods.clone(), pod.clone(), victims.clone());
        self.writes.spawn(async move {
            let mut failed = false;
            for victim in victims.iter().filter(|victim| !victim.terminating) {
                failed |= !write::end(&kind, victim).await;
            }
            Written::Preempted { pod, failed }
        });
        Some(node.clone())
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
        let kind = self.pods.clone();
        self.writes.spawn(async move {
            let outcome = write::bind(&kind, &pod, &node).await;
            Written::Bound { pod, node, outcome }
        });
    }

    fn written(&mut self, written: Written) {
        let (pod, node, outcome) = match written {
            Written::Marked | Written::Preempted { failed: false, .. } => return,
            Written::Preempted { pod, failed: true } => {
                // Nobody makes room: it looks again, and its room is not kept.
                self.nominated.remove(&pod.uid);
                return self.queue.retry(&pod.key, self.now_ms());
            }
            Written::Bound { pod, node, outcome } => (pod, node, outcome),
            Written::Reserved { pod, node, outcome } => return self.reserved(pod, node, outcome),
        };
        let about = regarding(&pod);
        match outcome {
            Ok(()) => {
                self.queue.forget(&pod.key);
                let text = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(about, EventType::Normal, "Scheduled", text);
            }
            Err(error) => {
                // The watch may have told meanwhile that the pod is bound after all (an answer that was
                // lost).
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

    /// Says on the pod, and in an event, why no node takes it, and which is kept for it.
    fn mark(&mut self, pod: &Arc<PodInfo>, text: &str, nominated: Option<String>) {
        self.recorder.event(regarding(pod), EventType::Warning, "FailedScheduling", text.to_owned());
        let Some(there) = self.pods.store.get(&pod.key) else { return };
        let conditions = there.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_said = conditions.into_iter().any(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.message.as_deref() == Some(text)
        });
        if is_said && nominated.is_none() {
            return;
        }
        let (kind, pod, text) = (self.pods.clone(), pod.clone(), text.to_owned());
        self.writes.spawn(async move {
            write::unschedulable(&kind, &pod, &text, nominated.as_deref()).await;
            Written::Marked
        });
    }
}

fn regarding(pod: &PodInfo) -> Regarding {
    Regarding {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: Some(pod.key.namespace().to_string()),
        name: pod.key.name().to_string(),
        uid: pod.uid.clone(),
        ..Regarding::default()
    }
}
