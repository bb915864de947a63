//! The part of authorization that depends on what is stored.

use std::collections::BTreeSet;

use serde_json::Value;
use skerry_store::Range;

use crate::{
    api::{Api, Call, built_in, parse},
    authorize::{Condition, Decision, authorize, denial},
    body,
    error::ApiError,
    object::{self, text},
    request::{ResourceRequest, Verb},
};

/// Whether the client may also create what its PUT did not find.
pub async fn may_create(api: &Api, call: &Call) -> Result<(), ApiError> {
    let request = ResourceRequest { verb: Verb::Create, ..call.request.clone() };
    let allowed = match authorize(&call.subject, &request, &call.query) {
        Decision::Allow => true,
        Decision::Deny => false,
        Decision::When(condition) => holds(api, call, &condition).await?,
    };
    if allowed { Ok(()) } else { Err(ApiError::forbidden(call.about(), &denial(&call.subject, &request))) }
}

pub async fn holds(api: &Api, call: &Call, condition: &Condition) -> Result<bool, ApiError> {
    match condition {
        Condition::CreatesNamed(name) => {
            let object = body::read(call, &call.kind.api_version(), call.kind.kind)?.value;
            Ok(object::name(&object) == name)
        }
        Condition::PodOfNode(node) => {
            let pod = api.object(call.kind, &call.request.namespace, &call.request.name).await?;
            // A node may learn that a pod of its own is gone: then there is nothing left to protect.
            Ok(pod.is_none_or(|pod| text(&pod, "/spec/nodeName") == node))
        }
        Condition::ReferencedByPodsOf(node) => referenced(api, call, node).await,
    }
}

async fn referenced(api: &Api, call: &Call, node: &str) -> Result<bool, ApiError> {
    let pods = built_in("", "v1", "pods")?;
    let range = Range { prefix: object::prefix(pods, &call.request.namespace), ..Range::default() };
    for entry in &api.store.list(range).await?.entries {
        // Both names are DNS names and stand in the JSON as they are: most pods need no parsing.
        let has_both = std::str::from_utf8(&entry.value)
            .is_ok_and(|json| json.contains(&call.request.name) && json.contains(node));
        if !has_both {
            continue;
        }
        let pod = parse(pods, entry)?;
        if text(&pod, "/spec/nodeName") == node && mentions(&pod, call.kind.kind).contains(&call.request.name)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names of the Secrets, or ConfigMaps, that a pod's node has to read.
fn mentions(pod: &Value, kind: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (volume, volume_name, source, key) = match kind {
        "Secret" => ("secret", "secretName", "secretRef", "secretKeyRef"),
        _ => ("configMap", "name", "configMapRef", "configMapKeyRef"),
    };
    let mut add = |name: &Value| names.extend(name.as_str().map(str::to_owned));
    for found in items(&pod["spec"]["volumes"]) {
        add(&found[volume][volume_name]);
        for projected in items(&found["projected"]["sources"]) {
            add(&projected[volume]["name"]);
        }
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in items(&pod["spec"][list]) {
            for from in items(&container["envFrom"]) {
                add(&from[source]["name"]);
            }
            for variable in items(&container["env"]) {
                add(&variable["valueFrom"][key]["name"]);
            }
        }
    }
    if kind == "Secret" {
        for pull in items(&pod["spec"]["imagePullSecrets"]) {
            add(&pull["name"]);
        }
    }
    names
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_mention_a_secret_or_config_map_is_seen() {
        let pod = json!({"spec": {
            "volumes": [{"secret": {"secretName": "a"}}, {"configMap": {"name": "m"}},
                {"projected": {"sources": [{"secret": {"name": "b"}}, {"configMap": {"name": "n"}}]}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "c"}}}], "envFrom": [{"configMapRef": {"name": "o"}}]}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "d"}}]}],
            "imagePullSecrets": [{"name": "e"}],
        }});
        let names = |kind| mentions(&pod, kind).into_iter().collect::<Vec<_>>().join("");
        assert_eq!(names("Secret"), "abcde");
        assert_eq!(names("ConfigMap"), "mno");
    }
}
