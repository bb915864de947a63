//! What stands below an object and is no copy of it: scale, binding.

use http::StatusCode;
use serde_json::{Value, json};
use skerry_vocabulary::time;

use crate::{
    api::{Api, Call, built_in, parse},
    body::{self, Checked},
    error::{ApiError, Subject},
    object::{self, metadata_mut, set_condition, text},
    request::Verb,
    respond::{self, Reply},
    update::{Place, change, patch_type, patched},
};

const SCALE_VERSION: &str = "autoscaling/v1";

/// GET, PUT and PATCH of `scale`: a view of `spec.replicas`.
pub async fn scale(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let place = Place { subresource: None, ..Place::of(call)? };
    let changed = match call.request.verb {
        Verb::Get => {
            let object = parse(call.kind, &api.entry(call).await?)?;
            return Ok(respond::value(StatusCode::OK, &scale_of(&object)));
        }
        Verb::Update => {
            let Checked { value: scale, warnings } = body::read(call, SCALE_VERSION, "Scale")?;
            change(api, &place, |current| {
                Ok(Checked { value: scaled(current, &scale), warnings: warnings.clone() })
            })
            .await?
        }
        Verb::Patch => {
            let patch_type = patch_type(call)?;
            change(api, &place, |current| {
                let Checked { value, warnings } =
                    patched(call, patch_type, SCALE_VERSION, "Scale", &scale_of(current))?;
                Ok(Checked { value: scaled(current, &value), warnings })
            })
            .await?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    let mut object = changed.object;
    if let Some(metadata) = metadata_mut(&mut object) {
        metadata.insert("resourceVersion".into(), changed.revision.to_string().into());
    }
    let mut reply = respond::value(StatusCode::OK, &scale_of(&object));
    respond::warn(&mut reply, &changed.warnings);
    Ok(reply)
}

/// `object` with the replicas that `scale` asks for, and its version as a precondition.
fn scaled(object: &Value, scale: &Value) -> Value {
    let mut new = object.clone();
    new["spec"]["replicas"] = scale.pointer("/spec/replicas").cloned().unwrap_or_else(|| json!(0));
    let asked = text(scale, "/metadata/resourceVersion").to_owned();
    if let Some(metadata) = metadata_mut(&mut new) {
        metadata.insert("resourceVersion".into(), asked.into());
    }
    new
}

fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let replicas =
        |part: &str| object.pointer(&format!("/{part}/replicas")).cloned().unwrap_or_else(|| json!(0));
    let mut scale = json!({
        "kind": "Scale", "apiVersion": SCALE_VERSION,
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {"replicas": replicas("spec")},
        "status": {"replicas": replicas("status")},
    });
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// A label selector in query form; also the plain map of a ReplicationController.
pub fn selector_text(selector: &Value) -> String {
    let is_structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if is_structured { &selector["matchLabels"] } else { selector };
    let equal = labels.as_object().into_iter().flatten();
    let mut terms: Vec<String> =
        equal.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = text(expression, "/key");
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        terms.push(match text(expression, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

/// POST of a `Binding`, at `pods/NAME/binding` or at `bindings`: gives an unbound pod its node.
pub async fn bind(api: &Api, call: &Call) -> Result<Reply, ApiError> {
    let Checked { value: binding, warnings } = body::read(call, "v1", "Binding")?;
    let pods = built_in("", "v1", "pods")?;
    let named = object::name(&binding);
    let name = if call.request.name.is_empty() { named } else { &call.request.name };
    if !named.is_empty() && named != name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    let node = text(&binding, "/target/name");
    let target_kind = text(&binding, "/target/kind");
    if node.is_empty() || !matches!(target_kind, "" | "Node") {
        let error = skerry_schema::FieldError::required("target.name", "a binding names a Node");
        return Err(ApiError::new(422, "Invalid", format!("Binding {name:?} is invalid: {error}")));
    }
    let place = Place {
        kind: pods,
        namespace: &call.request.namespace,
        name,
        subresource: Some("binding"),
        dry_run: call.is_dry_run()?,
    };
    change(api, &place, |pod| bound(pod, &binding, name, node)).await?;
    let mut reply = respond::value(
        StatusCode::CREATED,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    );
    respond::warn(&mut reply, &warnings);
    Ok(reply)
}

fn bound(pod: &Value, binding: &Value, name: &str, node: &str) -> Result<Checked, ApiError> {
    let refuse =
        |why: String| Err(ApiError::conflict(Subject { group: "", resource: "pods/binding", name }, &why));
    if object::is_being_deleted(pod) {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let already = text(pod, "/spec/nodeName");
    if !already.is_empty() {
        return refuse(format!("pod {name} is already assigned to node {already:?}"));
    }
    let asked = text(binding, "/metadata/uid");
    let uid = text(pod, "/metadata/uid");
    if !asked.is_empty() && asked != uid {
        return refuse(format!(
            "Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}"
        ));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = node.into();
    let added =
        binding.pointer("/metadata/annotations").and_then(Value::as_object).cloned().unwrap_or_default();
    if !added.is_empty()
        && let Some(metadata) = metadata_mut(&mut pod)
    {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.extend(added);
        }
    }
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": time::seconds(jiff::Timestamp::now())});
    set_condition(&mut pod, condition);
    Ok(Checked { value: pod, warnings: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_in_query_form() {
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "app=web,tier in (a,b),!old");
        assert_eq!(selector_text(&json!({"app": "web"})), "app=web");
    }

    #[test]
    fn a_bound_pod_is_not_bound_again() {
        let binding = json!({"target": {"kind": "Node", "name": "n"}});
        let free = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}});
        let pod = bound(&free, &binding, "p", "n").map(|checked| checked.value).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n");
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
        let error = bound(&pod, &binding, "p", "m").err().unwrap();
        assert_eq!(error.code(), 409);
    }
}
