//! From any interrupted apply, `apply(plan(desired, actual)) == desired`, and then there is nothing left to
//! do.

use std::collections::HashSet;

use crate::world::{LIMITS, World, apply_node, apply_service, apply_slice, meaning};
use proptest::prelude::*;
use proxy_state::{Actual, Dump, ObjectKey, State, plan};
use serde_json::{Value, json};

/// Everything comes from a small pool, so that services fight over addresses and slices move between them.
#[derive(Clone, Debug)]
enum Event {
    Service(Value),
    DeleteService {
        name: u8,
    },
    Slice(Value),
    DeleteSlice {
        name: u8,
    },
    Node(Value),
    DeleteNode {
        name: u8,
    },
    /// Applies a plan, but is killed after this share of its operations.
    Killed {
        share: f64,
    },
    /// Applies a plan to its end and lets time pass.
    Synced {
        after_ms: u64,
    },
}

fn service_event() -> impl Strategy<Value = Event> {
    let kinds = prop::sample::select(vec!["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    let policies = prop::sample::select(vec![Value::Null, json!("Cluster"), json!("Local")]);
    let ports = prop::collection::vec((1u16..4, prop::sample::select(vec!["TCP", "UDP"])), 1..3);
    (0u8..6, kinds, 0u8..5, policies.clone(), policies, ports, 0u8..3, any::<(bool, bool)>()).prop_map(
        |(name, kind, ip, external, internal, ports, age, (has_affinity, has_ranges))| {
            let ports: Vec<Value> = ports
                .iter()
                .map(|(port, protocol)| {
                    json!({"name": format!("p{port}"), "port": port, "protocol": protocol, "nodePort": 30000 + port})
                })
                .collect();
            let cluster_ip = if ip == 4 { "None".to_owned() } else { format!("10.96.0.{ip}") };
            let value = json!({
                "metadata": {"name": format!("s{name}"), "namespace": "ns",
                             "creationTimestamp": format!("2026-01-0{}T00:00:00Z", age + 1)},
                "spec": {"type": kind, "clusterIP": cluster_ip, "ports": ports,
                         "externalIPs": [format!("192.0.2.{ip}"), "192.0.2.77"],
                         "externalTrafficPolicy": external, "internalTrafficPolicy": internal,
                         "loadBalancerSourceRanges": if has_ranges { json!([format!("198.51.{ip}.0/24")]) } else { Value::Null },
                         "sessionAffinity": if has_affinity { "ClientIP" } else { "None" }},
                "status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{ip}")}]}},
            });
            Event::Service(value)
        },
    )
}

fn slice_event() -> impl Strategy<Value = Event> {
    let endpoint = (0u8..8, any::<bool>(), any::<bool>(), any::<bool>());
    (0u8..10, 0u8..6, prop::collection::vec(endpoint, 0..5), 1u16..4).prop_map(|(name, service, endpoints, port)| {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(ip, ready, terminating, is_local)| {
                json!({"addresses": [format!("10.244.0.{ip}")], "nodeName": if *is_local { "here" } else { "there" },
                       "conditions": {"ready": ready, "serving": true, "terminating": terminating}})
            })
            .collect();
        let value = json!({
            "metadata": {"name": format!("e{name}"), "namespace": "ns",
                         "labels": {"kubernetes.io/service-name": format!("s{service}")}},
            "addressType": "IPv4",
            "ports": [{"name": format!("p{port}"), "port": 8000 + port, "protocol": "TCP"},
                      {"name": format!("p{port}"), "port": 9000 + port, "protocol": "UDP"}],
            "endpoints": endpoints,
        });
        Event::Slice(value)
    })
}

