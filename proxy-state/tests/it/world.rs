//! Maps in memory, and what a plan does to them.

use std::collections::{BTreeMap, BTreeSet};

use proxy_abi::{Addr, Frontend, FrontendKey, Window, member_of};
use proxy_state::{Actual, Dump, Limits, Plan, State, api, plan};
use serde_json::{Value, json};

pub const LIMITS: Limits = Limits {
    frontends: 512,
    slots: 1024,
    members: 512,
    source_ranges: 128,
    pod_cidrs: 64,
    tunnel_peers: 64,
    grace_ms: 1000,
    ids_until: 0,
};

type Backends = BTreeSet<(Addr, u16, u16)>;

/// What a client meets at a frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meaning {
    /// (address, port, flags)
    outside: Backends,
    inside: Backends,
    flags: u32,
    affinity_s: u32,
    /// Without the service id.
    members: BTreeSet<(Addr, u16, u32)>,
    ranges: BTreeSet<(u32, Addr)>,
}

/// What a client meets: the frontends and, instead of slot numbers, the backends behind them. Panics where
/// the reader's check of service id and generation would fail: no operation may leave such a frontend behind.
pub fn meaning(maps: &Dump) -> BTreeMap<FrontendKey, Meaning> {
    let backends = |frontend: &Frontend, window: Window| {
        let run = &maps.slots[window.first as usize..window.end() as usize];
        assert!(
            run.iter().all(|s| (s.service_id, s.generation) == (frontend.service_id, frontend.generation)),
            "{frontend:?} points to {run:?}"
        );
        run.iter().map(|slot| (slot.addr, slot.port.get(), slot.flags)).collect()
    };
    let meaning = |f: &Frontend| {
        let members = maps.members.iter().filter(|(m, _)| m.service_id == f.service_id);
        let meaning = Meaning {
            outside: backends(f, f.outside),
            inside: backends(f, f.inside),
            flags: f.flags,
            affinity_s: f.affinity_s,
            members: members.map(|(m, windows)| (m.addr, m.port.get(), *windows)).collect(),
            ranges: maps
                .source_ranges
                .iter()
                .filter(|range| range.of.service_id == f.service_id)
                .map(|range| (range.prefix_len, range.of.addr))
                .collect(),
        };
        // Whoever is given a backend with affinity may come back to it; whoever is restricted has a range.
        for (backends, window) in
            [(&meaning.outside, member_of::OUTSIDE), (&meaning.inside, member_of::INSIDE)]
        {
            let is_member = |(addr, port, _): &(Addr, u16, u16)| {
                meaning.members.iter().any(|(a, p, windows)| (a, p) == (addr, port) && windows & window != 0)
            };
            assert!(f.affinity_s == 0 || backends.iter().all(is_member), "{meaning:?}");
        }
        meaning
    };
    maps.frontends.iter().map(|(key, f)| (*key, meaning(f))).collect()
}

/// A proxy and its maps.
pub struct World {
    pub state: State,
    pub actual: Actual,
    pub maps: Dump,
    pub now_ms: u64,
}

impl World {
    pub fn new() -> World {
        World::with(LIMITS)
    }

    pub fn with(limits: Limits) -> World {
        World {
            state: State::new("here"),
            actual: Actual::restore(limits, Dump::default(), 0),
            maps: Dump::default(),
            now_ms: 0,
        }
    }

    pub fn plan(&mut self) -> Plan {
        plan(&mut self.state, &mut self.actual, self.now_ms)
    }

    /// Plans and executes everything.
    pub fn sync(&mut self) -> Plan {
        let plan = self.plan();
        plan.ops.iter().for_each(|op| self.maps.execute(op));
        plan
    }

    pub fn service(&mut self, service: Value) -> &mut World {
        apply_service(&mut self.state, service);
        self
    }

    pub fn slice(&mut self, slice: Value) -> &mut World {
        apply_slice(&mut self.state, slice);
        self
    }

    pub fn node(&mut self, node: Value) -> &mut World {
        apply_node(&mut self.state, node);
        self
    }
}

pub fn apply_service(state: &mut State, object: Value) {
    let object: api::Service = serde_json::from_value(object).unwrap();
    state.apply_service(object.metadata.key(), &object);
}

pub fn apply_slice(state: &mut State, object: Value) {
    let object: api::EndpointSlice = serde_json::from_value(object).unwrap();
    state.apply_slice(object.metadata.key(), &object);
}

pub fn apply_node(state: &mut State, object: Value) {
    let object: api::Node = serde_json::from_value(object).unwrap();
    state.apply_node(object.metadata.key(), &object);
}

/// A ClusterIP service with one TCP port 80.
pub fn service(name: &str, cluster_ip: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
                 "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]},
    })
}

/// A slice of a service with ready endpoints on port 8080.
pub fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|a| json!({"addresses": [a], "conditions": {"ready": true}, "nodeName": "there"}))
        .collect();
    json!({
        "metadata": {"name": name, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"port": 8080, "protocol": "TCP", "name": ""}],
        "endpoints": endpoints,
    })
}
