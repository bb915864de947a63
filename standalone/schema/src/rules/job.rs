//! Jobs and the templates of Jobs. Each rule is upstream's (`pkg/apis/batch/validation`).

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Errors, form, index, join, syntax, workload};
use crate::FieldError;

type Object = Map<String, Value>;

const MAX_PARALLELISM: i64 = 100_000;
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITIONS: usize = 20;
const MAX_MANAGED_BY: usize = 63;

/// What holds of a Job's spec, in a CronJob's template too.
pub fn spec(map: &Object, path: &str, errors: &mut Errors) {
    workload::template(map, path, false, errors);
    indexes(map, path, errors);
    if let Some(policy) = map.get("podFailurePolicy") {
        failure_policy(map, policy, path, errors);
    }
    if let Some(policy) = map.get("successPolicy") {
        success_policy(map, policy, &join(path, "successPolicy"), errors);
    }
    if let Some(by) = map.get("managedBy").and_then(Value::as_str) {
        let at = join(path, "managedBy");
        if let Some(complaint) = syntax::domain_path(by) {
            errors.push(FieldError::invalid(&at, &json!(by), complaint));
        }
        if by.len() > MAX_MANAGED_BY {
            errors.push(FieldError::too_long(at, MAX_MANAGED_BY));
        }
    }
}

fn is_indexed(map: &Object) -> bool {
    map.get("completionMode") == Some(&json!("Indexed"))
}

fn indexes(map: &Object, path: &str, errors: &mut Errors) {
    let number = |name: &str| map.get(name).and_then(Value::as_i64);
    if is_indexed(map) {
        if !map.contains_key("completions") {
            errors.push(FieldError::required(join(path, "completions"), "when completion mode is Indexed"));
        }
        for (name, most) in [("parallelism", MAX_PARALLELISM), ("maxFailedIndexes", MAX_PARALLELISM)] {
            if number(name).is_some_and(|number| number > most) {
                let detail = format!("must be less than or equal to {most} when completion mode is Indexed");
                errors.push(FieldError::invalid(join(path, name), &map[name], &detail));
            }
        }
    } else {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = map.get(name) {
                errors.push(FieldError::invalid(join(path, name), value, "requires indexed completion mode"));
            }
        }
    }
    if map.contains_key("maxFailedIndexes") && !map.contains_key("backoffLimitPerIndex") {
        let detail = "when maxFailedIndexes is specified";
        errors.push(FieldError::required(join(path, "backoffLimitPerIndex"), detail));
    }
    if let (Some(failed), Some(all)) = (number("maxFailedIndexes"), number("completions"))
        && failed > all
    {
        let detail = "must be less than or equal to completions";
        errors.push(FieldError::invalid(join(path, "maxFailedIndexes"), &json!(failed), detail));
    }
}

fn failure_policy(map: &Object, policy: &Value, path: &str, errors: &mut Errors) {
    let template = map.get("template").unwrap_or(&Value::Null);
    let restart = &template["spec"]["restartPolicy"];
    if restart != "Never" {
        let detail = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.push(FieldError::invalid(join(path, "template.spec.restartPolicy"), restart, detail));
    }
    if map.get("podReplacementPolicy").is_some_and(|policy| policy != "Failed") {
        let at = join(path, "podReplacementPolicy");
        errors.push(FieldError::unsupported(at, &map["podReplacementPolicy"], &["Failed"]));
    }
    let names: BTreeSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| template["spec"][*list].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str())
        .collect();
    let none = Vec::new();
    let rules = policy["rules"].as_array().unwrap_or(&none);
    let at = join(path, "podFailurePolicy.rules");
    if rules.len() > MAX_RULES {
        errors.push(FieldError::too_many(at, rules.len(), MAX_RULES));
        return;
    }
    for (number, rule) in rules.iter().enumerate() {
        let path = index(&at, number);
        if rule["action"] == "FailIndex" && !map.contains_key("backoffLimitPerIndex") {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(join(&path, "action"), &rule["action"], detail));
        }
        let conditions = rule["onPodConditions"].as_array().filter(|list| !list.is_empty());
        match (rule.get("onExitCodes"), conditions) {
            (Some(codes), None) => exit_codes(codes, &names, &join(&path, "onExitCodes"), errors),
            (None, Some(conditions)) if conditions.len() > MAX_CONDITIONS => {
                let at = join(&path, "onPodConditions");
                errors.push(FieldError::too_many(at, conditions.len(), MAX_CONDITIONS));
            }
            (None, Some(_)) => {}
            (Some(_), Some(_)) => {
                let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
                errors.push(FieldError::invalid(&path, rule, detail));
            }
            (None, None) => {
                let detail = "specifying one of OnExitCodes and OnPodConditions is required";
                errors.push(FieldError::invalid(&path, rule, detail));
            }
        }
    }
}

