//! Fields that `--field-selector` may ask for.

use serde_json::Value;

use crate::Kind;

/// The label and where its value stands in the stored object; beside `metadata.name` and
/// `metadata.namespace`.
fn extra(kind: &Kind) -> &'static [(&'static str, &'static str)] {
    match (kind.group, kind.kind) {
        ("", "Pod") => &[
            ("spec.nodeName", "/spec/nodeName"),
            ("spec.restartPolicy", "/spec/restartPolicy"),
            ("spec.schedulerName", "/spec/schedulerName"),
            ("spec.serviceAccountName", "/spec/serviceAccountName"),
            ("spec.hostNetwork", "/spec/hostNetwork"),
            ("status.phase", "/status/phase"),
            ("status.podIP", "/status/podIP"),
            ("status.nominatedNodeName", "/status/nominatedNodeName"),
        ],
        ("", "Node") => &[("spec.unschedulable", "/spec/unschedulable")],
        ("", "Namespace") => &[("status.phase", "/status/phase")],
        ("", "Secret") => &[("type", "/type")],
        ("", "Service") => &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")],
        ("", "ReplicationController") | ("apps", "ReplicaSet") => &[("status.replicas", "/status/replicas")],
        ("batch", "Job") => &[("status.successful", "/status/succeeded")],
        ("", "Event") => &[
            ("involvedObject.kind", "/involvedObject/kind"),
            ("involvedObject.namespace", "/involvedObject/namespace"),
            ("involvedObject.name", "/involvedObject/name"),
            ("involvedObject.uid", "/involvedObject/uid"),
            ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
            ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
            ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
            ("reason", "/reason"),
            ("reportingComponent", "/reportingComponent"),
            ("source", "/source/component"),
            ("type", "/type"),
        ],
        ("events.k8s.io", "Event") => &[
            ("involvedObject.kind", "/regarding/kind"),
            ("involvedObject.namespace", "/regarding/namespace"),
            ("involvedObject.name", "/regarding/name"),
            ("involvedObject.uid", "/regarding/uid"),
            ("regarding.kind", "/regarding/kind"),
            ("regarding.namespace", "/regarding/namespace"),
            ("regarding.name", "/regarding/name"),
            ("regarding.uid", "/regarding/uid"),
            ("reason", "/reason"),
            ("reportingController", "/reportingController"),
            ("type", "/type"),
        ],
        ("certificates.k8s.io", "CertificateSigningRequest") => &[("spec.signerName", "/spec/signerName")],
        ("resource.k8s.io", "ResourceSlice") => {
            &[("spec.driver", "/spec/driver"), ("spec.nodeName", "/spec/nodeName")]
        }
        _ => &[],
    }
}

/// The selectable fields of `object` (in the form of `kind`) with their values; a missing field has its
/// type's zero: `""`, `false` or `0`.
pub fn selectable_fields(kind: &Kind, object: &Value) -> Vec<(&'static str, String)> {
    let value = |label: &str, pointer: &str| match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None if matches!(label, "spec.hostNetwork" | "spec.unschedulable") => {
            "false".to_owned()
        }
        Some(Value::Null) | None if matches!(label, "status.replicas" | "status.successful") => {
            "0".to_owned()
        }
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let mut fields = vec![("metadata.name", value("", "/metadata/name"))];
    if kind.namespaced {
        fields.push(("metadata.namespace", value("", "/metadata/namespace")));
    }
    fields.extend(extra(kind).iter().map(|(label, pointer)| (*label, value(label, pointer))));
    fields
}

/// Whether `label` may stand in a field selector for `kind`. If not: 400 `field label not supported: LABEL`.
pub fn field_label_supported(kind: &Kind, label: &str) -> bool {
    label == "metadata.name"
        || (label == "metadata.namespace" && kind.namespaced)
        || extra(kind).iter().any(|(known, _)| *known == label)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::find_kind;

    #[test]
    fn a_missing_field_has_its_types_zero() {
        let pod = find_kind("v1", "Pod").unwrap();
        let fields = selectable_fields(pod, &json!({"metadata": {"name": "a", "namespace": "b"}}));
        assert!(fields.contains(&("metadata.name", "a".to_owned())));
        assert!(fields.contains(&("spec.nodeName", String::new())));
        assert!(fields.contains(&("spec.hostNetwork", "false".to_owned())));
        assert!(field_label_supported(pod, "status.phase") && !field_label_supported(pod, "spec.foo"));
        assert!(!field_label_supported(find_kind("v1", "Node").unwrap(), "metadata.namespace"));
    }
}
