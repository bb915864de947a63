//! A pod's status as the API server shall have it: a pure function of what is there and of the status before.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, PodIP, PodStatus, ResourceRequirements,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    admit::rejected_status,
    backoff,
    conditions::conditions,
    memory::Admission,
    resize,
    view::{Restart, View, is_sidecar, nanoseconds},
};
use crate::{
    cri::{ContainerPhase, ContainerRecord},
    spec::{PodId, ephemeral, resources::QosClass},
};

/// Runtime's name in `containerID`s.
const RUNTIME: &str = "containerd";

/// The status at `view.now`; `before` is the one last worked out or read, whose transition times are kept.
pub fn build(view: View, host_ips: &[String], before: &PodStatus) -> PodStatus {
    if let Admission::Rejected(rejection) = &view.memory.admission {
        return rejected_status(view, before, rejection);
    }
    let statuses = |containers: &[Container]| -> Vec<ContainerStatus> {
        let others = || before.init_container_statuses.iter().chain(&before.ephemeral_container_statuses);
        let known = || before.container_statuses.iter().chain(others()).flatten();
        let old = |name: &str| known().find(|status| status.name == name).cloned();
        // What ended stays told, also when the runtime has forgotten it (the machine was started anew).
        let kept = |container: &Container| {
            let forgotten = view.runtime.latest(&container.name).is_none();
            let told = old(&container.name).filter(|_| forgotten);
            // An ephemeral one is not begun again.
            if view.is_ephemeral(&container.name) {
                return told.filter(|told| told.container_id.is_some());
            }
            told.filter(|_| view.finished() || view.terminating())
        };
        containers
            .iter()
            .map(|container| kept(container).unwrap_or_else(|| container_status(view, container)))
            .collect()
    };
    let init = statuses(view.init_containers());
    let main = statuses(view.containers());
    let ephemeral = statuses(&ephemeral::containers(view.pod).collect::<Vec<Container>>());
    let phase = phase(view, &init, &main, before);
    let pod_ips = pod_ips(view, host_ips, before, &phase);
    // Who ended the pod says why: its node, or whoever wrote the phase before the node did.
    let told = end_told(view, before);
    let failed_by_deadline = view.memory.deadline_exceeded && phase == "Failed";
    let mut status = PodStatus {
        phase: Some(phase),
        reason: failed_by_deadline
            .then(|| "DeadlineExceeded".to_owned())
            .or_else(|| told.and_then(|status| status.reason.clone())),
        message: failed_by_deadline
            .then(|| "Pod was active on the node longer than the specified deadline".to_owned())
            .or_else(|| told.and_then(|status| status.message.clone())),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: before.start_time.clone().or_else(|| view.memory.start_time.map(time)),
        qos_class: Some(
            before.qos_class.clone().unwrap_or_else(|| QosClass::of(view.pod).as_str().to_owned()),
        ),
        observed_generation: view.pod.metadata.generation,
        container_statuses: Some(main),
        init_container_statuses: (!init.is_empty()).then_some(init),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        ..Default::default()
    };
    status.conditions = Some(conditions(view, &status, before));
    status
}

/// To the second, as Kubernetes keeps times: what is read back is what was written.
pub fn time(at: jiff::Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Whether a pod of this status has come to its end.
pub fn ended(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// The runtime's addresses, or the last ones known while there is no sandbox any more.
fn pod_ips(view: View, host_ips: &[String], before: &PodStatus, phase: &str) -> Vec<String> {
    let host_network = view.spec().is_some_and(|spec| spec.host_network == Some(true));
    match view.runtime.ready_sandbox() {
        Some(_) if host_network => host_ips.to_vec(),
        Some(sandbox) => sandbox.ips.clone(),
        None if phase == "Pending" => Vec::new(),
        None => before.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect(),
    }
}

fn container_status(view: View, container: &Container) -> ContainerStatus {
    let latest = view.runtime.latest(&container.name);
    let known = view.memory.known_restarts.get(&container.name).copied().unwrap_or(0);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        resources: Some(shown(container.resources.as_ref())),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        restart_count: i32::try_from(latest.map_or(known, |record| record.attempt)).unwrap_or(i32::MAX),
        ..Default::default()
    };
    let Some(record) = latest else {
        status.state = Some(waiting(waiting_reason(view, container)));
        return status;
    };
    if !record.image.is_empty() && !record.image.starts_with("sha256:") {
        status.image.clone_from(&record.image);
    }
    status.image_id.clone_from(&record.image_id);
    status.container_id = Some(format!("{RUNTIME}://{}", record.id));
    let previous = view.runtime.previous(&container.name);
    let last = previous.filter(|record| record.phase == ContainerPhase::Exited);
    status.last_state = last.map(|record| terminated(view, record));
    match record.phase {
        ContainerPhase::Running => {
            status.started = Some(view.started(container, record));
            status.ready = view.ready(container, record);
            let applied = resize::applied(view, container, record);
            if resize::pending(view).is_some() {
                status.allocated_resources = applied.and_then(|resources| resources.requests.clone());
            }
            status.resources = Some(shown(applied));
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning {
                    started_at: Some(time(nanoseconds(record.started_ns))),
                }),
                ..Default::default()
            });
        }
        ContainerPhase::Created | ContainerPhase::Unknown => {
            status.state = Some(waiting(waiting_reason(view, container)));
        }
        ContainerPhase::Exited => match will_run_again(view, container, record) {
            Some(reason) => {
                status.last_state = Some(terminated(view, record));
                status.state = Some(waiting(reason));
            }
            None => {
                let init = view.is_init(container) && !is_sidecar(container);
                status.ready = init && record.exit_code == 0;
                status.state = Some(terminated(view, record));
            }
        },
    }
    status
}

