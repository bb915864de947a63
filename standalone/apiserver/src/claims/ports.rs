//! Node ports: which Services need them, the port asked for, a free one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use skerry_schema::FieldError;

use super::{Claims, Held, PORT_PREFIX, RANDOM_TRIES, Refused, port_number, ports};
use crate::{error::ApiError, object::text};

pub(super) fn needs_node_ports(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

pub(super) fn needs_health_port(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

pub(super) async fn node_ports(
    claims: &Claims<'_>,
    before: &Held,
    service: &mut Value,
) -> Result<(), Refused> {
    let allocates = needs_node_ports(service);
    let keeps = allocates || text(service, "/spec/type") == "LoadBalancer";
    let mut list = ports(service).to_vec();
    // Two protocols on one port number share a node port, as DNS does.
    let mut shared: BTreeMap<u64, u16> = BTreeMap::new();
    let mut chosen: BTreeSet<u16> = list.iter().filter_map(|port| port_number(&port["nodePort"])).collect();
    for (at, port) in list.iter_mut().enumerate() {
        if !keeps {
            if let Some(port) = port.as_object_mut() {
                port.shift_remove("nodePort");
            }
            continue;
        }
        let number = port["port"].as_u64().unwrap_or_default();
        let field = format!("spec.ports[{at}].nodePort");
        let node_port = match port_number(&port["nodePort"]) {
            Some(asked) if before.ports.contains(&asked) => asked,
            Some(asked) => explicit_port(claims, asked, &field).await?,
            None if !allocates => continue,
            None => match shared.get(&number) {
                Some(known) => *known,
                None => free_port(claims, &chosen).await?,
            },
        };
        shared.insert(number, node_port);
        chosen.insert(node_port);
        port["nodePort"] = node_port.into();
    }
    if service["spec"]["ports"].is_array() {
        service["spec"]["ports"] = Value::Array(list);
    }
    health_port(claims, before, &chosen, service).await
}

async fn health_port(
    claims: &Claims<'_>,
    before: &Held,
    chosen: &BTreeSet<u16>,
    service: &mut Value,
) -> Result<(), Refused> {
    let asked = service.pointer("/spec/healthCheckNodePort").and_then(port_number);
    if !needs_health_port(service) {
        if let Some(spec) = service["spec"].as_object_mut() {
            spec.shift_remove("healthCheckNodePort");
        }
        return Ok(());
    }
    let port = match asked {
        Some(asked) if before.ports.contains(&asked) => asked,
        Some(asked) => explicit_port(claims, asked, "spec.healthCheckNodePort").await?,
        None => free_port(claims, chosen).await?,
    };
    service["spec"]["healthCheckNodePort"] = port.into();
    Ok(())
}

async fn explicit_port(claims: &Claims<'_>, asked: u16, field: &str) -> Result<u16, Refused> {
    let range = &claims.settings.nodeports;
    let refuse = |why: &str| Refused::from(FieldError::invalid(field, &json!(asked), why));
    if !range.contains(&asked) {
        return Err(refuse(&format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            range.start(),
            range.end()
        )));
    }
    if claims.is_taken(PORT_PREFIX, &asked.to_string()).await? {
        return Err(refuse("provided port is already allocated"));
    }
    Ok(asked)
}

async fn free_port(claims: &Claims<'_>, chosen: &BTreeSet<u16>) -> Result<u16, Refused> {
    let range = &claims.settings.nodeports;
    for _ in 0..RANDOM_TRIES {
        let port = rand::random_range(range.clone());
        if !chosen.contains(&port) && !claims.is_taken(PORT_PREFIX, &port.to_string()).await? {
            return Ok(port);
        }
    }
    let taken = claims.all_taken(PORT_PREFIX).await?;
    let start = rand::random_range(range.clone());
    let mut ports = (start..=*range.end()).chain(*range.start()..start);
    let free = ports.find(|port| !chosen.contains(port) && !taken.contains(&port.to_string()));
    free.ok_or_else(|| {
        let range = format!("{}-{}", range.start(), range.end());
        ApiError::internal(format!("failed to allocate a nodePort: range {range} is full")).into()
    })
}
