//! What may change of a pod once it is there.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Errors;
use crate::FieldError;

type Object = Map<String, Value>;

/// Whether a pod's spec may change from `old` to `new`.
pub fn pod_update(old: &Value, new: &Value, errors: &mut Errors) {
    let (Some(before), Some(after)) = (old["spec"].as_object(), new["spec"].as_object()) else { return };
    let count = |spec: &Object, list: &str| spec.get(list).and_then(Value::as_array).map_or(0, Vec::len);
    for list in ["containers", "initContainers"] {
        if count(before, list) != count(after, list) {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{list}"), detail));
            return;
        }
    }
    let mut allowed = after.clone();
    for list in ["containers", "initContainers"] {
        let old_list = before.get(list).and_then(Value::as_array);
        for (at, container) in
            allowed.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate()
        {
            if let Some(image) = old_list.and_then(|list| list.get(at)).and_then(|old| old.get("image")) {
                container["image"] = image.clone();
            }
        }
    }
    let keep = |map: &mut Object, name: &str| match before.get(name) {
        Some(value) => {
            map.insert(name.to_owned(), value.clone());
        }
        None => {
            map.shift_remove(name);
        }
    };
    deadline(before, after, errors);
    keep(&mut allowed, "activeDeadlineSeconds");
    let set = |spec: &Object, name: &str| -> BTreeSet<String> {
        spec.get(name).and_then(Value::as_array).into_iter().flatten().map(Value::to_string).collect()
    };
    if set(before, "tolerations").is_subset(&set(after, "tolerations")) {
        keep(&mut allowed, "tolerations");
    }
    let gates = set(before, "schedulingGates");
    if set(after, "schedulingGates").is_subset(&gates) {
        keep(&mut allowed, "schedulingGates");
        if !gates.is_empty() {
            let selector = |spec: &Object| spec.get("nodeSelector").and_then(Value::as_object).cloned();
            let (had, has) = (selector(before).unwrap_or_default(), selector(after).unwrap_or_default());
            if had.iter().any(|(name, value)| has.get(name) != Some(value)) {
                let shown = after.get("nodeSelector").unwrap_or(&Value::Null);
                let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
                errors.push(FieldError::invalid("spec.nodeSelector", shown, detail));
            }
            keep(&mut allowed, "nodeSelector");
            keep(&mut allowed, "affinity");
        }
    }
    let grace = |spec: &Object| spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    if grace(before).is_some_and(|seconds| seconds < 0) && grace(after) == Some(1) {
        keep(&mut allowed, "terminationGracePeriodSeconds");
    }
    if allowed != *before {
        errors.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
}

/// A deadline may be set, and brought nearer.
fn deadline(before: &Object, after: &Object, errors: &mut Errors) {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    let seconds = |spec: &Object| spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    match (seconds(before), seconds(after)) {
        (Some(old), Some(new)) if new > old => {
            let detail = "must be less than or equal to previous value";
            errors.push(FieldError::invalid(FIELD, &json!(new), detail));
        }
        (Some(_), None) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(FIELD, &Value::Null, detail));
        }
        _ => {}
    }
}

/// Ephemeral containers come, and never change or go.
pub fn ephemeral_update(old: &Value, new: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.ephemeralContainers";
    let after = new["spec"]["ephemeralContainers"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    for container in old["spec"]["ephemeralContainers"].as_array().into_iter().flatten() {
        let name = &container["name"];
        let detail = match after.iter().find(|other| other["name"] == *name) {
            None => format!("existing ephemeral containers {name} may not be removed"),
            Some(other) if other != container => {
                format!("existing ephemeral containers {name} may not be changed")
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(FIELD, &detail));
    }
}
