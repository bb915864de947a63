//! Services.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{Errors, index, join, syntax};
use crate::FieldError;

type Object = Map<String, Value>;

fn text<'a>(map: &'a Object, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub fn defaults(map: &mut Object) {
    let kind = text(map, "type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    let has_external_ips =
        map.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if kind != "ExternalName" {
        // Families depend on the cluster's ranges: whoever allocates the addresses fills them in.
        map.entry("internalTrafficPolicy").or_insert(json!("Cluster"));
    }
    if external || (has_external_ips && kind == "ClusterIP") {
        map.entry("externalTrafficPolicy").or_insert(json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        map.entry("allocateLoadBalancerNodePorts").or_insert(json!(true));
    }
    if text(map, "sessionAffinity") == "ClientIP" {
        let config = map.entry("sessionAffinityConfig").or_insert_with(|| json!({}));
        if let Some(config) = config.as_object_mut() {
            config.entry("clientIP").or_insert_with(|| json!({}));
        }
    } else {
        map.shift_remove("sessionAffinityConfig");
    }
    // May be padded, and who reads them need not know.
    for range in map.get_mut("loadBalancerSourceRanges").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(text) = range.as_str().filter(|text| text.trim() != *text) {
            *range = json!(text.trim());
        }
    }
    let headless = text(map, "clusterIP") == "None";
    for port in map.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let target = &port["targetPort"];
        if target.is_null() || *target == 0 || *target == "" || (headless && target.is_null()) {
            let number = port["port"].clone();
            if let Some(port) = port.as_object_mut().filter(|_| !number.is_null()) {
                port.insert("targetPort".into(), number);
            }
        }
    }
}

pub fn validate(map: &Object, old: Option<&Object>, path: &str, errors: &mut Errors) {
    let kind = text(map, "type");
    let cluster_ip = text(map, "clusterIP");
    let none = Vec::new();
    let ports = map.get("ports").and_then(Value::as_array).unwrap_or(&none);
    if ports.is_empty() && cluster_ip != "None" && kind != "ExternalName" {
        errors.push(FieldError::required(join(path, "ports"), ""));
    }
    ports_are_distinct(ports, kind, &join(path, "ports"), errors);
    match kind {
        "ExternalName" => external_name(map, path, errors),
        "NodePort" | "LoadBalancer" if cluster_ip == "None" => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(join(path, "clusterIPs[0]"), &json!("None"), &detail));
        }
        _ => {}
    }
    if !cluster_ip.is_empty()
        && cluster_ip != "None"
        && let Some(complaint) = syntax::ip(cluster_ip)
    {
        errors.push(FieldError::invalid(join(path, "clusterIPs[0]"), &json!(cluster_ip), &complaint));
    }
    let first = map.get("clusterIPs").and_then(|list| list[0].as_str());
    if first.is_some_and(|first| first != cluster_ip) {
        let detail = match cluster_ip {
            "" => "must be empty when `clusterIP` is not specified",
            _ => "first value must match `clusterIP`",
        };
        errors.push(FieldError::invalid(join(path, "clusterIPs"), &map["clusterIPs"], detail));
    }
    let external = matches!(kind, "NodePort" | "LoadBalancer");
    let external_ips = map.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if let Some(policy) = map.get("externalTrafficPolicy")
        && !external
        && !external_ips
    {
        let at = join(path, "externalTrafficPolicy");
        errors.push(FieldError::invalid(at, policy, "may only be set for externally-accessible services"));
    }
    if map.get("healthCheckNodePort").is_some_and(|port| *port != 0) && !needs_health_port(map) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(
            join(path, "healthCheckNodePort"),
            &map["healthCheckNodePort"],
            detail,
        ));
    }
    fit_the_type(map, kind, path, errors);
    for (at, address) in map.get("externalIPs").and_then(Value::as_array).into_iter().flatten().enumerate() {
        // What is no address at all is named by the field's form.
        if let Some(text) = address.as_str().filter(|text| syntax::ip(text).is_none())
            && let Some(complaint) = syntax::non_special_ip(text)
        {
            let at = index(&join(path, "externalIPs"), at);
            errors.push(FieldError::invalid(at, address, &complaint));
        }
    }
    if let Some(old) = old {
        stays_as_it_was(map, old, path, errors);
    }
    if let Some(old) = old
        && kind != "ExternalName"
        && text(old, "type") != "ExternalName"
        && !text(old, "clusterIP").is_empty()
        && text(old, "clusterIP") != cluster_ip
    {
        let at = join(path, "clusterIPs[0]");
        errors.push(FieldError::invalid(at, &json!([cluster_ip]), "may not change once set"));
    }
}

