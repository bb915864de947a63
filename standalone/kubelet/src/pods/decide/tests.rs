use serde_json::json;

use super::*;
use crate::{
    cri::ContainerPhase,
    pods::{
        fixture::{Case, at},
        memory::{Admission, Expected, Failed, ProbeState, StartFailure, StepFailure, Unsettled},
    },
};

fn plan(case: &Case) -> Plan {
    decide(case.view())
}

fn actions(case: &Case) -> Vec<Action> {
    plan(case).actions
}

fn start(name: &str, attempt: u32) -> Action {
    Action::StartContainer { name: name.to_owned(), attempt }
}

fn kill(name: &str, attempt: u32, grace_s: i64) -> Action {
    Action::Kill { id: format!("{name}{attempt}"), name: name.to_owned(), grace_s, why: String::new() }
}

#[test]
fn a_new_pod_gets_volumes_then_a_sandbox_then_its_containers() {
    let fresh = Case::simple().with(|memory| memory.volumes = Volumes::Unprepared);
    assert_eq!(actions(&fresh), [Action::PrepareVolumes]);
    assert_eq!(actions(&Case::simple()), [Action::CreateSandbox { attempt: 0, changed: false }]);
    assert_eq!(actions(&Case::simple().sandbox(0)), [start("a", 0)]);
    assert_eq!(actions(&Case::simple().sandbox(0).running("a", 0)), []);
}

#[test]
fn a_failed_volume_or_sandbox_waits_for_its_time() {
    let failure = || StepFailure::after(None, "no".into(), at(0));
    let case = Case::simple().with(|memory| memory.volumes = Volumes::Failed(failure()));
    assert_eq!(plan(&case), Plan { actions: vec![], wake_at: Some(at(1)) });
    assert_eq!(actions(&case.at(1)), [Action::PrepareVolumes]);
    let case = Case::simple().with(|memory| memory.sandbox_failure = Some(failure()));
    assert_eq!(plan(&case), Plan { actions: vec![], wake_at: Some(at(1)) });
    assert_eq!(actions(&case.at(1)), [Action::CreateSandbox { attempt: 0, changed: false }]);
}

#[test]
fn the_restart_policy_says_who_runs_again() {
    let after = |policy: &str, code| {
        let case = Case::simple().policy(policy).sandbox(0).exited("a", 0, code, 5).at(5);
        actions(&case).contains(&start("a", 1))
    };
    assert!(after("Always", 0) && after("Always", 1));
    assert!(!after("OnFailure", 0) && after("OnFailure", 1));
    assert!(!after("Never", 0) && !after("Never", 1));
}

#[test]
fn a_container_that_keeps_failing_waits_longer_each_time() {
    let case = |now| {
        let case = Case::simple().sandbox(0).exited("a", 1, 1, 5).at(now);
        case.with(|memory| memory.restarts.entry("a".into()).or_default().tried(at(1), at(2)))
    };
    assert_eq!(plan(&case(6)), Plan { actions: vec![], wake_at: Some(at(10)) });
    assert_eq!(plan(&case(10)), Plan { actions: vec![], wake_at: Some(at(15)) });
    assert_eq!(actions(&case(15)), [start("a", 2)]);
}

#[test]
fn init_containers_run_one_after_the_other_before_the_rest() {
    let case = || {
        Case::new(json!({"initContainers": [{"name": "x"}, {"name": "y"}], "containers": [{"name": "a"}]}))
            .sandbox(0)
    };
    assert_eq!(actions(&case()), [start("x", 0)]);
    assert_eq!(actions(&case().running("x", 0)), []);
    assert_eq!(actions(&case().exited("x", 0, 0, 1)), [start("y", 0)]);
    assert_eq!(actions(&case().exited("x", 0, 1, 1).at(1)), [start("x", 1)]);
    assert_eq!(actions(&case().exited("x", 0, 0, 1).exited("y", 0, 0, 2)), [start("a", 0)]);
    let failed = case().policy("Never").exited("x", 0, 1, 1);
    assert_eq!(actions(&failed), [Action::StopSandbox { id: "s0".into() }]);
}

