//! The fields of Service, EndpointSlice, Node and ServiceCIDR that the proxy needs, as they stand in the
//! API's JSON. Unknown fields are skipped while parsing, `null` means absent. These values live only from the
//! wire to [`crate::State`].

mod values;

use serde::{Deserialize, Deserializer};
use skerry_vocabulary::ObjectKey;

pub use self::values::{FirstAddress, Policy, Protocol};

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
    /// What all kinds have: `metadata`, as far as somebody here reads it.
    pub struct Meta {
        /// Unique within its kind and namespace.
        name: String,
        /// Empty for what has none: Nodes, ServiceCIDRs.
        namespace: String,
        /// Tells an object from an earlier one of the same name.
        uid: String,
        /// Not a number: compared for equality only.
        resource_version: String,
        /// RFC 3339, UTC.
        creation_timestamp: String,
        /// Set while the object is being deleted.
        deletion_timestamp: Option<String>,
        /// `metadata.labels`, the few that count.
        labels: Labels,
        /// `metadata.annotations`, the few that count.
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

    /// `v1`, `Service`.
    pub struct Service {
        /// See [`Meta`].
        metadata: Meta,
        /// What is wanted of it.
        spec: ServiceSpec,
        /// Who has made which address for it.
        status: ServiceStatus,
    }

    /// `spec` of a Service. Addresses are text here; one that can't be read is as if it were not there.
    pub struct ServiceSpec {
        /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
        #[serde(rename = "type")]
        kind: String,
        /// The word `None`: headless. Looked at where `cluster_ips` is empty, as an old API server leaves it.
        #[serde(rename = "clusterIP")]
        cluster_ip: String,
        /// One of each family at most, the preferred one first; the word `None`: headless.
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        /// Any addresses that the network brings to nodes, of any type of Service but ExternalName.
        #[serde(rename = "externalIPs")]
        external_ips: Vec<String>,
        /// A port number may be there once for each protocol.
        ports: Vec<ServicePort>,
        /// Of NodePorts, externalIPs and load-balancer addresses.
        external_traffic_policy: Policy,
        /// Of the ClusterIP (KEP-2086).
        internal_traffic_policy: Policy,
        /// Where a load balancer asks a node for local endpoints, if the external policy is `Local`; 0:
        /// nowhere.
        health_check_node_port: u16,
        /// Of type ExternalName: the name that takes its place.
        external_name: String,
        /// Of a headless Service: endpoints have names before they are ready.
        publish_not_ready_addresses: bool,
        /// Whose load balancer it is; absent: the cluster's default one.
        load_balancer_class: Option<String>,
        /// Clients of its load-balancer addresses; empty: everyone.
        load_balancer_source_ranges: Vec<String>,
        /// `ClientIP`; anything else is none.
        session_affinity: String,
        /// Of `ClientIP` only.
        session_affinity_config: AffinityConfig,
    }

    /// One of `spec.ports`.
    pub struct ServicePort {
        /// Names the EndpointSlices' port that it leads to. May be empty where it is the only one.
        name: String,
        /// Absent: TCP.
        protocol: Protocol,
        /// 0 is no port, and not served.
        port: u16,
        /// Of types `NodePort` and `LoadBalancer`; 0: none.
        node_port: u16,
    }

    /// `spec.sessionAffinityConfig`.
    pub struct AffinityConfig {
        /// The only kind of affinity that there is.
        #[serde(rename = "clientIP")]
        client_ip: ClientIpConfig,
    }

    /// `spec.sessionAffinityConfig.clientIP`.
    pub struct ClientIpConfig {
        /// Seconds after the client's last new connection. Absent: 10,800, three hours.
        timeout_seconds: Option<u32>,
    }

    /// `status` of a Service.
    pub struct ServiceStatus {
        /// Empty for types without a load balancer.
        load_balancer: LoadBalancer,
        /// [`ADDRESS_ASSIGNED`] is the only one that counts.
        conditions: Vec<StatusCondition>,
    }

    /// Of an object's status.
    pub struct StatusCondition {
        /// Unique within the list.
        #[serde(rename = "type")]
        kind: String,
        /// `True`, `False` or `Unknown`.
        status: String,
    }

    /// `status.loadBalancer`.
    pub struct LoadBalancer {
        /// Its addresses, or names.
        ingress: Vec<Ingress>,
    }

    /// One place where clients reach it.
    pub struct Ingress {
        /// Empty where the load balancer is known by a name.
        ip: String,
        /// `Proxy`: the load balancer wants to see the traffic even from inside (KEP-1860).
        ip_mode: String,
    }

    /// `discovery.k8s.io/v1`, `EndpointSlice`.
    pub struct EndpointSlice {
        /// The label `kubernetes.io/service-name` says whose it is.
        metadata: Meta,
        /// `IPv4`, `IPv6` or `FQDN`; FQDNs are not served.
        address_type: String,
        /// Each goes for all of its endpoints.
        ports: Vec<SlicePort>,
        /// At most 1,000, says the API.
        endpoints: Vec<Endpoint>,
    }

    /// One of a slice's `ports`.
    pub struct SlicePort {
        /// That of the Service's port, by which the two find each other.
        name: String,
        /// Absent: TCP.
        protocol: Protocol,
        /// Absent means "all ports", which only headless services use.
        port: Option<u16>,
    }

    /// One of a slice's `endpoints`: a pod, most often.
    pub struct Endpoint {
        /// Of the slice's family.
        addresses: FirstAddress,
        /// Where it runs; empty: no node of the cluster is known to have it.
        node_name: String,
        /// Of a pod in the Service's subdomain.
        hostname: Option<String>,
        /// What its pod's state is.
        conditions: Conditions,
        /// Empty: it is meant for everyone.
        hints: Hints,
    }

    /// Where an endpoint is meant to be used (KEP-2433, KEP-3015).
    pub struct Hints {
        /// Zones by name; empty: all.
        for_zones: Vec<HintedPlace>,
        /// Nodes by name; empty: all.
        for_nodes: Vec<HintedPlace>,
    }

    /// A zone or a node.
    pub struct HintedPlace {
        /// Of the zone (the label `topology.kubernetes.io/zone`) or the Node.
        name: String,
    }

    /// Of an endpoint (KEP-1672).
    pub struct Conditions {
        /// Absent: `true`. Never true of one that terminates, unless the Service publishes those that are not
        /// ready.
        ready: Option<bool>,
        /// As `ready`, but also while it terminates. Absent: what `ready` says.
        serving: Option<bool>,
        /// Absent: `false`.
        terminating: Option<bool>,
    }

    /// `v1`, `Node`.
    pub struct Node {
        /// See [`Meta`].
        metadata: Meta,
        /// What the cluster has given it.
        spec: NodeSpec,
        /// What it says of itself.
        status: NodeStatus,
    }

    /// `spec` of a Node.
    pub struct NodeSpec {
        /// The first of `pod_cidrs`, which counts where that is empty.
        #[serde(rename = "podCIDR")]
        pod_cidr: String,
        /// One of each family at most.
        #[serde(rename = "podCIDRs")]
        pod_cidrs: Vec<String>,
        /// [`TO_BE_DELETED`] is the only one that counts.
        taints: Vec<Taint>,
    }

    /// One of a Node's `spec.taints`.
    pub struct Taint {
        /// Its effect doesn't matter here.
        key: String,
    }

    /// `status` of a Node.
    pub struct NodeStatus {
        /// Of all kinds; an address may be there as several.
        addresses: Vec<NodeAddress>,
        /// Only `Ready` counts.
        conditions: Vec<StatusCondition>,
    }

    /// `networking.k8s.io/v1`, `ServiceCIDR` (KEP-1880).
    pub struct ServiceCidr {
        /// See [`Meta`].
        metadata: Meta,
        /// What ClusterIPs are taken from.
        spec: ServiceCidrSpec,
    }

    /// `spec` of a ServiceCIDR.
    pub struct ServiceCidrSpec {
        /// One of each family at most.
        cidrs: Vec<String>,
    }

    /// One of a Node's `status.addresses`.
    pub struct NodeAddress {
        /// `InternalIP`, `ExternalIP`, `Hostname`, …
        #[serde(rename = "type")]
        kind: String,
        /// An IP address or a name, as `type` says.
        address: String,
    }
}

impl Meta {
    /// The object's name within its kind.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(&self.namespace, &self.name)
    }

    /// Of a Service or an EndpointSlice: kube-proxy asks for those that have neither of these labels.
    pub fn is_left_to_others(&self) -> bool {
        self.labels.service_proxy_name.is_some() || self.labels.headless.is_some()
    }
}

/// Whether a condition of this type is `True`.
pub fn holds(conditions: &[StatusCondition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
}
