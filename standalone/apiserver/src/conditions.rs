//! The part of authorization that depends on what is stored.

use std::collections::BTreeSet;

use serde_json::Value;
use skerry_store::Range;

use crate::{
    api::{Api, Call, built_in, parse},
    authorize::{Condition, Decision, LOCAL_VOLUME_LABEL, authorize, denial},
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
        Condition::ReferencedByPodsOf(node) if call.kind.storage == "persistentvolumes" => {
            let Some(volume) = api.object(call.kind, "", &call.request.name).await? else { return Ok(false) };
            let [namespace, claim] =
                ["/spec/claimRef/namespace", "/spec/claimRef/name"].map(|at| text(&volume, at));
            let is_bound = !claim.is_empty();
            Ok(is_bound && referenced(api, "PersistentVolumeClaim", namespace, claim, node).await?)
        }
        Condition::ReferencedByPodsOf(node) => {
            let request = &call.request;
            referenced(api, call.kind.kind, &request.namespace, &request.name, node).await
        }
        Condition::VolumeOfNode(node) => {
            let volume = api.object(call.kind, "", &call.request.name).await?;
            // A node may learn that a volume of its own is gone.
            Ok(volume.is_none_or(|volume| volume["metadata"]["labels"][LOCAL_VOLUME_LABEL] == node.as_str()))
        }
    }
}

async fn referenced(
    api: &Api,
    kind: &str,
    namespace: &str,
    name: &str,
    node: &str,
) -> Result<bool, ApiError> {
    let pods = built_in("", "v1", "pods")?;
    let range = Range { prefix: object::prefix(pods, namespace), ..Range::default() };
    for entry in &api.store.list(range).await?.entries {
        // Names are DNS names and stand in the JSON as they are: most pods need no parsing. That of a pod's own
        // claim stands nowhere: it is made of two.
        let is_candidate = std::str::from_utf8(&entry.value).is_ok_and(|json| {
            json.contains(node) && (kind == "PersistentVolumeClaim" || json.contains(name))
        });
        if !is_candidate {
            continue;
        }
        let pod = parse(pods, entry)?;
        if text(&pod, "/spec/nodeName") == node && mentions(&pod, kind).contains(name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names of the Secrets, ConfigMaps or claims that a pod's node has to read.
fn mentions(pod: &Value, kind: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if kind == "PersistentVolumeClaim" {
        let claims = items(&pod["spec"]["volumes"]).filter_map(|volume| {
            // A claim of the pod's own has its name and the volume's.
            let own = || {
                let name = volume.get("ephemeral").and(volume["name"].as_str())?;
                Some(format!("{}-{name}", text(pod, "/metadata/name")))
            };
            volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned).or_else(own)
        });
        names.extend(claims);
        return names;
    }
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
        let pod = json!({"metadata": {"name": "x"}, "spec": {
            "volumes": [{"name": "q", "ephemeral": {}}, {"secret": {"secretName": "a"}}, {"configMap": {"name": "m"}}, {"persistentVolumeClaim": {"claimName": "p"}},
                {"projected": {"sources": [{"secret": {"name": "b"}}, {"configMap": {"name": "n"}}]}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "c"}}}], "envFrom": [{"configMapRef": {"name": "o"}}]}],
            "initContainers": [{"envFrom": [{"secretRef": {"name": "d"}}]}],
            "imagePullSecrets": [{"name": "e"}],
        }});
        let names = |kind| mentions(&pod, kind).into_iter().collect::<Vec<_>>().join(",");
        assert_eq!(names("Secret"), "a,b,c,d,e");
        assert_eq!(names("ConfigMap"), "m,n,o");
        assert_eq!(names("PersistentVolumeClaim"), "p,x-q");
    }
}
