use std::{net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use proxy_abi::Addr;
pub(crate) use skerry_vocabulary::ObjectKey;

use crate::{
    annotations::{Asked, Defaults, Unread},
    api::{self, FirstAddress, Policy},
    ip::{parse_cidr, parse_ip, routable_addr},
    warnings::LeftOut,
};

/// A Service that we balance, with what matters to us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    /// Digits of the creation time (`20261124125004`): orders services by age. 0 when unknown.
    pub created: u64,
    /// The 128 bits of its `uid`; 0 when unknown.
    pub uid: u128,
    pub cluster_ips: Box<[Addr]>,
    pub external_ips: Box<[Addr]>,
    pub load_balancer_ips: Box<[Addr]>,
    pub ports: Box<[Port]>,
    pub external_local: bool,
    pub internal_local: bool,
    /// ClientIP affinity in seconds; 0: none.
    pub affinity_s: u32,
    /// Elements of its Maglev tables; 0: backends are drawn at random.
    pub maglev: u32,
    /// Who may use its load-balancer addresses: prefixes with their length in the 128-bit form. `None`:
    /// everyone.
    pub source_ranges: Option<Box<[(Addr, u32)]>>,
    /// `healthCheckNodePort`; 0: none.
    pub health_port: u16,
    /// The nodes answer for its load-balancer addresses themselves.
    pub is_announced: bool,
    /// External addresses that are not served.
    pub refused: Option<Box<LeftOut>>,
    /// Connections to endpoints that are gone are ended.
    pub resets: bool,
    /// Answers to clients outside leave from the backend's node.
    pub is_direct: bool,
    /// Annotations that can't be read.
    pub unread: Option<Box<[Unread]>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    /// Equal to the name of the EndpointSlices' port: that is how named target ports are resolved for us.
    pub name: Arc<str>,
    pub proto: u8,
    pub port: u16,
    /// 0: none.
    pub node_port: u16,
}

/// Kubernetes' default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_S: u32 = 10_800;

impl Service {
    /// `None` for what a proxy must ignore: headless by label or for want of an address, ExternalName, or
    /// another proxy's.
    ///
    /// `may_be_external`: what the configuration says of an external address; `defaults`: of the rest.
    pub fn from_api(
        service: &api::Service,
        may_be_external: impl Fn(IpAddr) -> bool,
        defaults: &Defaults,
    ) -> Option<Service> {
        let spec = &service.spec;
        if service.metadata.is_left_to_others() || spec.kind == "ExternalName" {
            return None;
        }
        let cluster_ips: Box<[Addr]> = match spec.cluster_ips.is_empty() {
            true => parse_ip(&spec.cluster_ip).map(Addr::from).into_iter().collect(),
            false => spec.cluster_ips.iter().filter_map(|ip| parse_ip(ip)).map(Addr::from).collect(),
        };
        if cluster_ips.is_empty() {
            return None;
        }
        let is_load_balancer = spec.kind == "LoadBalancer";
        let has_node_ports = is_load_balancer || spec.kind == "NodePort";
        let ingress = service.status.load_balancer.ingress.iter();
        let external_local = spec.external_traffic_policy == Policy::Local;
        let is_external = has_node_ports || !spec.external_ips.is_empty();
        let asked = Asked::of(&service.metadata.annotations, is_external, defaults);
        Some(Service {
            created: timestamp_digits(&service.metadata.creation_timestamp),
            uid: uid_bits(&service.metadata.uid),
            cluster_ips,
            refused: LeftOut::of(spec.external_ips.iter().filter_map(|ip| parse_ip(ip)), &may_be_external)
                .map(Box::new),
            external_ips: spec
                .external_ips
                .iter()
                .filter_map(|ip| routable_addr(ip))
                .filter(|addr| may_be_external(addr.to_ip()))
                .collect(),
            load_balancer_ips: ingress
                .filter(|ingress| is_load_balancer && ingress.ip_mode != "Proxy")
                .filter_map(|ingress| routable_addr(&ingress.ip))
                .collect(),
            ports: spec
                .ports
                .iter()
                .filter(|port| port.port != 0 && port.protocol.0 != 0)
                .map(|port| Port {
                    name: port.name.as_str().into(),
                    proto: port.protocol.0,
                    port: port.port,
                    node_port: if has_node_ports { port.node_port } else { 0 },
                })
                .collect(),
            external_local,
            internal_local: spec.internal_traffic_policy == Policy::Local,
            affinity_s: match spec.session_affinity.as_str() {
                "ClientIP" => spec
                    .session_affinity_config
                    .client_ip
                    .timeout_seconds
                    .unwrap_or(DEFAULT_AFFINITY_S)
                    .max(1),
                _ => 0,
            },
            maglev: asked.maglev,
            source_ranges: match spec.load_balancer_source_ranges.as_slice() {
                [] => None,
                _ if !is_load_balancer => None,
                // What can't be read allows nobody.
                ranges => Some(ranges.iter().filter_map(|text| parse_cidr(text)).map(prefix).collect()),
            },
            health_port: if is_load_balancer && external_local { spec.health_check_node_port } else { 0 },
            is_announced: is_load_balancer && api::holds(&service.status.conditions, api::ADDRESS_ASSIGNED),
            resets: asked.resets,
            is_direct: asked.is_direct,
            unread: asked.unread,
        })
    }