#[test]
fn a_sidecar_lets_the_others_start_once_it_has_started_and_is_kept_running() {
    let case = || {
        Case::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}], "initContainers": [
            {"name": "side", "restartPolicy": "Always", "startupProbe": {"exec": {}}}]}))
        .sandbox(0)
    };
    assert_eq!(actions(&case()), [start("side", 0)]);
    assert_eq!(actions(&case().running("side", 0)), []);
    let started = |memory: &mut crate::pods::memory::Memory| {
        memory.probes.insert("side0".into(), ProbeState { started: Some(true), ..Default::default() });
    };
    assert_eq!(actions(&case().running("side", 0).with(started)), [start("a", 0)]);
    assert_eq!(actions(&case().exited("side", 0, 0, 1).running("a", 0).at(1)), [start("side", 1)]);
    // The pod's own containers have ended: the sidecar is stopped, then the sandbox.
    let ended = case().running("side", 0).exited("a", 0, 0, 1);
    assert_eq!(actions(&ended), [kill("side", 0, 30)]);
    let all = case().exited("side", 0, 0, 2).exited("a", 0, 0, 1);
    assert_eq!(actions(&all), [Action::StopSandbox { id: "s0".into() }]);
    assert_eq!(actions(&all.with(|memory| memory.sandbox_stopped = true)), []);
}

#[test]
fn a_dead_sandbox_is_made_anew_with_everything_in_it() {
    let case = Case::simple().sandbox_dead(0).running("a", 0);
    assert_eq!(actions(&case), [kill("a", 0, 30)]);
    let case = Case::simple().sandbox_dead(0).exited("a", 0, 137, 1);
    assert_eq!(actions(&case), [Action::CreateSandbox { attempt: 1, changed: true }]);
    let case = Case::simple().sandbox_dead(0).exited("a", 0, 137, 1).sandbox(1);
    assert_eq!(actions(&case), [start("a", 1)]);
}

#[test]
fn a_new_sandbox_starts_again_only_what_the_policy_starts_again() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]});
    let case = |policy: &str| {
        let old = Case::new(spec.clone()).policy(policy).sandbox_dead(0).exited("i", 0, 0, 1);
        old.exited("a", 0, 0, 2).exited("b", 0, 137, 3).at(3)
    };
    let new = case("OnFailure").sandbox(1);
    assert_eq!(actions(&new), [start("i", 1)], "it prepares the new one");
    assert_eq!(actions(&new.exited("i", 1, 0, 4)), [start("b", 1)]);
    assert_eq!(actions(&case("Always").sandbox(1).exited("i", 1, 0, 4)), [start("a", 1), start("b", 1)]);
    assert_eq!(actions(&case("Never")), [Action::StopSandbox { id: "s0".into() }]);
    let again = case("Always").sandbox(1).exited("i", 1, 0, 4).with(|memory| {
        memory.restarts.entry("b".into()).or_default().tried(at(1), at(2));
    });
    assert_eq!(plan(&again), Plan { actions: vec![start("a", 1)], wake_at: Some(at(13)) });
}

#[test]
fn nothing_starts_beside_a_container_of_an_older_sandbox() {
    let case = Case::simple().sandbox(0).running("a", 0).sandbox(1);
    assert_eq!(actions(&case), [kill("a", 0, 30)]);
    assert_eq!(actions(&case.with(|memory| _ = memory.busy.insert("a".into()))), []);
}

#[test]
fn what_was_announced_is_asked_for_until_it_is_seen() {
    let unsettled = Unsettled { expected: Expected::END, ask_at: Some(at(7)), ..Default::default() };
    let case = Case::simple().sandbox(0).running("a", 0);
    let case = case.with(|memory| _ = memory.unsettled.insert("s0".into(), unsettled));
    assert_eq!(plan(&case), Plan { actions: vec![], wake_at: Some(at(7)) });
}

