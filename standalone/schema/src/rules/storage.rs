//! Persistent volumes and claims.

use serde_json::{Map, Value, json};
use skerry_vocabulary::Quantity;

use super::{Errors, join};
use crate::FieldError;

type Object = Map<String, Value>;

/// Fields of a PersistentVolume's spec that are not its source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// What is in use is not to go: controllers take the finalizer off when it is used no more.
pub fn protect(object: &mut Value, finalizer: &str) {
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|known| known == finalizer) => {}
        Some(list) => list.push(json!(finalizer)),
        None => *finalizers = json!([finalizer]),
    }
}

pub fn volume(map: &Object, old: Option<&Object>, path: &str, errors: &mut Errors) {
    let sources: Vec<&String> = map.keys().filter(|key| !NOT_SOURCES.contains(&key.as_str())).collect();
    if sources.is_empty() {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    for source in sources.iter().skip(1) {
        errors.push(FieldError::forbidden(join(path, source), "may not specify more than 1 volume type"));
    }
    if let Some(capacity) = map.get("capacity").and_then(Value::as_object)
        && !(capacity.len() == 1 && capacity.contains_key("storage"))
    {
        errors.push(FieldError::unsupported(join(path, "capacity"), &json!(capacity), &["storage"]));
    }
    if map.contains_key("local") && !map.contains_key("nodeAffinity") {
        errors.push(FieldError::required(join(path, "nodeAffinity"), "Local volume requires node affinity"));
    }
    if let Some(old) = old
        && let Some(source) = sources.first()
        && map.get(*source) != old.get(*source)
    {
        errors.push(FieldError::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
}

pub fn claim(map: &Object, old: Option<&Object>, path: &str, errors: &mut Errors) {
    let size = |map: &Object| {
        let text = map.get("resources")?.pointer("/requests/storage")?.as_str()?.to_owned();
        Quantity::parse(&text).ok()
    };
    match size(map) {
        None => errors.push(FieldError::required(format!("{path}.resources[storage]"), "")),
        Some(size) if size.nano() <= 0 => errors.push(FieldError::invalid(
            format!("{path}.resources[storage]"),
            &json!(size.canonical()),
            "must be greater than zero",
        )),
        _ => {}
    }
    let Some(old) = old else { return };
    let unbound = old.get("volumeName").is_none_or(|name| name == "");
    // A claim that was made before there was a default class may get one (KEP-3333).
    let classless = unbound && !old.contains_key("storageClassName");
    let fixed = |map: &Object| -> Object {
        map.iter()
            .filter(|(name, _)| match name.as_str() {
                "volumeName" => false,
                "resources" | "volumeAttributesClassName" => unbound,
                "storageClassName" => !classless,
                _ => true,
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    if fixed(map) != fixed(old) || (!unbound && map.get("volumeName") != old.get("volumeName")) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
             bound claims";
        errors.push(FieldError::forbidden(path, detail));
    } else if let (Some(new), Some(old)) = (size(map), size(old))
        && new < old
    {
        let at = format!("{path}.resources.requests.storage");
        errors.push(FieldError::forbidden(at, "field can not be less than status.capacity"));
    }
}
