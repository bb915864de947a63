//! What of Nodes' claims is believed: ranges where pods may live and nobody else is, each an older Node's
//! before a younger one's, whatever order they are heard of in.

use std::collections::BTreeSet;

use crate::world::apply_node;
use proptest::prelude::*;
use proxy_abi::Addr;
use proxy_state::{Bounds, Cause, Kept, ObjectKey, State, api};
use serde_json::{Value, json};

const OLD: &str = "2026-01-01T00:00:00Z";
const YOUNG: &str = "2026-02-01T00:00:00Z";

fn node(name: &str, created: &str, ips: &[&str], cidrs: &[&str]) -> Value {
    let addresses: Vec<Value> = ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    json!({"metadata": {"name": name, "creationTimestamp": created, "uid": "0a6f8d7e-1111-4222-8333-444455556666"},
           "spec": {"podCIDRs": cidrs}, "status": {"addresses": addresses}})
}

fn addr(text: &str) -> Addr {
    text.parse::<std::net::IpAddr>().unwrap().into()
}

/// A cluster of `here` and `b`, whose node `here` we are.
fn cluster(bounds: Bounds) -> State {
    let mut state = State::new("here");
    state.set_bounds(bounds);
    apply_node(&mut state, node("here", OLD, &["172.31.0.1"], &["10.244.1.0/24", "fd00:10:244:1::/64"]));
    apply_node(&mut state, node("b", OLD, &["172.31.0.2"], &["10.244.2.0/24"]));
    state
}

fn within(cidrs: &[&str]) -> Bounds {
    Bounds { cluster: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(), ..Bounds::default() }
}

fn remote(state: &State) -> Vec<String> {
    state.node_tables().remote.iter().map(ToString::to_string).collect()
}

/// What is told of a Node: causes, and the first note.
fn told(state: &State, name: &str) -> (Vec<Cause>, String) {
    let tables = state.node_tables();
    let warnings = tables.warnings.get(&ObjectKey::new("", name)).cloned().unwrap_or_default();
    (
        warnings.iter().map(|warning| warning.cause).collect(),
        warnings.first().map_or(String::new(), |warning| warning.note.clone()),
    )
}

/// Each claim of a younger Node, with what is said of it; empty: it is believed.
#[test]
fn a_claim_is_believed_inside_the_clusters_ranges_where_nobody_else_is() {
    let bounds = Bounds {
        kept: [("10.244.9.1", Kept::Gateway), ("10.244.8.1", Kept::ApiServer), ("10.244.7.1", Kept::Own)]
            .map(|(ip, what)| (addr(ip), what))
            .into(),
        routes: ["10.244.6.0/24", "10.244.1.0/24"].map(|cidr| cidr.parse().unwrap()).into(),
        ..within(&["10.244.0.0/16", "fd00:10:244::/48"])
    };
    for (cidr, part) in [
        ("10.244.3.0/24", ""),
        ("fd00:10:244:3::/64", ""),
        // The nodes' own network, everything, a neighbour cluster.
        ("172.31.0.0/24", "lies outside of the cluster's (10.244.0.0/16, fd00:10:244::/48)"),
        ("0.0.0.0/0", "holds unspecified addresses"),
        ("0.0.0.0/1", "holds unspecified addresses"),
        ("10.245.0.0/24", "lies outside"),
        ("10.240.0.0/12", "lies outside"),
        ("fd00:10:245::/64", "lies outside"),
        ("::/0", "v4-mapped"),
        ("::ffff:10.244.3.0/120", "v4-mapped"),
        ("169.254.169.254/32", "link-local"),
        ("127.0.0.0/8", "loopback"),
        ("224.0.0.0/4", "multicast"),
        // Another's, a part of it, more than it.
        ("10.244.2.0/24", "overlaps 10.244.2.0/24 of the older Node b"),
        ("10.244.2.128/25", "overlaps 10.244.2.0/24 of the older Node b"),
        ("10.244.2.0/30", "overlaps 10.244.2.0/24 of the older Node b"),
        ("10.244.2.0/23", "overlaps 10.244.2.0/24 of the older Node b"),
        ("10.244.1.0/25", "overlaps 10.244.1.0/24 of the older Node here"),
        ("fd00:10:244:1:8000::/65", "overlaps fd00:10:244:1::/64 of the older Node here"),
        ("10.244.2.5/32", "no room for a router and a pod"),
        // What this node needs itself.
        ("10.244.9.0/24", "holds 10.244.9.1, this node's gateway address"),
        ("10.244.8.0/24", "holds 10.244.8.1, the API server's address"),
        ("10.244.7.0/24", "holds 10.244.7.1, this node's own address"),
        ("10.244.6.0/24", "a route to pod range 10.244.6.0/24 is there that is not Skerry's"),
    ] {
        let mut state = cluster(bounds.clone());
        apply_node(&mut state, node("evil", YOUNG, &["172.31.0.66"], &[cidr]));
        let (_, note) = told(&state, "evil");
        assert!(note.contains(part) && note.is_empty() == part.is_empty(), "{cidr}: {note}");
        let tables = state.node_tables();
        let is_led = tables.pod_cidrs.values().any(|cidr| cidr.node == addr("172.31.0.66"));
        assert_eq!(is_led, part.is_empty(), "{cidr}");
        assert!(remote(&state).contains(&"10.244.2.0/24".to_owned()), "{cidr}: b keeps its own");
        assert_eq!(state.node_tables().own.len(), 2, "{cidr}: we keep ours");
        state.delete_node(&ObjectKey::new("", "evil"));
        assert_eq!((remote(&state), told(&state, "evil").0), (vec!["10.244.2.0/24".to_owned()], vec![]));
    }
}

