//! What a worker is told, taken in: new objects, ends of containers, probes, work done beside it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{
    admit::taken_before,
    mailbox::{Done, Inbox},
    memory::{Admission, Expected, Failed, Memory, ProbeState, Volumes},
    probes::{ProbeKind, ProbeReport},
    status::ended,
    worker::{Worker, container_of},
};
use crate::{
    cri::{ContainerPhase, ContainerRecord, CriError, PodRuntime},
    volumes,
};
use skerry_client::EventType;

/// containerd's reason for a container that the kernel ended for its memory.
const OOM_KILLED: &str = "OOMKilled";

impl Worker {
    pub(super) async fn absorb(&mut self, inbox: Inbox) {
        if let Some(pod) = inbox.pod {
            self.objects.follow(&self.agent, &pod, &self.mailbox);
            if let Some(reporter) = &self.reporter {
                reporter.seen(pod.clone());
            }
            self.memory.ended |= pod.status.as_ref().is_some_and(ended);
            let before = std::mem::replace(&mut self.pod, pod);
            self.pod_changed(&before);
        }
        self.gone |= inbox.gone;
        let mut changed = inbox.changed;
        if inbox.check_all {
            let sandboxes = self.runtime.sandboxes.iter().map(|sandbox| sandbox.id.clone());
            let containers = self.runtime.containers.iter().map(|container| container.id.clone());
            for id in sandboxes.chain(containers) {
                changed.entry(id).or_default();
            }
        }
        for (id, expected) in changed {
            self.expect(&id, expected);
        }
        for report in inbox.probes {
            self.note_probe(report);
        }
        for done in inbox.done {
            self.note_done(done);
        }
        self.settle().await;
        if inbox.objects_changed {
            self.objects_changed();
        }
        let deadline = self.view().deadline();
        if deadline.is_some_and(|deadline| deadline <= Timestamp::now()) && !self.memory.deadline_exceeded {
            self.memory.deadline_exceeded = true;
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.event(None, EventType::Normal, "DeadlineExceeded", message);
        }
    }

