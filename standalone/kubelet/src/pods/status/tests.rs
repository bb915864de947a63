use k8s_openapi::api::core::v1::PodCondition;
use serde_json::{Value, json};

use super::*;
use crate::pods::{
    fixture::{Case, at},
    memory::{Admission, ProbeState, StartFailure},
};

fn status(case: &Case) -> PodStatus {
    build(case.view(), &["192.0.2.1".to_owned()], &case.pod.status.clone().unwrap_or_default())
}

fn phase_of(case: &Case) -> String {
    status(case).phase.unwrap()
}

/// The first container's state as JSON.
fn state(case: &Case) -> Value {
    serde_json::to_value(status(case).container_statuses.unwrap()[0].state.clone()).unwrap()
}

fn condition(status: &PodStatus, kind: &str) -> PodCondition {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind).unwrap().clone()
}

#[test]
fn a_pod_that_is_being_made_is_pending_and_its_container_creating() {
    let status = status(&Case::simple());
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let expected = json!({"waiting": {"reason": "ContainerCreating"}});
    assert_eq!(state(&Case::simple()), expected);
    assert_eq!((status.host_ip.as_deref(), status.pod_ip.as_deref()), (Some("192.0.2.1"), None));
    assert_eq!(condition(&status, "PodReadyToStartContainers").status, "False");
    assert_eq!(condition(&status, "Initialized").status, "True");
    let ready = condition(&status, "Ready");
    assert_eq!(ready.reason.as_deref(), Some("ContainersNotReady"));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
}

#[test]
fn a_running_pod_is_ready_and_has_its_address() {
    let case = Case::simple().sandbox(0).running("a", 0);
    let status = status(&case);
    assert_eq!((status.phase.as_deref(), status.pod_ip.as_deref()), (Some("Running"), Some("10.244.1.2")));
    assert_eq!(condition(&status, "Ready").status, "True");
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("containerd://a0"));
    assert_eq!((container.ready, container.started, container.restart_count), (true, Some(true), 0));
    assert_eq!(container.image, "docker.io/library/i:latest");
}

#[test]
fn the_phase_follows_what_the_containers_did() {
    let two = || Case::new(json!({"containers": [{"name": "a"}, {"name": "b"}]})).sandbox(0);
    assert_eq!(phase_of(&two().running("a", 0)), "Pending");
    assert_eq!(phase_of(&two().running("a", 0).exited("b", 0, 1, 1)), "Running");
    assert_eq!(phase_of(&two().policy("Never").running("a", 0).exited("b", 0, 1, 1)), "Running");
    assert_eq!(phase_of(&two().policy("Never").exited("a", 0, 0, 1).exited("b", 0, 0, 1)), "Succeeded");
    assert_eq!(phase_of(&two().policy("Never").exited("a", 0, 0, 1).exited("b", 0, 1, 1)), "Failed");
    assert_eq!(phase_of(&two().policy("OnFailure").exited("a", 0, 0, 1).exited("b", 0, 1, 1)), "Running");
    assert_eq!(phase_of(&two().exited("a", 0, 0, 1).exited("b", 0, 0, 1)), "Running");
}

#[test]
fn a_failed_init_container_fails_the_pod_only_if_it_may_not_run_again() {
    let case =
        || Case::new(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]})).sandbox(0);
    assert_eq!(phase_of(&case().exited("i", 0, 1, 1)), "Pending");
    assert_eq!(phase_of(&case().policy("Never").exited("i", 0, 1, 1)), "Failed");
    let status = status(&case());
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
    assert_eq!(state(&case()), json!({"waiting": {"reason": "PodInitializing"}}));
}

#[test]
fn a_crash_loop_says_how_long_it_waits_and_how_it_ended() {
    let case = Case::simple().sandbox(0).exited("a", 1, 1, 5).at(10);
    let case = case.with(|memory| memory.restarts.entry("a".into()).or_default().tried(at(1), at(2)));
    let status = status(&case);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.unwrap()[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    let text = "back-off 10s restarting failed container=a pod=p_ns(u)";
    assert_eq!(waiting.message.as_deref(), Some(text));
    let last = container.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref(), container.restart_count), (1, Some("Error"), 1));
}

#[test]
fn the_runtimes_reason_and_the_containers_last_words_are_shown() {
    let mut case = Case::simple().policy("Never").sandbox(0).exited("a", 0, 137, 5);
    case.runtime.containers[0].reason = "OOMKilled".into();
    case.memory.termination_messages.insert("a0".into(), "bye".into());
    let terminated = &state(&case)["terminated"];
    assert_eq!((&terminated["reason"], &terminated["message"]), (&json!("OOMKilled"), &json!("bye")));
}

