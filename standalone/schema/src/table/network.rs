//! Rows of services, endpoints, ingresses and nodes.

use serde_json::{Value, json};

use super::{
    objects::View,
    text::{self, NONE, UNKNOWN, UNSET},
};

pub fn service(o: &View) -> Vec<Value> {
    let kind = o.text("/spec/type");
    let strings = |pointer: &str| -> Vec<String> {
        o.at(pointer).as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut external = strings("/spec/externalIPs");
    let outside = match kind {
        "ExternalName" => o.text("/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let mut list: Vec<String> = Vec::new();
            for ingress in o.at("/status/loadBalancer/ingress").as_array().into_iter().flatten() {
                let address = ingress["ip"]
                    .as_str()
                    .filter(|ip| !ip.is_empty())
                    .or_else(|| ingress["hostname"].as_str());
                list.extend(address.map(str::to_owned));
            }
            list.append(&mut external);
            if list.is_empty() { "<pending>".to_owned() } else { list.join(",") }
        }
        _ => text::or_none(&external.join(",")).to_owned(),
    };
    let ports: Vec<String> = o
        .at("/spec/ports")
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match port["nodePort"].as_i64() {
                Some(node_port) if node_port > 0 => format!("{}:{node_port}/{protocol}", port["port"]),
                _ => format!("{}/{protocol}", port["port"]),
            }
        })
        .collect();
    let inside = strings("/spec/clusterIPs")
        .into_iter()
        .next()
        .unwrap_or_else(|| o.text("/spec/clusterIP").to_owned());
    vec![
        o.name(),
        json!(kind),
        json!(text::or_none(&inside)),
        json!(outside),
        json!(text::or_none(&ports.join(","))),
        json!(o.age()),
        json!(text::labels(o.at("/spec/selector").as_object())),
    ]
}

pub fn node(o: &View) -> Vec<Value> {
    let mut status = match o.condition("Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if o.at("/spec/unschedulable") == true {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = Vec::new();
    for (name, value) in o.at("/metadata/labels").as_object().into_iter().flatten() {
        let role = match name.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role,
            None if name == "kubernetes.io/role" => value.as_str().unwrap_or_default(),
            None => "",
        };
        if !role.is_empty() {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    let address = |kind: &str| {
        let list = o.at("/status/addresses").as_array();
        let found = list.into_iter().flatten().find(|address| address["type"] == kind);
        json!(found.and_then(|address| address["address"].as_str()).unwrap_or(NONE))
    };
    let info = |field: &str| {
        let text = o.at("/status/nodeInfo")[field].as_str().unwrap_or_default();
        json!(if text.is_empty() { UNKNOWN } else { text })
    };
    vec![
        o.name(),
        json!(status),
        json!(text::or_none(&roles.join(","))),
        json!(o.age()),
        json!(o.text("/status/nodeInfo/kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub fn endpoints(o: &View) -> String {
    let mut list = Vec::new();
    for subset in o.at("/subsets").as_array().into_iter().flatten() {
        let addresses = || subset["addresses"].as_array().into_iter().flatten();
        let ports = subset["ports"].as_array().map_or(&[][..], Vec::as_slice);
        for address in addresses() {
            let ip = address["ip"].as_str().unwrap_or_default();
            let shown = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            if ports.is_empty() {
                list.push(ip.to_owned());
            }
            list.extend(ports.iter().map(|port| format!("{shown}:{}", port["port"])));
        }
    }
    text::first_three(&list, NONE)
}

pub fn slice_ports(o: &View) -> String {
    let list: Vec<String> = o
        .at("/ports")
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) if !name.is_empty() => name.to_owned(),
            _ => "*".to_owned(),
        })
        .collect();
    text::first_three(&list, UNSET)
}

pub fn slice_addresses(o: &View) -> String {
    let endpoints = o.at("/endpoints").as_array();
    let list: Vec<String> = endpoints
        .into_iter()
        .flatten()
        .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    text::first_three(&list, UNSET)
}

pub fn ingress(o: &View) -> Vec<Value> {
    let rules = o.at("/spec/rules").as_array();
    let hosts: Vec<String> = rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["host"].as_str().filter(|host| !host.is_empty()))
        .map(str::to_owned)
        .collect();
    let addresses: Vec<&str> = o
        .at("/status/loadBalancer/ingress")
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ingress| ingress["ip"].as_str().or_else(|| ingress["hostname"].as_str()))
        .collect();
    let ports = if o.count("/spec/tls") > 0 { "80, 443" } else { "80" };
    vec![
        o.name(),
        json!(text::or_none(o.text("/spec/ingressClassName"))),
        json!(text::first_three(&hosts, "*")),
        json!(addresses.join(",")),
        json!(ports),
        json!(o.age()),
    ]
}