    /// What the runtime held before this agent started.
    pub(super) fn take_over(&mut self, mut runtime: PodRuntime) {
        for sandbox in &mut runtime.sandboxes {
            self.agent.own(&sandbox.id, &self.mailbox);
            // A containerd restarted in a fresh mount namespace reports no address; the API server still
            // knows it.
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

    /// From now on the runtime is asked about this container or sandbox until its answer is what was
    /// announced.
    pub(super) fn expect(&mut self, id: &str, expected: Expected) {
        let entry = self.memory.unsettled.entry(id.to_owned()).or_default();
        entry.expected = entry.expected.and(expected);
        (entry.ask_at, entry.pause) = (None, SignedDuration::ZERO);
    }

    /// Asks the runtime about everything whose time has come.
    async fn settle(&mut self) {
        let now = Timestamp::now();
        let due = self.memory.unsettled.iter().filter(|(_, entry)| entry.ask_at.is_none_or(|at| at <= now));
        let due: Vec<(String, Expected)> = due.map(|(id, entry)| (id.clone(), entry.expected)).collect();
        for (id, expected) in due {
            let outstanding = match self.ask(&id, expected).await {
                Ok(outstanding) => Some(outstanding),
                Err(error) => {
                    tracing::warn!(pod = %self.id, %error, "not read, asking again");
                    None
                }
            };
            let Some(entry) = self.memory.unsettled.get_mut(&id) else { continue };
            if let Some(name) = entry.busy.take_if(|_| outstanding.is_some_and(|left| !left.end)) {
                self.memory.busy.remove(&name);
            }
            if !entry.postpone(outstanding, Timestamp::now()) {
                self.memory.unsettled.remove(&id);
            }
        }
    }

    /// Takes in what the runtime says of one container or sandbox; what of the expected it does not say yet.
    async fn ask(&mut self, id: &str, expected: Expected) -> Result<Expected, CriError> {
        if let Some(known) = self.runtime.container(id) {
            match self.agent.cri.container(id, &known.sandbox_id).await {
                Ok(record) => {
                    let runs = matches!(record.phase, ContainerPhase::Running | ContainerPhase::Created);
                    let oom = expected.oom && record.reason != OOM_KILLED;
                    self.note_container(record);
                    return Ok(Expected { end: expected.end && runs, oom });
                }
                Err(error) if error.is_not_found() => {
                    // Somebody took it away: its restarts still count.
                    let (name, attempt) = (known.name.clone(), known.attempt);
                    let count = self.memory.known_restarts.entry(name).or_default();
                    *count = attempt.max(*count);
                    self.runtime.containers.retain(|c| c.id != id);
                }
                Err(error) => return Err(error),
            }
        } else if let Some(known) = self.runtime.sandboxes.iter().find(|sandbox| sandbox.id == id) {
            match self.agent.cri.sandbox(id).await {
                Ok(mut sandbox) => {
                    if sandbox.ips.is_empty() {
                        sandbox.ips.clone_from(&known.ips);
                    }
                    let end = expected.end && sandbox.ready;
                    self.runtime.put_sandbox(sandbox);
                    return Ok(Expected { end, oom: false });
                }
                Err(error) if error.is_not_found() => self.runtime.sandboxes.retain(|s| s.id != id),
                Err(error) => return Err(error),
            }
        }
        Ok(Expected::default())
    }

    /// Takes a container's new state in.
    pub(super) fn note_container(&mut self, record: ContainerRecord) {
        if record.phase == ContainerPhase::Exited {
            self.read_termination_message(&record);
            self.probers.remove(&record.id);
            self.memory.probes.remove(&record.id);
            self.memory.resize_failures.remove(&record.id);
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
            (ProbeKind::Startup, false) => state.failed = Some(Failed::StartupProbe),
            (ProbeKind::Liveness, false) => state.failed = Some(Failed::LivenessProbe),
            (ProbeKind::Liveness, true) => {}
        }
    }

    fn note_done(&mut self, done: Done) {
        match done {
            Done::Killed { name, id } => {
                // Busy until the runtime's status says so too: nobody kills it a second time.
                self.expect(&id, Expected::END);
                if let Some(entry) = self.memory.unsettled.get_mut(&id) {
                    entry.busy = Some(name);
                }
            }
            Done::Pulled { name, image, outcome } => {
                self.memory.busy.remove(&name);
                self.note_pull(&name, &image, outcome);
            }
            Done::Hooked { name, id, failure } => {
                self.memory.busy.remove(&name);
                if let Some(text) = failure {
                    let message = format!("PostStartHook failed: {text}");
                    self.event(Some(&name), EventType::Warning, "FailedPostStartHook", message);
                    let state = ProbeState { failed: Some(Failed::PostStartHook), ..Default::default() };
                    self.memory.probes.insert(id, state);
                }
            }
        }
    }

    /// What was made out of the object is made out of the new one: files that tell of it, images that it
    /// names.
    fn pod_changed(&mut self, before: &Pod) {
        if self.memory.volumes == Volumes::Ready && volumes::tells_of_change(before, &self.pod) {
            self.memory.volumes = Volumes::Unprepared;
        }
        let image =
            |pod: &Pod, name: &str| container_of(pod, name).and_then(|container| container.image.clone());
        let pod = &self.pod;
        self.memory.start_failures.retain(|name, _| image(before, name) == image(pod, name));
    }

    /// Files are brought up to date; what waited for the object is tried at once.
    fn objects_changed(&mut self) {
        match self.memory.volumes {
            Volumes::Ready | Volumes::Failed(_) => self.memory.volumes = Volumes::Unprepared,
            Volumes::Unprepared => {}
        }
        // The pod's RuntimeClass may be there now.
        if let Some(failure) = &mut self.memory.sandbox_failure {
            failure.retry_at = Timestamp::UNIX_EPOCH;
        }
        for failure in self.memory.start_failures.values_mut() {
            if failure.reason == "CreateContainerConfigError" {
                failure.retry_at = Timestamp::UNIX_EPOCH;
            }
        }
    }
}

/// What the API server and the runtime remember of the pod from before this agent started.
pub(super) fn remembered(pod: &Pod, runtime: &PodRuntime) -> Memory {
    let mut memory = Memory::default();
    if !taken_before(pod, runtime) {
        memory.admission = Admission::Unasked(None);
    }
    let status = pod.status.as_ref();
    memory.ended = status.is_some_and(ended);
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
            if let Some(resources) = &container.resources {
                memory.applied.insert(id.1.to_owned(), resources.clone());
            }
        }
    }
    memory
}
