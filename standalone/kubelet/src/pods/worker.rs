//! One pod's worker: takes what happened, decides, acts, reports. It never polls; it sleeps until told or
//! until the moment that the last decision named.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use skerry_client::EventType;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    absorb::remembered,
    decide::{Action, decide},
    hooks::Target,
    mailbox::Mailbox,
    memory::{Admission, Memory, StartFailure},
    probes::Prober,
    references::PodObjects,
    report::Reporter,
    resize,
    status::{self, ended},
    view::View,
};
use crate::{
    agent::Agent,
    cri::{ContainerRecord, PodRuntime},
    logs::Kept,
    spec::{PodId, ephemeral},
};

/// Decisions in a row without waiting; more would mean that an action does not change what the decision sees.
const MAX_ROUNDS: usize = 64;
/// How long the worker rests after that.
const REST: Duration = Duration::from_secs(1);

pub struct Worker {
    pub(super) agent: Arc<Agent>,
    pub(super) id: PodId,
    pub(super) pod: Arc<Pod>,
    pub(super) gone: bool,
    pub(super) runtime: PodRuntime,
    pub(super) memory: Memory,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) objects: PodObjects,
    pub(super) reporter: Option<Reporter>,
    pub(super) status: Arc<PodStatus>,
    /// Pulls, stops and hooks under way; they end with the worker.
    pub(super) beside: JoinSet<()>,
    pub(super) probers: HashMap<String, Prober>,
}

impl Worker {
    /// `gone`: the runtime holds the pod, the API server does not.
    pub fn new(
        agent: Arc<Agent>,
        mailbox: Arc<Mailbox>,
        pod: Arc<Pod>,
        runtime: PodRuntime,
        gone: bool,
    ) -> Worker {
        let known = pod.status.clone().unwrap_or_default();
        let id = PodId::of(&pod);
        let reporter = (!gone).then(|| Reporter::start(agent.client.clone(), pod.clone()));
        let mut worker = Worker {
            objects: PodObjects::new(&agent, &pod, &mailbox),
            memory: remembered(&pod, &runtime),
            status: Arc::new(known),
            beside: JoinSet::new(),
            probers: HashMap::new(),
            agent,
            id,
            pod,
            gone,
            runtime: PodRuntime::default(),
            mailbox,
            reporter,
        };
        worker.take_over(runtime);
        worker
    }

