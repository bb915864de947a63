//! One pod's worker: takes what happened, decides, acts, reports. It never polls; it sleeps until told or until the
//! moment that the last decision named.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    decide::{Action, decide},
    hooks::Target,
    mailbox::{Done, Inbox, Mailbox},
    memory::{Memory, ProbeState, StartFailure, Volumes},
    probes::{ProbeKind, ProbeReport, Prober},
    references::PodObjects,
    report::Reporter,
    status,
    view::View,
};
use crate::{
    agent::Agent,
    cri::{ContainerPhase, ContainerRecord, PodRuntime},
    recorder::Kind,
    spec::PodId,
};

/// Decisions in a row without waiting; more would mean that an action does not change what the decision sees.
const MAX_ROUNDS: usize = 64;
/// How long the worker rests after that.
const REST: Duration = Duration::from_secs(1);
/// How long the runtime may take to write down an exit that it has announced.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

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
    probers: HashMap<String, Prober>,
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
        let reporter = (!gone).then(|| Reporter::start(agent.client.clone(), id.clone(), known.clone()));
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
            gone: self.gone,
            now: Timestamp::now(),
        }
    }

    async fn act(&mut self, action: Action) -> std::ops::ControlFlow<()> {
        match action {
            Action::PrepareVolumes => self.prepare_volumes().await,
            Action::CreateSandbox { attempt, changed } => self.create_sandbox(attempt, changed).await,
            Action::StartContainer { name, attempt } => self.start_container(&name, attempt).await,
            Action::Kill { id, name, grace_s, why } => self.kill(id, name, grace_s, why),
            Action::RemoveContainer { id } => self.remove_container(&id).await,
            Action::StopSandbox { id } => self.stop_sandbox(&id).await,
            Action::Remove => return self.remove().await,
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Works out the status and hands it on if it differs from the last.
    pub(super) fn report(&mut self) {
        let status = status::build(self.view(), &self.agent.config.host_ips(), &self.status);
        if status == *self.status {
            return;
        }
        self.tell_back_offs(&status);
        self.status = Arc::new(status);
        self.agent.note_status(&self.id, Some(self.status.clone()));
        if let Some(reporter) = &self.reporter {
            reporter.report(self.status.clone());
        }
    }

    /// An event for each container that has come into a back-off since the last status.
    fn tell_back_offs(&self, status: &PodStatus) {
        for name in newly_waiting(&self.status, status, "CrashLoopBackOff") {
            let message = format!("Back-off restarting failed container {name} in pod {}", self.id);
            self.event(Some(&name), Kind::Warning, "BackOff", message);
        }
        for name in newly_waiting(&self.status, status, "ImagePullBackOff") {
            let image = self.container_spec(&name).and_then(|container| container.image.clone());
            let message = format!("Back-off pulling image \"{}\"", image.unwrap_or_default());
            self.event(Some(&name), Kind::Normal, "BackOff", message);
            self.event(Some(&name), Kind::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
        }
    }

    async fn absorb(&mut self, inbox: Inbox) {
        if let Some(pod) = inbox.pod {
            self.objects.follow(&self.agent, &pod, &self.mailbox);
            self.pod = pod;
        }
        self.gone |= inbox.gone;
        let mut changed = inbox.changed;
        if inbox.check_all {
            changed.extend(self.runtime.sandboxes.iter().map(|sandbox| sandbox.id.clone()));
            changed.extend(self.runtime.containers.iter().map(|container| container.id.clone()));
        }
        for id in changed {
            self.refresh(&id).await;
        }
        for report in inbox.probes {
            self.note_probe(report);
        }
        for done in inbox.done {
            self.note_done(done).await;
        }
        if inbox.objects_changed {
            self.objects_changed();
        }
        let deadline = self.view().deadline();
        if deadline.is_some_and(|deadline| deadline <= Timestamp::now()) && !self.memory.deadline_exceeded {
            self.memory.deadline_exceeded = true;
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.event(None, Kind::Normal, "DeadlineExceeded", message);
        }
    }

    /// What the runtime held before this agent started.
    fn take_over(&mut self, mut runtime: PodRuntime) {
        for sandbox in &mut runtime.sandboxes {
            self.agent.own(&sandbox.id, &self.mailbox);
            // A containerd restarted in a fresh mount namespace reports no address; the API server still knows it.
            if sandbox.ready && sandbox.ips.is_empty() {
                let known = self.pod.status.as_ref().and_then(|status| status.pod_ips.as_ref());
                sandbox.ips = known.into_iter().flatten().map(|ip| ip.ip.clone()).collect();
            }
        }
        for container in &runtime.containers {
            self.agent.own(&container.id, &self.mailbox);
        }
        self.runtime = runtime;
        let ended: Vec<ContainerRecord> =
            self.runtime.containers.iter().filter(|r| r.phase == ContainerPhase::Exited).cloned().collect();
        for record in ended {
            self.read_termination_message(&record);
        }
    }

    /// Asks the runtime about one container or sandbox that an event named.
    async fn refresh(&mut self, id: &str) {
        if let Some(container) = self.runtime.container(id).cloned() {
            match self.exited_record(&container).await {
                Ok(record) => self.note_container(record),
                Err(error) if error.is_not_found() => self.runtime.containers.retain(|c| c.id != id),
                Err(error) => tracing::warn!(pod = %self.id, %error, "container not read"),
            }
        } else if self.runtime.sandboxes.iter().any(|sandbox| sandbox.id == id) {
            match self.agent.cri.sandbox(id).await {
                Ok(mut sandbox) => {
                    let old = self.runtime.sandboxes.iter().find(|old| old.id == id);
                    if let Some(old) = old.filter(|_| sandbox.ips.is_empty()) {
                        sandbox.ips.clone_from(&old.ips);
                    }
                    self.runtime.put_sandbox(sandbox);
                }
                Err(error) if error.is_not_found() => self.runtime.sandboxes.retain(|s| s.id != id),
                Err(error) => tracing::warn!(pod = %self.id, %error, "sandbox not read"),
            }
        }
    }

    /// The runtime announces an exit a moment before its own status says so: asks again, briefly, until it does.
    async fn exited_record(
        &self,
        container: &ContainerRecord,
    ) -> Result<ContainerRecord, crate::cri::CriError> {
        let deadline = tokio::time::Instant::now() + EXIT_LIMIT;
        let mut pause = Duration::from_millis(2);
        loop {
            let record = self.agent.cri.container(&container.id, &container.sandbox_id).await?;
            let settled = record.phase != ContainerPhase::Running;
            if settled || container.phase != ContainerPhase::Running || tokio::time::Instant::now() > deadline
            {
                return Ok(record);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Takes a container's new state in.
    pub(super) fn note_container(&mut self, record: ContainerRecord) {
        if record.phase == ContainerPhase::Exited {
            self.read_termination_message(&record);
            self.probers.remove(&record.id);
            self.memory.probes.remove(&record.id);
            // Nobody follows its log: nobody is told.
            let _ = self.agent.exits.send(record.id.clone());
        }
        self.runtime.put_container(record);
    }

    fn note_probe(&mut self, report: ProbeReport) {
        let Some(record) = self.runtime.container(&report.container_id) else { return };
        if record.phase != ContainerPhase::Running {
            return;
        }
        let state = self.memory.probes.entry(report.container_id).or_default();
        match (report.kind, report.passed) {
            (ProbeKind::Startup, true) => state.started = Some(true),
            (ProbeKind::Readiness, passed) => state.ready = Some(passed),
            (ProbeKind::Startup, false) => state.failed = Some("failed startup probe".to_owned()),
            (ProbeKind::Liveness, false) => state.failed = Some("failed liveness probe".to_owned()),
            (ProbeKind::Liveness, true) => {}
        }
    }

    async fn note_done(&mut self, done: Done) {
        match done {
            Done::Killed { name, id } => {
                self.memory.busy.remove(&name);
                self.refresh(&id).await;
            }
            Done::Pulled { name, image, outcome } => {
                self.memory.busy.remove(&name);
                self.note_pull(&name, &image, outcome);
            }
            Done::Hooked { name, id, failure } => {
                self.memory.busy.remove(&name);
                if let Some(text) = failure {
                    let message = format!("PostStartHook failed: {text}");
                    self.event(Some(&name), Kind::Warning, "FailedPostStartHook", message);
                    let state =
                        ProbeState { failed: Some("FailedPostStartHook".to_owned()), ..Default::default() };
                    self.memory.probes.insert(id, state);
                }
            }
        }
    }

    /// Files are brought up to date; what waited for the object is tried at once.
    fn objects_changed(&mut self) {
        match self.memory.volumes {
            Volumes::Ready | Volumes::Failed(_) => self.memory.volumes = Volumes::Unprepared,
            Volumes::Unprepared => {}
        }
        for failure in self.memory.start_failures.values_mut() {
            if failure.reason == "CreateContainerConfigError" {
                failure.retry_at = Timestamp::UNIX_EPOCH;
            }
        }
    }

    /// Starts probes of what runs, ends those of what does not.
    fn follow_probes(&mut self) {
        let running: BTreeMap<String, ContainerRecord> =
            self.runtime.running().map(|record| (record.id.clone(), record.clone())).collect();
        self.probers.retain(|id, _| running.contains_key(id));
        if self.view().terminating() {
            self.probers.clear();
            return;
        }
        let spec = self.pod.spec.as_ref();
        let containers =
            spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        for container in containers {
            let Some(record) = running.values().find(|record| record.name == container.name) else {
                continue;
            };
            if self.probers.contains_key(&record.id) || self.memory.busy.contains(&record.name) {
                continue;
            }
            let target = self.target(record, container);
            let started = self.memory.probes.get(&record.id).and_then(|state| state.started) == Some(true);
            let prober = Prober::start(&self.agent, &self.mailbox, &self.pod, container, target, started);
            if let Some(prober) = prober {
                self.probers.insert(record.id.clone(), prober);
            }
        }
    }

    pub(super) fn target(
        &self,
        record: &ContainerRecord,
        container: &k8s_openapi::api::core::v1::Container,
    ) -> Target {
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

    pub(super) fn event(&self, container: Option<&str>, kind: Kind, reason: &'static str, message: String) {
        self.agent.recorder.pod(&self.pod, container, kind, reason, message);
    }

    pub(super) fn fail_start(&mut self, name: &str, reason: &str, message: String) {
        let before = self.memory.start_failures.get(name);
        let failure = StartFailure::after(before, reason, message, Timestamp::now());
        self.memory.start_failures.insert(name.to_owned(), failure);
    }
}

/// Containers that wait for this reason now and did not before.
fn newly_waiting(before: &PodStatus, after: &PodStatus, reason: &str) -> Vec<String> {
    let waiting = |status: &PodStatus| -> Vec<String> {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let waits = all.filter(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(reason))
        });
        waits.map(|container| container.name.clone()).collect()
    };
    let old = waiting(before);
    waiting(after).into_iter().filter(|name| !old.contains(name)).collect()
}

/// Whether the status is worth showing before this is done: quick steps on the way to running are not.
fn shown_before(action: &Action) -> bool {
    !matches!(action, Action::StartContainer { .. })
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

/// What the API server and the runtime remember of the pod from before this agent started.
fn remembered(pod: &Pod, runtime: &PodRuntime) -> Memory {
    let mut memory = Memory::default();
    let status = pod.status.as_ref();
    let start = status.and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    memory.start_time = Some(start.unwrap_or_else(Timestamp::now));
    let known = status.into_iter().flat_map(|status| {
        status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
    });
    for container in known {
        let Some(id) = container.container_id.as_deref().and_then(|id| id.split_once("://")) else {
            continue;
        };
        let count = u32::try_from(container.restart_count).unwrap_or(0);
        memory.known_restarts.insert(container.name.clone(), count);
        if runtime.container(id.1).is_some_and(|record| record.phase == ContainerPhase::Running) {
            let state = ProbeState { started: container.started, ready: Some(container.ready), failed: None };
            memory.probes.insert(id.1.to_owned(), state);
        }
    }
    memory
}
