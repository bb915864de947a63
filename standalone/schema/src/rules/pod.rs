//! Pods: what must hold between their parts.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use skerry_vocabulary::Quantity;

use super::{Errors, index, join, syntax};
use crate::FieldError;

type Object = Map<String, Value>;

fn items<'a>(map: &'a Object, field: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    map.get(field).and_then(Value::as_array).into_iter().flatten().enumerate()
}

pub fn spec(map: &Object, path: &str, errors: &mut Errors) {
    let mut volumes: BTreeSet<&str> = BTreeSet::new();
    for (at, volume) in items(map, "volumes") {
        if let Some(name) = volume["name"].as_str()
            && !volumes.insert(name)
        {
            errors.push(FieldError::duplicate(
                join(&index(&join(path, "volumes"), at), "name"),
                &volume["name"],
            ));
        }
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut host_ports: BTreeSet<String> = BTreeSet::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (at, container) in items(map, list) {
            let path = index(&join(path, list), at);
            if let Some(name) = container["name"].as_str()
                && !names.insert(name)
            {
                errors.push(FieldError::duplicate(join(&path, "name"), &container["name"]));
            }
            let Some(container) = container.as_object() else { continue };
            mounts(container, &volumes, &path, errors);
            ports(container, &mut host_ports, list == "containers", &path, errors);
            probes(container, list, &path, errors);
            restart(container, list, &path, errors);
            image(container, &path, errors);
        }
    }
    if map.get("hostNetwork") == Some(&json!(true)) {
        for (at, container) in items(map, "containers") {
            for (port_at, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
                if port.get("hostPort").is_some_and(|host| *host != port["containerPort"]) {
                    let path = index(&join(&index(&join(path, "containers"), at), "ports"), port_at);
                    let detail = "must match `containerPort` when `hostNetwork` is true";
                    errors.push(FieldError::invalid(join(&path, "hostPort"), &port["hostPort"], detail));
                }
            }
        }
    }
    if map.get("shareProcessNamespace") == Some(&json!(true)) && map.get("hostPID") == Some(&json!(true)) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(join(path, "shareProcessNamespace"), &json!(true), detail));
    }
    if map.get("dnsPolicy") == Some(&json!("None"))
        && map.get("dnsConfig").and_then(|config| config["nameservers"].as_array()).is_none_or(Vec::is_empty)
    {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(join(path, "dnsConfig.nameservers"), detail));
    }
}

fn image(container: &Object, path: &str, errors: &mut Errors) {
    if let Some(image) = container.get("image").and_then(Value::as_str)
        && image.trim() != image
    {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(join(path, "image"), &json!(image), detail));
    }
}

fn mounts(container: &Object, volumes: &BTreeSet<&str>, path: &str, errors: &mut Errors) {
    let mut paths: BTreeSet<&str> = BTreeSet::new();
    for (at, mount) in items(container, "volumeMounts") {
        let path = index(&join(path, "volumeMounts"), at);
        if let Some(name) = mount["name"].as_str()
            && !volumes.contains(name)
        {
            errors.push(FieldError::not_found(join(&path, "name"), &mount["name"]));
        }
        if let Some(target) = mount["mountPath"].as_str()
            && !paths.insert(target)
        {
            errors.push(FieldError::invalid(join(&path, "mountPath"), &mount["mountPath"], "must be unique"));
        }
    }
    for (at, device) in items(container, "volumeDevices") {
        if device["name"].as_str().is_some_and(|name| !volumes.contains(name)) {
            errors.push(FieldError::not_found(
                join(&index(&join(path, "volumeDevices"), at), "name"),
                &device["name"],
            ));
        }
    }
}

fn ports(container: &Object, host_ports: &mut BTreeSet<String>, app: bool, path: &str, errors: &mut Errors) {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for (at, port) in items(container, "ports") {
        let path = index(&join(path, "ports"), at);
        if let Some(name) = port["name"].as_str()
            && !name.is_empty()
            && !names.insert(name)
        {
            errors.push(FieldError::duplicate(join(&path, "name"), &port["name"]));
        }
        if let Some(host) = port["hostPort"].as_i64()
            && host != 0
            && app
        {
            let claim = format!(
                "{}/{}/{host}",
                port["protocol"].as_str().unwrap_or("TCP"),
                port["hostIP"].as_str().unwrap_or_default()
            );
            if !host_ports.insert(claim.clone()) {
                errors.push(FieldError::duplicate(join(&path, "hostPort"), &json!(claim)));
            }
        }
    }
}

/// A container's own policy, and rules beside it (KEP-5307).
fn restart(container: &Object, list: &str, path: &str, errors: &mut Errors) {
    let rules =
        container.get("restartPolicyRules").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    if list == "ephemeralContainers" {
        for field in
            ["restartPolicy", "restartPolicyRules"].iter().filter(|field| container.contains_key(**field))
        {
            errors.push(FieldError::forbidden(join(path, field), "cannot be set for an Ephemeral Container"));
        }
    } else if rules && !container.contains_key("restartPolicy") {
        let detail = "must specify restartPolicy when restart rules are used";
        errors.push(FieldError::required(join(path, "restartPolicy"), detail));
    }
}

const HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];