fn exit_codes(codes: &Value, names: &BTreeSet<&str>, path: &str, errors: &mut Errors) {
    if let Some(name) = codes["containerName"].as_str()
        && !names.contains(name)
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(join(path, "containerName"), &json!(name), detail));
    }
    let values: Vec<i64> =
        codes["values"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
    let path = join(path, "values");
    if values.len() > MAX_EXIT_CODES {
        errors.push(FieldError::too_many(path, values.len(), MAX_EXIT_CODES));
        return;
    }
    let mut seen = BTreeSet::new();
    for (at, value) in values.iter().enumerate() {
        let path = index(&path, at);
        if codes["operator"] == "In" && *value == 0 {
            errors.push(FieldError::invalid(&path, &json!(value), "must not be 0 for the In operator"));
        }
        if !seen.insert(value) {
            errors.push(FieldError::duplicate(path, &json!(value)));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(path, &codes["values"], "must be ordered"));
    }
}

fn success_policy(map: &Object, policy: &Value, path: &str, errors: &mut Errors) {
    if !is_indexed(map) {
        errors.push(FieldError::invalid(path, policy, "requires indexed completion mode"));
        return;
    }
    let rules = policy["rules"].as_array().map_or(0, Vec::len);
    let at = join(path, "rules");
    match rules {
        0 => errors
            .push(FieldError::required(at, "at least one rules must be specified for the successPolicy")),
        many if many > MAX_RULES => errors.push(FieldError::too_many(at, many, MAX_RULES)),
        _ => {}
    }
    for (number, rule) in policy["rules"].as_array().into_iter().flatten().enumerate() {
        let path = index(&join(path, "rules"), number);
        let count = rule["succeededCount"].as_i64();
        if count.is_none() && rule.get("succeededIndexes").is_none() {
            let detail = "at least one of succeededCount or succeededIndexes must be specified";
            errors.push(FieldError::required(&path, detail));
        }
        if count.is_some_and(|count| count < 1) {
            let detail = "must be greater than or equal to 1";
            errors.push(FieldError::invalid(join(&path, "succeededCount"), &rule["succeededCount"], detail));
        }
        let completions = map.get("completions").and_then(Value::as_i64);
        if let (Some(count), Some(all)) = (count, completions)
            && count > all
        {
            let detail = format!("must be less than or equal to {all} (the number of specified completions)");
            errors.push(FieldError::invalid(join(&path, "succeededCount"), &json!(count), &detail));
        }
    }
}

/// A Job as a whole: its selector, and what an update may change.
pub fn object(map: &Object, old: Option<&Object>, errors: &mut Errors) {
    let Some(spec) = map.get("spec").and_then(Value::as_object) else { return };
    if let Some(wanted) = spec.get("selector").and_then(Value::as_object) {
        form::selector(wanted, "spec.selector", errors);
        let nothing = json!({});
        let labels =
            spec.get("template").and_then(|found| found.pointer("/metadata/labels")).unwrap_or(&nothing);
        if !workload::selects(wanted, labels) {
            let at = "spec.template.metadata.labels";
            errors.push(FieldError::invalid(at, labels, "`selector` does not match template `labels`"));
        }
        if old.is_none() && spec.get("manualSelector") != Some(&json!(true)) && !is_generated(wanted, map) {
            let detail = "`selector` not auto-generated";
            errors.push(FieldError::invalid("spec.selector", &spec["selector"], detail));
        }
    }
    let name = map.get("metadata").and_then(|metadata| metadata["name"].as_str()).unwrap_or_default();
    if let Some(last) = spec.get("completions").and_then(Value::as_i64)
        && is_indexed(spec)
        && last > 0
        && syntax::label(&format!("{name}-{}", last - 1)).is_some()
    {
        let detail = format!("will not able to create pod with invalid DNS label: {name}-{}", last - 1);
        errors.push(FieldError::invalid("metadata.name", &json!(name), &detail));
    }
    let Some((old, before)) = old.and_then(|old| Some((old, old.get("spec")?.as_object()?))) else { return };
    for name in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        if spec.get(name) != before.get(name) {
            let shown = spec.get(name).unwrap_or(&Value::Null);
            errors.push(FieldError::invalid(join("spec", name), shown, "field is immutable"));
        }
    }
    completions(spec, before, errors);
    template_update(spec, old, before, errors);
}

