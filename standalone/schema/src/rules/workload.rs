//! Deployments, replica sets, stateful sets, daemon sets, jobs, autoscalers, disruption budgets.

use serde_json::{Map, Value, json};
use skerry_vocabulary::Operator;

use super::{Errors, form, join};
use crate::{FieldError, Reason};

type Object = Map<String, Value>;

/// `type: RollingUpdate` has parameters.
pub fn rolling_update_defaults(map: &mut Object) {
    if map.get("type") == Some(&json!("RollingUpdate")) {
        map.entry("rollingUpdate").or_insert_with(|| json!({}));
    }
}

/// Claim templates are whole claims.
pub fn claim_template_defaults(map: &mut Object) {
    for claim in map.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(claim) = claim.as_object_mut() {
            claim.entry("apiVersion").or_insert(json!("v1"));
            claim.entry("kind").or_insert(json!("PersistentVolumeClaim"));
            claim.entry("status").or_insert_with(|| json!({"phase": "Pending"}));
        }
    }
}

pub fn replication_controller_defaults(map: &mut Object) {
    let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let labels = spec.get("template").and_then(|template| template.pointer("/metadata/labels")).cloned();
    if let (None, Some(labels)) = (spec.get("selector"), labels) {
        spec.insert("selector".into(), labels);
    }
}

pub fn job_defaults(map: &mut Object) {
    let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".into(), json!(1));
    }
    spec.entry("parallelism").or_insert(json!(1));
    let per_index = spec.contains_key("backoffLimitPerIndex");
    spec.entry("backoffLimit").or_insert(if per_index { json!(i32::MAX) } else { json!(6) });
    spec.entry("completionMode").or_insert(json!("NonIndexed"));
    spec.entry("suspend").or_insert(json!(false));
    let replacement = if spec.contains_key("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.entry("podReplacementPolicy").or_insert(json!(replacement));
}

/// A new job finds its pods by its own uid, unless it says otherwise.
pub fn job_selector(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let (Some(uid), Some(name)) = (job["metadata"]["uid"].as_str(), job["metadata"]["name"].as_str()) else {
        return;
    };
    let (uid, name) = (json!(uid), json!(name));
    let Some(spec) = job.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let template = spec.entry("template").or_insert_with(|| json!({}));
    let labels = &mut template["metadata"]["labels"];
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels[key] = value.clone();
    }
    let selector = spec.entry("selector").or_insert_with(|| json!({}));
    selector["matchLabels"]["batch.kubernetes.io/controller-uid"] = uid;
}

pub fn autoscaler_defaults(map: &mut Object) {
    if map.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        map.insert(
            "metrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
        );
    }
}

/// The selector is not empty, is well formed, and finds the template's pods.
fn selector(map: &Object, path: &str, what: &str, errors: &mut Errors) {
    let Some(selector) = map.get("selector").and_then(Value::as_object) else { return };
    let at = join(path, "selector");
    form::selector(selector, &at, errors);
    let empty = |name: &str| match selector.get(name) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => true,
    };
    if empty("matchLabels") && empty("matchExpressions") {
        errors.push(FieldError::invalid(
            &at,
            &json!(selector),
            &format!("empty selector is invalid for {what}"),
        ));
        return;
    }
    let nothing = json!({});
    let labels =
        map.get("template").and_then(|template| template.pointer("/metadata/labels")).unwrap_or(&nothing);
    if !selects(selector, labels) {
        let at = join(path, "template.metadata.labels");
        errors.push(FieldError::invalid(at, labels, "`selector` does not match template `labels`"));
    }
}

/// Whether a `LabelSelector` finds `labels`.
pub fn selects(selector: &Object, labels: &Value) -> bool {
    let equal = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .is_none_or(|wanted| wanted.iter().all(|(name, value)| labels.get(name) == Some(value)));
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    equal
        && expressions.into_iter().flatten().all(|expression| {
            let value = expression["key"].as_str().and_then(|name| labels.get(name)?.as_str());
            let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let operator = expression["operator"].as_str().and_then(Operator::parse);
            // What is no operator of labels is complained about elsewhere.
            let operator = operator.filter(|operator| !matches!(operator, Operator::Gt | Operator::Lt));
            operator.is_none_or(|operator| operator.holds(value, values))
        })
}

/// The template: its labels, and the one restart policy that its controller can live with.
pub fn template(map: &Object, path: &str, always: bool, errors: &mut Errors) {
    let Some(template) = map.get("template") else { return };
    let path = join(path, "template");
    crate::strategy::metadata::labels_and_annotations(
        &template["metadata"],
        &join(&path, "metadata"),
        errors,
    );
    let policy = &template["spec"]["restartPolicy"];
    let at = join(&path, "spec.restartPolicy");
    if always {
        if policy.is_string() && policy != "Always" {
            errors.push(FieldError::unsupported(at, policy, &["Always"]));
        }
        if template["spec"].get("activeDeadlineSeconds").is_some() {
            let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
            errors.push(FieldError::forbidden(join(&path, "spec.activeDeadlineSeconds"), detail));
        }
    } else if policy == "Always" {
        errors.push(FieldError::required(at, "valid values: \"OnFailure\", \"Never\""));
    }
    if template["spec"].get("ephemeralContainers").is_some() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(join(&path, "spec.ephemeralContainers"), detail));
    }
}

