//! The conditions of a pod that its node sets.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};

use super::{
    resize::{self, Pending},
    status::{ended, initialized, time},
    view::{View, is_sidecar},
};

/// Conditions that come and go.
pub const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The node's five, and how far a resize is; others in `before` belong to others and are not repeated here.
pub fn conditions(view: View, status: &PodStatus, before: &PodStatus) -> Vec<PodCondition> {
    let sandbox_ready = view.runtime.ready_sandbox().is_some() && status.pod_ip.is_some();
    let containers_ready = containers_ready(view, status);
    let set = [
        ("PodReadyToStartContainers", bare(sandbox_ready)),
        ("Initialized", initialized_condition(view, status)),
        ("Ready", ready(view, before, &containers_ready)),
        ("ContainersReady", containers_ready),
        ("PodScheduled", bare(true)),
    ];
    set.into_iter()
        .chain(resizing(view))
        .map(|(kind, verdict)| {
            let old = before.conditions.iter().flatten().find(|condition| condition.type_ == kind);
            let state = if verdict.holds { "True" } else { "False" };
            let same = old.filter(|condition| condition.status == state);
            PodCondition {
                type_: kind.to_owned(),
                status: state.to_owned(),
                reason: verdict.reason,
                message: verdict.message,
                last_transition_time: same
                    .and_then(|condition| condition.last_transition_time.clone())
                    .or_else(|| Some(time(view.now))),
                observed_generation: view.pod.metadata.generation,
                ..Default::default()
            }
        })
        .collect()
}

/// Present while the pod has not what its specification says.
fn resizing(view: View) -> Option<(&'static str, Verdict)> {
    if view.terminating() || view.finished() || !resize::in_change(view) {
        return None;
    }
    let because = |reason: &str, text: String| Verdict {
        holds: true,
        reason: Some(reason.to_owned()),
        message: Some(text),
    };
    Some(match (resize::pending(view), resize::failure(view)) {
        (Some(Pending::Infeasible(text)), _) => (RESIZE[0], because("Infeasible", text)),
        (Some(Pending::Deferred(text)), _) => (RESIZE[0], because("Deferred", text)),
        (None, Some(text)) => (RESIZE[1], because("Error", text.to_owned())),
        (None, None) => (RESIZE[1], bare(true)),
    })
}

#[derive(Clone)]
struct Verdict {
    holds: bool,
    reason: Option<String>,
    message: Option<String>,
}

fn bare(holds: bool) -> Verdict {
    Verdict { holds, reason: None, message: None }
}

fn refused(reason: &str, message: Option<String>) -> Verdict {
    Verdict { holds: false, reason: Some(reason.to_owned()), message }
}

fn containers_ready(view: View, status: &PodStatus) -> Verdict {
    if status.phase.as_deref() == Some("Succeeded") {
        return refused("PodCompleted", None);
    }
    if status.phase.as_deref() == Some("Failed") {
        return refused("PodFailed", None);
    }
    let sidecars = status.init_container_statuses.iter().flatten().filter(|status| {
        view.init_containers().iter().any(|init| init.name == status.name && is_sidecar(init))
    });
    let unready =
        names(sidecars.chain(status.container_statuses.iter().flatten()).filter(|status| !status.ready));
    if unready.is_empty() {
        return bare(true);
    }
    refused("ContainersNotReady", Some(format!("containers with unready status: [{unready}]")))
}

fn ready(view: View, before: &PodStatus, containers: &Verdict) -> Verdict {
    if !containers.holds {
        return containers.clone();
    }
    let gates = view.spec().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let conditions =
        view.pod.status.as_ref().and_then(|status| status.conditions.as_ref()).or(before.conditions.as_ref());
    for gate in gates {
        let met = conditions.into_iter().flatten().find(|condition| condition.type_ == gate.condition_type);
        let message = match met {
            Some(condition) if condition.status == "True" => continue,
            Some(_) => format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but False",
                gate.condition_type
            ),
            None => format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            ),
        };
        return refused("ReadinessGatesNotReady", Some(message));
    }
    bare(true)
}

fn initialized_condition(view: View, status: &PodStatus) -> Verdict {
    if status.phase.as_deref() == Some("Succeeded") {
        return Verdict { holds: true, reason: Some("PodCompleted".to_owned()), message: None };
    }
    let begun = status.container_statuses.iter().flatten().any(|status| status.container_id.is_some());
    if initialized(view) || begun {
        return bare(true);
    }
    if ended(status) {
        return refused("PodFailed", None);
    }
    let missing = names(status.init_container_statuses.iter().flatten().filter(|status| {
        let sidecar = view.init_containers().iter().any(|init| init.name == status.name && is_sidecar(init));
        if sidecar { status.started != Some(true) } else { !status.ready }
    }));
    refused("ContainersNotInitialized", Some(format!("containers with incomplete status: [{missing}]")))
}

fn names<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> String {
    statuses.map(|status| status.name.as_str()).collect::<Vec<&str>>().join(" ")
}
