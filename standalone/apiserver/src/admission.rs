//! What a new object gets, or is refused for, because of other objects.

use serde_json::Value;
use skerry_schema::Kind;

use crate::{
    api::{Api, built_in, parse},
    error::{ApiError, Subject},
    list::{Filter, select},
    object::{self, text},
};

/// Fills in what depends on the stored state.
pub async fn admit(api: &Api, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    if kind.storage == "pods" { set_priority(api, kind, object).await } else { Ok(()) }
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

/// The number comes from the class alone: nobody puts a pod before all others by typing one. (0 is what defaults put there.)
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
    let page = select(api, classes, "", &Filter::default(), None, None, 0).await?;
    let mut defaults = Vec::new();
    for entry in &page.entries {
        let class = parse(classes, entry)?;
        if class["globalDefault"] == true {
            defaults.push(class);
        }
    }
    Ok(defaults.into_iter().min_by_key(|class| class["value"].as_i64()))
}