pub fn deployment(map: &Object, path: &str, errors: &mut Errors) {
    selector(map, path, "deployment", errors);
    template(map, path, true, errors);
    if let Some(strategy) = map.get("strategy") {
        rolling_update(strategy, "Recreate", true, &join(path, "strategy"), errors);
    }
    let number = |name: &str| map.get(name).and_then(Value::as_i64).unwrap_or_default();
    if map.contains_key("progressDeadlineSeconds")
        && number("progressDeadlineSeconds") <= number("minReadySeconds")
    {
        let at = join(path, "progressDeadlineSeconds");
        errors.push(FieldError::invalid(
            at,
            &map["progressDeadlineSeconds"],
            "must be greater than minReadySeconds",
        ));
    }
}

/// `other` is the type that takes no parameters.
fn rolling_update(strategy: &Value, other: &str, zero_surge: bool, path: &str, errors: &mut Errors) {
    let Some(update) = strategy.get("rollingUpdate") else { return };
    let path = join(path, "rollingUpdate");
    if strategy["type"] == other && zero_surge {
        let detail = format!("may not be specified when strategy `type` is '{other}'");
        errors.push(FieldError::forbidden(path, &detail));
        return;
    }
    if strategy["type"] == "RollingUpdate" && zero(&update["maxUnavailable"]) && zero(&update["maxSurge"]) {
        let at = join(&path, "maxUnavailable");
        errors.push(FieldError::invalid(at, &update["maxUnavailable"], "may not be 0 when `maxSurge` is 0"));
    }
    let percent = |value: &Value| value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<u32>().ok());
    if percent(&update["maxUnavailable"]).is_some_and(|percent| percent > 100) {
        let at = join(&path, "maxUnavailable");
        errors.push(FieldError::invalid(at, &update["maxUnavailable"], "must not be greater than 100%"));
    }
}

fn zero(value: &Value) -> bool {
    value == 0 || value == "0%"
}

pub fn replica_set(map: &Object, path: &str, errors: &mut Errors) {
    selector(map, path, "deployment", errors);
    template(map, path, true, errors);
}

pub fn replication_controller(map: &Object, path: &str, errors: &mut Errors) {
    let wanted = map.get("selector").and_then(Value::as_object);
    if wanted.is_none_or(Map::is_empty) {
        errors.push(FieldError::required(join(path, "selector"), ""));
    }
    match map.get("template") {
        None => errors.push(FieldError::required(join(path, "template"), "")),
        Some(found) => {
            let nothing = json!({});
            let labels = found.pointer("/metadata/labels").unwrap_or(&nothing);
            if wanted.is_some_and(|wanted| wanted.iter().any(|(name, value)| labels.get(name) != Some(value)))
            {
                let at = join(path, "template.metadata.labels");
                errors.push(FieldError::invalid(at, labels, "`selector` does not match template `labels`"));
            }
        }
    }
    template(map, path, true, errors);
}

pub fn stateful_set(map: &Object, old: Option<&Object>, path: &str, errors: &mut Errors) {
    const MUTABLE: [&str; 8] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
        "selector",
    ];
    selector(map, path, "statefulset", errors);
    // The claims' volumes are added to each pod when it is made.
    let claims = map.get("volumeClaimTemplates").and_then(Value::as_array);
    for name in claims.into_iter().flatten().map(|claim| &claim["metadata"]["name"]) {
        let complaint = FieldError::not_found("", name).message;
        errors.forget(|error| error.reason == Reason::NotFound && error.message == complaint);
    }
    template(map, path, true, errors);
    if let Some(strategy) = map.get("updateStrategy") {
        stateful_update(strategy, &join(path, "updateStrategy"), errors);
    }
    if let Some(old) = old {
        let fixed = |map: &Object| -> Object {
            map.iter()
                .filter(|(name, _)| !MUTABLE.contains(&name.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        };
        if fixed(map) != fixed(old) {
            errors.push(FieldError::forbidden(
                path,
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                 'minReadySeconds' are forbidden",
            ));
        }
    }
}

fn stateful_update(strategy: &Value, path: &str, errors: &mut Errors) {
    rolling_update(strategy, "OnDelete", false, path, errors);
    let Some(update) = strategy.get("rollingUpdate") else { return };
    let path = join(path, "rollingUpdate");
    if strategy["type"] == "OnDelete" {
        errors.push(FieldError::invalid(path, update, "only allowed for updateStrategy 'RollingUpdate'"));
    } else if zero(&update["maxUnavailable"]) {
        let at = join(&path, "maxUnavailable");
        errors.push(FieldError::invalid(at, &update["maxUnavailable"], "cannot be 0"));
    }
}

pub fn daemon_set(map: &Object, path: &str, errors: &mut Errors) {
    selector(map, path, "daemonset", errors);
    template(map, path, true, errors);
    if let Some(strategy) = map.get("updateStrategy") {
        rolling_update(strategy, "OnDelete", false, &join(path, "updateStrategy"), errors);
    }
}

pub fn autoscaler(map: &Object, path: &str, errors: &mut Errors) {
    let number = |name: &str| map.get(name).and_then(Value::as_i64);
    if let (Some(min), Some(max)) = (number("minReplicas"), number("maxReplicas"))
        && max < min
    {
        let at = join(path, "maxReplicas");
        errors.push(FieldError::invalid(
            at,
            &map["maxReplicas"],
            "must be greater than or equal to `minReplicas`",
        ));
    }
}

pub fn disruption_budget(map: &Object, path: &str, errors: &mut Errors) {
    if map.contains_key("minAvailable") && map.contains_key("maxUnavailable") {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(path, &json!(map), detail));
    }
}
