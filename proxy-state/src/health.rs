use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ingest::State,
    model::{ObjectKey, endpoint_flag},
};

/// What load balancers that check this node's health are told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// By `healthCheckNodePort`.
    pub services: BTreeMap<u16, ServiceHealth>,
    /// Whether the node should get new connections at all: it is in the cluster and not about to leave
    /// (KEP-3836).
    pub is_eligible: bool,
}

/// One Service with `externalTrafficPolicy: Local`, as seen from this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceHealth {
    /// Its namespace and name, which the answer repeats.
    pub service: ObjectKey,
    /// This node's ready endpoints, each address once. Terminating ones don't count, though they may still
    /// serve: a load balancer is to look elsewhere in time.
    pub local_endpoints: usize,
}

impl State {
    /// The answers to health checks. Two Services with one port, which the API does not let through: the
    /// older has it.
    pub fn health(&self) -> Health {
        let mut services: BTreeMap<u16, (u64, ServiceHealth)> = BTreeMap::new();
        for key in &self.outside {
            let Some(service) = self.services.get(key).filter(|service| service.health_port != 0) else {
                continue;
            };
            let there = services.get(&service.health_port);
            if there.is_none_or(|(created, _)| service.created < *created) {
                let health = ServiceHealth { service: key.clone(), local_endpoints: self.local_ready(key) };
                services.insert(service.health_port, (service.created, health));
            }
        }
        let ours = self.nodes.get(&ObjectKey::new("", &self.node_name));
        Health {
            services: services.into_iter().map(|(port, (_, health))| (port, health)).collect(),
            is_eligible: ours.is_some_and(|node| !node.is_leaving),
        }
    }

    fn local_ready(&self, service: &ObjectKey) -> usize {
        let wanted = endpoint_flag::LOCAL | endpoint_flag::READY;
        let slices = self.slices_of.get(service).into_iter().flatten();
        let endpoints = slices.filter_map(|slice| self.slices.get(slice)).flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|e| e.flags & (wanted | endpoint_flag::TERMINATING) == wanted);
        ready.map(|endpoint| endpoint.addr).collect::<BTreeSet<_>>().len()
    }
}
