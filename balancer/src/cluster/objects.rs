//! What matters of an object.

use std::{collections::BTreeSet, net::IpAddr};

use proxy_abi::{Addr, proto};
use proxy_state::{ObjectKey, api, maglev_size, parse_cidr, prefix, routable_addr};

use super::Cause;
use crate::config::MAX_WEIGHT;

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Service {
    /// RFC 3339 in UTC: it orders as text.
    pub created: String,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub is_local: bool,
    /// `healthCheckNodePort`; 0: none.
    pub health_port: u16,
    pub is_direct: bool,
    /// Elements of its Maglev table at least; 0: at random.
    pub maglev: u32,
    pub allowed: Option<Vec<(Addr, u32)>>,
    pub notes: Vec<(Cause, String)>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Port {
    pub name: Box<str>,
    pub proto: u8,
    pub port: u16,
    /// 0: none; only a direct Service does without.
    pub node_port: u16,
}

impl Service {
    /// `None`: not ours, or without an address yet.
    pub fn of(service: &api::Service, class: Option<&str>) -> Option<Service> {
        let spec = &service.spec;
        let its_class = spec.load_balancer_class.as_deref().filter(|class| !class.is_empty());
        if spec.kind != "LoadBalancer"
            || service.metadata.is_left_to_others()
            || its_class.is_some_and(|its| Some(its) != class)
        {
            return None;
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        let ingress =
            service.status.load_balancer.ingress.iter().filter(|ingress| ingress.ip_mode != "Proxy");
        for ip in ingress.filter_map(|ingress| routable_addr(&ingress.ip)).map(|addr| addr.to_ip()) {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        if addresses.is_empty() {
            return None;
        }
        let mut notes = Vec::new();
        let annotations = &service.metadata.annotations;
        let is_direct = match annotations.balancer_mode.as_deref().map(str::trim) {
            Some("dsr") => true,
            None | Some("snat") => false,
            Some(other) => {
                notes.push(unread("skerry.io/balancer-mode", other, "taken as snat; write snat or dsr"));
                false
            }
        };
        if let Some(other) = annotations.balancing.as_deref().map(str::trim)
            && !["random", "maglev"].contains(&other)
        {
            notes.push(unread(
                "service.skerry.io/balancing",
                other,
                "taken as maglev; write random or maglev",
            ));
        }
        let mut ports: Vec<Port> = Vec::new();
        for port in spec.ports.iter().filter(|port| port.port != 0) {
            let number = port.port;
            if ![proto::TCP, proto::UDP].contains(&port.protocol.0) {
                notes.push((
                    Cause::Protocol,
                    format!("port {number} is neither TCP nor UDP: it is not balanced"),
                ));
            } else if port.node_port == 0 && !is_direct {
                let text = format!(
                    "port {number} has no nodePort: it is not balanced; set spec.allocateLoadBalancerNodePorts to true, \
                     or annotate skerry.io/balancer-mode: dsr"
                );
                notes.push((Cause::NoNodePort, text));
            } else if !ports.iter().any(|other| (other.port, other.proto) == (number, port.protocol.0)) {
                let (name, proto) = (port.name.as_str().into(), port.protocol.0);
                ports.push(Port { name, proto, port: number, node_port: port.node_port });
            }
        }
        let ranges = spec.load_balancer_source_ranges.as_slice();
        for text in ranges.iter().filter(|text| parse_cidr(text).is_none()) {
            let text =
                format!("spec.loadBalancerSourceRanges: `{text}` is no range and allows nobody; correct it");
            notes.push((Cause::SourceRange, text));
        }
        let is_local = spec.external_traffic_policy == api::Policy::Local;
        Some(Service {
            created: service.metadata.creation_timestamp.clone(),
            addresses,
            ports,
            is_local,
            health_port: if is_local { spec.health_check_node_port } else { 0 },
            is_direct,
            maglev: maglev_size(annotations),
            allowed: (!ranges.is_empty())
                .then(|| ranges.iter().filter_map(|text| parse_cidr(text)).map(prefix).collect()),
            notes,
        })
    }
}

fn unread(annotation: &str, text: &str, rest: &str) -> (Cause, String) {
    let text: String = text.chars().take(32).collect();
    (Cause::Annotation, format!("annotation {annotation} is `{text}`: {rest}"))
}

/// Which nodes a slice has endpoints on.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Slice {
    pub service: ObjectKey,
    pub is_v4: bool,
    /// Name and protocol.
    pub ports: Vec<(Box<str>, u8)>,
    pub ready: BTreeSet<Box<str>>,
    /// Serving while they terminate.
    pub ending: BTreeSet<Box<str>>,
}

impl Slice {
    pub fn of(slice: &api::EndpointSlice) -> Option<Slice> {
        if slice.metadata.is_left_to_others() {
            return None;
        }
        let is_v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let service = slice.metadata.labels.service_name.as_deref().filter(|name| !name.is_empty())?;
        let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
        for endpoint in slice.endpoints.iter().filter(|endpoint| !endpoint.node_name.is_empty()) {
            // Absent conditions: `ready` means true, `serving` what `ready` says (KEP-1672).
            let conditions = &endpoint.conditions;
            let is_ready = conditions.ready.unwrap_or(true);
            if is_ready {
                ready.insert(endpoint.node_name.as_str().into());
            } else if conditions.serving.unwrap_or(is_ready) && conditions.terminating.unwrap_or(false) {
                ending.insert(endpoint.node_name.as_str().into());
            }
        }
        Some(Slice {
            service: ObjectKey::new(&slice.metadata.namespace, service),
            is_v4,
            ports: slice.ports.iter().map(|port| (port.name.as_str().into(), port.protocol.0)).collect(),
            ready,
            ending,
        })
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(super) struct Node {
    /// Its `InternalIP` addresses.
    pub addresses: Vec<IpAddr>,
    /// Ready, not about to go, and no exception.
    pub takes: bool,
    pub weight: u32,
    /// The annotation that can't be read.
    pub bad_weight: Option<String>,
}

impl Node {
    pub fn of(node: &api::Node) -> Node {
        let addresses = node.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        let asked = node.metadata.annotations.balancer_weight.as_deref();
        let weight = asked.map(|text| {
            let number = text.trim().parse().ok().filter(|weight| (1..=MAX_WEIGHT as u32).contains(weight));
            number.ok_or_else(|| text.chars().take(32).collect::<String>())
        });
        Node {
            addresses: addresses.filter_map(|a| routable_addr(&a.address)).map(|addr| addr.to_ip()).collect(),
            takes: api::holds(&node.status.conditions, "Ready")
                && node.metadata.deletion_timestamp.is_none()
                && node.metadata.labels.exclude_from_load_balancers.is_none()
                && node.spec.taints.iter().all(|taint| taint.key != api::TO_BE_DELETED),
            weight: weight.as_ref().and_then(|weight| weight.as_ref().ok()).copied().unwrap_or(1),
            bad_weight: weight.and_then(Result::err),
        }
    }
}
