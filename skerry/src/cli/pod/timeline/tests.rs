use serde_json::json;

use super::*;

fn pod() -> Value {
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-12-01T10:00:02Z"});
    json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "u", "creationTimestamp": "2026-12-01T10:00:00Z"},
        "spec": {"nodeName": "n1"},
        "status": {
            "startTime": "2026-12-01T10:00:00Z", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}],
            "conditions": [condition("PodScheduled"), condition("PodReadyToStartContainers"), condition("Ready")],
            "containerStatuses": [{"name": "c", "restartCount": 0,
                "state": {"running": {"startedAt": "2026-12-01T10:00:01Z"}}}],
        },
    })
}

fn slice(ready: bool) -> Value {
    json!({"metadata": {"namespace": "a", "labels": {"kubernetes.io/service-name": "svc"}},
        "endpoints": [{"targetRef": {"uid": "u"}, "conditions": {"ready": ready}}, {"targetRef": {"uid": "other"}}]})
}

fn proxy(node: &str, heard: &str, programmed: &str) -> NodeFacts {
    let services = match heard {
        "" => json!([]),
        _ => json!([{"service": "a/svc", "heard": heard, "programmed": programmed}]),
    };
    let told = json!({"since": "2026-12-01T09:00:00.000000Z", "given": "2026-12-01T10:00:00.500000Z", "services": services});
    NodeFacts { node: node.to_owned(), told: Ok(vec![told]) }
}

fn facts() -> Facts {
    let node = json!({
        "uid": "u", "seen": "2026-12-01T10:00:00.400000Z", "sandboxAsked": "2026-12-01T10:00:00.410000Z",
        "sandboxReady": "2026-12-01T10:00:00.700000Z", "ready": "2026-12-01T10:00:02.000100Z",
        "containers": [{"name": "c", "image": "2026-12-01T10:00:00.710000Z", "created": "2026-12-01T10:00:00.720000Z",
            "started": "2026-12-01T10:00:01.000000Z"}],
    });
    Facts {
        pod: pod(),
        events: Ok(vec![json!({"reason": "Scheduled", "eventTime": "2026-12-01T10:00:00.300000Z"})]),
        slices: Ok(vec![slice(true)]),
        node: Ok(node),
        nodes: Ok(vec![
            proxy("n1", "2026-12-01T10:00:02.010000Z", "2026-12-01T10:00:02.011000Z"),
            proxy("n2", "2026-12-01T10:00:02.009000Z", "2026-12-01T10:00:02.013500Z"),
        ]),
    }
}

fn rows(facts: &Facts) -> Vec<(String, Value, Value)> {
    let rows = sheet(&steps(facts)).objects();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (text(&row["step"]), row["time"].clone(), row["after-s"].clone())).collect()
}

#[test]
fn the_chain_is_told_in_its_order_with_what_each_step_took() {
    let expected = [
        ("created", "2026-12-01T10:00:00Z", Value::Null),
        ("scheduled to n1", "2026-12-01T10:00:00.300000Z", json!(0)),
        ("seen by the node agent", "2026-12-01T10:00:00.400000Z", json!(0.1)),
        ("sandbox asked for", "2026-12-01T10:00:00.410000Z", json!(0.01)),
        ("address 10.0.0.5 given (CNI)", "2026-12-01T10:00:00.500000Z", json!(0.09)),
        ("sandbox and network ready", "2026-12-01T10:00:00.700000Z", json!(0.2)),
        ("image of c there", "2026-12-01T10:00:00.710000Z", json!(0.01)),
        ("container c created", "2026-12-01T10:00:00.720000Z", json!(0.01)),
        ("container c started", "2026-12-01T10:00:01.000000Z", json!(0.28)),
        ("ready", "2026-12-01T10:00:02.000100Z", json!(1.0001)),
        ("endpoint of a/svc in an EndpointSlice", "2026-12-01T10:00:02.009000Z", json!(0.0089)),
        ("a/svc programmed on n1", "2026-12-01T10:00:02.011000Z", json!(0.002)),
        ("a/svc programmed on n2", "2026-12-01T10:00:02.013500Z", json!(0.0025)),
    ];
    let expected = expected.map(|(step, time, after)| (step.to_owned(), json!(time), after));
    assert_eq!(rows(&facts()), expected);
}