    /// Runs until the pod is off the node, or until the agent shuts down (the pod then runs on).
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let mut wake_at = None;
            for round in 0.. {
                let inbox = self.mailbox.take();
                self.absorb(inbox).await;
                let plan = decide(self.view());
                self.follow_probes();
                self.keep_logs();
                if plan.actions.iter().all(shown_before) {
                    self.report();
                }
                wake_at = plan.wake_at;
                if plan.actions.is_empty() {
                    break;
                }
                for action in plan.actions {
                    if shutdown.is_cancelled() || self.act(action).await.is_break() {
                        return;
                    }
                }
                if round > MAX_ROUNDS {
                    tracing::error!(pod = %self.id, "no progress in {MAX_ROUNDS} rounds");
                    wake_at = Some(Timestamp::now() + REST);
                    break;
                }
            }
            while self.beside.try_join_next().is_some() {}
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.mailbox.told() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            pod: &self.pod,
            runtime: &self.runtime,
            memory: &self.memory,
            room: self.agent.room(&self.id.uid),
            gone: self.gone,
            now: Timestamp::now(),
        }
    }

    async fn act(&mut self, action: Action) -> std::ops::ControlFlow<()> {
        match action {
            Action::Admit => self.admit().await,
            Action::PrepareVolumes => self.prepare_volumes().await,
            Action::CreateSandbox { attempt, changed } => self.create_sandbox(attempt, changed).await,
            Action::StartContainer { name, attempt } => self.start_container(&name, attempt).await,
            Action::Kill { id, name, grace_s, why } => self.kill(id, name, grace_s, why),
            Action::Resize { id, name } => self.resize(&id, &name).await,
            Action::RemoveContainer { id } => self.remove_container(&id).await,
            Action::StopSandbox { id } => self.stop_sandbox(&id).await,
            Action::Remove => return self.remove().await,
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Works out the status and hands it on; the reporter compares it with what is stored.
    pub(super) fn report(&mut self) {
        // A pod that nobody judged has no status of the node's: it would count as taken.
        if matches!(self.memory.admission, Admission::Unasked(_)) {
            return;
        }
        let status = status::build(self.view(), &self.agent.config.host_ips(), &self.status);
        let now = Timestamp::now();
        self.agent.note_time(&self.id.uid, |times| times.follow(&self.runtime, &self.status, &status, now));
        if status != *self.status {
            self.tell_back_offs(&status);
            self.status = Arc::new(status);
            self.agent.note_status(&self.id, Some(self.status.clone()));
            self.memory.ended |= ended(&self.status);
        }
        let given = (!self.memory.ended).then(|| resize::given(self.view()));
        self.agent.note_given(&self.id.uid, given);
        if let Some(reporter) = &self.reporter {
            reporter.report(self.status.clone());
        }
    }

    /// An event for each container that has come into a back-off since the last status.
    fn tell_back_offs(&self, status: &PodStatus) {
        for name in newly_waiting(&self.status, status, "CrashLoopBackOff") {
            let message = format!("Back-off restarting failed container {name} in pod {}", self.id);
            self.event(Some(&name), EventType::Warning, "BackOff", message);
        }
        for name in newly_waiting(&self.status, status, "ImagePullBackOff") {
            let image = self.container_spec(&name).and_then(|container| container.image.clone());
            let message = format!("Back-off pulling image \"{}\"", image.unwrap_or_default());
            self.event(Some(&name), EventType::Normal, "BackOff", message);
            self.event(Some(&name), EventType::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
        }
    }

    /// Starts probes of what runs, ends those of what does not. While the pod terminates its readiness is
    /// asked for until its containers end: an application may drain by it.
    fn follow_probes(&mut self) {
        let running: BTreeMap<String, ContainerRecord> =
            self.runtime.running().map(|record| (record.id.clone(), record.clone())).collect();
        self.probers.retain(|id, _| running.contains_key(id));
        let terminating = self.view().terminating();
        if terminating {
            self.probers.values().for_each(Prober::only_readiness);
        }
        let spec = self.pod.spec.as_ref();
        let containers =
            spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        for container in containers {
            let Some(record) = running.values().find(|record| record.name == container.name) else {
                continue;
            };
            // A container that a hook is busy with is not probed yet, one that is being stopped still is.
            let held_back = self.memory.busy.contains(&record.name) && !terminating;
            if self.probers.contains_key(&record.id) || held_back {
                continue;
            }
            let target = self.target(record, container);
            let started = self.memory.probes.get(&record.id).and_then(|state| state.started) == Some(true);
            let prober = Prober::start(&self.agent, &self.mailbox, &self.pod, container, target, started);
            if let Some(prober) = prober {
                if terminating {
                    prober.only_readiness();
                }
                self.probers.insert(record.id.clone(), prober);
            }
        }
    }

    /// Logs of what runs are turned over when they are large.
    fn keep_logs(&self) {
        let kept = |record: &ContainerRecord| Kept {
            container_id: record.id.clone(),
            log: (&record.log_path).into(),
        };
        let running = self.runtime.running().filter(|record| !record.log_path.is_empty()).map(kept);
        self.agent.log_keeper.keep(&self.id.uid, running.collect());
    }

    pub(super) fn target(&self, record: &ContainerRecord, container: &Container) -> Target {
        Target {
            container_id: record.id.clone(),
            container: container.clone(),
            pod_ip: self.pod_ips().into_iter().next(),
        }
    }

    /// The pod's addresses: the node's own on the host's network.
    pub(super) fn pod_ips(&self) -> Vec<String> {
        if self.pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            return self.agent.config.host_ips();
        }
        self.runtime.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }

    pub(super) fn event(
        &self,
        container: Option<&str>,
        kind: EventType,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) {
        self.agent.recorder.pod(&self.pod, container, kind, reason, message);
    }

    pub(super) fn fail_start(&mut self, name: &str, reason: &str, message: String) {
        let before = self.memory.start_failures.get(name);
        let failure = StartFailure::after(before, reason, message, Timestamp::now());
        self.memory.start_failures.insert(name.to_owned(), failure);
    }
}

/// A container of the pod's specification by its name.
pub fn container_of<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let found = all.find(|container| container.name == name).map(Cow::Borrowed);
    found.or_else(|| ephemeral::find(pod, name).map(|found| Cow::Owned(ephemeral::as_container(found))))
}

/// Containers that wait for this reason now and did not before.
fn newly_waiting(before: &PodStatus, after: &PodStatus, reason: &str) -> Vec<String> {
    let waiting = |status: &PodStatus| -> Vec<String> {
        let others = status.init_container_statuses.iter().chain(&status.ephemeral_container_statuses);
        let all = status.container_statuses.iter().chain(others).flatten();
        let waits = all.filter(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(reason))
        });
        waits.map(|container| container.name.clone()).collect()
    };
    let old = waiting(before);
    waiting(after).into_iter().filter(|name| !old.contains(name)).collect()
}

/// Whether the status is worth showing before this is done: quick steps on the way to running are not, but
/// how the instance before ended is.
fn shown_before(action: &Action) -> bool {
    !matches!(action, Action::StartContainer { attempt: 0, .. })
}

async fn sleep_until(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let left = at.duration_since(Timestamp::now());
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}
