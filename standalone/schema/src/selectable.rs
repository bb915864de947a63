//! Fields that `--field-selector` may ask for.

use serde_json::Value;

use crate::Kind;

/// The selectable fields of `object` with their values; a missing field has the value `""` (or its type's zero).
pub fn selectable_fields(kind: &Kind, object: &Value) -> Vec<(&'static str, String)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut fields = vec![("metadata.name", text("/metadata/name"))];
    if kind.namespaced {
        fields.push(("metadata.namespace", text("/metadata/namespace")));
    }
    fields
}

/// Whether `label` may stand in a field selector for `kind`. If not: 400 `field label not supported: LABEL`.
pub fn field_label_supported(kind: &Kind, label: &str) -> bool {
    label == "metadata.name" || (label == "metadata.namespace" && kind.namespaced)
}
