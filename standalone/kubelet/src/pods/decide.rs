//! What to do next for one pod: a pure function of what is there.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::{
    memory::{Admission, Volumes},
    view::{Restart, View, is_sidecar},
};
use crate::{
    cri::{ContainerPhase, ContainerRecord},
    spec::names,
};

/// One step; the worker does them in order and decides anew with what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The node judges whether it takes the pod at all.
    Admit,
    PrepareVolumes,
    /// `changed`: there was one before.
    CreateSandbox {
        attempt: u32,
        changed: bool,
    },
    StartContainer {
        name: String,
        attempt: u32,
    },
    /// Runs preStop, then SIGTERM, then SIGKILL after `grace_s`. `why` is the event's text, where one is due.
    Kill {
        id: String,
        name: String,
        grace_s: i64,
        why: String,
    },
    RemoveContainer {
        id: String,
    },
    /// Ends the sandbox and its network, keeps records and logs.
    StopSandbox {
        id: String,
    },
    /// Removes everything of the pod from the node and its object from the API server.
    Remove,
}

/// What to do now, and when to look again although nothing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |have| have.min(at)));
    }
}

pub fn decide(view: View) -> Plan {
    let mut plan = Plan::default();
    if view.terminating() {
        terminate(view, &mut plan);
    } else if let Admission::Unasked(failure) = &view.memory.admission {
        match failure {
            Some(failure) if failure.retry_at > view.now => plan.wake(failure.retry_at),
            _ => plan.act(Action::Admit),
        }
    } else if view.finished() {
        if kill_all(view, &mut plan, "") && !view.memory.sandbox_stopped {
            stop_sandboxes(view, &mut plan);
        }
    } else {
        if let Some(deadline) = view.deadline() {
            plan.wake(deadline);
        }
        run(view, &mut plan);
    }
    plan
}

/// The pod shall go: containers first, then sandbox and object.
fn terminate(view: View, plan: &mut Plan) {
    if !kill_all(view, plan, "") {
        return;
    }
    match &view.memory.teardown_failure {
        Some(failure) if failure.retry_at > view.now => plan.wake(failure.retry_at),
        _ => plan.act(Action::Remove),
    }
}

/// Kills what runs, sidecars after the others; `true` once nothing runs any more.
fn kill_all(view: View, plan: &mut Plan, why: &str) -> bool {
    let sidecar =
        |name: &str| view.init_containers().iter().any(|init| init.name == name && is_sidecar(init));
    let running: Vec<&ContainerRecord> =
        view.runtime.containers.iter().filter(|record| record.phase == ContainerPhase::Running).collect();
    let main_left = running.iter().any(|record| !sidecar(&record.name));
    for record in &running {
        if view.busy(&record.name) || (main_left && sidecar(&record.name)) {
            continue;
        }
        plan.act(kill(view, record, why));
    }
    running.is_empty() && view.memory.busy.is_empty()
}

fn kill(view: View, record: &ContainerRecord, why: &str) -> Action {
    let grace_s = match record.grace_s {
        // An orphan has no object left that could say.
        Some(grace_s) if view.gone && view.pod.metadata.deletion_timestamp.is_none() => grace_s.max(1),
        _ => view.grace_s(),
    };
    Action::Kill { id: record.id.clone(), name: record.name.clone(), grace_s, why: why.to_owned() }
}

fn stop_sandboxes(view: View, plan: &mut Plan) {
    for sandbox in &view.runtime.sandboxes {
        plan.act(Action::StopSandbox { id: sandbox.id.clone() });
    }
}

fn run(view: View, plan: &mut Plan) {
    match &view.memory.volumes {
        Volumes::Ready => {}
        Volumes::Failed(failure) if failure.retry_at > view.now => return plan.wake(failure.retry_at),
        _ => return plan.act(Action::PrepareVolumes),
    }
    if view.runtime.ready_sandbox().is_none() {
        return sandbox(view, plan);
    }
    // Containers of an older sandbox go before anything new starts beside them.
    let stale = view
        .runtime
        .running()
        .filter(|record| view.runtime.ready_sandbox().is_none_or(|sandbox| sandbox.id != record.sandbox_id));
    for record in stale.filter(|record| !view.busy(&record.name)) {
        plan.act(kill(view, record, ""));
    }
    if !init(view, plan) {
        return;
    }
    for container in view.containers() {
        keep_running(view, container, plan);
    }
}