#[test]
fn where_the_clusters_ranges_are_not_known_nodes_and_services_bound_them() {
    let mut bounds = Bounds::default();
    bounds.kept.insert(addr("172.31.0.254"), Kept::Gateway);
    for (cidr, part) in [
        ("10.9.0.0/24", ""),
        ("172.31.0.0/24", "holds address 172.31.0.1 of Node here"),
        ("172.31.0.2/31", "no room"),
        ("172.31.0.0/30", "holds address 172.31.0.1 of Node here"),
        ("172.31.0.252/30", "holds 172.31.0.254, this node's gateway address"),
        ("10.96.7.0/24", "touches the Services' range 10.96.0.0/12"),
        ("10.0.0.0/8", "touches the Services' range 10.96.0.0/12"),
        ("10.244.2.8/29", "overlaps 10.244.2.0/24 of the older Node b"),
    ] {
        let mut state = cluster(bounds.clone());
        let services: api::ServiceCidr =
            serde_json::from_value(json!({"metadata": {"name": "k"}, "spec": {"cidrs": ["10.96.0.0/12"]}}))
                .unwrap();
        state.apply_service_cidr(ObjectKey::new("", "k"), &services);
        apply_node(&mut state, node("evil", YOUNG, &["172.31.0.66"], &[cidr]));
        let (_, note) = told(&state, "evil");
        assert!(note.contains(part) && note.is_empty() == part.is_empty(), "{cidr}: {note}");
        assert_eq!(remote(&state).contains(&cidr.to_owned()), part.is_empty(), "{cidr}");
    }
}

/// A Node that is older than all others, with the network of this node: what this node has itself outweighs
/// age.
#[test]
fn an_old_node_takes_no_network_that_this_node_is_in() {
    let mut bounds = Bounds::default();
    bounds.kept.insert(addr("172.31.0.1"), Kept::Own);
    let mut state = cluster(bounds);
    apply_node(&mut state, node("evil", "2025-01-01T00:00:00Z", &["192.0.2.66"], &["172.31.0.0/24"]));
    assert_eq!(remote(&state), ["10.244.2.0/24"]);
    let (causes, note) = told(&state, "evil");
    assert_eq!(causes, [Cause::PodRangeUnusable], "{note}");
}