#[test]
fn sidecars_end_one_by_one_the_last_first_within_the_grace_of_the_pod() {
    let side = |name: &str| json!({"name": name, "restartPolicy": "Always"});
    let spec =
        json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [side("x"), side("y")]});
    let begun = || Case::new(spec.clone()).sandbox(0).running("x", 0).running("y", 0).deleted(20);
    let mains = begun().running("a", 0).running("b", 0);
    assert_eq!(actions(&mains), [kill("a", 0, 20), kill("b", 0, 20)]);
    assert_eq!(actions(&begun().running("a", 0).exited("b", 0, 0, 1)), [kill("a", 0, 20)]);
    let sidecars = begun().exited("a", 0, 0, 5).exited("b", 0, 0, 1).at(5);
    assert_eq!(actions(&sidecars), [kill("y", 0, 15)]);
    let busy = begun().exited("a", 0, 0, 5).with(|memory| _ = memory.busy.insert("y".into()));
    assert_eq!(actions(&busy), []);
    let last = Case::new(spec.clone()).sandbox(0).running("x", 0).deleted(20).exited("y", 0, 137, 20).at(20);
    assert_eq!(actions(&last), [kill("x", 0, 2)]);
    assert_eq!(actions(&last.exited("x", 0, 0, 21)), [Action::Remove]);
}

#[test]
fn a_sandbox_that_could_not_be_stopped_waits_for_its_time() {
    let failure = StepFailure::after(None, "no".into(), at(0));
    let case = Case::simple().policy("Never").sandbox(0).exited("a", 0, 0, 0);
    let case = case.with(|memory| memory.teardown_failure = Some(failure));
    assert_eq!(plan(&case), Plan { actions: vec![], wake_at: Some(at(1)) });
    assert_eq!(actions(&case.at(1)), [Action::StopSandbox { id: "s0".into() }]);
}

#[test]
fn a_pod_that_was_seen_at_its_end_runs_nothing_again_whatever_its_status_says_later() {
    let case = || Case::simple().sandbox(0).with(|memory| memory.ended = true);
    assert_eq!(actions(&case()), [Action::StopSandbox { id: "s0".into() }]);
    assert_eq!(actions(&case().running("a", 0)), [kill("a", 0, 30)]);
}

#[test]
fn deletion_kills_with_its_grace_and_then_removes() {
    let case = || Case::simple().sandbox(0).deleted(7);
    assert_eq!(actions(&case().running("a", 0)), [kill("a", 0, 7)]);
    let busy = case().running("a", 0).with(|memory| _ = memory.busy.insert("a".into()));
    assert_eq!(actions(&busy), []);
    assert_eq!(actions(&case().exited("a", 0, 0, 1)), [Action::Remove]);
    assert_eq!(actions(&Case::simple().deleted(30)), [Action::Remove], "nothing was started yet");
    let failed =
        case().with(|memory| memory.teardown_failure = Some(StepFailure::after(None, "x".into(), at(0))));
    assert_eq!(plan(&failed), Plan { actions: vec![], wake_at: Some(at(1)) });
}

#[test]
fn an_orphan_is_ended_with_the_grace_it_was_started_with() {
    let mut case = Case::simple().sandbox(0).running("a", 0);
    case.gone = true;
    case.runtime.containers[0].grace_s = Some(3);
    assert_eq!(actions(&case), [kill("a", 0, 3)]);
}

