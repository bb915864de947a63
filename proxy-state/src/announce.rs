use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use proxy_abi::Addr;

use crate::{
    ingest::State,
    model::{Node, NodeHash, ObjectKey, Service, endpoint_flag, fnv1a, node_hash},
};

impl State {
    /// The load-balancer addresses that this node answers for on its link (ARP, neighbour discovery).
    ///
    /// Each address has one node, by rendezvous hashing over (address, node): every node comes to the same
    /// result from what it watches, and when a node goes only its own addresses move. Nodes that are Ready,
    /// stay and are not excluded from load balancers stand for election; for a Service with
    /// `externalTrafficPolicy: Local` only those with an endpoint of it, and where several Services share the
    /// address those that suit all of them.
    pub fn announced(&self) -> BTreeSet<IpAddr> {
        let nodes: Vec<Candidate> = self
            .nodes
            .iter()
            .filter(|(_, node)| stands(node))
            .map(|(name, _)| Candidate { name, hash: node_hash(name.parts().1) })
            .collect();
        let we = ObjectKey::new("", &self.node_name);
        self.by_address()
            .into_iter()
            .filter(|(addr, services)| self.elected(addr, services, &nodes) == Some(&we))
            .map(|(addr, _)| addr.to_ip())
            .collect()
    }

    fn by_address(&self) -> BTreeMap<Addr, Vec<(&ObjectKey, &Service)>> {
        let mut found: BTreeMap<Addr, Vec<_>> = BTreeMap::new();
        let services = self.outside.iter().filter_map(|key| self.services.get_key_value(key));
        for (key, service) in services.filter(|(_, service)| service.is_announced) {
            for addr in &service.load_balancer_ips {
                found.entry(*addr).or_default().push((key, service));
            }
        }
        found
    }

    fn elected<'a>(
        &self,
        addr: &Addr,
        services: &[(&ObjectKey, &Service)],
        nodes: &[Candidate<'a>],
    ) -> Option<&'a ObjectKey> {
        let mut standing: Vec<&Candidate> = nodes.iter().collect();
        for (key, _) in services.iter().filter(|(_, service)| service.external_local) {
            let hosts = self.hosts(key, addr.is_v4(), nodes);
            standing.retain(|node| hosts.contains(&node.hash));
        }
        standing.into_iter().max_by_key(|node| (weight(addr, node.hash), node.name)).map(|node| node.name)
    }

    /// Those of `nodes` that have a ready endpoint of the service; if none has, those with one that
    /// terminates but still serves (KEP-1669).
    fn hosts(&self, service: &ObjectKey, is_v4: bool, nodes: &[Candidate]) -> HashSet<NodeHash> {
        let with = |all: u8, none: u8| -> HashSet<NodeHash> {
            let slices = self.slices_of.get(service).into_iter().flatten();
            let slices = slices.filter_map(|slice| self.slices.get(slice));
            let endpoints = slices.flat_map(|slice| slice.endpoints.iter().zip(&slice.nodes));
            let fit = endpoints.filter(|(endpoint, _)| {
                endpoint.addr.is_v4() == is_v4 && endpoint.flags & all == all && endpoint.flags & none == 0
            });
            let hosts: HashSet<NodeHash> = fit.map(|(_, node)| *node).collect();
            nodes.iter().map(|node| node.hash).filter(|hash| hosts.contains(hash)).collect()
        };
        let ready = with(endpoint_flag::READY, endpoint_flag::TERMINATING);
        match ready.is_empty() {
            true => with(endpoint_flag::SERVING | endpoint_flag::TERMINATING, 0),
            false => ready,
        }
    }
}

struct Candidate<'a> {
    name: &'a ObjectKey,
    hash: NodeHash,
}

fn stands(node: &Node) -> bool {
    node.is_ready && node.takes_outside && !node.is_leaving
}

/// FNV alone leaves the last bytes' bits together: the finalizer of MurmurHash3 spreads them.
pub(crate) fn weight(addr: &Addr, node: NodeHash) -> u64 {
    let mut hash = fnv1a(node, &addr.octets());
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
