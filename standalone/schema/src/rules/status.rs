//! The statuses that others than our own controllers write: what readers rely on in them. Each rule is
//! upstream's.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Value, json};

use super::{Errors, index, join, syntax};
use crate::{FieldError, Kind};

/// Faults in a status that an update changes.
pub fn validate(kind: &Kind, old: &Value, new: &Value, errors: &mut Errors) {
    if old.get("status") == new.get("status") {
        return;
    }
    let status = &new["status"];
    match (kind.group, kind.kind) {
        ("", "Service") => load_balancer(status, new["spec"]["type"] == "LoadBalancer", errors),
        ("networking.k8s.io", "Ingress") => load_balancer(status, true, errors),
        ("", "Pod") => pod(status, errors),
        ("batch", "Job") => job(status, errors),
        _ => {}
    }
}

fn load_balancer(status: &Value, may_have: bool, errors: &mut Errors) {
    let path = "status.loadBalancer.ingress";
    let points = status["loadBalancer"]["ingress"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    if !points.is_empty() && !may_have {
        errors.push(FieldError::forbidden(path, "may only be used when `spec.type` is LoadBalancer"));
        return;
    }
    for (at, point) in points.iter().enumerate() {
        let path = index(path, at);
        let text = |name: &str| point[name].as_str().unwrap_or_default();
        let (address, host, mode) = (text("ip"), text("hostname"), text("ipMode"));
        if let Some(complaint) = syntax::ip(address).filter(|_| !address.is_empty()) {
            errors.push(FieldError::invalid(join(&path, "ip"), &json!(address), &complaint));
        }
        let at = join(&path, "ipMode");
        match mode {
            "" => {}
            _ if address.is_empty() => {
                errors.push(FieldError::forbidden(at, "may not be specified when `ip` is not set"));
            }
            "VIP" | "Proxy" => {}
            _ => errors.push(FieldError::unsupported(at, &json!(mode), &["Proxy", "VIP"])),
        }
        if host.is_empty() {
            continue;
        }
        let at = join(&path, "hostname");
        if host.parse::<IpAddr>().is_ok() {
            errors.push(FieldError::invalid(at, &json!(host), "must be a DNS name, not an IP address"));
        } else if let Some(complaint) = syntax::subdomain(host) {
            errors.push(FieldError::invalid(at, &json!(host), &complaint));
        }
    }
}

fn pod(status: &Value, errors: &mut Errors) {
    for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let path = join("status", all);
        let addresses: Vec<&str> =
            status[all].as_array().into_iter().flatten().filter_map(|entry| entry["ip"].as_str()).collect();
        let mut seen = BTreeSet::new();
        for (at, text) in addresses.iter().enumerate() {
            if let Some(complaint) = syntax::ip(text) {
                errors.push(FieldError::invalid(index(&path, at), &json!(text), &complaint));
            } else if !seen.insert(text) {
                errors.push(FieldError::duplicate(index(&path, at), &json!(text)));
            }
        }
        let v6 = addresses.iter().filter(|text| text.contains(':')).count();
        if v6 > 1 || addresses.len() - v6 > 1 {
            let detail = "may specify no more than one IP for each IP family";
            errors.push(FieldError::invalid(&path, &status[all], detail));
        }
        let first = status[one].as_str().unwrap_or_default();
        if let Some(complaint) = syntax::ip(first).filter(|_| !first.is_empty()) {
            errors.push(FieldError::invalid(join("status", one), &json!(first), &complaint));
        }
    }
    let nominated = status["nominatedNodeName"].as_str().unwrap_or_default();
    if let Some(complaint) = syntax::subdomain(nominated).filter(|_| !nominated.is_empty()) {
        errors.push(FieldError::invalid("status.nominatedNodeName", &json!(nominated), &complaint));
    }
}

fn job(status: &Value, errors: &mut Errors) {
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        if status[name].as_i64().is_some_and(|count| count < 0) {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid(join("status", name), &status[name], detail));
        }
    }
    for name in ["succeeded", "failed"] {
        let path = join("status.uncountedTerminatedPods", name);
        let mut seen = BTreeSet::new();
        let uids = status["uncountedTerminatedPods"][name].as_array();
        for (at, uid) in uids.into_iter().flatten().enumerate() {
            if uid == "" {
                errors.push(FieldError::invalid(index(&path, at), uid, "must not be empty"));
            } else if !seen.insert(uid.to_string()) {
                errors.push(FieldError::duplicate(index(&path, at), uid));
            }
        }
    }
}
