//! Resizing a running pod in place (KEP-1287): what a container was given set against what its specification
//! says now.

use jiff::{SignedDuration, Timestamp};
use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::{
    backoff,
    view::{View, is_sidecar},
};
use crate::{
    cri::{ContainerPhase, ContainerRecord},
    spec::resources::{self, QosClass, limit_millis, request_millis},
};

/// A resize that has no room now is looked at again this often; pods that end tell nobody.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// Requests, or what there is for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_millis: i128,
    pub memory_bytes: i128,
}

/// What a node can give to pods in all, and what its other pods have of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    pub allocatable: Amounts,
    pub used: Amounts,
}

/// Why a pod keeps what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Never on this node.
    Infeasible(String),
    /// Not beside the pods that are there.
    Deferred(String),
}

/// The next step of a running instance towards its specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    LookAgain(Timestamp),
    /// The container goes on with other limits.
    Update,
    /// A resource that differs may only change with a restart.
    Restart,
}

/// All that may be changed in place.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

pub fn step(view: View, container: &Container, record: &ContainerRecord) -> Step {
    let changed = changed(view, container, record);
    if changed.is_empty() {
        return Step::Nothing;
    }
    if pending(view).is_some() {
        return Step::LookAgain(backoff::add(view.now, LOOK_AGAIN));
    }
    match view.memory.resize_failures.get(&record.id) {
        Some(failure) if failure.retry_at > view.now => return Step::LookAgain(failure.retry_at),
        _ => {}
    }
    let restarts = |resource: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
    };
    if changed.into_iter().any(restarts) { Step::Restart } else { Step::Update }
}

/// Whether the pod's new requests are refused for now or for good; only more than the pod has can be.
pub fn pending(view: View) -> Option<Pending> {
    if !in_change(view) {
        return None;
    }
    let (wanted, has) = (amounts(view, false), amounts(view, true));
    let room = view.room;
    let each = [
        ("cpu", wanted.cpu_millis, has.cpu_millis, room.allocatable.cpu_millis, room.used.cpu_millis),
        (
            "memory",
            wanted.memory_bytes,
            has.memory_bytes,
            room.allocatable.memory_bytes,
            room.used.memory_bytes,
        ),
    ];
    let more = || each.into_iter().filter(|(_, wanted, has, ..)| wanted > has);
    let never = more().find(|(_, wanted, _, capacity, _)| wanted > capacity);
    if let Some((resource, wanted, _, capacity, _)) = never {
        return Some(Pending::Infeasible(format!(
            "Node didn't have enough capacity: {resource}, requested: {wanted}, capacity: {capacity}"
        )));
    }
    let (resource, wanted, _, capacity, used) =
        more().find(|(_, wanted, _, capacity, used)| wanted + used > *capacity)?;
    Some(Pending::Deferred(format!(
        "Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, capacity: {capacity}"
    )))
}

/// Whether a running instance has not what its specification says.
pub fn in_change(view: View) -> bool {
    containers(view.pod).any(|container| {
        running(view, container).is_some_and(|record| !changed(view, container, record).is_empty())
    })
}

/// Why the runtime did not do it, where it was asked.
pub fn failure(view: View<'_>) -> Option<&str> {
    let failures = view.memory.resize_failures.iter();
    failures.map(|(_, failure)| failure.message.as_str()).next()
}

/// What the pod has been given: by its running instances, by its specification where nothing runs.
pub fn given(view: View) -> Amounts {
    amounts(view, true)
}

/// What an instance runs with.
pub fn applied<'a>(
    view: View<'a>,
    container: &'a Container,
    record: &ContainerRecord,
) -> Option<&'a ResourceRequirements> {
    view.memory.applied.get(&record.id).or(container.resources.as_ref())
}

/// cgroup values that a running container is changed to: a limit that is not there any more has to be said.
pub fn limits(container: &Container, qos: QosClass, node_memory_bytes: u64) -> LinuxContainerResources {
    let values = resources::cgroup(container, qos, node_memory_bytes);
    let said = |limit: i64| if limit == 0 { -1 } else { limit };
    LinuxContainerResources {
        cpu_quota: said(values.cpu_quota),
        memory_limit_in_bytes: said(values.memory_limit_in_bytes),
        ..values
    }
}

fn changed(view: View, container: &Container, record: &ContainerRecord) -> Vec<&'static str> {
    let has = with(container, applied(view, container, record));
    let differs = |resource: &&str| {
        request_millis(&has, resource) != request_millis(container, resource)
            || limit_millis(&has, resource) != limit_millis(container, resource)
    };
    RESOURCES.into_iter().filter(differs).collect()
}

fn amounts(view: View, given: bool) -> Amounts {
    let mut sum = Amounts::default();
    for container in containers(view.pod) {
        let record = running(view, container).filter(|_| given);
        let resources = match record {
            Some(record) => applied(view, container, record),
            None => container.resources.as_ref(),
        };
        let container = with(container, resources);
        sum.cpu_millis += request_millis(&container, "cpu").unwrap_or(0);
        sum.memory_bytes += request_millis(&container, "memory").unwrap_or(0) / 1000;
    }
    sum
}

fn with(container: &Container, resources: Option<&ResourceRequirements>) -> Container {
    Container { name: container.name.clone(), resources: resources.cloned(), ..Default::default() }
}

