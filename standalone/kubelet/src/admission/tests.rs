use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::*;

fn pod(name: &str, spec: Value) -> Pod {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec}))
        .unwrap()
}

fn asks(resource: &str, amount: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {resource: amount}}}]})
}

fn host_port(port: Value) -> Value {
    json!({"containers": [{"name": "c", "ports": [port]}]})
}

fn node(spec: Value) -> NodeFacts {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "n1", "labels": {"disk": "ssd", "kubernetes.io/os": "linux"}},
        "spec": spec,
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "3",
            "example.com/gpu": "1"}},
    }))
    .unwrap();
    NodeFacts::of(&node)
}

fn reason(ledger: &Ledger, pod: &Pod, node: &NodeFacts) -> Result<(), String> {
    ledger.admit(pod, node, &Abilities::default()).map_err(|rejection| rejection.reason)
}

#[test]
fn a_pod_is_taken_only_where_the_node_has_what_it_asks_for() {
    let affinity = |operator: &str| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": operator, "values": ["ssd"]}]}]}}}})
    };
    let cases = [
        (json!({}), Ok(())),
        (asks("cpu", "2"), Ok(())),
        (asks("cpu", "2001m"), Err("OutOfcpu")),
        (asks("memory", "2Gi"), Err("OutOfmemory")),
        (asks("ephemeral-storage", "1Ti"), Err("OutOfephemeral-storage")),
        (asks("example.com/gpu", "2"), Err("OutOfexample.com/gpu")),
        (asks("example.com/unknown-here", "2"), Ok(())),
        (asks("hugepages-2Mi", "4Mi"), Err("OutOfhugepages-2Mi")),
        (json!({"overhead": {"cpu": "3"}}), Err("OutOfcpu")),
        (json!({"nodeSelector": {"disk": "ssd"}}), Ok(())),
        (json!({"nodeSelector": {"disk": "hdd"}}), Err("NodeAffinity")),
        (affinity("In"), Ok(())),
        (affinity("NotIn"), Err("NodeAffinity")),
        (json!({"nodeName": "n2"}), Err("NodeName")),
        (json!({"nodeName": "n1"}), Ok(())),
        (json!({"os": {"name": "windows"}}), Err("PodOSNotSupported")),
        (json!({"os": {"name": "linux"}}), Ok(())),
    ];
    for (spec, expected) in cases {
        let judged = reason(&Ledger::default(), &pod("p", spec.clone()), &node(json!({})));
        assert_eq!(judged, expected.map_err(str::to_owned), "{spec}");
    }
    let rejection = Ledger::default()
        .admit(&pod("p", asks("cpu", "100")), &node(json!({})), &Abilities::default())
        .unwrap_err();
    assert_eq!(
        rejection.message,
        "Node didn't have enough resource: cpu, requested: 100000, used: 0, capacity: 2000"
    );
    let mut labelled = pod("p", json!({}));
    labelled.metadata.labels = Some([("kubernetes.io/os".to_owned(), "windows".to_owned())].into());
    let judged = reason(&Ledger::default(), &labelled, &node(json!({})));
    assert_eq!(judged, Err("PodOSSelectorNodeLabelDoesNotMatch".to_owned()));
}

#[test]
fn of_two_pods_that_want_the_same_the_second_is_refused_until_the_first_has_left() {
    let udp = json!({"containerPort": 53, "hostPort": 5353, "protocol": "UDP"});
    let here = json!({"containerPort": 80, "hostPort": 5353, "hostIP": "192.0.2.1"});
    let cases = [
        (asks("cpu", "1500m"), asks("cpu", "600m"), Err("OutOfcpu")),
        (asks("cpu", "1500m"), asks("cpu", "500m"), Ok(())),
        (asks("memory", "600Mi"), asks("memory", "600Mi"), Err("OutOfmemory")),
        (host_port(udp.clone()), host_port(udp.clone()), Err("NodePorts")),
        (host_port(udp), host_port(here.clone()), Ok(())),
        (host_port(here.clone()), host_port(json!({"containerPort": 1, "hostPort": 5353})), Err("NodePorts")),
        (
            host_port(here.clone()),
            host_port(json!({"containerPort": 1, "hostPort": 5353, "hostIP": "192.0.2.2"})),
            Ok(()),
        ),
        (
            json!({"hostNetwork": true, "containers": [{"name": "c", "ports": [{"containerPort": 5353}]}]}),
            host_port(here),
            Err("NodePorts"),
        ),
    ];
    for (first, second, expected) in cases {
        let (ledger, node) = (Ledger::default(), node(json!({})));
        assert_eq!(reason(&ledger, &pod("a", first.clone()), &node), Ok(()));
        assert_eq!(
            reason(&ledger, &pod("a", first.clone()), &node),
            Ok(()),
            "a pod does not stand in its own way"
        );
        let second = pod("b", second.clone());
        assert_eq!(
            reason(&ledger, &second, &node),
            expected.map_err(str::to_owned),
            "{first} then {second:?}"
        );
        ledger.release("a");
        assert_eq!(reason(&ledger, &second, &node), Ok(()));
    }
}

