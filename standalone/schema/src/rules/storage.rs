//! Persistent volumes and claims.

use serde_json::{Map, Value, json};
use skerry_vocabulary::Quantity;

use super::{Errors, index, join, syntax};
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

/// What a pod may say of its own claims' metadata.
const TEMPLATE_METADATA: [&str; 2] = ["annotations", "labels"];

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

/// Of a pod's own claim (`volumes[].ephemeral`): it has the pod's name and namespace.
pub fn claim_template(map: &Object, path: &str, errors: &mut Errors) {
    let path = join(path, "metadata");
    let given = map.get("metadata").and_then(Value::as_object);
    for field in
        given.into_iter().flat_map(Object::keys).filter(|field| !TEMPLATE_METADATA.contains(&&***field))
    {
        errors.push(FieldError::forbidden(join(&path, field), "cannot be set for an ephemeral volume"));
    }
}

/// Names of the claims that are made for a pod.
pub fn own_claims(pod: &Object, errors: &mut Errors) {
    let name = pod.get("metadata").and_then(|metadata| metadata["name"].as_str()).unwrap_or_default();
    if name.is_empty() {
        return;
    }
    let volumes = pod.get("spec").and_then(|spec| spec["volumes"].as_array());
    let volumes: Vec<&Value> = volumes.into_iter().flatten().collect();
    let own = |volume: &Value| {
        let own = volume.get("ephemeral").and(volume["name"].as_str());
        own.map(|volume| format!("{name}-{volume}"))
    };
    for (at, volume) in volumes.iter().enumerate() {
        let path = index("spec.volumes", at);
        if let Some(claim) = own(volume)
            && let Some(complaint) = syntax::subdomain(&claim)
        {
            let detail = format!("PVC name {claim:?}: {complaint}");
            errors.push(FieldError::invalid(join(&path, "name"), &volume["name"], &detail));
        }
        let named = &volume["persistentVolumeClaim"]["claimName"];
        if named.is_string() && volumes.iter().any(|other| own(other).as_deref() == named.as_str()) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(join(&path, "persistentVolumeClaim.claimName"), named, detail));
        }
    }
}
