//! What a worker is told, taken in: new objects, ends of containers, probes, work done beside it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{
    admit::taken_before,
    mailbox::{Done, Inbox},
    memory::{Admission, Memory, ProbeState, Volumes},
    probes::{ProbeKind, ProbeReport},
    worker::Worker,
};
use crate::{
    cri::{ContainerPhase, ContainerRecord, PodRuntime},
    recorder::Kind,
};

/// How long the runtime may take to write down an exit that it has announced.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) async fn absorb(&mut self, inbox: Inbox) {
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
    pub(super) fn take_over(&mut self, mut runtime: PodRuntime) {
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
