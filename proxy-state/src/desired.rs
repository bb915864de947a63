use std::collections::{BTreeMap, BTreeSet};

use proxy_abi::{Addr, Be16, Frontend, FrontendKey, frontend_flag, frontend_kind};

use crate::{
    ingest::State,
    layout::{Endpoints, Layout, Weighed, has_any},
    model::{Endpoint, ObjectKey, Port, Service, Slice, endpoint_flag},
};

/// Whose endpoints stand in a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// All of the cluster's, whoever asks.
    Cluster,
    /// Only this node's (internalTrafficPolicy `Local`).
    Node,
    /// Only this node's for clients outside of the cluster, the whole cluster's for those inside
    /// (externalTrafficPolicy `Local`).
    External,
}

/// Names a run of backends for as long as its service lives: its `service_id` stays with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServicePortId {
    /// The Service's port, in host byte order; NodePorts of it have the same run.
    pub port: u16,
    /// IANA's number, see `proxy_abi::proto`.
    pub proto: u8,
    /// Frontends and backends are IPv4; IPv6 has a run of its own.
    pub is_v4: bool,
    /// Ports whose addresses follow different traffic policies have a run for each.
    pub scope: Scope,
}

/// An element of a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Backend {
    /// Of the frontends' family.
    pub addr: Addr,
    /// That it listens to: targetPort.
    pub port: Be16,
    /// `slot_flag` bits.
    pub flags: u16,
}

/// What a frontend says besides where its run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrontendSpec {
    /// What clients dial.
    pub key: FrontendKey,
    /// `frontend_flag` bits.
    pub flags: u32,
    /// ClientIP affinity in seconds; 0: none.
    pub affinity_s: u32,
}

/// One run and the frontends that point to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePortTable {
    /// No other run of the same service has it.
    pub id: ServicePortId,
    /// Never empty, each key once.
    pub frontends: Vec<FrontendSpec>,
    /// What stands in the run, and which part is for whom.
    pub layout: Layout,
    /// Prefixes with their length in the 128-bit form, for frontends flagged `SOURCE_RANGES`.
    pub source_ranges: Vec<(Addr, u32)>,
}

impl ServicePortTable {
    pub(crate) fn is_sticky(&self) -> bool {
        self.frontends.iter().any(|spec| spec.affinity_s != 0)
    }
}

/// What the maps should say for one service: its runs, and the marks of its addresses as in use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceTables {
    /// Each with an id of its own.
    pub ports: Vec<ServicePortTable>,
    /// Keys with port 0; they point to no run.
    pub addresses: Vec<FrontendSpec>,
}

/// Every frontend that a service would have if nobody else claimed one.
pub(crate) fn frontend_keys(service: &Service) -> BTreeSet<FrontendKey> {
    let mut keys = BTreeSet::new();
    for (addr, _) in addresses(service) {
        keys.insert(address_in_use(addr));
        keys.extend(service.ports.iter().map(|port| address_key(addr, port)));
    }
    for port in &service.ports {
        keys.extend(node_port_key(service, port, true));
        keys.extend(node_port_key(service, port, false));
    }
    keys
}

impl State {
    /// What the maps should say for one service; empty if there is no such service.
    pub fn desired(&self, key: &ObjectKey) -> ServiceTables {
        let Some(service) = self.services.get(key) else { return ServiceTables::default() };
        let mut tables = BTreeMap::new();
        for port in &service.ports {
            for is_v4 in [true, false] {
                self.add_port(&mut tables, key, service, port, is_v4);
            }
        }
        ServiceTables {
            ports: tables.into_values().collect(),
            addresses: addresses(service)
                .into_iter()
                .map(|(addr, flags)| FrontendSpec { key: address_in_use(addr), flags, affinity_s: 0 })
                .filter(|spec| self.owner(&spec.key) == Some(key))
                .collect(),
        }
    }

    fn add_port(
        &self,
        tables: &mut BTreeMap<ServicePortId, ServicePortTable>,
        key: &ObjectKey,
        service: &Service,
        port: &Port,
        is_v4: bool,
    ) {
        let by_address = addresses(service)
            .into_iter()
            .filter(|(addr, _)| addr.is_v4() == is_v4)
            .map(|(addr, kind)| (address_key(addr, port), kind));
        let by_node = node_port_key(service, port, is_v4).map(|key| (key, frontend_flag::NODE_PORT));
        let mut endpoints = None;
        for (frontend, kind) in by_address.chain(by_node) {
            if self.owner(&frontend) != Some(key) {
                continue;
            }
            let endpoints = endpoints.get_or_insert_with(|| self.endpoints(key, port, is_v4));
            let is_internal = kind == frontend_flag::CLUSTER_IP;
            let is_local = if is_internal { service.internal_local } else { service.external_local };
            let scope = match (is_local, is_internal) {
                (false, _) => Scope::Cluster,
                (true, true) => Scope::Node,
                (true, false) => Scope::External,
            };
            let id = ServicePortId { port: port.port, proto: port.proto, is_v4, scope };
            let table = tables.entry(id).or_insert_with(|| ServicePortTable {
                id,
                frontends: Vec::new(),
                layout: Layout::new(endpoints, scope, service.maglev),
                source_ranges: Vec::new(),
            });
            let mut flags = kind;
            if scope == Scope::External {
                flags |= frontend_flag::LOCAL_ONLY;
            }
            if is_local && table.layout.outside.count == 0 && has_any(endpoints) {
                flags |= frontend_flag::DROP_IF_EMPTY;
            }
            if service.maglev != 0 {
                flags |= frontend_flag::MAGLEV;
            }
            if service.is_direct && !is_internal && self.can_name_backends(is_v4) {
                flags |= frontend_flag::DIRECT;
            }
            if kind == frontend_flag::LOAD_BALANCER
                && let Some(ranges) = &service.source_ranges
            {
                flags |= frontend_flag::SOURCE_RANGES;
                table.source_ranges =
                    ranges.iter().filter(|(addr, _)| addr.is_v4() == is_v4).copied().collect();
            }
            // The API refuses a port that is listed twice; a table must not depend on it.
            if !table.frontends.iter().any(|spec| spec.key == frontend) {
                table.frontends.push(FrontendSpec { key: frontend, flags, affinity_s: service.affinity_s });
            }
        }
    }

