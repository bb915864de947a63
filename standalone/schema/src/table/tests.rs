use super::*;
use crate::find_kind;

fn row(api_version: &str, kind: &str, object: Value) -> Vec<String> {
    let now = "2026-01-02T00:10:00Z".parse().unwrap();
    let kind = find_kind(api_version, kind).unwrap();
    let cells = cells(kind, &object, now);
    assert_eq!(cells.len(), columns(kind).len());
    cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

fn pod(status: Value) -> Vec<String> {
    let object = json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-01-02T00:00:00Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
        "status": status,
    });
    row("v1", "Pod", object)
}

#[test]
fn a_pods_word_says_why_it_is_not_running() {
    let waiting = |reason: &str| json!([{"name": "a", "state": {"waiting": {"reason": reason}}}, {"name": "b", "ready": true, "state": {"running": {}}}]);
    let cases = [
        (json!({"phase": "Pending"}), "0/2", "Pending"),
        (
            json!({"phase": "Pending", "containerStatuses": waiting("ContainerCreating")}),
            "1/2",
            "ContainerCreating",
        ),
        (
            json!({"phase": "Running", "containerStatuses": waiting("CrashLoopBackOff")}),
            "1/2",
            "CrashLoopBackOff",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
            "0/2",
            "Init:0/1",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
            "0/2",
            "Init:Error",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
            "0/2",
            "OOMKilled",
        ),
        (
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
                {"name": "b", "ready": true, "state": {"running": {}}}]}),
            "1/2",
            "Running",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
            "0/2",
            "Completed",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/2", "Evicted"),
    ];
    for (status, ready, word) in cases {
        let cells = pod(status.clone());
        assert_eq!((cells[1].as_str(), cells[2].as_str()), (ready, word), "{status}");
    }
}

#[test]
fn a_pods_restarts_tell_when_the_last_was() {
    let cells = pod(json!({"phase": "Running", "podIP": "10.244.1.2", "containerStatuses": [
        {"name": "a", "restartCount": 3, "ready": true, "state": {"running": {}},
         "lastState": {"terminated": {"finishedAt": "2026-01-02T00:05:00Z"}}},
        {"name": "b", "ready": true, "state": {"running": {}}}]}));
    assert_eq!(cells, ["p", "2/2", "Running", "3 (5m ago)", "10m", "10.244.1.2", "n1", "<none>", "<none>"]);
}

#[test]
fn a_pod_that_is_going_says_so() {
    let object = json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-02T00:00:00Z"}, "status": {"phase": "Running"}});
    assert_eq!(row("v1", "Pod", object)[2], "Terminating");
}

#[test]
fn workloads_show_wanted_and_ready() {
    let object = json!({
        "metadata": {"name": "d", "creationTimestamp": "2026-01-02T00:00:00Z"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}, "template": {"spec": {"containers": [{"name": "c", "image": "nginx"}]}}},
        "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2, "replicas": 3},
    });
    assert_eq!(
        row("apps/v1", "Deployment", object.clone()),
        ["d", "2/3", "3", "2", "10m", "c", "nginx", "app=d"]
    );
    assert_eq!(row("apps/v1", "ReplicaSet", object), ["d", "3", "3", "2", "10m", "c", "nginx", "app=d"]);
    let job = json!({
        "metadata": {"name": "j"}, "spec": {"completions": 4},
        "status": {"succeeded": 4, "startTime": "2026-01-02T00:00:00Z", "completionTime": "2026-01-02T00:00:31Z",
                   "conditions": [{"type": "Complete", "status": "True"}]},
    });
    assert_eq!(row("batch/v1", "Job", job)[..5], ["j", "Complete", "4/4", "31s", "<unknown>"]);
}

#[test]
fn services_nodes_and_slices_show_where_they_are_reached() {
    let service = json!({
        "metadata": {"name": "s", "creationTimestamp": "2026-01-02T00:00:00Z"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "selector": {"b": "c", "a": "b"},
                 "ports": [{"port": 8080, "nodePort": 30123, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]},
    });
    assert_eq!(
        row("v1", "Service", service),
        ["s", "NodePort", "10.96.0.5", "<none>", "8080:30123/TCP,53/UDP", "10m", "a=b,b=c"]
    );
    let node = json!({
        "metadata": {"name": "n", "creationTimestamp": "2026-01-02T00:00:00Z", "labels": {"node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                   "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"}},
    });
    assert_eq!(
        row("v1", "Node", node),
        [
            "n",
            "Ready,SchedulingDisabled",
            "control-plane",
            "10m",
            "v1.36.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "<unknown>",
            "<unknown>"
        ]
    );
    let slice = json!({
        "metadata": {"name": "e"}, "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": (1..6).map(|n| json!({"addresses": [format!("10.0.0.{n}")]})).collect::<Vec<_>>(),
    });
    assert_eq!(
        row("discovery.k8s.io/v1", "EndpointSlice", slice)[1..4],
        ["IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more..."]
    );
}

#[test]
fn both_faces_of_an_event_show_the_same() {
    let mut event = json!({
        "metadata": {"name": "e"}, "type": "Warning", "reason": "Failed", "message": "no\n", "count": 3,
        "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n1"},
        "firstTimestamp": "2026-01-02T00:00:00Z", "lastTimestamp": "2026-01-02T00:09:00Z",
    });
    let core = row("v1", "Event", event.clone());
    assert_eq!(core, ["60s", "Warning", "Failed", "pod/p", "", "kubelet, n1", "no", "10m", "3", "e"]);
    crate::from_storage(find_kind("events.k8s.io/v1", "Event").unwrap(), &mut event);
    assert_eq!(event["note"], "no\n");
    assert_eq!(row("events.k8s.io/v1", "Event", event), core);
}

#[test]
fn a_pods_usage_is_that_of_its_containers_together() {
    let usage = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let metadata = json!({"name": "x"});
    let pod = json!({"metadata": metadata, "window": "15s", "containers": [
        {"name": "a", "usage": usage("900m", "100Mi")}, {"name": "b", "usage": usage("100m", "51200Ki")}]});
    assert_eq!(row("metrics.k8s.io/v1beta1", "PodMetrics", pod), ["x", "1", "150Mi", "15s"]);
    let node = json!({"metadata": metadata, "window": "15s", "usage": usage("1500u", "1Gi")});
    assert_eq!(row("metrics.k8s.io/v1beta1", "NodeMetrics", node), ["x", "1500u", "1Gi", "15s"]);
}
