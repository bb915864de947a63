use proptest::prelude::*;
use serde_json::json;

use super::*;

fn strategic(current: Value, patch: Value) -> Result<Value, PatchError> {
    let patch = patch.to_string();
    apply_patch(PatchType::Strategic, "apps/v1", "Deployment", &current, patch.as_bytes(), Format::Json)
}

fn pod_spec(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

/// One case: the pod spec before, the patch of it, the pod spec after.
fn case(before: Value, patch: Value, after: Value) {
    assert_eq!(strategic(pod_spec(before), pod_spec(patch)).unwrap(), pod_spec(after));
}

#[test]
fn lists_with_a_merge_key_merge_and_others_are_replaced() {
    case(
        json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}]}),
        json!({"containers": [{"name": "b", "image": "2"}, {"name": "a", "args": ["y"]}]}),
        json!({"containers": [{"name": "a", "image": "1", "args": ["y"]}, {"name": "b", "image": "2"}]}),
    );
    case(
        json!({"tolerations": [{"key": "a"}], "containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}]}),
        json!({"tolerations": [{"key": "b"}], "containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}]}),
    );
}

#[test]
fn the_patch_directive_replaces_and_deletes() {
    case(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"$patch": "delete", "name": "a"}]}),
        json!({"containers": [{"name": "b"}]}),
    );
    case(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    case(
        json!({"securityContext": {"runAsUser": 1, "fsGroup": 2}}),
        json!({"securityContext": {"$patch": "replace", "runAsUser": 3}}),
        json!({"securityContext": {"runAsUser": 3}}),
    );
    case(
        json!({"nodeSelector": {"a": "b"}, "hostNetwork": true}),
        json!({"nodeSelector": {"a": null, "c": "d"}, "hostNetwork": null}),
        json!({"nodeSelector": {"c": "d"}}),
    );
}

#[test]
fn retained_keys_drop_the_rest() {
    let strategy = |value: Value| json!({"spec": {"strategy": value}});
    let merged = strategic(
        strategy(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}})),
        strategy(json!({"$retainKeys": ["type"], "type": "Recreate"})),
    );
    assert_eq!(merged.unwrap(), strategy(json!({"type": "Recreate"})));
    case(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
}