/// Those that run as long as the pod does.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| {
        let sidecars = spec.init_containers.iter().flatten().filter(|init| is_sidecar(init));
        spec.containers.iter().chain(sidecars)
    })
}

fn running<'a>(view: View<'a>, container: &Container) -> Option<&'a ContainerRecord> {
    view.runtime.latest(&container.name).filter(|record| record.phase == ContainerPhase::Running)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::{
        decide::{Action, decide},
        fixture::{Case, at},
        memory::StepFailure,
        status,
    };

    const MIB: i128 = 1 << 20;

    /// Runs with 100m and 100Mi, and shall have this now.
    fn case(resources: &Value, policy: &Value) -> Case {
        let container = json!({"name": "a", "resources": resources, "resizePolicy": policy});
        let given = json!({"requests": {"cpu": "100m", "memory": "100Mi"}, "limits": {"memory": "100Mi"}});
        let mut case = Case::new(json!({"containers": [container]})).sandbox(0).running("a", 0);
        case.memory.applied.insert("a0".into(), serde_json::from_value(given).unwrap());
        case.room.allocatable = Amounts { cpu_millis: 2000, memory_bytes: 1000 * MIB };
        case
    }

    fn more(cpu: &str, memory: &str) -> Value {
        json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}})
    }

    fn actions(case: &Case) -> Vec<Action> {
        decide(case.view()).actions
    }

    /// The container's status, and each condition of the resize as `TYPE REASON: MESSAGE`.
    fn shown(case: &Case) -> (Value, Vec<String>) {
        let status = status::build(case.view(), &[], &Default::default());
        let conditions = status.conditions.into_iter().flatten().filter(|c| c.type_.contains("Resize"));
        let text = |text: Option<String>| text.unwrap_or_default();
        let conditions =
            conditions.map(|c| format!("{} {}: {}", c.type_, text(c.reason), text(c.message))).collect();
        (serde_json::to_value(&status.container_statuses.unwrap()[0]).unwrap(), conditions)
    }

    #[test]
    fn a_running_container_gets_what_it_is_resized_to_and_shows_what_it_has() {
        let resized = case(&more("200m", "200Mi"), &json!(null));
        assert_eq!(actions(&resized), [Action::Resize { id: "a0".into(), name: "a".into() }]);
        let (container, conditions) = shown(&resized);
        assert_eq!(conditions, ["PodResizeInProgress : "]);
        assert_eq!(container["resources"]["limits"]["memory"], "100Mi");
        assert_eq!(container["allocatedResources"]["cpu"], "200m");
        let done = resized.with(|memory| {
            memory.applied.insert("a0".into(), serde_json::from_value(more("200m", "200Mi")).unwrap());
        });
        assert_eq!((actions(&done), shown(&done).1), (vec![], vec![]));
        let same = case(&more("0.1", "102400Ki"), &json!(null));
        assert_eq!(actions(&same), [], "written otherwise");
    }

    #[test]
    fn a_resource_whose_policy_says_so_is_changed_by_a_restart() {
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let memory = case(&more("100m", "200Mi"), &policy);
        let [Action::Kill { why, .. }] = &actions(&memory)[..] else { panic!("{:?}", actions(&memory)) };
        assert_eq!(why, "Container a resize requires restart");
        assert!(matches!(actions(&case(&more("200m", "100Mi"), &policy))[..], [Action::Resize { .. }]));
    }

    #[test]
    fn what_the_node_has_not_is_infeasible_and_what_others_have_is_deferred() {
        let infeasible = case(&more("2001m", "100Mi"), &json!(null));
        assert_eq!(actions(&infeasible), []);
        let (container, conditions) = shown(&infeasible);
        let text = "Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000";
        assert_eq!(conditions, [format!("PodResizePending Infeasible: {text}")]);
        assert_eq!(container["allocatedResources"]["cpu"], "100m");
        let mut deferred = case(&more("200m", "600Mi"), &json!(null));
        deferred.room.used.memory_bytes = 500 * MIB;
        assert_eq!(decide(deferred.view()).wake_at, Some(at(10)));
        let text = "memory, requested: 629145600, used: 524288000, capacity: 1048576000";
        let pending = format!("PodResizePending Deferred: Node didn't have enough resource: {text}");
        assert_eq!(shown(&deferred).1, [pending]);
        let mut less = case(&more("50m", "100Mi"), &json!(null));
        less.room.used = Amounts { cpu_millis: 5000, memory_bytes: 5000 * MIB };
        assert!(matches!(actions(&less)[..], [Action::Resize { .. }]), "less always fits");
    }

    #[test]
    fn what_the_runtime_refuses_is_told_and_tried_again() {
        let failure = StepFailure::after(None, "device busy".into(), at(0));
        let case = case(&more("200m", "200Mi"), &json!(null));
        let case = case.with(|memory| _ = memory.resize_failures.insert("a0".into(), failure));
        assert_eq!((actions(&case), decide(case.view()).wake_at), (vec![], Some(at(1))));
        assert_eq!(shown(&case).1, ["PodResizeInProgress Error: device busy"]);
        assert!(matches!(actions(&case.at(1))[..], [Action::Resize { .. }]));
    }
}
