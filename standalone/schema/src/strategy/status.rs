//! Who may write the status: nobody at create, only the status subresource later.

use serde_json::{Value, json};

use super::qos_class;
use crate::Kind;

/// The status a new object has. Kinds without a status stay as they are; a node brings its own.
pub fn at_create(kind: &Kind, object: &mut Value) {
    if kind.subresource("status").is_none() || kind.kind == "Node" {
        return;
    }
    let status = match kind.kind {
        "Pod" => pod_at_create(object),
        "Namespace" => json!({"phase": "Active"}),
        "PersistentVolumeClaim" | "PersistentVolume" => json!({"phase": "Pending"}),
        "Service" | "Ingress" => json!({"loadBalancer": {}}),
        "ReplicaSet" | "ReplicationController" => json!({"replicas": 0}),
        "StatefulSet" => json!({"availableReplicas": 0, "replicas": 0}),
        "DaemonSet" => json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        }),
        "PodDisruptionBudget" => json!({
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
        }),
        "HorizontalPodAutoscaler" => json!({"currentReplicas": 0, "desiredReplicas": 0}),
        _ => json!({}),
    };
    object["status"] = status;
}

/// A pod with scheduling gates says from the start why it is not scheduled.
fn pod_at_create(pod: &Value) -> Value {
    let mut status = json!({"phase": "Pending", "qosClass": qos_class(pod)});
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": null}]);
    }
    status
}

/// Puts back what an update of `subresource` is not about. Returns whether a pod's resources were to change.
pub fn keep_what_is_not_meant(kind: &Kind, old: &Value, new: &mut Value, subresource: Option<&str>) -> bool {
    match subresource {
        None | Some("scale") => {
            if kind.subresource("status").is_some() {
                replace(new, "status", old);
            }
            if kind.kind == "CertificateSigningRequest" {
                replace(new, "spec", old);
            }
            if kind.kind == "Namespace" {
                put(child(new, "spec"), "finalizers", old["spec"].get("finalizers").cloned());
            }
        }
        Some("status") => {
            let status = new.get("status").cloned();
            let annotations = new["metadata"].get("annotations").cloned();
            let managed = new["metadata"].get("managedFields").cloned();
            let version = new["metadata"].get("resourceVersion").cloned();
            *new = old.clone();
            put(new, "status", status);
            for (name, value) in
                [("annotations", annotations), ("managedFields", managed), ("resourceVersion", version)]
            {
                put(child(new, "metadata"), name, value);
            }
        }
        Some("approval") => {
            let conditions = new["status"].get("conditions").cloned();
            let metadata = new["metadata"].clone();
            *new = old.clone();
            new["metadata"] = metadata;
            put(child(new, "status"), "conditions", conditions);
        }
        Some("finalize") => {
            let finalizers = new["spec"].get("finalizers").cloned();
            *new = old.clone();
            put(child(new, "spec"), "finalizers", finalizers);
        }
        Some("ephemeralcontainers") => {
            let containers = new["spec"].get("ephemeralContainers").cloned();
            *new = old.clone();
            put(child(new, "spec"), "ephemeralContainers", containers);
        }
        Some("resize") => {
            let wanted = new["spec"]["containers"].clone();
            *new = old.clone();
            for container in new["spec"]["containers"].as_array_mut().into_iter().flatten() {
                let same =
                    wanted.as_array().into_iter().flatten().find(|want| want["name"] == container["name"]);
                for field in ["resources", "resizePolicy"] {
                    put(container, field, same.and_then(|want| want.get(field)).cloned());
                }
            }
            return true;
        }
        Some(_) => {}
    }
    false
}

fn replace(new: &mut Value, name: &str, old: &Value) {
    put(new, name, old.get(name).cloned());
}

/// The object at `name`, made where there is none.
fn child<'a>(map: &'a mut Value, name: &str) -> &'a mut Value {
    let child = &mut map[name];
    if child.is_null() {
        *child = json!({});
    }
    child
}

fn put(map: &mut Value, name: &str, value: Option<Value>) {
    let Some(map) = map.as_object_mut() else { return };
    match value {
        Some(value) => {
            map.insert(name.to_owned(), value);
        }
        None => {
            map.shift_remove(name);
        }
    }
}