#[test]
fn a_failed_pull_becomes_a_back_off() {
    let failure = StartFailure::after(None, "ErrImagePull", "no such host".into(), at(0));
    let case = |now| {
        let failure = failure.clone();
        Case::simple().sandbox(0).at(now).with(|memory| _ = memory.start_failures.insert("a".into(), failure))
    };
    assert_eq!(state(&case(0)), json!({"waiting": {"reason": "ErrImagePull", "message": "no such host"}}));
    let text = "Back-off pulling image \"i\": ErrImagePull: no such host";
    assert_eq!(state(&case(5)), json!({"waiting": {"reason": "ImagePullBackOff", "message": text}}));
}

#[test]
fn a_program_that_is_missing_is_an_error_of_its_own_before_the_back_off() {
    let text = "exec: \"nope\": executable file not found in $PATH: unknown";
    let case = |policy: &str, now| {
        let mut case = Case::simple().policy(policy).sandbox(0).exited("a", 1, 128, 5).at(now);
        case.runtime.containers[0].reason = "StartError".into();
        case.memory.run_errors.insert("a1".into(), text.into());
        case.with(|memory| memory.restarts.entry("a".into()).or_default().tried(at(1), at(2)))
    };
    let shown = case("Always", 6);
    assert_eq!(state(&shown), json!({"waiting": {"reason": "RunContainerError", "message": text}}));
    let last = status(&shown).container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (128, Some("StartError")));
    assert_eq!(crate::pods::decide::decide(shown.view()).wake_at, Some(at(10)));
    assert_eq!(state(&case("Always", 10))["waiting"]["reason"], json!("CrashLoopBackOff"));
    let never = case("Never", 6);
    assert_eq!(state(&never)["terminated"]["reason"], json!("StartError"));
    assert_eq!(phase_of(&never), "Failed");
}

#[test]
fn how_an_instance_ended_shows_before_the_next_starts() {
    let mut case = Case::simple().sandbox(0).exited("a", 0, 137, 5).at(5);
    case.runtime.containers[0].reason = "OOMKilled".into();
    assert_eq!(state(&case)["terminated"]["reason"], json!("OOMKilled"));
    let waits = case.with(|memory| memory.restarts.entry("a".into()).or_default().tried(at(1), at(2)));
    assert_eq!(state(&waits)["terminated"]["reason"], json!("OOMKilled"));
    assert_eq!(crate::pods::decide::decide(waits.view()).wake_at, Some(at(10)));
    let later = waits.at(10);
    assert_eq!(state(&later)["waiting"]["reason"], json!("CrashLoopBackOff"));
    let last = status(&later).container_statuses.unwrap()[0].last_state.clone().unwrap().terminated.unwrap();
    assert_eq!(last.reason.as_deref(), Some("OOMKilled"));
}

