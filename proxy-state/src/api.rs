//! The fields of Service, EndpointSlice, Node and ServiceCIDR that the proxy needs, as they stand in the
//! API's JSON. Unknown fields are skipped while parsing, `null` means absent. These values live only from the
//! wire to [`crate::State`].

use std::{fmt, net::IpAddr};

use proxy_abi::{Addr, proto};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use skerry_vocabulary::ObjectKey;

use crate::ip::{parse_ip, unfit};

/// Condition of a Service whose load-balancer addresses Skerry's own controller has given: only these are
/// announced by the nodes. Addresses that somebody else has given are somebody else's to announce.
pub const ADDRESS_ASSIGNED: &str = "skerry.io/AddressAssigned";

/// Taint of a node that the cluster autoscaler is about to remove.
pub const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// `null` and absent are the default.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

macro_rules! wire {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$attr:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $(
                $(#[$attr])*
                #[serde(default, deserialize_with = "lenient")]
                pub $field: $kind,
            )*
        }
    )*};
}

wire! {
    pub struct Meta {
        name: String,
        namespace: String,
        uid: String,
        resource_version: String,
        /// RFC 3339, UTC.
        creation_timestamp: String,
        /// Set while the object is being deleted.
        deletion_timestamp: Option<String>,
        labels: Labels,
        annotations: Annotations,
    }

    /// The annotations of a Service, an EndpointSlice or a Node that the proxy or the balancer in front of
    /// nodes looks at.
    pub struct Annotations {
        /// `random` (the default) or `maglev`.
        #[serde(rename = "service.skerry.io/balancing")]
        balancing: Option<String>,
        /// Elements of its Maglev tables.
        #[serde(rename = "service.skerry.io/maglev-table-size")]
        maglev_table_size: Option<String>,
        /// Of an EndpointSlice: the share of each of its endpoints, against those of the Service's other
        /// slices.
        #[serde(rename = "service.skerry.io/weight")]
        weight: Option<String>,
        /// How the balancer in front of nodes forwards: `snat` (the default) or `dsr`.
        #[serde(rename = "skerry.io/balancer-mode")]
        balancer_mode: Option<String>,
        /// Of a Node: its share of that balancer's new connections, against the other nodes'.
        #[serde(rename = "skerry.io/balancer-weight")]
        balancer_weight: Option<String>,
        /// Of a Service: `true` ends connections to endpoints that are gone; `false` (the default) leaves
        /// them alone.
        #[serde(rename = "service.skerry.io/reset-on-endpoint-removal")]
        reset_on_endpoint_removal: Option<String>,
        /// Of a Service: how packets from outside reach backends on other nodes: `snat`, answers come back
        /// through the node that the client has reached, or `dsr`, the backend's node answers itself. What
        /// the agent's configuration says if absent.
        #[serde(rename = "service.skerry.io/forwarding-mode")]
        forwarding_mode: Option<String>,
    }

    /// The labels that the proxy looks at.
    pub struct Labels {
        /// Owner of an EndpointSlice.
        #[serde(rename = "kubernetes.io/service-name")]
        service_name: Option<String>,
        /// A Service with this label, whatever its value, belongs to another proxy, and so does a slice.
        #[serde(rename = "service.kubernetes.io/service-proxy-name")]
        service_proxy_name: Option<String>,
        /// A Service with this label, whatever its value, is no proxy's, and neither is a slice.
        #[serde(rename = "service.kubernetes.io/headless")]
        headless: Option<String>,
        /// A Node with this label, whatever its value, takes no traffic of load balancers (KEP-1143).
        #[serde(rename = "node.kubernetes.io/exclude-from-external-load-balancers")]
        exclude_from_load_balancers: Option<String>,
        /// Where a Node stands.
        #[serde(rename = "topology.kubernetes.io/zone")]
        zone: Option<String>,
    }

    pub struct Service {
        metadata: Meta,
        spec: ServiceSpec,
        status: ServiceStatus,
    }

    pub struct ServiceSpec {
        #[serde(rename = "type")]
        kind: String,
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        #[serde(rename = "externalIPs")]
        external_ips: Vec<String>,
        ports: Vec<ServicePort>,
        external_traffic_policy: Policy,
        internal_traffic_policy: Policy,
        health_check_node_port: u16,
        /// Of type ExternalName: the name that takes its place.
        external_name: String,
        /// Of a headless Service: endpoints have names before they are ready.
        publish_not_ready_addresses: bool,
        load_balancer_class: Option<String>,
        load_balancer_source_ranges: Vec<String>,
        session_affinity: String,
        session_affinity_config: AffinityConfig,
    }

    pub struct ServicePort {
        name: String,
        protocol: Protocol,
        port: u16,
        node_port: u16,
    }

    pub struct AffinityConfig {
        #[serde(rename = "clientIP")]
        client_ip: ClientIpConfig,
    }

    pub struct ClientIpConfig {
        timeout_seconds: Option<u32>,
    }

    pub struct ServiceStatus {
        load_balancer: LoadBalancer,
        conditions: Vec<StatusCondition>,
    }

    /// Of an object's status.
    pub struct StatusCondition {
        #[serde(rename = "type")]
        kind: String,
        /// `True`, `False` or `Unknown`.
        status: String,
    }

    pub struct LoadBalancer {
        ingress: Vec<Ingress>,
    }

    pub struct Ingress {
        ip: String,
        /// `Proxy`: the load balancer wants to see the traffic even from inside (KEP-1860).
        ip_mode: String,
    }

    pub struct EndpointSlice {
        metadata: Meta,
        address_type: String,
        ports: Vec<SlicePort>,
        endpoints: Vec<Endpoint>,
    }

    pub struct SlicePort {
        name: String,
        protocol: Protocol,
        /// Absent means "all ports", which only headless services use.
        port: Option<u16>,
    }

    pub struct Endpoint {
        addresses: FirstAddress,
        node_name: String,
        /// Of a pod in the Service's subdomain.
        hostname: Option<String>,
        conditions: Conditions,
        hints: Hints,
    }

    /// Where an endpoint is meant to be used (KEP-2433, KEP-3015).
    pub struct Hints {
        for_zones: Vec<HintedPlace>,
        for_nodes: Vec<HintedPlace>,
    }

    pub struct HintedPlace {
        name: String,
    }

    pub struct Conditions {
        ready: Option<bool>,
        serving: Option<bool>,
        terminating: Option<bool>,
    }

    pub struct Node {
        metadata: Meta,
        spec: NodeSpec,
        status: NodeStatus,
    }

    pub struct NodeSpec {
        #[serde(rename = "podCIDR")]
        pod_cidr: String,
        #[serde(rename = "podCIDRs")]
        pod_cidrs: Vec<String>,
        taints: Vec<Taint>,
    }

    pub struct Taint {
        key: String,
    }

    pub struct NodeStatus {
        addresses: Vec<NodeAddress>,
        conditions: Vec<StatusCondition>,
    }

    pub struct ServiceCidr {
        metadata: Meta,
        spec: ServiceCidrSpec,
    }

    pub struct ServiceCidrSpec {
        /// One of each family at most.
        cidrs: Vec<String>,
    }

    pub struct NodeAddress {
        #[serde(rename = "type")]
        kind: String,
        address: String,
    }
}