#[test]
fn what_nobody_has_recorded_says_so_and_has_no_time() {
    let gone = || Err("node n1 did not answer within 5 s".to_owned());
    let nodes =
        vec![NodeFacts { node: "n1".into(), told: gone().map(|_: Value| Vec::new()) }, proxy("n2", "", "")];
    let facts = Facts { events: Err("forbidden".into()), node: gone(), nodes: Ok(nodes), ..facts() };
    let told = steps(&facts);
    let find = |step: &str| told.iter().find(|told| told.step == step).unwrap();
    for (step, from) in [
        ("sandbox asked for", "not known: node n1 did not answer within 5 s"),
        ("address 10.0.0.5 given (CNI)", "not known: node n1 did not answer within 5 s"),
        ("image of c there", "not known: node n1 did not answer within 5 s"),
        ("endpoint of a/svc in an EndpointSlice", "it is there; no node has recorded since when"),
        ("a/svc programmed on n1", "not known: node n1 did not answer within 5 s"),
    ] {
        assert_eq!((find(step).at, find(step).from.as_str()), (None, from), "{step}");
    }
    assert!(find("a/svc programmed on n2").from.contains("2026-12-01T09:00:00.000000Z"));
    // What the API itself keeps is told to the second.
    for (step, from) in [
        ("scheduled to n1", "the pod's condition"),
        ("seen by the node agent", "the pod's startTime"),
        ("container c started", "the pod's status"),
        ("ready", "the pod's condition"),
    ] {
        assert_eq!((find(step).at.unwrap().is_exact, find(step).from.as_str()), (false, from), "{step}");
    }
    let after: Vec<Value> = rows(&facts).into_iter().map(|(_, _, after)| after).collect();
    assert_eq!(after[1], json!(2), "whole seconds");
}

#[test]
fn a_pod_that_waits_ends_where_it_stands() {
    let mut waiting = facts();
    waiting.pod["spec"] = json!({});
    waiting.pod["status"] = json!({"phase": "Pending"});
    waiting.events = Ok(Vec::new());
    let told = steps(&waiting);
    assert_eq!(told.iter().map(|step| step.step.as_str()).collect::<Vec<_>>(), ["created", "scheduled"]);
    assert_eq!(told[1].at, None);

    let unready = Facts { slices: Ok(vec![slice(false)]), ..facts() };
    let last = steps(&unready).pop().unwrap();
    assert_eq!((last.at, last.from.as_str()), (None, "it is there, but not ready"));
    let alone = Facts { slices: Ok(Vec::new()), ..facts() };
    assert_eq!(steps(&alone).pop().unwrap().from, "no EndpointSlice has the pod");
    let mut other = facts();
    other.node = Ok(json!({"uid": "before", "seen": "2026-12-01T08:00:00.000000Z"}));
    assert!(steps(&other)[3].from.contains("another pod of this name"));
}

#[test]
fn an_events_name_tells_its_time_where_it_fits() {
    let told = |name: &str| {
        let event =
            json!({"metadata": {"name": name}, "eventTime": null, "firstTimestamp": "2026-12-01T17:59:45Z"});
        let at = first_time(&event).unwrap();
        (micros(at.at), at.is_exact)
    };
    let second = "2026-12-01T17:59:45.000000Z".to_owned();
    assert_eq!(told("web.18ed331380e86680abc9dd95"), ("2026-12-01T17:59:45.250805Z".to_owned(), true));
    for other in ["web.18ed3313c0e86680abc9dd95", "web.x", "web", "web.zzzzzzzzzzzzzzzz"] {
        assert_eq!(told(other), (second.clone(), false), "{other}");
    }
}