    /// Whether 8 bytes say which of a node's pods is meant (`DIRECT_MAC_TAG`): all of them share the others.
    /// Nodes' ranges are of one size.
    fn can_name_backends(&self, is_v4: bool) -> bool {
        let own = self.nodes.get(&ObjectKey::new("", &self.node_name));
        is_v4
            || own.is_some_and(|node| node.pod_cidrs.iter().any(|cidr| cidr.is_ipv6() && cidr.prefix() >= 64))
    }

    /// All endpoints of a service port, each once: slices overlap while endpoints move between them.
    pub(crate) fn endpoints(&self, key: &ObjectKey, port: &Port, is_v4: bool) -> Endpoints {
        let zone = self.nodes.get(&ObjectKey::new("", &self.node_name)).and_then(|node| node.zone);
        let mut found = Endpoints::new();
        let slices = self.slices_of.get(key).into_iter().flatten().filter_map(|slice| self.slices.get(slice));
        for (slice, slice_port) in slices.flat_map(|slice| matching_ports(slice, port)) {
            for (index, Endpoint { addr, flags }) in slice.endpoints.iter().enumerate() {
                if addr.is_v4() != is_v4 {
                    continue;
                }
                let zones = slice.zones.as_ref().and_then(|zones| zones.get(index));
                let is_ours = zones.is_some_and(|zones| zone.is_some_and(|zone| zones.contains(&zone)));
                let flags = *flags | if is_ours { endpoint_flag::ZONE_MATCHES } else { 0 };
                let place = (*addr, Be16::new(slice_port));
                let merged = found.entry(place).or_insert(Weighed { flags, weight: slice.weight });
                let both_terminating = merged.flags & flags & endpoint_flag::TERMINATING;
                merged.flags = (merged.flags | flags) & !endpoint_flag::TERMINATING | both_terminating;
                merged.weight = merged.weight.max(slice.weight);
            }
        }
        found
    }
}

fn matching_ports<'a>(slice: &'a Slice, port: &'a Port) -> impl Iterator<Item = (&'a Slice, u16)> {
    slice
        .ports
        .iter()
        .filter(|candidate| candidate.proto == port.proto && candidate.name == port.name)
        .map(move |candidate| (slice, candidate.port))
}

/// The addresses that a service is dialled by, each once, with their kind's `frontend_flag`.
fn addresses(service: &Service) -> Vec<(Addr, u32)> {
    let mut found: Vec<(Addr, u32)> = Vec::with_capacity(service.cluster_ips.len());
    for (list, flag) in [
        (&service.cluster_ips, frontend_flag::CLUSTER_IP),
        (&service.external_ips, frontend_flag::EXTERNAL_IP),
        (&service.load_balancer_ips, frontend_flag::LOAD_BALANCER),
    ] {
        for addr in list {
            if !found.iter().any(|(known, _)| known == addr) {
                found.push((*addr, flag));
            }
        }
    }
    found
}

fn address_key(addr: Addr, port: &Port) -> FrontendKey {
    FrontendKey { addr, port: Be16::new(port.port), proto: port.proto, kind: frontend_kind::ADDRESS }
}

pub(crate) fn address_in_use(addr: Addr) -> FrontendKey {
    FrontendKey { addr, port: Be16::ZERO, proto: 0, kind: frontend_kind::ADDRESS }
}

fn node_port_key(service: &Service, port: &Port, is_v4: bool) -> Option<FrontendKey> {
    let has_family = service.cluster_ips.iter().any(|addr| addr.is_v4() == is_v4);
    let kind = if is_v4 { frontend_kind::NODE_PORT_V4 } else { frontend_kind::NODE_PORT_V6 };
    (port.node_port != 0 && has_family).then(|| FrontendKey {
        addr: Addr::UNSPECIFIED,
        port: Be16::new(port.node_port),
        proto: port.proto,
        kind,
    })
}

/// The value of a mark: it has no run and no service id.
pub(crate) fn mark(flags: u32) -> Frontend {
    Frontend { flags, ..Frontend::default() }
}
