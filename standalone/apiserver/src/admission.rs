//! What a new object gets, or is refused for, because of other objects.

use serde_json::{Map, Value, json};
use skerry_schema::Kind;

use crate::{
    api::{Api, built_in, parse},
    error::{ApiError, Subject},
    list::{Filter, select},
    object::{self, text},
};

/// Fills in what depends on the stored state.
pub async fn admit(api: &Api, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    match kind.storage {
        "pods" => {}
        "persistentvolumeclaims" => return set_storage_class(api, object).await,
        _ => return Ok(()),
    }
    set_priority(api, kind, object).await?;
    let class = match text(object, "/spec/runtimeClassName") {
        "" => None,
        name => {
            let found = api.object(built_in("node.k8s.io", "v1", "runtimeclasses")?, "", name).await?;
            Some(found.ok_or_else(|| rejected(kind, object, &format!("RuntimeClass {name:?} not found")))?)
        }
    };
    set_runtime(object, class.as_ref()).map_err(|why| rejected(kind, object, &why))
}

/// A claim that names no class gets the default one; `""` asks for none.
async fn set_storage_class(api: &Api, claim: &mut Value) -> Result<(), ApiError> {
    let by_annotation = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    if !claim["spec"]["storageClassName"].is_null() || !by_annotation.is_null() {
        return Ok(());
    }
    if let Some(class) = default_class(api).await? {
        claim["spec"]["storageClassName"] = class["metadata"]["name"].clone();
    }
    Ok(())
}

/// Of several default classes the newest holds, as upstream has it; of equals the first by name.
async fn default_class(api: &Api) -> Result<Option<Value>, ApiError> {
    let classes = built_in("storage.k8s.io", "v1", "storageclasses")?;
    let mut defaults = all(api, classes).await?;
    defaults.retain(is_default_class);
    defaults.sort_by_key(|class| object::name(class).to_owned());
    let age = |class: &&Value| std::cmp::Reverse(text(class, "/metadata/creationTimestamp").to_owned());
    Ok(defaults.iter().min_by_key(age).cloned())
}

fn is_default_class(class: &Value) -> bool {
    let annotations = &class["metadata"]["annotations"];
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|name| annotations[*name] == "true")
}

/// Refuses what an update may not do because of other objects: a claim grows only where its class can make it
/// grow.
pub async fn admit_update(api: &Api, kind: &Kind, old: &Value, new: &Value) -> Result<(), ApiError> {
    if kind.storage != "persistentvolumeclaims" {
        return Ok(());
    }
    let size = |claim: &Value| {
        skerry_vocabulary::Quantity::parse(text(claim, "/spec/resources/requests/storage")).ok()
    };
    let (Some(was), Some(wanted)) = (size(old), size(new)) else { return Ok(()) };
    if wanted <= was {
        return Ok(());
    }
    let class = match text(old, "/spec/storageClassName") {
        "" => None,
        name => api.object(built_in("storage.k8s.io", "v1", "storageclasses")?, "", name).await?,
    };
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
               resize";
    Err(ApiError::forbidden(Subject::new(kind, object::name(new)), why))
}

/// Every object of a kind without namespaces.
async fn all(api: &Api, kind: &'static Kind) -> Result<Vec<Value>, ApiError> {
    let page = select(api, kind, "", &Filter::default(), None, None, 0).await?;
    page.entries.iter().map(|entry| parse(kind, entry)).collect()
}

fn rejected(kind: &Kind, pod: &Value, why: &str) -> ApiError {
    ApiError::forbidden(Subject::new(kind, object::name(pod)), &format!("pod rejected: {why}"))
}

/// What the pod's RuntimeClass adds: its overhead, and on which nodes it can run.
fn set_runtime(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let given = pod["spec"].get("overhead").filter(|overhead| !overhead.is_null()).cloned();
    let overhead =
        class.and_then(|class| class.pointer("/overhead/podFixed")).filter(|fixed| !fixed.is_null());
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    match (given, overhead) {
        (None, None) => {}
        (Some(_), None) => {
            return Err("Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned());
        }
        (Some(given), Some(overhead)) if given != *overhead => {
            return Err("Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
        }
        (_, Some(overhead)) => drop(spec.insert("overhead".to_owned(), overhead.clone())),
    }
    let scheduling = class.map(|class| &class["scheduling"]).unwrap_or(&Value::Null);
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let selector = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        let Some(selector) = selector.as_object_mut() else { continue };
        match selector.get(key) {
            Some(other) if other != value => {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    other.as_str().unwrap_or_default()
                ));
            }
            _ => drop(selector.insert(key.clone(), value.clone())),
        }
    }
    add_tolerations(spec, scheduling["tolerations"].as_array().map(Vec::as_slice).unwrap_or_default());
    Ok(())
}