    /// Whether somebody outside of the cluster asks a node about it: by ARP, or by a health check.
    pub fn concerns_outside(&self) -> bool {
        self.is_announced || self.health_port != 0
    }
}

/// A range's first address and its length in the 128-bit form: an IPv4 /24 is 120.
pub fn prefix(cidr: IpNetwork) -> (Addr, u32) {
    (cidr.network().into(), u32::from(cidr.prefix()) + if cidr.is_ipv4() { 96 } else { 0 })
}

/// An EndpointSlice of addresses (FQDN slices are not kept).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Slice {
    pub service: ObjectKey,
    pub ports: Box<[SlicePort]>,
    pub endpoints: Box<[Endpoint]>,
    /// For each endpoint the hash of its node's name: the names of a large cluster's endpoints would take
    /// megabytes.
    pub nodes: Box<[NodeHash]>,
    /// Which zones each endpoint is meant for, by hash; `None` where no endpoint is meant for any.
    pub zones: Option<Box<[Box<[NodeHash]>]>>,
    /// Endpoints whose address may not be a backend.
    pub refused: Option<Box<LeftOut>>,
    /// Of each of its endpoints; at least 1.
    pub weight: u8,
    /// The annotation that was to say so and can't be read.
    pub bad_weight: Option<Box<str>>,
}

/// A number for a node's name; the same on every node and in every version.
pub(crate) type NodeHash = u64;

pub(crate) fn node_hash(name: &str) -> NodeHash {
    fnv1a(0xcbf2_9ce4_8422_2325, name.as_bytes())
}

