//! Objects as JSON values, and the form they are stored in.
//!
//! Stored: JSON with `metadata` first, without `apiVersion`, `kind` and `metadata.resourceVersion`. All three
//! are known without parsing, so a response is a short prefix and the stored bytes from [`STORED_HEAD`]'s end
//! on.

use bytes::Bytes;
use serde_json::{Map, Value};
use skerry_schema::{Kind, from_storage, to_storage};
use skerry_store::Entry;

/// How every stored value begins.
const STORED_HEAD: &[u8] = b"{\"metadata\":{";

/// The text at a JSON pointer, `""` where there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn is_being_deleted(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|stamp| !stamp.is_null())
}

/// `metadata`, made where it is missing. `None`: the object is no JSON object.
pub fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    let metadata = object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut()
}

pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Puts a condition into the status, in the place of the one of its type; one of the same status keeps the
/// time of its last transition.
pub fn set_condition(object: &mut Value, mut condition: Value) {
    let old = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (before, mut conditions): (Vec<Value>, Vec<Value>) =
        old.into_iter().partition(|other| other["type"] == condition["type"]);
    if let Some(before) = before.first().filter(|before| before["status"] == condition["status"]) {
        condition["lastTransitionTime"] = before["lastTransitionTime"].clone();
    }
    conditions.push(condition);
    object["status"]["conditions"] = Value::Array(conditions);
}

/// Where the objects of `kind` stand, with a trailing slash; `namespace` empty: all of them.
pub fn prefix(kind: &Kind, namespace: &str) -> String {
    if namespace.is_empty() || !kind.namespaced {
        format!("/registry/{}/", kind.storage)
    } else {
        format!("/registry/{}/{namespace}/", kind.storage)
    }
}

pub fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    prefix(kind, namespace) + name
}

/// Namespace (empty for cluster-wide kinds) and name of a key below [`prefix`].
pub fn split_key<'a>(kind: &Kind, key: &'a str) -> (&'a str, &'a str) {
    let rest = key.get("/registry/".len() + kind.storage.len() + 1..).unwrap_or_default();
    match rest.split_once('/') {
        Some(parts) if kind.namespaced => parts,
        _ => ("", rest),
    }
}

/// An object of `kind` (as the request's version shows it) in the stored form.
pub fn encode(kind: &Kind, mut object: Value) -> Bytes {
    to_storage(kind, &mut object);
    let Value::Object(mut map) = object else { return Bytes::from_static(b"{\"metadata\":{}}") };
    let mut metadata = map.shift_remove("metadata").unwrap_or_default();
    if let Some(metadata) = metadata.as_object_mut() {
        for field in ["resourceVersion", "managedFields", "selfLink"] {
            metadata.shift_remove(field);
        }
    }
    let mut ordered = Map::with_capacity(map.len());
    ordered.insert("metadata".into(), metadata);
    ordered.extend(map.into_iter().filter(|(field, _)| field != "apiVersion" && field != "kind"));
    Bytes::from(Value::Object(ordered).to_string())
}

/// A stored value as the API shows it in `kind`'s version.
///
/// # Errors
/// The stored bytes are no JSON object: the store was written by something else.
pub fn decode(kind: &Kind, value: &[u8], revision: u64) -> Result<Value, serde_json::Error> {
    let stored: Map<String, Value> = serde_json::from_slice(value)?;
    let mut map = Map::with_capacity(stored.len() + 2);
    map.insert("kind".into(), kind.kind.into());
    map.insert("apiVersion".into(), kind.api_version().into());
    map.extend(stored);
    let mut object = Value::Object(map);
    if let Some(metadata) = metadata_mut(&mut object) {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
    if !is_storage_face(kind) {
        from_storage(kind, &mut object);
    }
    Ok(object)
}

pub fn decode_entry(kind: &Kind, entry: &Entry) -> Result<Value, serde_json::Error> {
    decode(kind, &entry.value, entry.mod_revision)
}

/// Whether objects are stored in this kind's version.
pub fn is_storage_face(kind: &Kind) -> bool {
    skerry_schema::kinds()
        .iter()
        .find(|other| other.storage == kind.storage)
        .is_none_or(|first| first.group == kind.group && first.version == kind.version)
}

/// Appends an object as the API writes it; without parsing it where `kind` is the stored version.
pub fn write_json(kind: &Kind, value: &[u8], revision: u64, out: &mut Vec<u8>) {
    let types = format!("\"kind\":\"{}\",\"apiVersion\":\"{}\",", kind.kind, kind.api_version());
    write_with(kind, &types, value, revision, out);
}

/// The same as an item of a list, whose kind the list says for all of them.
pub fn write_item(kind: &Kind, value: &[u8], revision: u64, out: &mut Vec<u8>) {
    write_with(kind, "", value, revision, out);
}

fn write_with(kind: &Kind, types: &str, value: &[u8], revision: u64, out: &mut Vec<u8>) {
    match value.strip_prefix(STORED_HEAD) {
        Some(tail) if is_storage_face(kind) => {
            let head = format!("{{{types}\"metadata\":{{\"resourceVersion\":\"{revision}\"");
            out.reserve(head.len() + tail.len() + 1);
            out.extend_from_slice(head.as_bytes());
            if tail.first() != Some(&b'}') {
                out.push(b',');
            }
            out.extend_from_slice(tail);
        }
        _ => match decode(kind, value, revision) {
            Ok(object) => out.extend_from_slice(object.to_string().as_bytes()),
            // Unreadable bytes are shown as an empty object rather than breaking a whole list.
            Err(error) => {
                tracing::error!(kind = kind.kind, revision, %error, "a stored object cannot be read");
                out.extend_from_slice(b"{}");
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skerry_schema::find;

    use super::*;

    #[test]
    fn a_response_is_the_stored_bytes_behind_a_prefix() {
        let kind = find("", "v1", "configmaps").unwrap();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"},
            "metadata": {"name": "x", "resourceVersion": "3", "managedFields": []}});
        let stored = encode(kind, object);
        assert_eq!(stored, "{\"metadata\":{\"name\":\"x\"},\"data\":{\"a\":\"b\"}}");
        let mut out = Vec::new();
        write_json(kind, &stored, 7, &mut out);
        let shown: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(shown, decode(kind, &stored, 7).unwrap());
        assert_eq!(shown["metadata"], json!({"resourceVersion": "7", "name": "x"}));
    }

    #[test]
    fn keys_say_namespace_and_name() {
        let pods = find("", "v1", "pods").unwrap();
        assert_eq!(key(pods, "a", "b"), "/registry/pods/a/b");
        assert_eq!(split_key(pods, "/registry/pods/a/b"), ("a", "b"));
        let nodes = find("", "v1", "nodes").unwrap();
        assert_eq!(split_key(nodes, "/registry/nodes/n"), ("", "n"));
    }

    #[test]
    fn an_event_is_one_object_under_two_groups() {
        let (core, new) = (find("", "v1", "events").unwrap(), find("events.k8s.io", "v1", "events").unwrap());
        assert!(is_storage_face(core) && !is_storage_face(new));
        let object = json!({"metadata": {"name": "e", "namespace": "d"}, "note": "hello"});
        let stored = encode(new, object);
        assert_eq!(decode(core, &stored, 1).unwrap()["message"], "hello");
        let mut out = Vec::new();
        write_json(new, &stored, 1, &mut out);
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap()["note"], "hello");
    }
}
