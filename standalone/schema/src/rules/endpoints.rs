//! Endpoint slices and endpoints. Each rule is upstream's (`pkg/apis/discovery/validation`,
//! `pkg/apis/core/validation`).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::{Map, Value, json};

use super::{Errors, index, join, syntax};
use crate::FieldError;

type Object = Map<String, Value>;

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;
const MAX_TOPOLOGY_LABELS: usize = 16;
const MAX_HINTS: usize = 8;

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

pub fn slice(map: &Object, errors: &mut Errors) {
    let family = map.get("addressType").and_then(Value::as_str).unwrap_or_default();
    let none = Vec::new();
    let of = |name: &str| map.get(name).and_then(Value::as_array).unwrap_or(&none);
    let endpoints = of("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.push(FieldError::too_many("endpoints", endpoints.len(), MAX_ENDPOINTS));
        return;
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        let path = index("endpoints", at);
        addresses(endpoint, family, &join(&path, "addresses"), errors);
        hints(endpoint, &path, errors);
    }
    let ports = of("ports");
    if ports.len() > MAX_PORTS {
        errors.push(FieldError::too_many("ports", ports.len(), MAX_PORTS));
        return;
    }
    let mut names = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = join(&index("ports", at), "name");
        let name = port["name"].as_str().unwrap_or_default();
        if !names.insert(name) {
            errors.push(FieldError::duplicate(path, &json!(name)));
        } else if let Some(complaint) = syntax::label(name).filter(|_| !name.is_empty()) {
            errors.push(FieldError::invalid(path, &json!(name), &complaint));
        }
    }
}

fn addresses(endpoint: &Value, family: &str, path: &str, errors: &mut Errors) {
    let addresses = list(endpoint, "addresses");
    if addresses.len() > MAX_ADDRESSES {
        errors.push(FieldError::too_many(path, addresses.len(), MAX_ADDRESSES));
        return;
    }
    for (at, address) in addresses.iter().enumerate() {
        let Some(text) = address.as_str() else { continue };
        let complaint = match family {
            "IPv4" if text.parse::<Ipv4Addr>().is_err() => Some("must be a valid IPv4 address".to_owned()),
            "IPv6" if text.parse::<Ipv6Addr>().map_or(true, |v6| v6.to_ipv4_mapped().is_some()) => {
                Some("must be a valid IPv6 address".to_owned())
            }
            "IPv4" | "IPv6" => syntax::non_special_ip(text),
            "FQDN" if !text.trim_end_matches('.').contains('.') => {
                Some("should be a domain with at least two segments separated by dots".to_owned())
            }
            "FQDN" => syntax::subdomain(text.strip_suffix('.').unwrap_or(text)),
            // A family that there is not is named as such.
            _ => None,
        };
        if let Some(complaint) = complaint {
            errors.push(FieldError::invalid(index(path, at), address, &complaint));
        }
    }
}

fn hints(endpoint: &Value, path: &str, errors: &mut Errors) {
    if let Some(topology) = endpoint["deprecatedTopology"].as_object()
        && topology.len() > MAX_TOPOLOGY_LABELS
    {
        let at = join(path, "deprecatedTopology");
        errors.push(FieldError::too_many(at, topology.len(), MAX_TOPOLOGY_LABELS));
    }
    for (name, what) in [("forZones", "zone"), ("forNodes", "node")] {
        let hints = list(&endpoint["hints"], name);
        let at = join(path, &format!("hints.{name}"));
        if hints.len() > MAX_HINTS {
            errors.push(FieldError::too_many(at, hints.len(), MAX_HINTS));
            continue;
        }
        let mut seen = BTreeSet::new();
        for (number, hint) in hints.iter().enumerate() {
            let at = join(&index(&at, number), "name");
            let text = hint["name"].as_str().unwrap_or_default();
            let complaint = if what == "zone" { syntax::label_value(text) } else { syntax::subdomain(text) };
            if let Some(complaint) = complaint {
                errors.push(FieldError::invalid(&at, &hint["name"], &complaint));
            }
            if !seen.insert(text) {
                errors.push(FieldError::duplicate(at, &hint["name"]));
            }
        }
    }
}

/// One subset of an Endpoints object; names, numbers and protocols are the table's.
pub fn subset(map: &Object, path: &str, errors: &mut Errors) {
    let none = Vec::new();
    let of = |name: &str| map.get(name).and_then(Value::as_array).unwrap_or(&none);
    if of("addresses").is_empty() && of("notReadyAddresses").is_empty() {
        errors.push(FieldError::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for name in ["addresses", "notReadyAddresses"] {
        for (at, address) in of(name).iter().enumerate() {
            let text = address["ip"].as_str().unwrap_or_default();
            // What is no address at all is named by the field's form.
            if text.parse::<IpAddr>().is_ok()
                && let Some(complaint) = syntax::non_special_ip(text)
            {
                let at = join(&index(&join(path, name), at), "ip");
                errors.push(FieldError::invalid(at, &address["ip"], &complaint));
            }
        }
    }
    let ports = of("ports");
    for (at, port) in ports.iter().enumerate() {
        if ports.len() > 1 && port["name"].as_str().is_none_or(str::is_empty) {
            errors.push(FieldError::required(join(&index(&join(path, "ports"), at), "name"), ""));
        }
    }
}