/// Fields that only one type of Service has.
fn fit_the_type(map: &Object, kind: &str, path: &str, errors: &mut Errors) {
    let is_set = |name: &str| match map.get(name) {
        None => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(_) => true,
    };
    if kind == "ExternalName" {
        for name in ["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|name| is_set(name)) {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden(join(path, name), detail));
        }
    }
    if kind != "LoadBalancer" {
        for name in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges"] {
            if is_set(name) {
                let detail = "may only be used when `type` is 'LoadBalancer'";
                errors.push(FieldError::forbidden(join(path, name), detail));
            }
        }
    }
    let ranges = map.get("loadBalancerSourceRanges").and_then(Value::as_array);
    for (at, range) in ranges.into_iter().flatten().enumerate() {
        if let Some(complaint) = range.as_str().and_then(syntax::cidr) {
            let at = index(&join(path, "loadBalancerSourceRanges"), at);
            errors.push(FieldError::invalid(at, range, &complaint));
        }
    }
}

/// What a load balancer's Service may not change.
fn stays_as_it_was(map: &Object, old: &Object, path: &str, errors: &mut Errors) {
    if is_load_balancer(old)
        && is_load_balancer(map)
        && map.get("loadBalancerClass") != old.get("loadBalancerClass")
    {
        let at = join(path, "loadBalancerClass");
        let shown = map.get("loadBalancerClass").unwrap_or(&Value::Null);
        errors.push(FieldError::invalid(at, shown, "may not change once set"));
    }
    if needs_health_port(old)
        && needs_health_port(map)
        && map.get("healthCheckNodePort") != old.get("healthCheckNodePort")
    {
        errors.push(FieldError::forbidden(join(path, "healthCheckNodePort"), "field is immutable"));
    }
}

/// The annotation that was there before `spec.loadBalancerSourceRanges`, which goes before it.
pub fn source_ranges(map: &Object, errors: &mut Errors) {
    const KEY: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let Some(spec) = map.get("spec").and_then(Value::as_object) else { return };
    let given = map.get("metadata").and_then(|metadata| metadata["annotations"][KEY].as_str());
    let Some(given) = given.filter(|_| !spec.contains_key("loadBalancerSourceRanges")) else { return };
    let path = super::key("metadata.annotations", KEY);
    if !is_load_balancer(spec) {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(&path, detail));
    }
    for range in given.trim().split(',').map(str::trim).filter(|_| !given.trim().is_empty()) {
        if let Some(complaint) = syntax::cidr(range) {
            errors.push(FieldError::invalid(&path, &json!(range), &complaint));
        }
    }
}

fn external_name(map: &Object, path: &str, errors: &mut Errors) {
    if text(map, "externalName").is_empty() {
        errors.push(FieldError::required(join(path, "externalName"), ""));
    } else if let Some(complaint) = syntax::subdomain(text(map, "externalName").trim_end_matches('.')) {
        errors.push(FieldError::invalid(join(path, "externalName"), &map["externalName"], &complaint));
    }
    if !text(map, "clusterIP").is_empty() {
        errors.push(FieldError::forbidden(
            join(path, "clusterIPs"),
            "may not be set for ExternalName services",
        ));
    }
}