#[test]
fn a_pod_that_was_resized_counts_with_what_it_asks_for_now() {
    let (ledger, node) = (Ledger::default(), node(json!({})));
    assert_eq!(reason(&ledger, &pod("a", asks("cpu", "500m")), &node), Ok(()));
    ledger.follow(&pod("a", asks("cpu", "1500m")));
    ledger.follow(&pod("never-taken", asks("cpu", "2")));
    assert_eq!(reason(&ledger, &pod("b", asks("cpu", "501m")), &node), Err("OutOfcpu".to_owned()));
    assert_eq!(reason(&ledger, &pod("b", asks("cpu", "500m")), &node), Ok(()));
}

#[test]
fn the_number_of_pods_is_limited_and_ended_ones_do_not_count() {
    let (ledger, node) = (Ledger::default(), node(json!({})));
    let mut ended = pod("ended", json!({}));
    ended.status = Some(serde_json::from_value(json!({"phase": "Succeeded"})).unwrap());
    ledger.keep(&ended);
    for name in ["a", "b", "c"] {
        assert_eq!(reason(&ledger, &pod(name, json!({})), &node), Ok(()));
    }
    let full = ledger.admit(&pod("d", json!({})), &node, &Abilities::default()).unwrap_err();
    let message = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
    assert_eq!(full, Rejection::new("OutOfpods", message));
}

#[test]
fn only_taints_that_evict_keep_a_pod_off() {
    let tainted = |effect: &str| node(json!({"taints": [{"key": "k", "value": "v", "effect": effect}]}));
    let tolerant = json!({"tolerations": [{"key": "k", "operator": "Exists"}]});
    let cases = [
        ("NoExecute", json!({}), Err("TaintToleration")),
        ("NoExecute", tolerant, Ok(())),
        ("NoSchedule", json!({}), Ok(())),
        ("PreferNoSchedule", json!({}), Ok(())),
    ];
    for (effect, spec, expected) in cases {
        let judged = reason(&Ledger::default(), &pod("p", spec.clone()), &tainted(effect));
        assert_eq!(judged, expected.map_err(str::to_owned), "{effect} {spec}");
    }
}

#[test]
fn what_the_node_can_not_give_is_refused() {
    let all = Abilities { apparmor: true, strict_groups: true, pod_limits: true, ..Default::default() };
    let recursive = |how: &str| {
        let mount = json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": how});
        json!({"containers": [{"name": "c", "volumeMounts": [mount]}]})
    };
    let container = |security: Value| json!({"containers": [{"name": "c", "securityContext": security}]});
    let cases = [
        (json!({"hostUsers": false}), "UserNamespacesNotSupported", false),
        (json!({"resourceClaims": [{"name": "gpu"}]}), "ResourceClaimsNotSupported", false),
        (json!({"resources": {"limits": {"memory": "1Gi"}}}), "PodLevelResourcesNotSupported", true),
        (json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}), "PodLevelResourcesNotSupported", false),
        (recursive("Enabled"), "RecursiveReadOnlyMountsNotSupported", false),
        (
            json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}}),
            "SupplementalGroupsPolicyNotSupported",
            true,
        ),
        (json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}), "AppArmor", true),
        (
            container(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}})),
            "AppArmor",
            true,
        ),
    ];
    for (spec, expected, with_all) in cases {
        let pod = pod("p", spec.clone());
        assert_eq!(reason(&Ledger::default(), &pod, &node(json!({}))), Err(expected.to_owned()), "{spec}");
        assert_eq!(Ledger::default().admit(&pod, &node(json!({})), &all).is_ok(), with_all, "{spec}");
    }
    let harmless = [
        json!({"hostUsers": true}),
        json!({"resources": {"requests": {"memory": "1Mi"}}}),
        recursive("IfPossible"),
        json!({"securityContext": {"supplementalGroupsPolicy": "Merge", "supplementalGroups": [4]}}),
        json!({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}),
        // The container's own word counts, not the pod's.
        json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}, "containers":
            [{"name": "c", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}),
    ];
    for spec in harmless {
        assert_eq!(reason(&Ledger::default(), &pod("p", spec.clone()), &node(json!({}))), Ok(()), "{spec}");
    }
}
