//! The metadata of every object: names, labels, annotations, owners, finalizers.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::{
    FieldError, Kind,
    rules::{Errors, form, index, join, syntax},
};

/// All annotations of one object, in bytes.
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// Entries of a list in the metadata. Every watcher holds all of them for every object.
const MAX_ITEMS: usize = 1000;

/// Faults in the metadata of an object of `kind`.
pub fn validate(kind: &Kind, object: &Value, errors: &mut Errors) {
    let metadata = &object["metadata"];
    match metadata["name"].as_str().unwrap_or_default() {
        "" => errors.push(FieldError::required("metadata.name", "name or generateName is required")),
        name => {
            if let Some(complaint) = name_complaint(kind, name) {
                errors.push(FieldError::invalid("metadata.name", &json!(name), &complaint));
            }
        }
    }
    if kind.namespaced && metadata["namespace"].as_str().is_none_or(str::is_empty) {
        errors.push(FieldError::required("metadata.namespace", ""));
    }
    if !kind.namespaced && metadata["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty()) {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    labels_and_annotations(metadata, "metadata", errors);
    for name in ["finalizers", "ownerReferences"] {
        let count = metadata[name].as_array().map_or(0, Vec::len);
        if count > MAX_ITEMS {
            errors.push(FieldError::too_many(join("metadata", name), count, MAX_ITEMS));
        }
    }
    owners(metadata, errors);
    for (at, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let name = finalizer.as_str().unwrap_or_default();
        let path = index("metadata.finalizers", at);
        if let Some(complaint) = syntax::qualified_name(name) {
            errors.push(FieldError::invalid(&path, finalizer, &complaint));
        } else if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&path, finalizer, detail));
        }
    }
}

/// Labels and annotations of an object or a template.
pub fn labels_and_annotations(metadata: &Value, path: &str, errors: &mut Errors) {
    if let Some(labels) = metadata["labels"].as_object() {
        form::labels(labels, &join(path, "labels"), errors);
    }
    if let Some(annotations) = metadata["annotations"].as_object() {
        let path = join(path, "annotations");
        let mut bytes = 0;
        for (name, value) in annotations {
            if let Some(complaint) = syntax::qualified_name(&name.to_lowercase()) {
                errors.push(FieldError::invalid(&path, &json!(name), &complaint));
            }
            bytes += name.len() + value.as_str().map_or(0, str::len);
        }
        if bytes > MAX_ANNOTATION_BYTES {
            errors.push(FieldError::too_long(&path, MAX_ANNOTATION_BYTES));
        }
    }
}

fn owners(metadata: &Value, errors: &mut Errors) {
    let Some(owners) = metadata["ownerReferences"].as_array() else { return };
    for (at, owner) in owners.iter().enumerate() {
        let path = index("metadata.ownerReferences", at);
        for (field, what) in [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                let shown = owner.get(field).cloned().unwrap_or(json!(""));
                errors.push(FieldError::invalid(
                    join(&path, field),
                    &shown,
                    &format!("{what} must not be empty"),
                ));
            }
        }
    }
    let controllers = owners.iter().filter(|owner| owner["controller"] == true).count();
    if controllers > 1 {
        let detail = "Only one reference can have Controller set to true";
        errors.push(FieldError::invalid("metadata.ownerReferences", &metadata["ownerReferences"], detail));
    }
}

/// What is wrong with the name of an object of this kind.
pub fn name_complaint(kind: &Kind, name: &str) -> Option<String> {
    match kind.kind {
        "Namespace" => syntax::label(name),
        "Service" => syntax::label_1035(name),
        "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" | "APIService" => {
            syntax::path_segment(name)
        }
        "IPAddress" => syntax::ip(name),
        "CertificateSigningRequest" => syntax::path_segment(name),
        "CronJob" if name.len() > 52 => Some("must be no more than 52 characters".to_owned()),
        _ => syntax::subdomain(name),
    }
}

/// What an update may not change is as it was; what it tried to change is a fault.
pub fn carry_over(old: &Value, new: &mut Value, errors: &mut Errors) {
    let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let before = &old["metadata"];
    for name in ["name", "namespace", "uid"] {
        let given = metadata.get(name).and_then(Value::as_str).unwrap_or_default();
        if !given.is_empty() && before[name].as_str() != Some(given) {
            let shown = json!(given);
            errors.push(FieldError::invalid(join("metadata", name), &shown, "field is immutable"));
        }
    }
    for name in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        keep(before, metadata, name);
    }
    metadata.shift_remove("selfLink");
    if before.get("deletionTimestamp").is_some() {
        new_finalizers(before, metadata, errors);
    }
}

fn keep(before: &Value, metadata: &mut Map<String, Value>, name: &str) {
    match before.get(name) {
        Some(value) => {
            metadata.insert(name.to_owned(), value.clone());
        }
        None => {
            metadata.shift_remove(name);
        }
    }
}

fn new_finalizers(before: &Value, metadata: &Map<String, Value>, errors: &mut Errors) {
    let had: BTreeSet<&str> =
        before["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let added: Vec<String> = metadata
        .get("finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter(|name| name.as_str().is_none_or(|name| !had.contains(name)))
        .map(Value::to_string)
        .collect();
    if !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.push(FieldError::forbidden("metadata.finalizers", &detail));
    }
}