#[test]
fn a_failed_probe_or_a_changed_image_kills_the_container() {
    let failed = ProbeState { failed: Some(Failed::LivenessProbe), ..Default::default() };
    let case = Case::simple().sandbox(0).running("a", 0);
    let case = case.with(|memory| _ = memory.probes.insert("a0".into(), failed));
    let why = |actions: Vec<Action>| match actions.as_slice() {
        [Action::Kill { why, .. }] => why.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(why(actions(&case)), "Container a failed liveness probe, will be restarted");
    let mut case = Case::simple().sandbox(0).running("a", 0);
    case.runtime.containers[0].spec_hash = "old".into();
    assert_eq!(why(actions(&case)), "Container a definition changed, will be restarted");
}

#[test]
fn a_probe_that_gives_up_may_leave_another_grace_than_the_pod() {
    let probes = json!({"terminationGracePeriodSeconds": 60, "containers": [{"name": "a",
        "livenessProbe": {"exec": {}, "terminationGracePeriodSeconds": 5},
        "startupProbe": {"exec": {}, "terminationGracePeriodSeconds": 7}}]});
    let grace = |failed, deleted: Option<i64>| {
        let case = Case::new(probes.clone()).sandbox(0).running("a", 0);
        let failed = ProbeState { failed: Some(failed), ..Default::default() };
        let case = case.with(|memory| _ = memory.probes.insert("a0".into(), failed));
        let case = match deleted {
            Some(grace_s) => case.deleted(grace_s),
            None => case,
        };
        match actions(&case).as_slice() {
            [Action::Kill { grace_s, .. }] => *grace_s,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(grace(Failed::LivenessProbe, None), 5);
    assert_eq!(grace(Failed::StartupProbe, None), 7);
    assert_eq!(grace(Failed::PostStartHook, None), 60);
    assert_eq!(grace(Failed::LivenessProbe, Some(20)), 20, "a pod that goes has its own");
}

#[test]
fn a_container_may_have_a_restart_policy_and_rules_of_its_own() {
    let after = |list: &str, pod: &str, container: serde_json::Value, code| {
        let mut spec = json!({"restartPolicy": pod, "containers": [{"name": "other"}]});
        spec[list] = json!([container]);
        let case = Case::new(spec).sandbox(0).exited("a", 0, code, 5).at(5);
        actions(&case).contains(&start("a", 1))
    };
    let on = |operator: &str, values: &[i32]| json!({"action": "Restart", "exitCodes": {"operator": operator, "values": values}});
    for list in ["containers", "initContainers"] {
        let with = |policy: &str, rules: &[serde_json::Value]| json!({"name": "a", "restartPolicy": policy, "restartPolicyRules": rules});
        assert!(after(list, "Never", with("OnFailure", &[]), 1), "{list}");
        assert!(!after(list, "Always", with("Never", &[]), 1), "{list}");
        assert!(after(list, "Never", with("Never", &[on("In", &[42, 43])]), 43), "{list}");
        assert!(!after(list, "Never", with("Never", &[on("In", &[42, 43])]), 1), "{list}");
        assert!(after(list, "Never", with("Never", &[on("NotIn", &[0, 1])]), 2), "{list}");
        assert!(!after(list, "Never", with("Never", &[on("NotIn", &[0, 1])]), 1), "{list}");
    }
    // A container of the pod itself that goes on although it ended well: no init container may (that is a
    // sidecar).
    assert!(after("containers", "Never", json!({"name": "a", "restartPolicy": "Always"}), 0));
}

#[test]
fn a_container_that_was_made_but_never_started_is_made_anew() {
    let case = Case::simple().sandbox(0).container("a", 2, ContainerPhase::Created);
    assert_eq!(actions(&case), [Action::RemoveContainer { id: "a2".into() }, start("a", 2)]);
}

#[test]
fn a_failed_start_waits_and_shows_its_back_off_in_time() {
    let failure = StartFailure::after(None, "ErrImagePull", "no".into(), at(0));
    let case = |now| {
        let failure = failure.clone();
        Case::simple().sandbox(0).at(now).with(|memory| _ = memory.start_failures.insert("a".into(), failure))
    };
    assert_eq!(plan(&case(1)), Plan { actions: vec![], wake_at: Some(at(5)) });
    assert_eq!(plan(&case(6)), Plan { actions: vec![], wake_at: Some(at(10)) });
    assert_eq!(actions(&case(10)), [start("a", 0)]);
}

#[test]
fn a_pod_past_its_deadline_is_ended() {
    let case = |now| {
        Case::new(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a"}]}))
            .sandbox(0)
            .running("a", 0)
            .at(now)
    };
    assert_eq!(plan(&case(1)).wake_at, Some(at(60)));
    let over = case(60).with(|memory| memory.deadline_exceeded = true);
    assert_eq!(actions(&over), [kill("a", 0, 30)]);
}

#[test]
fn what_the_api_server_counted_is_not_counted_anew_when_the_runtime_forgot() {
    let case = Case::simple().sandbox(0).with(|memory| _ = memory.known_restarts.insert("a".into(), 4));
    assert_eq!(actions(&case), [start("a", 5)]);
}

#[test]
fn a_pod_that_has_come_to_its_end_is_not_started_again_after_a_restart_of_the_agent() {
    let mut case = Case::simple().policy("Never");
    case.pod.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
    assert_eq!(actions(&case), []);
}

#[test]
fn nothing_of_a_pod_is_made_before_the_node_has_taken_it() {
    use crate::admission::Rejection;
    let unasked = |failure| {
        Case::simple().with(|memory| {
            memory.volumes = Volumes::Unprepared;
            memory.admission = Admission::Unasked(failure);
        })
    };
    assert_eq!(actions(&unasked(None)), [Action::Admit]);
    let failed = unasked(Some(StepFailure::after(None, "no answer".into(), at(0))));
    assert_eq!(plan(&failed), Plan { actions: vec![], wake_at: Some(at(1)) });
    assert_eq!(actions(&failed.at(1)), [Action::Admit]);
    assert_eq!(actions(&unasked(None).deleted(30)), [Action::Remove], "nobody needs the verdict any more");
    let rejection = Rejection { reason: "OutOfcpu".into(), message: "no".into() };
    let rejected = Case::simple().with(|memory| memory.admission = Admission::Rejected(rejection));
    assert_eq!(plan(&rejected), Plan::default());
    assert_eq!(actions(&rejected.deleted(30)), [Action::Remove]);
}

#[test]
fn an_ephemeral_container_is_started_once_and_never_again() {
    let ephemeral = json!([{"name": "d", "image": "i"}]);
    let spec = json!({"containers": [{"name": "a", "image": "i"}], "ephemeralContainers": ephemeral});
    let case = || Case::new(spec.clone()).sandbox(0).running("a", 0);
    assert_eq!(actions(&case()), [start("d", 0)]);
    assert_eq!(actions(&case().running("d", 0)), []);
    assert_eq!(actions(&case().exited("d", 0, 1, 5).at(500)), []);
    let made = case().container("d", 0, ContainerPhase::Created);
    assert_eq!(actions(&made), [Action::RemoveContainer { id: "d0".to_owned() }, start("d", 0)]);
    // The runtime has forgotten it (the machine was started anew); the API server has not.
    let mut told = case();
    let status = json!({"ephemeralContainerStatuses": [{"name": "d", "containerID": "containerd://d0", "image": "",
        "imageID": "", "ready": false, "restartCount": 0}]});
    told.pod.status = Some(serde_json::from_value(status).unwrap());
    assert_eq!(actions(&told), []);
    // It waits for no init container, and goes with the others.
    let mut initial = spec.clone();
    initial["initContainers"] = json!([{"name": "i", "image": "i"}]);
    assert_eq!(actions(&Case::new(initial).sandbox(0).running("i", 0)), [start("d", 0)]);
    assert_eq!(actions(&case().running("d", 0).deleted(5)), [kill("a", 0, 5), kill("d", 0, 5)]);
}