/// FNV-1a with 64 bits, from its offset basis or from where another part ended.
pub(crate) fn fnv1a(from: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(from, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlicePort {
    pub name: Arc<str>,
    pub proto: u8,
    pub port: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    pub addr: Addr,
    pub flags: u8,
}

/// Bits of [`Endpoint::flags`].
pub(crate) mod endpoint_flag {
    pub const READY: u8 = 1 << 0;
    pub const SERVING: u8 = 1 << 1;
    pub const TERMINATING: u8 = 1 << 2;
    /// On this node.
    pub const LOCAL: u8 = 1 << 3;
    /// It is meant for certain nodes.
    pub const NODE_HINTED: u8 = 1 << 4;
    /// This node is one of them.
    pub const NODE_MATCHES: u8 = 1 << 5;
    /// It is meant for certain zones.
    pub const ZONE_HINTED: u8 = 1 << 6;
    /// This node's zone is one of them. Found out when tables are made: the zone may become known later.
    pub const ZONE_MATCHES: u8 = 1 << 7;
}

impl Slice {
    /// `None` for slices that belong to no service, are none of this proxy's or hold names instead of
    /// addresses.
    pub fn from_api(slice: &api::EndpointSlice, node_name: &str) -> Option<Slice> {
        if slice.metadata.is_left_to_others() {
            return None;
        }
        let is_v4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let service = slice.metadata.labels.service_name.as_deref().filter(|name| !name.is_empty())?;
        let endpoints = slice.endpoints.iter().filter_map(|endpoint| {
            let addr = endpoint.addresses.usable(is_v4)?;
            let known = Endpoint { addr, flags: flags_of(endpoint, node_name) };
            Some((known, node_hash(&endpoint.node_name)))
        });
        let has_zones = slice.endpoints.iter().any(|endpoint| !endpoint.hints.for_zones.is_empty());
        let zones = has_zones.then(|| {
            let kept = slice.endpoints.iter().filter(|e| e.addresses.usable(is_v4).is_some());
            kept.map(|e| e.hints.for_zones.iter().map(|zone| node_hash(&zone.name)).collect()).collect()
        });
        let unfit = slice.endpoints.iter().filter_map(|endpoint| match endpoint.addresses {
            FirstAddress::Unfit(ip) => Some(ip),
            _ => None,
        });
        let refused = LeftOut::of(unfit, |_| true).map(Box::new);
        let (endpoints, nodes): (Vec<Endpoint>, Vec<NodeHash>) = endpoints.unzip();
        let weight = slice.metadata.annotations.weight.as_deref().map(|text| weight(text).ok_or(text));
        Some(Slice {
            service: ObjectKey::new(&slice.metadata.namespace, service),
            ports: slice
                .ports
                .iter()
                .filter_map(|port| {
                    let number = port.port.filter(|number| *number != 0)?;
                    Some(SlicePort { name: port.name.as_str().into(), proto: port.protocol.0, port: number })
                })
                .collect(),
            endpoints: endpoints.into(),
            nodes: nodes.into(),
            zones,
            refused,
            weight: weight.and_then(Result::ok).unwrap_or(1),
            bad_weight: weight.and_then(Result::err).map(shortened),
        })
    }
}

/// The largest weight of an endpoint.
pub(crate) const MOST_WEIGHT: u8 = 100;

fn weight(text: &str) -> Option<u8> {
    text.trim().parse().ok().filter(|weight| (1..=MOST_WEIGHT).contains(weight))
}

/// What a person needs to find it again.
pub(crate) fn shortened(text: &str) -> Box<str> {
    text.chars().take(32).collect::<String>().into()
}

/// Absent conditions: `ready` means true, `serving` what `ready` says, `terminating` false (KEP-1672).
fn flags_of(endpoint: &api::Endpoint, node_name: &str) -> u8 {
    let conditions = &endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let mut flags = 0;
    for (is_set, flag) in [
        (ready, endpoint_flag::READY),
        (conditions.serving.unwrap_or(ready), endpoint_flag::SERVING),
        (conditions.terminating.unwrap_or(false), endpoint_flag::TERMINATING),
        (!node_name.is_empty() && endpoint.node_name == node_name, endpoint_flag::LOCAL),
        (!endpoint.hints.for_nodes.is_empty(), endpoint_flag::NODE_HINTED),
        (endpoint.hints.for_nodes.iter().any(|node| node.name == node_name), endpoint_flag::NODE_MATCHES),
        (!endpoint.hints.for_zones.is_empty(), endpoint_flag::ZONE_HINTED),
    ] {
        if is_set {
            flags |= flag;
        }
    }
    flags
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Node {
    pub created: u64,
    /// The 128 bits of its `uid`; 0 when unknown.
    pub uid: u128,
    pub pod_cidrs: Box<[IpNetwork]>,
    /// Its `InternalIP` addresses.
    pub addresses: Box<[Addr]>,
    pub is_ready: bool,
    /// A load balancer may lead traffic to it: it is not labelled as an exception.
    pub takes_outside: bool,
    /// It is to go: it is being deleted, or the autoscaler is about to do that (KEP-3836).
    pub is_leaving: bool,
    /// Its zone's name, hashed.
    pub zone: Option<NodeHash>,
}

impl Node {
    pub fn from_api(node: &api::Node) -> Node {
        let spec = &node.spec;
        Node {
            created: timestamp_digits(&node.metadata.creation_timestamp),
            uid: uid_bits(&node.metadata.uid),
            pod_cidrs: match spec.pod_cidrs.is_empty() {
                true => parse_cidr(&spec.pod_cidr).into_iter().collect(),
                false => spec.pod_cidrs.iter().filter_map(|cidr| parse_cidr(cidr)).collect(),
            },
            addresses: node
                .status
                .addresses
                .iter()
                .filter(|address| address.kind == "InternalIP")
                .filter_map(|address| routable_addr(&address.address))
                .collect(),
            is_ready: api::holds(&node.status.conditions, "Ready"),
            zone: node.metadata.labels.zone.as_deref().filter(|zone| !zone.is_empty()).map(node_hash),
            takes_outside: node.metadata.labels.exclude_from_load_balancers.is_none(),
            is_leaving: node.metadata.deletion_timestamp.is_some()
                || spec.taints.iter().any(|taint| taint.key == api::TO_BE_DELETED),
        }
    }
}

/// A UUID's digits (RFC 9562 section 4) as a number; 0 for anything else.
fn uid_bits(text: &str) -> u128 {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32 { u128::from_str_radix(&digits, 16).unwrap_or(0) } else { 0 }
}

/// The first 14 digits of an RFC 3339 time: as a number it orders like the time.
fn timestamp_digits(text: &str) -> u64 {
    text.bytes()
        .filter(u8::is_ascii_digit)
        .take(14)
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
