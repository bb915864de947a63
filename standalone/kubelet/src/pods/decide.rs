//! What to do next for one pod: a pure function of what is there.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;

use super::{
    backoff,
    memory::{Admission, Volumes},
    resize::{self, Step},
    view::{Restart, View, is_sidecar},
};
use crate::{
    cri::{ContainerPhase, ContainerRecord},
    spec::{ephemeral, names},
};

/// What a sidecar gets when the others have used up the pod's grace; upstream's number.
const LEAST_GRACE_S: i64 = 2;

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
    /// Gives a running container the resources of its specification.
    Resize {
        id: String,
        name: String,
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
    for unsettled in view.memory.unsettled.values() {
        plan.wake(unsettled.ask_at.unwrap_or(view.now));
    }
    if view.terminating() {
        terminate(view, &mut plan);
    } else if let Admission::Unasked(failure) = &view.memory.admission {
        match failure {
            Some(failure) if failure.retry_at > view.now => plan.wake(failure.retry_at),
            _ => plan.act(Action::Admit),
        }
    } else if view.finished() {
        if kill_all(view, &mut plan, "") && !view.memory.sandbox_stopped && !must_wait(view, &mut plan) {
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
    if !must_wait(view, plan) {
        plan.act(Action::Remove);
    }
}

/// Whether the last try to take something down failed too short a time ago.
fn must_wait(view: View, plan: &mut Plan) -> bool {
    let retry_at = view.memory.teardown_failure.as_ref().map(|failure| failure.retry_at);
    let retry_at = retry_at.filter(|at| *at > view.now);
    if let Some(at) = retry_at {
        plan.wake(at);
    }
    retry_at.is_some()
}

/// Kills what runs: first the ordinary containers together, then the sidecars one by one, the last of them
/// first, as they were started the other way round. `true` once nothing runs any more.
fn kill_all(view: View, plan: &mut Plan, why: &str) -> bool {
    // Place in the order of ends; what is not in the specification any more goes first.
    let place = |name: &str| {
        let at = view.init_containers().iter().position(|init| init.name == name && is_sidecar(init));
        at.map_or(0, |at| view.init_containers().len() - at)
    };
    let running: Vec<&ContainerRecord> = view.runtime.running().collect();
    let next = running.iter().map(|record| place(&record.name)).min();
    for record in running.iter().filter(|record| Some(place(&record.name)) == next) {
        if !view.busy(&record.name) {
            plan.act(kill(view, record, why));
        }
    }
    running.is_empty() && view.memory.busy.is_empty()
}

fn kill(view: View, record: &ContainerRecord, why: &str) -> Action {
    let grace_s = grace_s(view, record);
    Action::Kill { id: record.id.clone(), name: record.name.clone(), grace_s, why: why.to_owned() }
}

/// Seconds between SIGTERM and SIGKILL.
fn grace_s(view: View, record: &ContainerRecord) -> i64 {
    let grace_s = match record.grace_s {
        // An orphan has no object left that could say.
        Some(grace_s) if view.gone && view.pod.metadata.deletion_timestamp.is_none() => grace_s.max(1),
        _ => view.grace_s(),
    };
    let sidecar = view.init_containers().iter().any(|init| init.name == record.name && is_sidecar(init));
    if sidecar && (view.terminating() || view.finished()) { left_for_sidecar(view, grace_s) } else { grace_s }
}

/// All containers of a pod share its grace: what those before a sidecar have used up is not given to it
/// again.
fn left_for_sidecar(view: View, grace_s: i64) -> i64 {
    let began = match (&view.pod.metadata.deletion_timestamp, view.pod.metadata.deletion_grace_period_seconds)
    {
        (Some(at), Some(grace_s)) => Some(backoff::add(at.0, SignedDuration::from_secs(-grace_s))),
        _ => None,
    };
    let mains = view.containers().iter().filter_map(|container| view.runtime.latest(&container.name));
    let began = began.or_else(|| mains.map(ContainerRecord::finished_at).max());
    let used = began.map_or(0, |began| view.now.duration_since(began).as_secs());
    // The server's clock may be another.
    (grace_s - used.max(0)).clamp(LEAST_GRACE_S.min(grace_s), grace_s)
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
    let stale = |record: &&ContainerRecord| {
        view.runtime.ready_sandbox().is_none_or(|sandbox| sandbox.id != record.sandbox_id)
    };
    if view.runtime.running().any(|record| stale(&record)) {
        for record in view.runtime.running().filter(stale).filter(|record| !view.busy(&record.name)) {
            plan.act(kill(view, record, ""));
        }
        return;
    }
    start_ephemeral(view, plan);
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

/// Starts each ephemeral container once, whatever the others are at. What was told of one is not begun again,
/// also when the runtime has forgotten it.
fn start_ephemeral(view: View, plan: &mut Plan) {
    let told = view.pod.status.iter().flat_map(|status| status.ephemeral_container_statuses.iter().flatten());
    let begun: Vec<&str> =
        told.filter(|status| status.container_id.is_some()).map(|status| status.name.as_str()).collect();
    for container in ephemeral::containers(view.pod).filter(|container| !view.busy(&container.name)) {
        match view.runtime.latest(&container.name) {
            None if begun.contains(&container.name.as_str()) => {}
            None => _ = start(view, &container, 0, plan),
            // Made but never started: the agent ended in between.
            Some(record) if record.phase == ContainerPhase::Created => {
                if start(view, &container, 0, plan) {
                    let at = plan.actions.len() - 1;
                    plan.actions.insert(at, Action::RemoveContainer { id: record.id.clone() });
                }
            }
            Some(_) => {}
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
                Restart::At(at) => {
                    plan.wake(at);
                    if let Some(until) = view.end_shown_until(record) {
                        plan.wake(until);
                    }
                }
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
            // A new sandbox starts what its policy starts again; init containers prepare it anew.
            let again = latest
                .filter(|record| record.phase == ContainerPhase::Exited)
                .filter(|_| !view.is_init(container) || is_sidecar(container))
                .map_or(Restart::Now, |record| view.restart(container, record));
            match again {
                Restart::Now => {}
                Restart::At(at) => return plan.wake(at),
                Restart::No => return,
            }
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
    let failed = view.memory.probes.get(&record.id).and_then(|probe| probe.failed);
    let why = if !record.spec_hash.is_empty() && record.spec_hash != names::spec_hash(container) {
        format!("Container {} definition changed, will be restarted", container.name)
    } else if let Some(failed) = failed {
        let text = format!("Container {} {}, will be restarted", container.name, failed.text());
        let grace_s = failed.grace_s(container).map_or_else(|| grace_s(view, record), |own| own.max(1));
        return plan.act(Action::Kill {
            id: record.id.clone(),
            name: record.name.clone(),
            grace_s,
            why: text,
        });
    } else {
        match resize::step(view, container, record) {
            Step::Nothing => return,
            Step::LookAgain(at) => return plan.wake(at),
            Step::Update => {
                return plan.act(Action::Resize { id: record.id.clone(), name: record.name.clone() });
            }
            Step::Restart => format!("Container {} resize requires restart", container.name),
        }
    };
    plan.act(kill(view, record, &why));
}

#[cfg(test)]
mod tests;