/// A Node cannot take a pod's traffic, nor make a pod a peer of the tunnel, by an address among another's
/// pods.
#[test]
fn an_address_among_pods_is_no_nodes() {
    for bounds in [Bounds::default(), within(&["10.244.0.0/16", "fd00:10:244::/48"])] {
        let mut state = cluster(bounds);
        apply_node(&mut state, node("evil", YOUNG, &["10.244.2.5", "172.31.0.66"], &["10.244.3.0/24"]));
        let tables = state.node_tables();
        assert_eq!(tables.peers, ["172.31.0.2", "172.31.0.66"].map(addr).into());
        assert_eq!(remote(&state), ["10.244.2.0/24", "10.244.3.0/24"]);
        assert_eq!(told(&state, "evil").0, [Cause::AddressRefused]);
        let nodes: BTreeSet<Addr> = tables.pod_cidrs.values().map(|cidr| cidr.node).collect();
        assert_eq!(nodes, ["172.31.0.1", "172.31.0.2", "172.31.0.66"].map(addr).into());
    }
    // An old Node that says so later: only the cluster's ranges, where they are known, tell who is right.
    let mut state = cluster(within(&["10.244.0.0/16", "fd00:10:244::/48"]));
    apply_node(&mut state, node("elder", "2025-01-01T00:00:00Z", &["10.244.2.5"], &[]));
    assert_eq!(
        (remote(&state), told(&state, "elder").0),
        (vec!["10.244.2.0/24".to_owned()], vec![Cause::AddressRefused])
    );
}

#[test]
fn our_own_range_is_judged_like_the_others() {
    let mut state = cluster(within(&["10.245.0.0/16"]));
    let tables = state.node_tables();
    assert!(tables.own.is_empty() && tables.remote.is_empty());
    let (causes, note) = told(&state, "here");
    assert_eq!(causes, [Cause::PodRangeRefused]);
    assert!(
        note.contains("10.244.1.0/24 lies outside of the cluster's (10.245.0.0/16) (and 1 more)"),
        "{note}"
    );
    assert_eq!(state.uid(&ObjectKey::new("", "here")), "0a6f8d7e-1111-4222-8333-444455556666");
    // A route of others to our own range, as an earlier plugin's bridge has it, takes nothing away.
    let routes = ["10.244.1.0/24".parse().unwrap()].into();
    state.set_bounds(Bounds { routes, ..within(&["10.244.0.0/16", "fd00::/16"]) });
    assert_eq!(state.node_tables().own.len(), 2);
}

fn claim() -> impl Strategy<Value = (u8, u8, Vec<String>, u8)> {
    let cidr = (0u8..8, 22u8..31).prop_map(|(third, bits)| {
        let network: ipnetwork::IpNetwork = format!("10.244.{third}.0/{bits}").parse().unwrap();
        format!("{}/{bits}", network.network())
    });
    (0u8..8, 0u8..3, prop::collection::vec(cidr, 0..3), 0u8..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_two_ranges_touch_and_the_order_of_arrival_does_not_matter(
        claims in prop::collection::vec(claim(), 1..12),
        shift in 0usize..12,
        is_bounded in any::<bool>(),
    ) {
        let bounds = if is_bounded { within(&["10.244.0.0/21"]) } else { Bounds::default() };
        // The last claim of a name is what it says in the end.
        let objects: std::collections::BTreeMap<String, Value> = claims
            .iter()
            .map(|(name, age, cidrs, ip)| {
                let (name, created) = (format!("n{name}"), format!("2026-01-0{}T00:00:00Z", age + 1));
                let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
                let made = node(&name, &created, &[&format!("10.244.{ip}.7")], &cidrs);
                (name, made)
            })
            .collect();
        let told = |order: &mut dyn Iterator<Item = &Value>| {
            let mut state = State::new("n0");
            state.set_bounds(bounds.clone());
            order.for_each(|object| apply_node(&mut state, object.clone()));
            state.node_tables()
        };
        let tables = told(&mut objects.values());
        let mut turned: Vec<&Value> = objects.values().collect();
        turned.reverse();
        let at = shift % turned.len();
        turned.rotate_left(at);
        prop_assert_eq!(&told(&mut turned.into_iter()), &tables);
        let all: Vec<ipnetwork::IpNetwork> = tables.own.iter().chain(&tables.remote).copied().collect();
        for (i, a) in all.iter().enumerate() {
            prop_assert!(!is_bounded || "10.244.0.0/21".parse::<ipnetwork::IpNetwork>().unwrap().contains(a.broadcast()));
            for b in &all[i + 1..] {
                prop_assert!(!a.contains(b.network()) && !b.contains(a.network()), "{} {}", a, b);
            }
            // Nobody else's address is in it.
            prop_assert!(tables.peers.iter().all(|peer| !a.contains(peer.to_ip())));
        }
    }
}
