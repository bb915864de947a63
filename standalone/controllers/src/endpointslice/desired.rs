//! What the slices of a Service should say, before it is cut into slices. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::pod::{is_ready, is_terminal, node_name};

const ZONE: &str = "topology.kubernetes.io/zone";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// As `addressType` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Endpoints that share a family and a set of ports: pods that name a port differently fall into different
/// groups.
#[derive(Debug, Clone)]
pub struct Group {
    pub family: Family,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

impl Group {
    /// Puts an endpoint to those of its family and ports.
    pub fn add(groups: &mut Vec<Group>, family: Family, ports: &[EndpointPort], endpoint: Endpoint) {
        match groups.iter_mut().find(|group| group.family == family && group.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group { family, ports: ports.to_vec(), endpoints: vec![endpoint] }),
        }
    }
}

/// The selector of a Service whose slices are ours to keep.
pub fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    spec.selector.as_ref().filter(|selector| !selector.is_empty())
}

pub fn zone(node: &Node) -> Option<&str> {
    node.labels().get(ZONE).map(String::as_str)
}

/// Families of the Service, in its order.
pub fn families(service: &Service) -> Vec<Family> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let named = spec.ip_families.iter().flatten().filter_map(|family| match family.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    });
    let families: Vec<Family> = named.collect();
    if !families.is_empty() {
        return families;
    }
    let v6 = spec.cluster_ip.as_deref().is_some_and(|address| address.contains(':'));
    vec![if v6 { Family::V6 } else { Family::V4 }]
}

/// Groups pods by family and ports; `zone_of` gives a node's zone.
pub fn groups(service: &Service, pods: &[Arc<Pod>], zone_of: impl Fn(&str) -> Option<String>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let spec = service.spec.clone().unwrap_or_default();
    let even_unready = spec.publish_not_ready_addresses.unwrap_or(false);
    for family in families(service) {
        for pod in pods.iter().filter(|pod| !is_terminal(pod)) {
            let addresses = addresses(pod, family);
            if addresses.is_empty() {
                continue;
            }
            let ports: Vec<EndpointPort> =
                spec.ports.iter().flatten().filter_map(|port| resolve(port, pod)).collect();
            let endpoint = endpoint(service, pod, addresses, even_unready, &zone_of);
            Group::add(&mut groups, family, &ports, endpoint);
        }
        // A Service without endpoints still has a slice: that it has none is said, not left open.
        if !groups.iter().any(|group| group.family == family) {
            groups.push(Group { family, ports: Vec::new(), endpoints: Vec::new() });
        }
    }
    groups
}

/// Pods that can't be read keep the endpoints that they have in these slices, as they are there.
pub fn keep(groups: &mut Vec<Group>, slices: &[Arc<EndpointSlice>], unreadable: &[Arc<Pod>]) {
    for slice in slices {
        let is_of = |endpoint: &&Endpoint| {
            let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
            uid.is_some() && unreadable.iter().any(|pod| pod.metadata.uid.as_deref() == uid)
        };
        let family = if slice.address_type == Family::V6.name() { Family::V6 } else { Family::V4 };
        let ports = slice.ports.as_deref().unwrap_or_default();
        for endpoint in slice.endpoints.iter().flatten().filter(is_of) {
            Group::add(groups, family, ports, endpoint.clone());
        }
    }
    // What says that there are none is for nothing where there is one.
    let filled: Vec<Family> =
        groups.iter().filter(|group| !group.endpoints.is_empty()).map(|group| group.family).collect();
    groups.retain(|group| !group.endpoints.is_empty() || !filled.contains(&group.family));
}

fn addresses(pod: &Pod, family: Family) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let of_family = all.filter(|text| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => family == Family::V4,
        Ok(IpAddr::V6(_)) => family == Family::V6,
        Err(_) => false,
    });
    // One address a pod and family: consumers route to the first only.
    of_family.take(1).cloned().collect()
}

/// The pod's own port behind a Service port; a pod that has no port of the name asked for has none.
fn resolve(port: &ServicePort, pod: &Pod) -> Option<EndpointPort> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(0)) => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => named_port(pod, name, protocol)?,
    };
    Some(EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(protocol.to_owned()),
        app_protocol: port.app_protocol.clone(),
    })
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let mut ports =
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    })?;
    Some(port.container_port)
}

/// Where an endpoint is to be used, by the Service's trafficDistribution (KEP-4444, KEP-3015).
/// `PreferSameNode` names the zone as well: it is the second choice.
pub fn hints(distribution: Option<&str>, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let by_node = match distribution? {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let for_nodes = node.filter(|_| by_node).map(|node| vec![ForNode { name: node.to_owned() }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_zones, for_nodes })
}

/// Conditions as KEP-1672 defines them: serving is readiness alone, ready is serving and not terminating.
fn endpoint(
    service: &Service,
    pod: &Pod,
    addresses: Vec<String>,
    even_unready: bool,
    zone_of: &impl Fn(&str) -> Option<String>,
) -> Endpoint {
    let serving = is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let node = node_name(pod);
    let spec = pod.spec.as_ref();
    let in_subdomain = spec.and_then(|spec| spec.subdomain.as_ref()) == service.metadata.name.as_ref();
    let hostname =
        spec.and_then(|spec| spec.hostname.clone()).filter(|name| in_subdomain && !name.is_empty());
    let (ready, zone) = (even_unready || (serving && !terminating), node.and_then(zone_of));
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let distribution = distribution.filter(|_| !super::topology::is_auto(service));
    Endpoint {
        addresses,
        hints: if ready { hints(distribution, node, zone.as_deref()) } else { None },
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname,
        node_name: node.map(str::to_owned),
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
