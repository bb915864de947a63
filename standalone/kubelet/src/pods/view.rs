//! One pod at one moment: its object, the runtime's state, the agent's memory, the time.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod, PodSpec};

use super::{
    backoff,
    memory::{Admission, ERROR_SHOWN, Memory},
    resize::Room,
    status::ended,
};
use crate::{
    cri::{ContainerPhase, ContainerRecord, PodRuntime},
    spec::ephemeral,
};

#[derive(Clone, Copy)]
pub struct View<'a> {
    pub pod: &'a Pod,
    pub runtime: &'a PodRuntime,
    pub memory: &'a Memory,
    pub room: Room,
    /// The object is gone from the API server (or never came back while the agent was down).
    pub gone: bool,
    pub now: Timestamp,
}

/// What becomes of a container that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    No,
    Now,
    At(Timestamp),
}

impl<'a> View<'a> {
    pub fn spec(&self) -> Option<&'a PodSpec> {
        self.pod.spec.as_ref()
    }

    pub fn containers(&self) -> &'a [Container] {
        self.spec().map(|spec| spec.containers.as_slice()).unwrap_or_default()
    }

    pub fn init_containers(&self) -> &'a [Container] {
        self.spec().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
    }

    pub fn restart_policy(&self) -> &'a str {
        self.spec().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
    }

    pub fn terminating(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Seconds between SIGTERM and SIGKILL; never less than one.
    pub fn grace_s(&self) -> i64 {
        let asked = self.pod.metadata.deletion_grace_period_seconds.filter(|_| self.terminating());
        let spec = self.spec().and_then(|spec| spec.termination_grace_period_seconds);
        asked.or(spec).unwrap_or(30).max(1)
    }

    /// The newest instance, if it stands in the sandbox that is in use.
    pub fn current(&self, name: &str) -> Option<&'a ContainerRecord> {
        let sandbox = self.runtime.ready_sandbox()?;
        self.runtime.latest(name).filter(|record| record.sandbox_id == sandbox.id)
    }

    pub fn busy(&self, name: &str) -> bool {
        self.memory.busy.contains(name)
    }

    /// Whether the instance has passed its startup probe, or has none.
    pub fn started(&self, container: &Container, record: &ContainerRecord) -> bool {
        record.phase == ContainerPhase::Running
            && (container.startup_probe.is_none()
                || self.memory.probes.get(&record.id).and_then(|probe| probe.started) == Some(true))
    }

    pub fn ready(&self, container: &Container, record: &ContainerRecord) -> bool {
        self.started(container, record)
            && (container.readiness_probe.is_none()
                || self.memory.probes.get(&record.id).and_then(|probe| probe.ready) == Some(true))
    }

    /// Whether and when an ended instance is followed by another.
    pub fn restart(&self, container: &Container, record: &ContainerRecord) -> Restart {
        if self.is_ephemeral(&container.name) || !self.runs_again(container, record.exit_code) {
            return Restart::No;
        }
        let backoff = self.memory.restarts.get(&container.name).copied().unwrap_or_default();
        match backoff.until(record.finished_at()) {
            Some(at) if at > self.now => Restart::At(at),
            _ => Restart::Now,
        }
    }

    pub fn is_ephemeral(&self, name: &str) -> bool {
        ephemeral::find(self.pod, name).is_some()
    }

    /// The first rule that matches the exit code, then the container's own policy, then the pod's (KEP-5307).
    fn runs_again(&self, container: &Container, exit_code: i32) -> bool {
        let rules = container.restart_policy_rules.iter().flatten();
        if rules.filter(|rule| rule.action == "Restart").any(|rule| matches(rule, exit_code)) {
            return true;
        }
        match container.restart_policy.as_deref() {
            Some("Always") => true,
            Some("OnFailure") => exit_code != 0,
            Some("Never") => false,
            _ => match self.restart_policy() {
                "Never" => false,
                "OnFailure" => exit_code != 0,
                _ => exit_code != 0 || !self.is_init(container),
            },
        }
    }

    /// Why the runtime could not start this instance's program, for as long as that is shown.
    pub fn run_error(&self, record: &ContainerRecord) -> Option<&'a str> {
        self.end_shown_until(record)?;
        self.memory.run_errors.get(&record.id).map(String::as_str)
    }

    /// Until when it is shown how an instance ended, before the back-off takes its place.
    pub fn end_shown_until(&self, record: &ContainerRecord) -> Option<Timestamp> {
        let until = backoff::add(record.finished_at(), ERROR_SHOWN);
        (until > self.now).then_some(until)
    }

    pub fn is_init(&self, container: &Container) -> bool {
        self.init_containers().iter().any(|init| init.name == container.name)
    }

    /// When `activeDeadlineSeconds` runs out.
    pub fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec()?.active_deadline_seconds?;
        Some(backoff::add(self.memory.start_time?, jiff::SignedDuration::from_secs(seconds)))
    }

    /// An init container failed and none may be tried again.
    pub fn init_failed(&self) -> bool {
        self.init_containers().iter().filter(|init| !is_sidecar(init)).any(|init| {
            self.runtime.latest(&init.name).is_some_and(|record| {
                record.phase == ContainerPhase::Exited
                    && record.exit_code != 0
                    && self.restart(init, record) == Restart::No
            })
        })
    }

    /// The pod has come to its end: nothing in it will run again.
    pub fn finished(&self) -> bool {
        if self.memory.ended
            || self.pod.status.as_ref().is_some_and(ended)
            || self.memory.deadline_exceeded
            || matches!(self.memory.admission, Admission::Rejected(_))
            || self.init_failed()
        {
            return true;
        }
        !self.containers().is_empty()
            && self.containers().iter().all(|container| {
                self.runtime.latest(&container.name).is_some_and(|record| {
                    record.phase == ContainerPhase::Exited && self.restart(container, record) == Restart::No
                })
            })
    }
}

fn matches(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|codes| {
        let named = codes.values.iter().flatten().any(|value| *value == exit_code);
        match codes.operator.as_str() {
            "In" => named,
            "NotIn" => !named,
            _ => false,
        }
    })
}

/// An init container that keeps running beside the others (KEP-753).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

impl ContainerRecord {
    pub fn finished_at(&self) -> Timestamp {
        nanoseconds(self.finished_ns)
    }
}

/// A runtime's time; what it does not know is the epoch.
pub fn nanoseconds(ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::UNIX_EPOCH)
}
