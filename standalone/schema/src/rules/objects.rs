//! Nodes, configuration, events, priority classes, extension objects.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{Errors, index, join, key, syntax};
use crate::FieldError;

type Object = Map<String, Value>;

/// What a ConfigMap or Secret may hold, in bytes.
const MAX_DATA_BYTES: usize = 1 << 20;

pub fn node(map: &Object, old: Option<&Object>, path: &str, errors: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for (at, taint) in map.get("taints").and_then(Value::as_array).into_iter().flatten().enumerate() {
        if !seen.insert((taint["key"].to_string(), taint["effect"].to_string())) {
            errors.push(FieldError::duplicate(index(&join(path, "taints"), at), taint));
        }
    }
    pod_ranges(map, path, errors);
    let Some(old) = old else { return };
    for name in ["podCIDR", "podCIDRs"] {
        if let Some(before) = old.get(name).filter(|before| !is_empty(before))
            && map.get(name) != Some(before)
        {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden(join(path, name), detail));
        }
    }
    if let Some(before) = old.get("providerID")
        && before != ""
        && map.get("providerID") != Some(before)
    {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(join(path, "providerID"), detail));
    }
}

/// One range of a family, the first of which is `podCIDR` too.
fn pod_ranges(map: &Object, path: &str, errors: &mut Errors) {
    let at = join(path, "podCIDRs");
    let ranges = map.get("podCIDRs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_v6 = |range: &Value| range.as_str().is_some_and(|text| text.contains(':'));
    let twice = matches!(ranges, [first, second] if is_v6(first) == is_v6(second));
    if ranges.len() > 2 || twice {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(at, &map["podCIDRs"], detail));
    }
    let first = map.get("podCIDR").filter(|first| !is_empty(first));
    if let Some(first) = first.filter(|first| ranges.first() != Some(first)) {
        errors.push(FieldError::invalid(join(path, "podCIDR"), first, "must be the first of podCIDRs"));
    }
}

/// `podCIDR` and the first of `podCIDRs` are one thing: whoever says one says the other.
pub fn node_defaults(map: &mut Object) {
    let first = map.get("podCIDR").filter(|first| !is_empty(first)).cloned();
    let ranges = map.get("podCIDRs").filter(|ranges| !is_empty(ranges));
    match (first, ranges) {
        (Some(first), None) => drop(map.insert("podCIDRs".into(), json!([first]))),
        (None, Some(ranges)) => {
            let first = ranges[0].clone();
            map.insert("podCIDR".into(), first);
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// `stringData` goes into `data` when written.
pub fn secret_defaults(map: &mut Object) {
    let Some(Value::Object(plain)) = map.shift_remove("stringData") else { return };
    let data = map.entry("data").or_insert_with(|| json!({}));
    let Some(data) = data.as_object_mut() else { return };
    for (name, value) in plain {
        if let Value::String(text) = value {
            data.insert(name, Value::String(STANDARD.encode(text)));
        }
    }
}

fn data_keys(map: &Object, field: &str, errors: &mut Errors) -> usize {
    let Some(data) = map.get(field).and_then(Value::as_object) else { return 0 };
    for name in data.keys() {
        if let Some(complaint) = syntax::config_key(name) {
            errors.push(FieldError::invalid(key(field, name), &json!(name), &complaint));
        }
    }
    data.values().map(|value| value.as_str().map_or(0, str::len)).sum()
}

/// What `immutable: true` forbids.
fn frozen(map: &Object, old: Option<&Object>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&json!(true))) else { return };
    if map.get("immutable") != Some(&json!(true)) {
        errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for name in fields {
        if map.get(*name) != old.get(*name) {
            errors.push(FieldError::forbidden(*name, "field is immutable when `immutable` is set"));
        }
    }
}

pub fn config_map(map: &Object, old: Option<&Object>, errors: &mut Errors) {
    let text = data_keys(map, "data", errors);
    let binary = data_keys(map, "binaryData", errors) / 4 * 3;
    if text + binary > MAX_DATA_BYTES {
        errors.push(FieldError::too_long("", MAX_DATA_BYTES));
    }
    let none = Map::new();
    let data = map.get("data").and_then(Value::as_object).unwrap_or(&none);
    for name in map.get("binaryData").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        if data.contains_key(name) {
            let at = key("data", name);
            errors.push(FieldError::invalid(at, &json!(name), "duplicate of key present in binaryData"));
        }
    }
    frozen(map, old, &["data", "binaryData"], errors);
}

pub fn secret(map: &Object, old: Option<&Object>, errors: &mut Errors) {
    if data_keys(map, "data", errors) / 4 * 3 > MAX_DATA_BYTES {
        errors.push(FieldError::too_long("data", MAX_DATA_BYTES));
    }
    let none = Map::new();
    let data = map.get("data").and_then(Value::as_object).unwrap_or(&none);
    let mut need = |name: &str| {
        if !data.contains_key(name) {
            errors.push(FieldError::required(key("data", name), ""));
        }
    };
    match map.get("type").and_then(Value::as_str) {
        Some("kubernetes.io/tls") => ["tls.crt", "tls.key"].into_iter().for_each(need),
        Some("kubernetes.io/dockerconfigjson") => need(".dockerconfigjson"),
        Some("kubernetes.io/dockercfg") => need(".dockercfg"),
        Some("kubernetes.io/ssh-auth") => need("ssh-privatekey"),
        Some("kubernetes.io/basic-auth") if !data.contains_key("username") => need("password"),
        Some("kubernetes.io/service-account-token") => {
            let account = &map["metadata"]["annotations"]["kubernetes.io/service-account.name"];
            if account.as_str().is_none_or(str::is_empty) {
                errors.push(FieldError::required(
                    "metadata.annotations[kubernetes.io/service-account.name]",
                    "",
                ));
            }
        }
        _ => {}
    }
    frozen(map, old, &["data"], errors);
}

pub fn event(map: &Object, errors: &mut Errors) {
    let object = map.get("involvedObject").or_else(|| map.get("regarding"));
    let field = if map.contains_key("regarding") { "regarding" } else { "involvedObject" };
    let named = object.and_then(|object| object["namespace"].as_str()).unwrap_or_default();
    let own = map.get("metadata").and_then(|metadata| metadata["namespace"].as_str()).unwrap_or_default();
    let good = if named.is_empty() { matches!(own, "default" | "kube-system") } else { named == own };
    if !good {
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid(format!("{field}.namespace"), &json!(named), detail));
    }
}