fn probes(container: &Object, list: &str, path: &str, errors: &mut Errors) {
    let sidecar = list == "initContainers" && container.get("restartPolicy") == Some(&json!("Always"));
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.get(name) else { continue };
        let path = join(path, name);
        match list {
            "initContainers" if !sidecar => {
                errors.push(FieldError::forbidden(
                    &path,
                    "may not be set for init containers without restartPolicy=Always",
                ));
            }
            "ephemeralContainers" => {
                errors.push(FieldError::forbidden(&path, "cannot be set for an Ephemeral Container"));
            }
            _ => {}
        }
        handlers(probe, &HANDLERS, &path, errors);
        if name != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|count| count != 1) {
            errors.push(FieldError::invalid(
                join(&path, "successThreshold"),
                &probe["successThreshold"],
                "must be 1",
            ));
        }
        if name == "readinessProbe" && probe.get("terminationGracePeriodSeconds").is_some() {
            let at = join(&path, "terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(
                at,
                &probe["terminationGracePeriodSeconds"],
                "must not be set for readinessProbes",
            ));
        }
    }
    if list == "initContainers" && !sidecar && container.contains_key("lifecycle") {
        errors.push(FieldError::forbidden(
            join(path, "lifecycle"),
            "may not be set for init containers without restartPolicy=Always",
        ));
    }
}

/// Exactly one of `known` is set.
fn handlers(handler: &Value, known: &[&str], path: &str, errors: &mut Errors) {
    let set: Vec<&str> = known.iter().copied().filter(|name| handler.get(name).is_some()).collect();
    if set.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for name in set.iter().skip(1) {
        errors.push(FieldError::forbidden(join(path, name), "may not specify more than 1 handler type"));
    }
}

pub fn lifecycle(map: &Object, path: &str, errors: &mut Errors) {
    for name in ["postStart", "preStop"] {
        if let Some(handler) = map.get(name) {
            handlers(handler, &["exec", "httpGet", "tcpSocket", "sleep"], &join(path, name), errors);
        }
    }
}

pub fn env(map: &Object, path: &str, errors: &mut Errors) {
    let Some(source) = map.get("valueFrom").and_then(Value::as_object) else { return };
    let path = join(path, "valueFrom");
    let empty = json!("");
    if map.get("value").and_then(Value::as_str).is_some_and(|value| !value.is_empty()) {
        errors.push(FieldError::invalid(&path, &empty, "may not be specified when `value` is not empty"));
    }
    match source.len() {
        0 => errors.push(FieldError::invalid(
            &path,
            &empty,
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        )),
        1 => {}
        _ => errors.push(FieldError::invalid(&path, &empty, "may not have more than one field specified at a time")),
    }
    if let Some(field) = source.get("fieldRef").and_then(|reference| reference["fieldPath"].as_str())
        && !is_pod_field(field)
    {
        errors.push(FieldError::unsupported(join(&path, "fieldRef.fieldPath"), &json!(field), &POD_FIELDS));
    }
}

/// What a `fieldRef` may name, beside single labels and annotations.
const POD_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn is_pod_field(path: &str) -> bool {
    POD_FIELDS.contains(&path)
        || ["metadata.labels['", "metadata.annotations['"]
            .iter()
            .any(|prefix| path.starts_with(prefix) && path.ends_with("']"))
}

pub fn resources(map: &Object, path: &str, errors: &mut Errors) {
    let (Some(limits), Some(requests)) =
        (map.get("limits").and_then(Value::as_object), map.get("requests").and_then(Value::as_object))
    else {
        return;
    };
    let amount = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    for (name, request) in requests {
        if let Some(limit) = limits.get(name)
            && let (Some(wanted), Some(most)) = (amount(request), amount(limit))
            && wanted > most
        {
            let detail = format!("must be less than or equal to {name} limit of {}", most.canonical());
            errors.push(FieldError::invalid(join(path, "requests"), request, &detail));
        }
    }
}

pub fn toleration(map: &Object, path: &str, errors: &mut Errors) {
    let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
    if text("key").is_empty() && text("operator") != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(join(path, "operator"), &json!(text("operator")), detail));
    }
    if map.contains_key("tolerationSeconds") && text("effect") != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(join(path, "effect"), &json!(text("effect")), detail));
    }
    match text("operator") {
        "Exists" if !text("value").is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(join(path, "operator"), &json!(text("value")), detail));
        }
        "" | "Equal" => {
            if let Some(complaint) = syntax::label_value(text("value")) {
                errors.push(FieldError::invalid(join(path, "operator"), &json!(text("value")), &complaint));
            }
        }
        _ => {}
    }
}

pub fn node_requirement(map: &Object, path: &str, errors: &mut Errors) {
    let values = map.get("values").and_then(Value::as_array).map_or(0, Vec::len);
    let at = join(path, "values");
    match map.get("operator").and_then(Value::as_str) {
        Some("In" | "NotIn") if values == 0 => {
            errors.push(FieldError::required(at, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        Some("Exists" | "DoesNotExist") if values > 0 => {
            errors.push(FieldError::forbidden(
                at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        Some("Gt" | "Lt") if values != 1 => {
            errors.push(FieldError::required(
                at,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ));
        }
        _ => {}
    }
}

pub fn volume(map: &Object, path: &str, errors: &mut Errors) {
    for source in map.keys().filter(|key| *key != "name").skip(1) {
        errors.push(FieldError::forbidden(join(path, source), "may not specify more than 1 volume type"));
    }
    if let Some(target) = map.get("hostPath").and_then(|source| source["path"].as_str())
        && target.split('/').any(|part| part == "..")
    {
        errors.push(FieldError::invalid(
            join(path, "hostPath.path"),
            &json!(target),
            "must not contain '..'",
        ));
    }
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if let Some(kind) = map.get("hostPath").and_then(|source| source.get("type"))
        && kind.as_str().is_some_and(|kind| !TYPES.contains(&kind))
    {
        errors.push(FieldError::unsupported(join(path, "hostPath.type"), kind, &TYPES));
    }
}