fn ports_are_distinct(ports: &[Value], kind: &str, path: &str, errors: &mut Errors) {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut numbers: BTreeSet<(String, i64)> = BTreeSet::new();
    let mut node_ports: BTreeSet<(String, i64)> = BTreeSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = index(path, at);
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        match port["name"].as_str().unwrap_or_default() {
            "" if ports.len() > 1 => errors.push(FieldError::required(join(&path, "name"), "")),
            "" => {}
            name => {
                if !names.insert(name) {
                    errors.push(FieldError::duplicate(join(&path, "name"), &port["name"]));
                }
            }
        }
        if let Some(number) = port["port"].as_i64()
            && !numbers.insert((protocol.clone(), number))
        {
            errors.push(FieldError::duplicate(&path, &json!({"protocol": protocol, "port": number})));
        }
        if let Some(number) = port["nodePort"].as_i64()
            && number != 0
        {
            let at = join(&path, "nodePort");
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                errors.push(FieldError::forbidden(at, &format!("may not be used when `type` is '{kind}'")));
            } else if !node_ports.insert((protocol, number)) {
                errors.push(FieldError::duplicate(at, &port["nodePort"]));
            }
        }
    }
}

type Needs = fn(&Object) -> bool;

/// Fields that some Services have no use for, in an order in which each depends on earlier ones alone.
const NEEDED_BY_SOME: &[(&str, Needs)] = &[
    ("internalTrafficPolicy", |spec| text(spec, "type") != "ExternalName"),
    ("externalTrafficPolicy", is_reached_from_outside),
    ("healthCheckNodePort", needs_health_port),
    ("allocateLoadBalancerNodePorts", is_load_balancer),
    ("loadBalancerClass", is_load_balancer),
];

fn is_load_balancer(spec: &Object) -> bool {
    text(spec, "type") == "LoadBalancer"
}

fn needs_health_port(spec: &Object) -> bool {
    is_load_balancer(spec) && text(spec, "externalTrafficPolicy") == "Local"
}

fn is_reached_from_outside(spec: &Object) -> bool {
    match text(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ExternalName" => false,
        _ => spec.get("externalIPs").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
    }
}

/// What the API server gave the old service stays unless the new one says otherwise: addresses and node
/// ports.
pub fn keep_allocated(old: &Value, new: &mut Value) {
    let kind = new["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let (Some(before), Some(after)) =
        (old["spec"].as_object(), new.get_mut("spec").and_then(Value::as_object_mut))
    else {
        return;
    };
    if kind == "ExternalName" {
        for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if after.get(name) == before.get(name) {
                after.shift_remove(name);
            }
        }
    } else {
        if text(after, "clusterIP").is_empty()
            && let Some(value) = before.get("clusterIP")
        {
            after.insert("clusterIP".into(), value.clone());
        }
        if after.get("clusterIP") == before.get("clusterIP")
            && let Some(value) = before.get("clusterIPs")
        {
            after.entry("clusterIPs").or_insert_with(|| value.clone());
        }
        for name in ["ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = before.get(name) {
                after.entry(name).or_insert_with(|| value.clone());
            }
        }
    }
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
    let allocated: Vec<(Value, Value, Value)> = before
        .get("ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|port| (port["port"].clone(), port["protocol"].clone(), port["nodePort"].clone()))
        .collect();
    let was_external = matches!(text(before, "type"), "NodePort" | "LoadBalancer");
    for port in after.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let protocol = port.get("protocol").cloned().unwrap_or(json!("TCP"));
        let same = allocated.iter().find(|(number, proto, _)| *number == port["port"] && *proto == protocol);
        let Some(map) = port.as_object_mut() else { continue };
        if external {
            let unset = map.get("nodePort").is_none_or(|port| *port == 0);
            if let Some((_, _, node_port)) = same.filter(|(_, _, node_port)| unset && !node_port.is_null()) {
                map.insert("nodePort".into(), node_port.clone());
            }
        } else if was_external && same.is_some_and(|(_, _, node_port)| map.get("nodePort") == Some(node_port))
        {
            map.shift_remove("nodePort");
        }
    }
    // What the old one needed and the new one has no use for goes, if it was merely sent back.
    for (name, is_needed) in NEEDED_BY_SOME {
        if is_needed(before) && !is_needed(after) && after.get(*name) == before.get(*name) {
            after.shift_remove(*name);
        }
    }
    if needs_health_port(after)
        && after.get("healthCheckNodePort").is_none_or(|port| *port == 0)
        && let Some(port) = before.get("healthCheckNodePort")
    {
        after.insert("healthCheckNodePort".into(), port.clone());
    }
}
