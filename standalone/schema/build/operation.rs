//! The operations of a path: their ids, parameters, bodies and answers.

use serde_json::{Map, Value, json};

use crate::{
    openapi::{gvk, reference},
    table::Kind,
};

/// `createAppsV1NamespacedDeployment`.
pub fn operation_id(verb: &str, kind: &Kind, sub: &str, method: &str) -> String {
    let first = |text: &str| {
        let mut letters = text.chars();
        letters
            .next()
            .map(|letter| letter.to_uppercase().collect::<String>() + letters.as_str())
            .unwrap_or_default()
    };
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    let group: String = group.trim_end_matches(".k8s.io").split('.').map(first).collect();
    let verb = match verb {
        "get" => "read".to_owned(),
        "update" => "replace".to_owned(),
        "deletecollection" => "delete".to_owned(),
        "connect" => format!("connect{}", first(method)),
        verb => verb.to_owned(),
    };
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    let collection = if verb == "delete" && method.is_empty() { "Collection" } else { "" };
    format!("{verb}{group}{}{collection}{scope}{}{}", first(kind.version), kind.kind, first(sub))
}

pub fn operation(
    id: &str,
    action: &str,
    gvk3: (&str, &str, &str),
    body: Option<&str>,
    answer: &str,
) -> Value {
    let schema = if answer.is_empty() { json!({"type": "string"}) } else { reference(answer) };
    let content: Map<String, Value> = ["application/json", "application/yaml"]
        .map(|kind| (kind.to_owned(), json!({"schema": schema})))
        .into_iter()
        .collect();
    let mut operation = json!({
        "operationId": id,
        "parameters": query_parameters(action),
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(gvk3.0, gvk3.1, gvk3.2),
    });
    match body {
        Some("patch") => {
            let kinds = [
                "application/json-patch+json",
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
            ];
            let content: Map<String, Value> = kinds
                .map(|kind| (kind.to_owned(), json!({"schema": {"type": "object"}})))
                .into_iter()
                .collect();
            operation["requestBody"] = json!({"required": true, "content": content});
        }
        Some(definition) => {
            operation["requestBody"] = json!({"content": {"*/*": {"schema": reference(definition)}}});
        }
        None => {}
    }
    operation
}

fn query_parameters(action: &str) -> Vec<Value> {
    const SELECT: &[(&str, &str, &str)] = &[
        ("continue", "string", "where the page before ended"),
        ("fieldSelector", "string", "only objects whose fields match"),
        ("labelSelector", "string", "only objects whose labels match"),
        ("limit", "integer", "how many objects a page holds"),
        ("resourceVersion", "string", "the revision asked for"),
        ("resourceVersionMatch", "string", "how resourceVersion is meant: Exact or NotOlderThan"),
        ("sendInitialEvents", "boolean", "a watch begins with the objects that exist"),
        ("timeoutSeconds", "integer", "how long a list or watch may take"),
    ];
    const WRITE: &[(&str, &str, &str)] = &[
        ("dryRun", "string", "All: check everything, store nothing"),
        ("fieldManager", "string", "who makes this change"),
        ("fieldValidation", "string", "what unknown and duplicate fields do: Ignore, Warn or Strict"),
    ];
    const DELETE: &[(&str, &str, &str)] = &[
        ("dryRun", "string", "All: check everything, store nothing"),
        ("gracePeriodSeconds", "integer", "seconds until the object goes"),
        ("orphanDependents", "boolean", "deprecated, use propagationPolicy"),
        ("propagationPolicy", "string", "what happens to dependents: Orphan, Background or Foreground"),
    ];
    let watch =
        [("allowWatchBookmarks", "boolean", "send bookmarks"), ("watch", "boolean", "stream the changes")];
    let force = [("force", "boolean", "an apply takes over fields of other managers")];
    let list: Vec<&(&str, &str, &str)> = match action {
        "list" => watch.iter().chain(SELECT).collect(),
        "post" | "put" => WRITE.iter().collect(),
        "patch" => WRITE.iter().chain(&force).collect(),
        "delete" => DELETE.iter().collect(),
        "deletecollection" => DELETE.iter().chain(SELECT).collect(),
        _ => Vec::new(),
    };
    list.into_iter()
        .map(|(name, kind, description)| {
            json!({"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": true}})
        })
        .collect()
}

pub fn path_parameter(name: &str, description: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string", "uniqueItems": true}})
}

pub fn pretty() -> Value {
    json!({"name": "pretty", "in": "query", "description": "indent the answer", "schema": {"type": "string", "uniqueItems": true}})
}