#[test]
fn element_order_is_the_patches_and_items_of_others_stay() {
    case(
        json!({"containers": [{"name": "a"}, {"name": "injected"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
               "containers": [{"name": "c"}]}),
        json!({"containers": [{"name": "injected"}, {"name": "b"}, {"name": "a"}, {"name": "c"}]}),
    );
}

#[test]
fn primitive_lists_merge_and_lose_named_items() {
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    let merged = strategic(finalizers(json!(["a", "b"])), finalizers(json!(["c", "a"]))).unwrap();
    assert_eq!(merged, finalizers(json!(["a", "b", "c"])));
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
    assert_eq!(strategic(merged, patch).unwrap(), finalizers(json!(["b", "c"])));
}

#[test]
fn a_deletion_takes_every_item_with_the_merge_key() {
    let service = |ports: Value| json!({"spec": {"ports": ports}});
    let patched = |before: Value, patch: Value| {
        let patch = service(patch).to_string();
        apply_patch(PatchType::Strategic, "v1", "Service", &service(before), patch.as_bytes(), Format::Json)
            .unwrap()
    };
    let ports = || json!([{"port": 53, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
    let left = patched(ports(), json!([{"port": 53, "$patch": "delete"}]));
    assert_eq!(left, service(json!([{"port": 80, "protocol": "TCP"}])));
    // Deletions come first, wherever they stand.
    let renewed = patched(ports(), json!([{"port": 53, "name": "dns"}, {"port": 53, "$patch": "delete"}]));
    assert_eq!(renewed, service(json!([{"port": 80, "protocol": "TCP"}, {"port": 53, "name": "dns"}])));
    // Repeated keys, and a list whose items have two keys.
    case(
        json!({"containers": [{"name": "a", "env": [{"name": "x", "value": "1"}, {"name": "y"}, {"name": "x", "value": "2"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "x", "$patch": "delete"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "y"}]}]}),
    );
    case(
        json!({"topologySpreadConstraints": [
            {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}, {"topologyKey": "host"}]}),
        json!({"topologySpreadConstraints": [{"topologyKey": "zone", "$patch": "delete"}]}),
        json!({"topologySpreadConstraints": [{"topologyKey": "host"}]}),
    );
}

/// A patch in which each copy doubles the depth of what stands at `path`.
fn deepening(levels: usize) -> Value {
    let mut patch = vec![json!({"op": "add", "path": "/x", "value": {"a": {}}})];
    let mut depth = 1;
    while depth < levels {
        let step = depth.min(levels - depth);
        patch.push(json!({"op": "copy", "from": format!("/x{}", "/a".repeat(depth - step + 1)),
            "path": format!("/x{}", "/a".repeat(depth + 1))}));
        depth += step;
    }
    json!(patch)
}

#[test]
fn a_copy_that_deepens_an_object_is_refused() {
    let apply = |patch: Value| {
        apply_patch(PatchType::Json, "v1", "Node", &json!({}), patch.to_string().as_bytes(), Format::Json)
    };
    let fits = apply(deepening(limits::MAX_DEPTH - 2)).unwrap();
    assert!(limits::depth(&fits) <= limits::MAX_DEPTH);
    for levels in [limits::MAX_DEPTH, 140, 6000] {
        assert_eq!(apply(deepening(levels)).unwrap_err().code(), 413, "{levels}");
    }
    // The other operations that put something below something.
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
    let path = format!("/x{}", "/a".repeat(80));
    for operation in [
        json!({"op": "add", "path": format!("{path}/b"), "value": nested(60)}),
        json!({"op": "replace", "path": path, "value": nested(60)}),
        json!({"op": "move", "from": "/y", "path": path}),
    ] {
        let patch = json!([{"op": "add", "path": "/x", "value": nested(80)},
            {"op": "add", "path": "/y", "value": nested(60)}, operation]);
        assert_eq!(apply(patch).unwrap_err().code(), 413, "{operation}");
    }
}

#[test]
fn what_a_patch_made_is_held_to_the_bounds_of_a_body() {
    let labels = |from: usize, count: usize| -> Value {
        let labels: serde_json::Map<String, Value> =
            (from..from + count).map(|n| (format!("l{n}"), json!("x"))).collect();
        json!({"metadata": {"labels": labels}})
    };
    let current = labels(0, 6000);
    for kind in [PatchType::Merge, PatchType::Strategic] {
        let patch = labels(6000, 6000).to_string();
        let grown = apply_patch(kind, "v1", "Pod", &current, patch.as_bytes(), Format::Json).unwrap();
        assert_eq!(crate::check("v1", "Pod", grown).unwrap_err().code(), 413, "{kind:?}");
    }
    let adds: Vec<Value> = (6000..12_000)
        .take(MAX_OPERATIONS)
        .map(|n| json!({"op": "add", "path": format!("/metadata/labels/l{n}"), "value": "x"}))
        .collect();
    let patch = json!(adds).to_string();
    let grown = apply_patch(PatchType::Json, "v1", "Pod", &current, patch.as_bytes(), Format::Json).unwrap();
    assert_eq!(crate::check("v1", "Pod", grown).unwrap_err().code(), 413);
}

#[test]
fn directives_never_reach_the_object() {
    case(
        json!({}),
        json!({"containers": [{"name": "a", "$setElementOrder/ports": [], "env": [{"name": "x", "$patch": "delete"}, {"name": "y", "value": null}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "y"}]}]}),
    );
}

#[test]
fn faults_have_their_status() {
    let missing_key = strategic(
        pod_spec(json!({"containers": [{"name": "a"}]})),
        pod_spec(json!({"containers": [{"image": "x"}]})),
    );
    assert_eq!(missing_key.unwrap_err().code(), 400);
    assert_eq!(strategic(json!({}), json!({"$patch": "frob"})).unwrap_err().code(), 400);
    assert_eq!(strategic(json!({}), json!([])).unwrap_err().code(), 400);
    let json_patch = |text: &str| {
        apply_patch(PatchType::Json, "v1", "Pod", &json!({"a": [1]}), text.as_bytes(), Format::Json)
    };
    assert_eq!(json_patch("{").unwrap_err().code(), 400);
    assert_eq!(json_patch(r#"[{"op":"frob"}]"#).unwrap_err().code(), 400);
    assert_eq!(json_patch(r#"[{"op":"test","path":"/a","value":2}]"#).unwrap_err().code(), 422);
    assert_eq!(json_patch(r#"[{"op":"remove","path":"/b"}]"#).unwrap_err().code(), 422);
    assert_eq!(json_patch(r#"[{"op":"add","path":"/a/-","value":2}]"#).unwrap(), json!({"a": [1, 2]}));
    let doubling: Vec<String> =
        (0..40).map(|n| format!(r#"{{"op":"copy","from":"","path":"/x{n}"}}"#)).collect();
    assert_eq!(json_patch(&format!("[{}]", doubling.join(","))).unwrap_err().code(), 413);
    let many = vec![r#"{"op":"test","path":"/a/0","value":1}"#; MAX_OPERATIONS + 1].join(",");
    assert_eq!(json_patch(&format!("[{many}]")).unwrap_err().code(), 413);
    let big = json!({"a": "x".repeat(1 << 20), "d": {}});
    let swing = [
        json!({"op": "move", "from": "/a", "path": "/d/a"}),
        json!({"op": "move", "from": "/d/a", "path": "/a"}),
    ];
    let patch = json!(swing.iter().cycle().take(8).collect::<Vec<_>>()).to_string();
    let outcome = apply_patch(PatchType::Json, "v1", "Pod", &big, patch.as_bytes(), Format::Json);
    assert_eq!(outcome.unwrap_err().code(), 413);
}

#[test]
fn big_patches_cost_no_square() {
    let started = std::time::Instant::now();
    let number = 20_000;
    let names: Vec<Value> = (0..number).map(|n| json!({"name": n.to_string()})).collect();
    let keys = |value: Value| {
        Value::Object(
            (0..number).map(|n| (format!("k{n}"), value.clone())).collect::<serde_json::Map<_, _>>(),
        )
    };
    let scalars: Vec<Value> = (0..number).map(|n| json!(format!("f{n}"))).collect();
    let current = json!({
        "metadata": {"labels": keys(json!("x")), "finalizers": scalars},
        "spec": {"template": {"spec": {"containers": names}}},
    });
    let patch = json!({
        "metadata": {"labels": keys(Value::Null), "finalizers": scalars, "$deleteFromPrimitiveList/finalizers": scalars},
        "spec": {"template": {"spec": {"containers": names, "$setElementOrder/containers": names}}},
    });
    let merged = strategic(current, patch).unwrap();
    assert_eq!(merged["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), number);
    assert_eq!(merged["metadata"]["labels"], json!({}));
    // The square would take hours; this bound is for a slow machine.
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

fn containers() -> impl Strategy<Value = Vec<(String, u8)>> {
    prop::collection::vec(("[a-e]", 0_u8..3), 0..5).prop_map(|mut list| {
        list.sort();
        list.dedup_by(|a, b| a.0 == b.0);
        list
    })
}

fn as_patch(list: &[(String, u8)]) -> Value {
    let items: Vec<Value> =
        list.iter().map(|(name, n)| json!({"name": name, "image": format!("i{n}")})).collect();
    pod_spec(json!({"containers": items}))
}

proptest! {
    #[test]
    fn a_patch_applied_twice_changes_nothing_more(before in containers(), patch in containers()) {
        let once = strategic(as_patch(&before), as_patch(&patch)).unwrap();
        prop_assert_eq!(strategic(once.clone(), as_patch(&patch)).unwrap(), once.clone());
        let got = once["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        for (name, n) in &patch {
            let image = format!("i{n}");
            prop_assert!(got.iter().any(|item| item["name"] == name.as_str() && item["image"] == image.as_str()));
        }
        let names: std::collections::BTreeSet<_> = got.iter().map(|item| item["name"].to_string()).collect();
        prop_assert_eq!(names.len(), got.len());
    }

    #[test]
    fn an_object_as_its_own_patch_changes_nothing(before in containers()) {
        let before = as_patch(&before);
        prop_assert_eq!(strategic(before.clone(), before.clone()).unwrap(), before);
    }
}