fn node_event() -> impl Strategy<Value = Event> {
    (0u8..4, 0u8..3).prop_map(|(name, cidr)| {
        let node_name = if name == 0 { "here".to_owned() } else { format!("n{name}") };
        let value = json!({
            "metadata": {"name": node_name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podCIDR": format!("10.244.{cidr}.0/24")},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("172.16.0.{}", name + 1)}]},
        });
        Event::Node(value)
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => service_event(),
        1 => (0u8..6).prop_map(|name| Event::DeleteService { name }),
        6 => slice_event(),
        2 => (0u8..10).prop_map(|name| Event::DeleteSlice { name }),
        1 => node_event(),
        1 => (0u8..4).prop_map(|name| Event::DeleteNode { name }),
        2 => (0.0..1.0).prop_map(|share| Event::Killed { share }),
        3 => (0u64..1500).prop_map(|after_ms| Event::Synced { after_ms }),
    ]
}

fn ingest(state: &mut State, event: &Event) {
    match event {
        Event::Service(value) => apply_service(state, value.clone()),
        Event::DeleteService { name } => state.delete_service(&ObjectKey::new("ns", &format!("s{name}"))),
        Event::Slice(value) => apply_slice(state, value.clone()),
        Event::DeleteSlice { name } => state.delete_slice(&ObjectKey::new("ns", &format!("e{name}"))),
        Event::Node(value) => apply_node(state, value.clone()),
        Event::DeleteNode { name: 0 } => state.delete_node(&ObjectKey::new("", "here")),
        Event::DeleteNode { name } => state.delete_node(&ObjectKey::new("", &format!("n{name}"))),
        Event::Killed { .. } | Event::Synced { .. } => {}
    }
}

/// The same objects told to a process that never saw anything else, with empty maps.
fn from_scratch(events: &[Event]) -> World {
    let mut world = World::new();
    events.iter().for_each(|event| ingest(&mut world.state, event));
    world.sync();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interrupted_apply_converges_to_what_a_fresh_start_gives(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for event in &events {
            ingest(&mut world.state, event);
            match event {
                Event::Killed { share } => {
                    let ops = world.plan().ops;
                    let done = (ops.len() as f64 * share) as usize;
                    for op in &ops[..done] {
                        world.maps.execute(op);
                        meaning(&world.maps);
                    }
                    world.actual = Actual::restore(LIMITS, world.maps.clone(), world.now_ms);
                }
                Event::Synced { after_ms } => {
                    for op in world.plan().ops {
                        world.maps.execute(&op);
                        meaning(&world.maps);
                    }
                    prop_assert_eq!(world.actual.divergence(&world.maps), 0);
                    world.now_ms += after_ms;
                }
                _ => {}
            }
        }
        world.sync();
        let fresh = from_scratch(&events);
        prop_assert_eq!(meaning(&world.maps), meaning(&fresh.maps));
        prop_assert_eq!(&world.maps.pod_cidrs, &fresh.maps.pod_cidrs);
        prop_assert_eq!(&world.maps.tunnel_peers, &fresh.maps.tunnel_peers);

        // Retired runs are freed once they have rested, and then nothing is left: not now, and not for a
        // restart.
        world.now_ms += LIMITS.grace_ms;
        world.sync();
        let rest = world.plan();
        prop_assert_eq!((&rest.ops, rest.due_ms), (&vec![], None));
        let used: u32 = world.maps.slots.iter().filter(|slot| slot.service_id != 0).count() as u32;
        let pointed_to: HashSet<u32> =
            world.maps.frontends.values().flat_map(|f| [f.outside, f.inside]).flat_map(|w| w.first..w.end()).collect();
        prop_assert_eq!(used as usize, pointed_to.len());
        let ids: HashSet<u32> = world.maps.frontends.values().map(|f| f.service_id).collect();
        prop_assert!(world.maps.members.keys().all(|member| ids.contains(&member.service_id)));
        prop_assert!(world.maps.source_ranges.iter().all(|range| ids.contains(&range.of.service_id)));
        let mut restarted = Actual::restore(LIMITS, world.maps.clone(), 0);
        prop_assert_eq!(plan(&mut world.state, &mut restarted, 0).ops, vec![]);
    }

    /// Whatever stands in the maps, even nonsense, the next plan puts it right.
    #[test]
    fn damaged_maps_are_repaired(
        events in prop::collection::vec(event(), 1..40),
        damage in prop::collection::vec((0usize..64, any::<u8>(), any::<u8>()), 1..20),
    ) {
        let mut world = from_scratch(&events);
        for (at, what, by) in damage {
            let key = world.maps.frontends.keys().copied().min_by_key(|key| (usize::from(key.port.get()) + at) % 7);
            match (what % 6, key) {
                (0, Some(key)) => drop(world.maps.frontends.remove(&key)),
                (1, Some(key)) => world.maps.frontends.get_mut(&key).unwrap().outside.first = u32::from(by) * 3,
                (2, Some(key)) => world.maps.frontends.get_mut(&key).unwrap().inside.count = u32::from(by),
                (3, Some(key)) => world.maps.frontends.get_mut(&key).unwrap().service_id = u32::from(by % 8),
                (5, _) => {
                    let member = proxy_abi::Member { service_id: u32::from(by % 8), ..Default::default() };
                    world.maps.members.insert(member, 3);
                    world.maps.source_ranges.insert(proxy_abi::SourceRangeKey::new(u32::from(by % 8), Default::default(), 0));
                }
                (4, _) => if let Some(slot) = world.maps.slots.get_mut(at) { slot.service_id = u32::from(by % 8) },
                _ => {}
            }
        }
        world.actual = Actual::restore(LIMITS, world.maps.clone(), 0);
        world.sync();
        let fresh = from_scratch(&events);
        prop_assert_eq!(meaning(&world.maps), meaning(&fresh.maps));
        prop_assert_eq!(world.plan().ops, vec![]);
        prop_assert_eq!(world.actual.divergence(&world.maps), 0);
    }
}

#[test]
fn an_empty_map_and_no_objects_need_nothing() {
    let mut actual = Actual::restore(LIMITS, Dump::default(), 0);
    assert_eq!(plan(&mut State::new("here"), &mut actual, 0).ops, vec![]);
}