impl Meta {
    /// The object's name within its kind.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }
}

/// `Cluster` unless it says `Local`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Policy {
    Local,
    #[default]
    #[serde(other)]
    Cluster,
}

/// The IP protocol's number; what we don't know (a future protocol) is 0 and matches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol(pub u8);

impl Meta {
    /// Of a Service or an EndpointSlice: kube-proxy asks for those that have neither of these labels.
    pub fn is_left_to_others(&self) -> bool {
        self.labels.service_proxy_name.is_some() || self.labels.headless.is_some()
    }
}

impl Default for Protocol {
    fn default() -> Protocol {
        Protocol(proto::TCP)
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Protocol, D::Error> {
        Ok(Protocol(match std::borrow::Cow::<str>::deserialize(from)?.as_ref() {
            "TCP" | "" => proto::TCP,
            "UDP" => proto::UDP,
            "SCTP" => proto::SCTP,
            _ => 0,
        }))
    }
}

/// The first of an endpoint's addresses ("consumers must handle only the first", the API says).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstAddress {
    /// Or an FQDN.
    #[default]
    None,
    Usable(Addr),
    /// One that may not be a backend.
    Unfit(IpAddr),
}

impl FirstAddress {
    /// The address of this family, if it may be used.
    pub fn usable(self, is_v4: bool) -> Option<Addr> {
        match self {
            FirstAddress::Usable(addr) if addr.is_v4() == is_v4 => Some(addr),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for FirstAddress {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<FirstAddress, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = FirstAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of addresses")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FirstAddress, A::Error> {
                let first = list.next_element::<std::borrow::Cow<'de, str>>()?;
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(match first.and_then(|text| parse_ip(&text)) {
                    None => FirstAddress::None,
                    Some(ip) if unfit(ip).is_some() => FirstAddress::Unfit(ip),
                    Some(ip) => FirstAddress::Usable(ip.into()),
                })
            }
        }
        from.deserialize_seq(First)
    }
}

/// Whether a condition of this type is `True`.
pub fn holds(conditions: &[StatusCondition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
}