/// Whether the selector finds pods by what the server generates, and by nothing else.
fn is_generated(selector: &Object, job: &Object) -> bool {
    let of = |name: &str| job.get("metadata").map_or(Value::Null, |metadata| metadata[name].clone());
    let (uid, name) = (of("uid"), of("name"));
    let labels = json!({
        "controller-uid": uid, "batch.kubernetes.io/controller-uid": uid,
        "job-name": name, "batch.kubernetes.io/job-name": name,
    });
    workload::selects(selector, &labels)
}

/// An indexed Job may grow and shrink, completions and parallelism together.
fn completions(spec: &Object, before: &Object, errors: &mut Errors) {
    if spec.get("completions") == before.get("completions") {
        return;
    }
    let shown = spec.get("completions").unwrap_or(&Value::Null);
    let both = spec.contains_key("completions") && before.contains_key("completions");
    if !is_indexed(spec) || !both {
        errors.push(FieldError::invalid("spec.completions", shown, "field is immutable"));
    } else if spec.get("completions") != spec.get("parallelism") {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid("spec.completions", shown, detail));
    }
}

/// The template is immutable; but while a Job is suspended and has not started, its pods may be led elsewhere
/// and given other resources (KEP-2926, KEP-5440).
fn template_update(spec: &Object, old: &Object, before: &Object, errors: &mut Errors) {
    let (Some(new), Some(was)) = (spec.get("template"), before.get("template")) else { return };
    let started = old.get("status").is_some_and(|status| !status["startTime"].is_null());
    let mut allowed = new.clone();
    if before.get("suspend") == Some(&json!(true)) && !started {
        for path in [
            &["metadata", "labels"][..],
            &["metadata", "annotations"],
            &["spec", "nodeSelector"],
            &["spec", "tolerations"],
            &["spec", "schedulingGates"],
        ] {
            put_back(&mut allowed, was, path);
        }
        node_affinity(&mut allowed, was);
        for list in ["/spec/containers", "/spec/initContainers"] {
            let old = was.pointer(list).and_then(Value::as_array);
            let containers = allowed.pointer_mut(list).and_then(Value::as_array_mut);
            for (at, container) in containers.into_iter().flatten().enumerate() {
                if let Some(old) = old.and_then(|list| list.get(at)) {
                    put_back(container, old, &["resources"]);
                }
            }
        }
    }
    if allowed != *was {
        errors.push(FieldError::invalid("spec.template", new, "field is immutable"));
    }
}

/// Of the affinity only the part about nodes may change; it may come and go as a whole where that is all of
/// it.
fn node_affinity(new: &mut Value, old: &Value) {
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let before = old["spec"].get("affinity");
    let mut affinity = spec.get("affinity").and_then(Value::as_object).cloned().unwrap_or_default();
    match before.and_then(|before| before.get("nodeAffinity")) {
        Some(part) => {
            affinity.insert("nodeAffinity".into(), part.clone());
        }
        None => {
            affinity.shift_remove("nodeAffinity");
        }
    }
    if affinity.is_empty() && before.is_none() {
        spec.shift_remove("affinity");
    } else {
        spec.insert("affinity".into(), Value::Object(affinity));
    }
}

/// Makes what is at `path` in `new` what it is in `old`.
fn put_back(new: &mut Value, old: &Value, path: &[&str]) {
    let Some((last, parents)) = path.split_last() else { return };
    let value = path.iter().try_fold(old, |value, name| value.get(name)).cloned();
    let mut place = new;
    for name in parents {
        let Some(map) = place.as_object_mut() else { return };
        place = map.entry(*name).or_insert_with(|| json!({}));
    }
    let Some(map) = place.as_object_mut() else { return };
    match value {
        Some(value) => {
            map.insert((*last).to_owned(), value);
        }
        None => {
            map.shift_remove(*last);
        }
    }
}

/// A CronJob's Jobs get their selectors when they are made.
pub fn cron(map: &Object, path: &str, errors: &mut Errors) {
    if map.get("timeZone") == Some(&json!("")) {
        let detail = "timeZone must be nil or non-empty string";
        errors.push(FieldError::invalid(join(path, "timeZone"), &json!(""), detail));
    }
    let Some(spec) = map.get("jobTemplate").map(|template| &template["spec"]) else { return };
    let path = join(path, "jobTemplate.spec");
    if let Some(selector) = spec.get("selector") {
        let detail = "`selector` will be auto-generated";
        errors.push(FieldError::invalid(join(&path, "selector"), selector, detail));
    }
    if spec["manualSelector"] == true {
        let at = join(&path, "manualSelector");
        errors.push(FieldError::unsupported(at, &spec["manualSelector"], &["nil", "false"]));
    }
}
