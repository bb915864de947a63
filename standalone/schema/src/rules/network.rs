//! Ranges of ClusterIPs, ingresses, network policies.

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::{Errors, index, join, syntax};
use crate::FieldError;

type Object = Map<String, Value>;

/// Ranges of ClusterIPs: one, or one of each family (KEP-1880).
pub fn service_cidr(map: &Object, path: &str, errors: &mut Errors) {
    let at = join(path, "cidrs");
    let Some(ranges) = map.get("cidrs").and_then(Value::as_array) else { return };
    if ranges.len() > 2 {
        errors.push(FieldError::invalid(at, &map["cidrs"], "may only hold up to 2 values"));
        return;
    }
    // What is none is named by the field's form.
    let parsed: Vec<Option<IpNetwork>> =
        ranges.iter().map(|range| range.as_str().and_then(|text| text.parse().ok())).collect();
    for (number, range) in parsed.iter().enumerate() {
        if range.is_some_and(|range| range.ip() != range.network()) {
            let detail = "must not have bits set beyond the prefix length";
            errors.push(FieldError::invalid(index(&at, number), &ranges[number], detail));
        }
    }
    if let [Some(first), Some(second)] = parsed[..]
        && first.is_ipv4() == second.is_ipv4()
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(at, &map["cidrs"], detail));
    }
}

pub fn ingress(map: &Object, path: &str, errors: &mut Errors) {
    let no_rules = map.get("rules").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if no_rules && !map.contains_key("defaultBackend") {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(path, &Value::Null, detail));
    }
    for (at, rule) in map.get("rules").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let Some(host) = rule["host"].as_str().filter(|host| !host.is_empty()) else { continue };
        let at = join(&index(&join(path, "rules"), at), "host");
        if host.parse::<std::net::IpAddr>().is_ok() {
            errors.push(FieldError::invalid(at, &json!(host), "must be a DNS name, not an IP address"));
        } else if let Some(complaint) = syntax::subdomain(host.strip_prefix("*.").unwrap_or(host)) {
            errors.push(FieldError::invalid(at, &json!(host), &complaint));
        }
    }
}

pub fn ingress_backend(map: &Object, path: &str, errors: &mut Errors) {
    match (map.get("service"), map.get("resource")) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(
                path,
                &json!(""),
                "cannot set both resource and service backends",
            ));
        }
        (None, None) => errors.push(FieldError::required(path, "port name or number is required")),
        (Some(service), None) => {
            let port = &service["port"];
            let named = port["name"].as_str().is_some_and(|name| !name.is_empty());
            let numbered = port["number"].as_i64().is_some_and(|number| number != 0);
            if named && numbered {
                errors.push(FieldError::invalid(path, &json!(""), "cannot set both port name & port number"));
            } else if !named && !numbered {
                errors.push(FieldError::required(path, "port name or number is required"));
            }
        }
        _ => {}
    }
}

pub fn ingress_path(map: &Object, path: &str, errors: &mut Errors) {
    let text = map.get("path").and_then(Value::as_str).unwrap_or_default();
    let kind = map.get("pathType").and_then(Value::as_str).unwrap_or_default();
    let must_be_absolute = matches!(kind, "Exact" | "Prefix") || !text.is_empty();
    if must_be_absolute && !text.starts_with('/') {
        errors.push(FieldError::invalid(join(path, "path"), &json!(text), "must be an absolute path"));
    }
    if matches!(kind, "Exact" | "Prefix") {
        for bad in ["//", "/./", "/../", "%2f", "%2F"] {
            if text.contains(bad) {
                errors.push(FieldError::invalid(
                    join(path, "path"),
                    &json!(text),
                    &format!("must not contain '{bad}'"),
                ));
            }
        }
    }
    if !map.contains_key("backend") {
        errors.push(FieldError::required(join(path, "backend"), ""));
    }
}

/// A policy is about what comes in, and about what goes out if it says anything of that.
pub fn policy_defaults(map: &mut Object) {
    if map.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let egress = map.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        map.insert(
            "policyTypes".into(),
            if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) },
        );
    }
}

pub fn policy_peer(map: &Object, path: &str, errors: &mut Errors) {
    let selectors = map.contains_key("podSelector") || map.contains_key("namespaceSelector");
    match (map.contains_key("ipBlock"), selectors) {
        (true, true) => {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(path, detail));
        }
        (false, false) => errors.push(FieldError::required(path, "must specify a peer")),
        _ => {}
    }
}

pub fn policy_port(map: &Object, path: &str, errors: &mut Errors) {
    let Some(end) = map.get("endPort").and_then(Value::as_i64) else { return };
    match map.get("port") {
        Some(Value::Number(port)) if port.as_i64().is_some_and(|port| end < port) => {
            let detail = "must be greater than or equal to `port`";
            errors.push(FieldError::invalid(join(path, "endPort"), &map["endPort"], detail));
        }
        Some(Value::Number(_)) => {}
        Some(_) => {
            let detail = "may not be specified when `port` is non-numeric";
            errors.push(FieldError::invalid(join(path, "endPort"), &map["endPort"], detail));
        }
        None => {
            let detail = "may not be specified when `port` is not specified";
            errors.push(FieldError::invalid(join(path, "endPort"), &map["endPort"], detail));
        }
    }
}
