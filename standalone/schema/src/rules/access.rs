//! Roles and bindings.

use serde_json::{Map, Value, json};

use super::{Errors, index, join};
use crate::FieldError;

type Object = Map<String, Value>;

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn subject_defaults(map: &mut Object) {
    let group = match map.get("kind").and_then(Value::as_str) {
        Some("User" | "Group") => GROUP,
        _ => return,
    };
    map.entry("apiGroup").or_insert(json!(group));
}

pub fn subject(map: &Object, path: &str, errors: &mut Errors) {
    let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("kind") {
        "ServiceAccount" if text("namespace").is_empty() => {
            errors.push(FieldError::required(join(path, "namespace"), ""));
        }
        "ServiceAccount" if !text("apiGroup").is_empty() => {
            errors.push(FieldError::unsupported(join(path, "apiGroup"), &json!(text("apiGroup")), &[""]));
        }
        "User" | "Group" if text("apiGroup") != GROUP => {
            errors.push(FieldError::unsupported(join(path, "apiGroup"), &json!(text("apiGroup")), &[GROUP]));
        }
        _ => {}
    }
}

pub fn role(map: &Object, namespaced: bool, errors: &mut Errors) {
    for (at, rule) in map.get("rules").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let path = index("rules", at);
        let empty = |name: &str| rule[name].as_array().is_none_or(Vec::is_empty);
        if !empty("nonResourceURLs") {
            if namespaced {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(
                    join(&path, "nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    detail,
                ));
            }
            if !empty("apiGroups") || !empty("resources") || !empty("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(
                    join(&path, "nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    detail,
                ));
            }
            continue;
        }
        if empty("apiGroups") {
            let detail = "resource rules must supply at least one api group";
            errors.push(FieldError::required(join(&path, "apiGroups"), detail));
        }
        if empty("resources") {
            let detail = "resource rules must supply at least one resource";
            errors.push(FieldError::required(join(&path, "resources"), detail));
        }
    }
}

pub fn binding(map: &Object, namespaced: bool, errors: &mut Errors) {
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    if let Some(kind) = map.get("roleRef").map(|reference| &reference["kind"])
        && kind.as_str().is_some_and(|kind| !kind.is_empty() && !kinds.contains(&kind))
    {
        errors.push(FieldError::unsupported("roleRef.kind", kind, kinds));
    }
}