pub fn priority_class(map: &Object, errors: &mut Errors) {
    const MAX_USER_VALUE: i64 = 1_000_000_000;
    let name = map.get("metadata").and_then(|metadata| metadata["name"].as_str()).unwrap_or_default();
    let system = matches!(name, "system-node-critical" | "system-cluster-critical");
    if name.starts_with("system-") && !system {
        let detail = "priority class names with 'system-' prefix are reserved for system use only";
        errors.push(FieldError::forbidden("metadata.name", detail));
    }
    if !system && map.get("value").and_then(Value::as_i64).is_some_and(|value| value > MAX_USER_VALUE) {
        let detail = format!("maximum allowed value of a user defined priority is {MAX_USER_VALUE}");
        errors.push(FieldError::forbidden("value", &detail));
    }
}

pub fn limit_range_defaults(map: &mut Object) {
    if map.get("type") != Some(&json!("Container")) {
        return;
    }
    for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
        let Some(source) = map.get(from).and_then(Value::as_object).cloned() else { continue };
        let target = map.entry(to).or_insert_with(|| json!({}));
        if let Some(target) = target.as_object_mut() {
            for (name, amount) in source {
                target.entry(name).or_insert(amount);
            }
        }
    }
}

pub fn device_request_defaults(map: &mut Object) {
    if map.get("allocationMode") == Some(&json!("ExactCount")) {
        map.entry("count").or_insert(json!(1));
    }
}

pub fn resource_names_defaults(map: &mut Object) {
    let Some(kind) =
        map.get("kind").and_then(Value::as_str).filter(|kind| !kind.is_empty()).map(str::to_owned)
    else {
        return;
    };
    map.entry("singular").or_insert(json!(kind.to_lowercase()));
    map.entry("listKind").or_insert(json!(format!("{kind}List")));
}

fn name_is(map: &Object, wanted: &str, detail: &str, errors: &mut Errors) {
    let name = map.get("metadata").and_then(|metadata| metadata["name"].as_str()).unwrap_or_default();
    if name != wanted {
        errors.push(FieldError::invalid("metadata.name", &json!(name), detail));
    }
}

pub fn resource_definition(map: &Object, errors: &mut Errors) {
    let Some(spec) = map.get("spec") else {
        errors.push(FieldError::required("spec", ""));
        return;
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let wanted = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
    name_is(map, &wanted, "must be spec.names.plural+\".\"+spec.group", errors);
    let versions = spec["versions"].as_array();
    let stored = versions.into_iter().flatten().filter(|version| version["storage"] == true).count();
    if stored != 1 && versions.is_some() {
        let detail = "must have exactly one version marked as storage version";
        errors.push(FieldError::invalid("spec.versions", &spec["versions"], detail));
    }
    for (at, version) in versions.into_iter().flatten().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none() {
            let at = join(&index("spec.versions", at), "schema.openAPIV3Schema");
            errors.push(FieldError::required(at, "schemas are required"));
        }
    }
}

pub fn api_service(map: &Object, errors: &mut Errors) {
    let spec = map.get("spec").unwrap_or(&Value::Null);
    let text = |name: &str| spec[name].as_str().unwrap_or_default();
    let wanted = format!("{}.{}", text("version"), text("group"));
    name_is(map, &wanted, &format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"), errors);
}