fn sandbox(view: View, plan: &mut Plan) {
    let mut running = view.runtime.running().peekable();
    if running.peek().is_some() || !view.memory.busy.is_empty() {
        for record in running.filter(|record| !view.busy(&record.name)) {
            plan.act(kill(view, record, ""));
        }
        return;
    }
    match &view.memory.sandbox_failure {
        Some(failure) if failure.retry_at > view.now => plan.wake(failure.retry_at),
        _ => {
            let newest = view.runtime.sandboxes.first();
            plan.act(Action::CreateSandbox {
                attempt: newest.map_or(0, |sandbox| sandbox.attempt + 1),
                changed: newest.is_some(),
            });
        }
    }
}

/// Runs the init containers one after the other; `true` once the others may start.
fn init(view: View, plan: &mut Plan) -> bool {
    let main_begun = view.containers().iter().any(|container| view.current(&container.name).is_some());
    for container in view.init_containers() {
        if is_sidecar(container) {
            keep_running(view, container, plan);
            let started = view.current(&container.name).is_some_and(|record| view.started(container, record));
            if !main_begun && (!started || view.busy(&container.name)) {
                return false;
            }
            continue;
        }
        if main_begun {
            continue;
        }
        let done = view
            .current(&container.name)
            .is_some_and(|record| record.phase == ContainerPhase::Exited && record.exit_code == 0);
        if !done {
            keep_running(view, container, plan);
            return false;
        }
    }
    true
}

/// One container towards running, or towards its end if it may not run again.
fn keep_running(view: View, container: &Container, plan: &mut Plan) {
    let name = &container.name;
    if view.busy(name) {
        return;
    }
    let latest = view.runtime.latest(name);
    match view.current(name) {
        Some(record) => match record.phase {
            ContainerPhase::Running => check_running(view, container, record, plan),
            ContainerPhase::Exited => match view.restart(container, record) {
                Restart::No => {}
                Restart::At(at) => plan.wake(at),
                Restart::Now => _ = start(view, container, record.attempt + 1, plan),
            },
            // Made but never started (the agent ended in between), or lost by the runtime: away with it.
            ContainerPhase::Created | ContainerPhase::Unknown => {
                if start(view, container, record.attempt, plan) {
                    let at = plan.actions.len() - 1;
                    plan.actions.insert(at, Action::RemoveContainer { id: record.id.clone() });
                }
            }
        },
        None => {
            let known = view.memory.known_restarts.get(name).copied();
            let attempt =
                latest.map(|record| record.attempt + 1).or(known.map(|count| count + 1)).unwrap_or(0);
            start(view, container, attempt, plan);
        }
    }
}

/// Plans the start unless an earlier failure says to wait.
fn start(view: View, container: &Container, attempt: u32, plan: &mut Plan) -> bool {
    if let Some(failure) = view.memory.start_failures.get(&container.name)
        && failure.retry_at > view.now
    {
        plan.wake(failure.retry_at);
        if failure.back_off_shown_at() > view.now {
            plan.wake(failure.back_off_shown_at());
        }
        return false;
    }
    plan.act(Action::StartContainer { name: container.name.clone(), attempt });
    true
}

fn check_running(view: View, container: &Container, record: &ContainerRecord, plan: &mut Plan) {
    let probe = view.memory.probes.get(&record.id);
    let why = if !record.spec_hash.is_empty() && record.spec_hash != names::spec_hash(container) {
        format!("Container {} definition changed, will be restarted", container.name)
    } else if let Some(text) = probe.and_then(|probe| probe.failed.as_ref()) {
        format!("Container {} {text}, will be restarted", container.name)
    } else {
        return;
    };
    plan.act(kill(view, record, &why));
}

#[cfg(test)]
mod tests;