fn add_tolerations(spec: &mut Map<String, Value>, added: &[Value]) {
    if added.is_empty() {
        return;
    }
    if let Some(tolerations) = spec.entry("tolerations").or_insert_with(|| json!([])).as_array_mut() {
        let new: Vec<Value> = added.iter().filter(|new| !tolerations.contains(new)).cloned().collect();
        tolerations.extend(new);
    }
}

/// The number behind a pod's priority class: the named one's, else the global default's, else 0.
async fn set_priority(api: &Api, kind: &Kind, pod: &mut Value) -> Result<(), ApiError> {
    let classes = built_in("scheduling.k8s.io", "v1", "priorityclasses")?;
    let name = text(pod, "/spec/priorityClassName").to_owned();
    let class = if name.is_empty() {
        global_default(api, classes).await?
    } else {
        api.object(classes, "", &name).await?
    };
    let Some(class) = class else {
        if name.is_empty() {
            return no_other_priority(kind, pod, 0);
        }
        let why = format!("no PriorityClass with name {name} was found");
        return Err(ApiError::forbidden(Subject::new(kind, object::name(pod)), &why));
    };
    no_other_priority(kind, pod, class["value"].as_i64().unwrap_or_default())?;
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    spec.insert("priorityClassName".into(), class["metadata"]["name"].clone());
    spec.insert("priority".into(), class["value"].clone());
    if let Some(policy) = class.get("preemptionPolicy").filter(|policy| !policy.is_null()) {
        spec.insert("preemptionPolicy".into(), policy.clone());
    }
    Ok(())
}

/// The number comes from the class alone: nobody puts a pod before all others by typing one. (0 is what
/// defaults put there.)
fn no_other_priority(kind: &Kind, pod: &Value, computed: i64) -> Result<(), ApiError> {
    match pod.pointer("/spec/priority").and_then(Value::as_i64) {
        Some(given) if given != 0 && given != computed => {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
                 computed {computed}"
            );
            Err(ApiError::forbidden(Subject::new(kind, object::name(pod)), &why))
        }
        _ => Ok(()),
    }
}

/// Of several global defaults the one with the lowest value holds, as upstream has it.
async fn global_default(api: &Api, classes: &'static Kind) -> Result<Option<Value>, ApiError> {
    let defaults = all(api, classes).await?.into_iter().filter(|class| class["globalDefault"] == true);
    Ok(defaults.min_by_key(|class| class["value"].as_i64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class() -> Value {
        json!({"handler": "kata", "overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {
            "nodeSelector": {"runtime": "kata"}, "tolerations": [{"key": "kata", "operator": "Exists"}]}})
    }

    #[test]
    fn a_runtime_class_gives_its_pods_overhead_and_nodes() {
        let mut pod = json!({"spec": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "x", "operator": "Exists"}]}});
        set_runtime(&mut pod, Some(&class())).unwrap();
        let once = pod.clone();
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "250m"}));
        assert_eq!(pod["spec"]["nodeSelector"], json!({"disk": "ssd", "runtime": "kata"}));
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        set_runtime(&mut pod, Some(&class())).unwrap();
        assert_eq!(pod, once);
    }

    #[test]
    fn a_pod_that_contradicts_its_runtime_class_is_refused() {
        let refused =
            |spec: Value, class: Option<&Value>| set_runtime(&mut json!({"spec": spec}), class).unwrap_err();
        assert!(refused(json!({"overhead": {"cpu": "1"}}), None).contains("without corresponding"));
        assert!(refused(json!({"overhead": {"cpu": "1"}}), Some(&class())).contains("doesn't match"));
        assert_eq!(
            refused(json!({"nodeSelector": {"runtime": "runc"}}), Some(&class())),
            "conflict: runtimeClass.scheduling.nodeSelector[runtime] = kata; pod.spec.nodeSelector[runtime] = runc"
        );
    }
}
