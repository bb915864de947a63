//! What happens to an object between the request and the store.

pub mod metadata;
mod qos;
mod status;

use serde_json::{Value, json};

pub use qos::qos_class;

use crate::{
    FieldError, Kind, limits,
    rules::{self, Errors},
    shape::Shape,
};

/// Kinds whose `metadata.generation` counts the changes of what users want.
const WITH_GENERATION: &[&str] = &[
    "CronJob",
    "CustomResourceDefinition",
    "CSIDriver",
    "DaemonSet",
    "Deployment",
    "DeviceClass",
    "EndpointSlice",
    "FlowSchema",
    "Ingress",
    "IngressClass",
    "Job",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
    "MutatingWebhookConfiguration",
    "NetworkPolicy",
    "Pod",
    "PodDisruptionBudget",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "ReplicaSet",
    "ReplicationController",
    "ResourceSlice",
    "StatefulSet",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
];

/// Makes a decoded object ready to be stored: sets defaults (also those of built-in admission: service
/// account name, tolerations), clears what a create may not set (status), sets `metadata.generation`,
/// validates.
///
/// The caller has set `metadata.name` (from `generateName` too), `namespace`, `uid`, `creationTimestamp`
/// before; it allocates ClusterIPs and node ports after.
///
/// # Errors
/// Every fault found; the object is then of no use.
pub fn prepare_create(kind: &Kind, object: &mut Value, now: jiff::Timestamp) -> Result<(), Vec<FieldError>> {
    let mut errors = Errors::default();
    let Some(map) = object.as_object_mut() else { return Ok(()) };
    let meta = map.entry("metadata").or_insert_with(|| json!({}));
    if let Some(meta) = meta.as_object_mut() {
        meta.entry("creationTimestamp").or_insert_with(|| json!(skerry_vocabulary::time::seconds(now)));
        for name in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            meta.shift_remove(name);
        }
        if WITH_GENERATION.contains(&kind.kind) {
            meta.insert("generation".into(), json!(1));
        }
    }
    match kind.kind {
        "PersistentVolume" => rules::storage::protect(object, "kubernetes.io/pv-protection"),
        "PersistentVolumeClaim" => rules::storage::protect(object, "kubernetes.io/pvc-protection"),
        "Job" => rules::job_selector(object),
        "Pod" => {
            rules::admit_pod(object);
            rules::label_keys::complete(object);
        }
        "Namespace" => namespace(object),
        _ => {}
    }
    set_defaults(kind, object);
    status::at_create(kind, object);
    still_fits(object)?;
    metadata::validate(kind, object, &mut errors);
    validate(kind, object, None, &mut errors);
    errors.into_result()
}

/// Makes `new` ready to take `old`'s place: keeps what an update of this `subresource` (`None`: the object
/// itself) may not change (uid, creationTimestamp, deletion fields, generation; status or all but status),
/// sets defaults, raises the generation where the spec changed, checks immutable fields, validates.
///
/// Subresources: `status`, `finalize` (namespaces), `resize` and `ephemeralcontainers` (pods), `approval`
/// (CSRs), `scale` (the caller wrote `spec.replicas`). Does not look at `resourceVersion`: the caller
/// compares it before.
///
/// # Errors
/// Every fault found; `new` is then of no use.
pub fn prepare_update(
    kind: &Kind,
    old: &Value,
    new: &mut Value,
    subresource: Option<&str>,
    now: jiff::Timestamp,
) -> Result<(), Vec<FieldError>> {
    let _ = now;
    let mut errors = Errors::default();
    let Some(map) = new.as_object_mut() else { return Ok(()) };
    map.entry("metadata").or_insert_with(|| json!({}));
    metadata::carry_over(old, new, &mut errors);
    let resized = status::keep_what_is_not_meant(kind, old, new, subresource);
    if kind.kind == "Service" && subresource.is_none() {
        rules::keep_allocated(old, new);
    }
    if kind.kind == "Pod" && subresource.is_none() {
        rules::tolerate(new);
    }
    // A status brings back the old object, which has its defaults; kubelets write theirs all the time.
    if subresource != Some("status") {
        set_defaults(kind, new);
    }
    if wanted_changed(old, new) && WITH_GENERATION.contains(&kind.kind) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
        new["metadata"]["generation"] = json!(generation);
    }
    still_fits(new)?;
    metadata::validate(kind, new, &mut errors);
    if subresource == Some("status") {
        rules::status::validate(kind, old, new, &mut errors);
    } else {
        validate(kind, new, Some(old), &mut errors);
    }
    if kind.kind == "Pod" {
        match subresource {
            None => rules::pod_update(old, new, &mut errors),
            Some("ephemeralcontainers") => rules::ephemeral_update(old, new, &mut errors),
            _ => {}
        }
    }
    if kind.kind == "Pod" && resized {
        let class = qos_class(new);
        if class != qos_class(old) {
            let at = "spec.containers";
            errors.push(FieldError::invalid(
                at,
                &json!(class),
                "Pod QOS Class may not change as a result of resizing",
            ));
        }
    }
    errors.into_result()
}

/// Defaults make an object grow: what was small enough as a body may not be any more.
fn still_fits(object: &Value) -> Result<(), Vec<FieldError>> {
    limits::check(object).map_err(|excess| vec![excess.into()])
}

fn set_defaults(kind: &Kind, object: &mut Value) {
    let shape = Shape::of(kind.group, kind.version, kind.kind);
    if let (Some(shape), Some(map)) = (shape, object.as_object_mut()) {
        rules::defaults(shape, map);
    }
}

fn validate(kind: &Kind, object: &Value, old: Option<&Value>, errors: &mut Errors) {
    let shape = Shape::of(kind.group, kind.version, kind.kind);
    if let (Some(shape), Some(map)) = (shape, object.as_object()) {
        rules::validate(shape, map, old.and_then(Value::as_object), "", errors);
    }
}

/// Whether anything but metadata and status differs.
fn wanted_changed(old: &Value, new: &Value) -> bool {
    let wanted = |name: &&String| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind");
    let names = |value: &Value| value.as_object().map_or(0, |map| map.keys().filter(wanted).count());
    let same = |(name, value): (&String, &Value)| !wanted(&name) || old.get(name) == Some(value);
    names(old) != names(new) || !new.as_object().is_none_or(|map| map.iter().all(same))
}

fn namespace(object: &mut Value) {
    let name = object["metadata"]["name"].clone();
    object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    let finalizers = &mut object["spec"]["finalizers"];
    if !finalizers.as_array().is_some_and(|list| list.iter().any(|name| name == "kubernetes")) {
        match finalizers.as_array_mut() {
            Some(list) => list.push(json!("kubernetes")),
            None => *finalizers = json!(["kubernetes"]),
        }
    }
}

#[cfg(test)]
mod tests;