/// Requests and limits; claims have a place of their own.
fn shown(resources: Option<&ResourceRequirements>) -> ResourceRequirements {
    ResourceRequirements { claims: None, ..resources.cloned().unwrap_or_default() }
}

/// `(reason, message)` of a container that ended and waits for its next turn; `None` while its end itself is
/// shown.
fn will_run_again(view: View, container: &Container, record: &ContainerRecord) -> Option<(String, String)> {
    if view.terminating() || view.finished() {
        return None;
    }
    let failure = view.memory.start_failures.get(&container.name);
    let again = view.restart(container, record);
    if let Some(text) = view.run_error(record).filter(|_| again != Restart::No) {
        return Some(("RunContainerError".to_owned(), text.to_owned()));
    }
    match again {
        Restart::No => None,
        Restart::At(_) if view.end_shown_until(record).is_some() => None,
        Restart::At(_) => {
            let delay = view.memory.restarts.get(&container.name).copied().unwrap_or_default().delay();
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                backoff::show(delay),
                container.name,
                PodId::of(view.pod)
            );
            Some(("CrashLoopBackOff".to_owned(), message))
        }
        Restart::Now => {
            failure.map(|failure| failure.shown(container.image.as_deref().unwrap_or_default(), view.now))
        }
    }
}

fn waiting_reason(view: View, container: &Container) -> (String, String) {
    if let Some(failure) = view.memory.start_failures.get(&container.name) {
        return failure.shown(container.image.as_deref().unwrap_or_default(), view.now);
    }
    let reason = if view.init_containers().is_empty() { "ContainerCreating" } else { "PodInitializing" };
    (reason.to_owned(), String::new())
}

/// All ordinary init containers have ended well, all sidecars have started.
pub fn initialized(view: View) -> bool {
    view.init_containers().iter().all(|init| {
        view.runtime.latest(&init.name).is_some_and(|record| match record.phase {
            ContainerPhase::Exited => !is_sidecar(init) && record.exit_code == 0,
            ContainerPhase::Running => is_sidecar(init) && view.started(init, record),
            ContainerPhase::Created | ContainerPhase::Unknown => false,
        })
    })
}

fn waiting((reason, message): (String, String)) -> ContainerState {
    let message = (!message.is_empty()).then_some(message);
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason), message }),
        ..Default::default()
    }
}

fn terminated(view: View, record: &ContainerRecord) -> ContainerState {
    let left = view.memory.termination_messages.get(&record.id).cloned();
    let message = left.filter(|text| !text.is_empty()).unwrap_or_else(|| record.message.clone());
    let reason = match (record.reason.as_str(), record.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let at = |ns: i64| (ns > 0).then(|| time(nanoseconds(ns)));
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(format!("{RUNTIME}://{}", record.id)),
            exit_code: record.exit_code,
            reason: Some(reason.to_owned()),
            message: (!message.is_empty()).then_some(message),
            started_at: at(record.started_ns),
            finished_at: at(record.finished_ns),
            signal: None,
        }),
        ..Default::default()
    }
}

/// The first status that told of the pod's end.
fn end_told<'a>(view: View<'a>, before: &'a PodStatus) -> Option<&'a PodStatus> {
    std::iter::once(before).chain(&view.pod.status).find(|status| ended(status))
}

/// Upstream's rules for the phase (pod lifecycle documentation).
fn phase(view: View, init: &[ContainerStatus], main: &[ContainerStatus], before: &PodStatus) -> String {
    if let Some(phase) = end_told(view, before).and_then(|status| status.phase.clone()) {
        return phase;
    }
    let running =
        |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    let any_running = main.iter().chain(init).any(running);
    if (view.memory.deadline_exceeded || view.init_failed()) && !any_running {
        return "Failed".to_owned();
    }
    let end_of = |status: &ContainerStatus| {
        let terminated = |state: &Option<ContainerState>| state.as_ref()?.terminated.clone();
        terminated(&status.state).or_else(|| terminated(&status.last_state))
    };
    let well =
        !main.is_empty() && main.iter().all(|status| end_of(status).is_some_and(|end| end.exit_code == 0));
    let verdict = if well { "Succeeded" } else { "Failed" }.to_owned();
    // Nothing of it will run any more, whatever had run: who waits for its end (a Job's controller) needs to
    // see one.
    if view.terminating() && !any_running && view.memory.busy.is_empty() {
        return verdict;
    }
    let mains_begun = main.iter().any(|status| status.container_id.is_some());
    if !mains_begun && !initialized(view) {
        return "Pending".to_owned();
    }
    let stopped = main.iter().filter(|status| !running(status) && end_of(status).is_some()).count();
    if main.iter().any(|status| !running(status) && end_of(status).is_none()) {
        return "Pending".to_owned();
    }
    if stopped < main.len() || main.is_empty() {
        return "Running".to_owned();
    }
    // Every main container has ended: for good or not, and sidecars may still be on their way down.
    if any_running || !(view.finished() || view.terminating()) {
        return "Running".to_owned();
    }
    verdict
}

#[cfg(test)]
mod tests;
