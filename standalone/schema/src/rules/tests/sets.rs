//! StatefulSets, and what pods' affinity names by keys.

use serde_json::{Value, json};

use super::{hold, made, with};

#[test]
fn every_rule_of_a_stateful_sets_update() {
    let base = json!({"spec": {
        "serviceName": "web",
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}},
    }});
    let at = "spec.updateStrategy.rollingUpdate";
    let rolling = |update: Value| {
        vec![("/spec/updateStrategy", json!({"type": "RollingUpdate", "rollingUpdate": update}))]
    };
    let zero = format!("{at}.maxUnavailable: Invalid value: 0: cannot be 0");
    let none = format!("{at}.maxUnavailable: Invalid value: \"0%\": cannot be 0");
    let much = format!("{at}.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%");
    let alone = format!("{at}: Invalid value");
    hold(
        "apps/v1",
        "StatefulSet",
        &base,
        &[
            (rolling(json!({"maxUnavailable": 2, "partition": 1})), ""),
            (rolling(json!({"maxUnavailable": "50%"})), ""),
            (rolling(json!({"maxUnavailable": 0})), &zero),
            (rolling(json!({"maxUnavailable": "0%"})), &none),
            (rolling(json!({"maxUnavailable": "101%"})), &much),
            (vec![("/spec/updateStrategy", json!({"type": "OnDelete"}))], ""),
            (
                vec![(
                    "/spec/updateStrategy",
                    json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}}),
                )],
                &alone,
            ),
        ],
    );
}

#[test]
fn keys_of_an_affinity_are_checked_and_become_part_of_its_selector() {
    let base = json!({
        "metadata": {"labels": {"app": "web", "pod-template-hash": "abc"}},
        "spec": {"containers": [{"name": "c", "image": "a"}]},
    });
    let terms = |mut term: Value| {
        term["topologyKey"] = json!("zone");
        let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        vec![("/spec/affinity", affinity)]
    };
    let at = "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]";
    let forbidden =
        format!("{at}.matchLabelKeys: Forbidden: must not be specified when labelSelector is not set");
    let both = format!(
        "{at}.matchLabelKeys[0]: Invalid value: \"app\": exists in both matchLabelKeys and mismatchLabelKeys"
    );
    let name = format!("{at}.mismatchLabelKeys[0]: Invalid value: \"a b\"");
    let good = json!({"labelSelector": {}, "matchLabelKeys": ["pod-template-hash"]});
    hold(
        "v1",
        "Pod",
        &base,
        &[
            (terms(good.clone()), ""),
            (terms(json!({"matchLabelKeys": ["app"]})), &forbidden),
            (
                terms(json!({"labelSelector": {}, "matchLabelKeys": ["app"], "mismatchLabelKeys": ["app"]})),
                &both,
            ),
            (terms(json!({"labelSelector": {}, "mismatchLabelKeys": ["a b"]})), &name),
        ],
    );
    let pod = made("v1", "Pod", with(base, &terms(good))).unwrap();
    assert_eq!(
        pod.pointer(
            "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0/labelSelector"
        ),
        Some(
            &json!({"matchExpressions": [{"key": "pod-template-hash", "operator": "In", "values": ["abc"]}]})
        ),
    );
}
