use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use proxy_abi::{Addr, Endpoint, PodCidr, PodCidrKey, pod_cidr_flag};

use crate::{
    ingest::State,
    model::{ObjectKey, prefix},
    ranges::{judge, warnings},
    warnings::Warning,
};

/// What the maps and the routing table should say about nodes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NodeTables {
    /// Ranges of all nodes that have an address, with the node's; this node's own are flagged.
    pub pod_cidrs: HashMap<PodCidrKey, PodCidr>,
    /// All addresses of other nodes: who may send us VXLAN packets.
    pub peers: BTreeSet<Addr>,
    /// Our own addresses, as entries of `ENDPOINTS`.
    pub endpoints: BTreeMap<Addr, Endpoint>,
    /// Pod CIDRs of this node, in the Node's order.
    pub own: Vec<IpNetwork>,
    /// Pod CIDRs of other nodes that have an address.
    pub remote: BTreeSet<IpNetwork>,
    /// ClusterIP ranges of all ServiceCIDRs, the widest first, none within another. Empty where there are no
    /// such objects.
    pub service_ranges: Vec<IpNetwork>,
    /// What of Nodes' claims is not believed.
    pub warnings: BTreeMap<ObjectKey, Vec<Warning>>,
}

impl State {
    /// Ranges that are believed (by what, [`Bounds`](crate::Bounds) says), each with its node's address.
    pub fn node_tables(&self) -> NodeTables {
        let mut by_age: Vec<_> = self.nodes.iter().collect();
        by_age.sort_by_key(|(name, node)| (node.created, *name));
        let our_name = ObjectKey::new("", &self.node_name);
        let service_ranges = widest(self.service_cidrs.values().flatten());
        let believed = judge(&by_age, &our_name, &service_ranges, &self.bounds);
        let mut tables = NodeTables {
            warnings: believed
                .doubts
                .iter()
                .map(|(name, doubts)| ((*name).clone(), warnings(doubts)))
                .collect(),
            service_ranges,
            ..NodeTables::default()
        };
        for (name, node) in by_age {
            let is_ours = *name == our_name;
            let ranges = believed.ranges(name);
            let addresses: Vec<Addr> =
                node.addresses.iter().filter(|addr| is_ours || believed.is_nodes(**addr)).copied().collect();
            if is_ours {
                tables.own = ranges.to_vec();
            } else {
                tables.peers.extend(addresses.iter());
            }
            // The underlay speaks IPv4 where it can.
            let v4 = addresses.iter().find(|addr| addr.is_v4());
            let Some(outer) = v4.or(addresses.first()) else { continue };
            for cidr in ranges {
                let flags = if is_ours { pod_cidr_flag::LOCAL } else { 0 };
                tables.pod_cidrs.insert(lpm_key(cidr), PodCidr { node: *outer, flags });
                if !is_ours {
                    tables.remote.insert(*cidr);
                }
            }
        }
        tables.endpoints = self
            .own_addresses
            .iter()
            .map(|(addr, flags)| (*addr, Endpoint { flags: *flags, ..Endpoint::default() }))
            .collect();
        tables
    }
}

/// Ranges without those that lie within another, the widest first (and of equal ones the lower).
fn widest<'a>(ranges: impl Iterator<Item = &'a IpNetwork>) -> Vec<IpNetwork> {
    let mut sorted: Vec<IpNetwork> = ranges.copied().collect();
    sorted.sort_by_key(|range| (prefix(*range).1, range.network()));
    sorted.into_iter().fold(Vec::new(), |mut kept, range| {
        if !kept.iter().any(|wider: &IpNetwork| wider.contains(range.network())) {
            kept.push(range);
        }
        kept
    })
}

/// The router address of a pod CIDR: its first host address.
pub fn router_address(cidr: &IpNetwork) -> IpAddr {
    match cidr {
        IpNetwork::V4(v4) => IpAddr::V4(u32::from(v4.network()).wrapping_add(1).into()),
        IpNetwork::V6(v6) => IpAddr::V6(u128::from(v6.network()).wrapping_add(1).into()),
    }
}

fn lpm_key(cidr: &IpNetwork) -> PodCidrKey {
    let (addr, prefix_len) = prefix(*cidr);
    PodCidrKey { prefix_len, addr }
}