#[test]
fn resources_are_shown_as_they_were_given() {
    let resources = json!({"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}});
    let case = Case::new(json!({"containers": [{"name": "a", "resources": resources}]})).sandbox(0);
    let shown = serde_json::to_value(status(&case.running("a", 0))).unwrap();
    assert_eq!(shown["containerStatuses"][0]["resources"], resources);
    assert_eq!(shown["containerStatuses"][0]["allocatedResources"], json!({"cpu": "100m"}));
}

#[test]
fn a_pod_that_is_deleted_comes_to_an_end_also_where_it_never_ran() {
    assert_eq!(phase_of(&Case::simple().sandbox(0).deleted(30)), "Failed");
    assert_eq!(phase_of(&Case::simple().deleted(30)), "Failed");
    let pulls = Case::simple().sandbox(0).deleted(30).with(|memory| _ = memory.busy.insert("a".into()));
    assert_eq!(phase_of(&pulls), "Pending", "a pull is under way");
    assert_eq!(phase_of(&Case::simple().sandbox(0).running("a", 0).deleted(30)), "Running");
    assert_eq!(phase_of(&Case::simple().sandbox(0).exited("a", 0, 0, 1).deleted(30)), "Succeeded");
    assert_eq!(phase_of(&Case::simple().sandbox(0).exited("a", 0, 137, 1).deleted(30)), "Failed");
}

#[test]
fn who_ends_a_pod_first_says_how_and_nobody_changes_it() {
    let mut case = Case::simple().sandbox(0).running("a", 0);
    let own = status(&case);
    let ended = json!({"phase": "Failed", "reason": "Evicted", "message": "no room"});
    case.pod.status = Some(serde_json::from_value(ended).unwrap());
    let evicted = build(case.view(), &[], &own);
    assert_eq!((evicted.phase.as_deref(), evicted.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    case.pod.status = Some(serde_json::from_value(json!({"phase": "Succeeded", "reason": "Other"})).unwrap());
    let after = build(case.view(), &[], &evicted);
    assert_eq!((after.phase.as_deref(), after.reason.as_deref()), (Some("Failed"), Some("Evicted")));
    case.pod.status = None;
    assert_eq!(build(case.view(), &[], &evicted).phase.as_deref(), Some("Failed"));
    let lost: PodStatus = serde_json::from_value(json!({"phase": "Running", "reason": "NodeLost"})).unwrap();
    assert_eq!(build(case.view(), &[], &lost).reason, None, "the node knows better");
}

#[test]
fn probes_and_gates_decide_readiness() {
    let spec = json!({"readinessGates": [{"conditionType": "x/y"}],
        "containers": [{"name": "a", "readinessProbe": {"exec": {}}}]});
    let mut case = Case::new(spec).sandbox(0).running("a", 0);
    assert_eq!(condition(&status(&case), "ContainersReady").status, "False");
    case.memory.probes.insert("a0".into(), ProbeState { ready: Some(true), ..Default::default() });
    assert_eq!(condition(&status(&case), "ContainersReady").status, "True");
    assert_eq!(condition(&status(&case), "Ready").reason.as_deref(), Some("ReadinessGatesNotReady"));
    let gate = json!({"conditions": [{"type": "x/y", "status": "True"}]});
    case.pod.status = Some(serde_json::from_value(gate).unwrap());
    assert_eq!(condition(&status(&case), "Ready").status, "True");
}

#[test]
fn a_condition_keeps_its_time_while_it_does_not_change() {
    let mut case = Case::simple().sandbox(0).running("a", 0);
    case.pod.status = Some(status(&case));
    let later = Case { now: at(100), ..case };
    let after = status(&later);
    assert_eq!(Some(after), later.pod.status);
}

#[test]
fn a_finished_pod_stays_finished_and_keeps_its_address() {
    let mut case = Case::simple().policy("Never").sandbox(0).exited("a", 0, 0, 5);
    case.pod.status = Some(status(&case));
    case.runtime.sandboxes[0].ready = false;
    let after = status(&case);
    assert_eq!((after.phase.as_deref(), after.pod_ip.as_deref()), (Some("Succeeded"), Some("10.244.1.2")));
    assert_eq!(condition(&after, "Ready").reason.as_deref(), Some("PodCompleted"));
    case.runtime = Default::default();
    case.pod.status = Some(after);
    assert_eq!(phase_of(&case), "Succeeded");
    assert_eq!(state(&case)["terminated"]["reason"], json!("Completed"));
}

#[test]
fn a_pod_on_the_hosts_network_has_the_nodes_address() {
    let case =
        Case::new(json!({"hostNetwork": true, "containers": [{"name": "a"}]})).sandbox(0).running("a", 0);
    assert_eq!(status(&case).pod_ip.as_deref(), Some("192.0.2.1"));
}

#[test]
fn a_pod_that_the_node_refused_has_failed_without_containers() {
    use crate::admission::Rejection;
    let rejection = Rejection { reason: "OutOfcpu".into(), message: "no room".into() };
    let case = Case::simple().with(|memory| memory.admission = Admission::Rejected(rejection));
    let status = status(&case);
    let told = [&status.phase, &status.reason, &status.message].map(|text| text.as_deref().unwrap());
    assert_eq!(told, ["Failed", "OutOfcpu", "Pod was rejected: no room"]);
    // A waiting container would be shown in the reason's place.
    assert_eq!(status.container_statuses, None);
    assert_eq!(condition(&status, "Ready").status, "False");
}

#[test]
fn ephemeral_containers_have_statuses_of_their_own_and_decide_nothing() {
    let ephemeral = json!([{"name": "d", "image": "i"}]);
    let spec = json!({"containers": [{"name": "a", "image": "i"}], "ephemeralContainers": ephemeral});
    let case = Case::new(spec).sandbox(0).running("a", 0).exited("d", 0, 3, 5).at(60);
    let told = status(&case);
    let ephemeral = &told.ephemeral_container_statuses.as_ref().unwrap()[0];
    let end = ephemeral.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((ephemeral.name.as_str(), end.exit_code, ephemeral.restart_count), ("d", 3, 0));
    assert_eq!((told.phase.as_deref(), condition(&told, "Ready").status.as_str()), (Some("Running"), "True"));
    // What was told of one that the runtime has forgotten stays.
    let mut forgotten =
        Case::new(serde_json::to_value(case.pod.spec.clone()).unwrap()).sandbox(1).running("a", 1);
    forgotten.pod.status = Some(told.clone());
    assert_eq!(status(&forgotten).ephemeral_container_statuses, told.ephemeral_container_statuses);
}
