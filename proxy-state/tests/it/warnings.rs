//! What a Service's owner is told: who else has its address, what is not served, what did not fit.

use crate::world::{LIMITS, World, service, slice};
use proxy_state::{Cause, ObjectKey, Warning};
use serde_json::{Value, json};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn warnings(world: &World, name: &str) -> Vec<(Cause, String)> {
    world.state.warnings(&key(name)).into_iter().map(|Warning { cause, note }| (cause, note)).collect()
}

fn causes(world: &World, name: &str) -> Vec<Cause> {
    world.state.warnings(&key(name)).iter().map(|warning| warning.cause).collect()
}

fn external(name: &str, cluster_ip: &str, created: &str, ips: &[&str]) -> Value {
    let mut made = service(name, cluster_ip);
    made["metadata"]["creationTimestamp"] = json!(created);
    made["spec"]["externalIPs"] = json!(ips);
    made
}

const OLD: &str = "2026-01-01T00:00:00Z";
const YOUNG: &str = "2026-02-01T00:00:00Z";

#[test]
fn the_older_service_has_the_address_and_the_younger_is_told() {
    let mut world = World::new();
    world.service(external("young", "10.96.0.2", YOUNG, &["192.0.2.1"]));
    world.sync();
    assert!(causes(&world, "young").is_empty());
    world.service(external("old", "10.96.0.1", OLD, &["192.0.2.1"]));
    let plan = world.sync();
    assert!(plan.owners.contains(&key("young")), "who lost it is looked at again: {:?}", plan.owners);
    assert!(causes(&world, "old").is_empty());
    let told = warnings(&world, "young");
    assert_eq!(told[0].0, Cause::AddressTaken);
    assert!(told[0].1.starts_with("port 80/TCP of address 192.0.2.1 belongs to the older Service ns/old: "));
    // Another port of a shared address is nobody's loss.
    let mut other = external("young", "10.96.0.2", YOUNG, &["192.0.2.1"]);
    other["spec"]["ports"][0]["port"] = json!(81);
    world.service(other).sync();
    assert!(causes(&world, "young").is_empty());
    world.service(external("young", "10.96.0.2", YOUNG, &["192.0.2.1"])).sync();
    world.state.delete_service(&key("old"));
    let plan = world.sync();
    assert!(plan.owners.contains(&key("young")) && causes(&world, "young").is_empty());
}

#[test]
fn a_node_port_that_two_have_is_named_and_what_follows_is_counted() {
    let mut world = World::new();
    for (name, ip, created) in [("old", "10.96.0.1", OLD), ("young", "10.96.0.2", YOUNG)] {
        let mut made = external(name, ip, created, &["192.0.2.1"]);
        made["spec"]["type"] = json!("NodePort");
        made["spec"]["ports"][0]["nodePort"] = json!(30080);
        world.service(made);
    }
    world.sync();
    let note = &warnings(&world, "young")[0].1;
    assert!(note.contains("(and 1 more)") && note.len() < 1024, "{note}");
}

#[test]
fn external_addresses_of_nodes_and_services_are_served_and_told() {
    let mut world = World::new();
    world.service(service("web", "10.96.0.1"));
    world.service(external("thief", "10.96.0.2", YOUNG, &["172.16.0.9", "10.96.0.1"])).sync();
    assert_eq!(causes(&world, "thief"), [Cause::AddressTaken, Cause::AddressOfService]);
    let node = json!({"metadata": {"name": "n9"},
                      "status": {"addresses": [{"type": "InternalIP", "address": "172.16.0.9"}]}});
    let plan = world.node(node).sync();
    assert!(plan.owners.contains(&key("thief")));
    let told = warnings(&world, "thief");
    assert_eq!(told[1].0, Cause::AddressOfNode);
    assert!(told[1].1.contains("172.16.0.9 is that of Node n9"), "{told:?}");
    world.state.delete_node(&ObjectKey::new("", "n9"));
    assert!(world.sync().owners.contains(&key("thief")));
    assert_eq!(causes(&world, "thief"), [Cause::AddressTaken, Cause::AddressOfService]);
}

#[test]
fn addresses_that_reach_a_node_itself_are_refused_and_told() {
    let mut world = World::new();
    world.state.limit_external_ips(&["192.0.2.0/24".parse().unwrap()]);
    world.service(external("web", "10.96.0.1", OLD, &["127.0.0.1", "192.0.2.1", "198.51.100.1"]));
    let addresses = ["127.0.0.1", "169.254.169.254", "10.0.0.1", "224.0.0.1", "0.0.0.0"];
    world.slice(slice("e", "web", &addresses)).sync();
    let told = warnings(&world, "web");
    assert_eq!([told[0].0, told[1].0], [Cause::AddressRefused, Cause::EndpointRefused]);
    assert!(told[0].1.starts_with("external address 127.0.0.1 is loopback (and 1 more): "), "{told:?}");
    assert!(told[1].1.starts_with("endpoint 127.0.0.1 is loopback (and 3 more): "), "{told:?}");
    assert_eq!(world.maps.slots.iter().filter(|slot| slot.service_id != 0).count(), 1);
    let mut v6 = slice("e6", "web", &["::1", "fe80::1", "ff02::1", "fd00::1"]);
    v6["addressType"] = json!("IPv6");
    world.slice(slice("e", "web", &["10.0.0.1"])).slice(v6).sync();
    assert!(warnings(&world, "web")[1].1.starts_with("endpoint ::1 is loopback (and 2 more): "));
}

#[test]
fn what_does_not_fit_is_told_in_the_same_words_each_time() {
    let mut world = World::with(proxy_state::Limits { slots: 4, ..LIMITS });
    world.service(service("small", "10.96.0.1")).slice(slice("e1", "small", &["10.0.0.1", "10.0.0.2"]));
    world.sync();
    world.service(service("big", "10.96.0.2"));
    world.slice(slice("e2", "big", &["10.0.1.1", "10.0.1.2", "10.0.1.3"]));
    let first = world.sync();
    let (service, warning) = first.refused[0].warning().unwrap();
    assert_eq!((service, warning.cause), (&key("big"), Cause::DoesNotFit));
    let second = world.sync();
    assert_eq!(second.refused[0].warning().unwrap().1, warning, "tried again with each plan");
    assert!(!warning.cause.is_everywhere() && Cause::AddressTaken.is_everywhere());
}

/// A change that has no room beside the run it replaces waits for one that rests; nobody is told.
#[test]
fn a_change_waits_for_a_run_that_rests() {
    let mut world = World::with(proxy_state::Limits { slots: 8, ..LIMITS });
    world.service(service("web", "10.96.0.1")).slice(slice(
        "e",
        "web",
        &["10.0.0.1", "10.0.0.2", "10.0.0.3"],
    ));
    world.sync();
    world.slice(slice("e", "web", &["10.0.0.1", "10.0.0.2", "10.0.0.4"])).sync();
    world.slice(slice("e", "web", &["10.0.0.1", "10.0.0.2", "10.0.0.5"]));
    let waits = world.sync();
    assert!(waits.refused.is_empty() && waits.due_ms.is_some() && world.state.is_dirty());
    world.now_ms = waits.due_ms.unwrap();
    let done = world.sync();
    assert!(done.refused.is_empty() && !world.state.is_dirty());
    let last = "10.0.0.5".parse::<std::net::IpAddr>().unwrap().into();
    assert!(world.maps.slots.iter().any(|slot| slot.addr == last));
}

/// One of the nodes tells of a service, every node knows which, and only Ready ones stand.
#[test]
fn one_node_tells_what_all_see() {
    let node = |name: &str, is_ready: bool| {
        let status = if is_ready { "True" } else { "False" };
        json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}})
    };
    let tells = |us: &str| {
        let mut world = World::new();
        world.state = proxy_state::State::new(us);
        for (name, is_ready) in [("a", true), ("b", true), ("c", true), ("d", false)] {
            world.node(node(name, is_ready));
        }
        (0..300).map(|n| world.state.tells_of(&key(&format!("s{n}")))).collect::<Vec<bool>>()
    };
    let all = ["a", "b", "c", "d"].map(tells);
    for n in 0..300 {
        assert_eq!(all.iter().filter(|one| one[n]).count(), 1);
    }
    let counts = all.each_ref().map(|one| one.iter().filter(|tells| **tells).count());
    assert!(counts[3] == 0 && counts[..3].iter().all(|count| *count > 60), "{counts:?}");
    assert!(World::new().state.tells_of(&key("s")), "no node is known yet");
}

#[test]
fn a_uid_is_told_as_it_was_written() {
    let mut world = World::new();
    let mut made = service("web", "10.96.0.1");
    made["metadata"]["uid"] = json!("0a6f8d7e-1111-4222-8333-444455556666");
    world.service(made).service(service("bare", "10.96.0.2"));
    assert_eq!(world.state.uid(&key("web")), "0a6f8d7e-1111-4222-8333-444455556666");
    assert_eq!(world.state.uid(&key("bare")), "");
}

/// Row 66: what a change of one Service costs does not depend on how many there are.
#[test]
fn operations_for_one_service_are_few_among_ten_thousand() {
    let mut counts = Vec::new();
    for services in [10_u32, 10_000] {
        let limits = proxy_state::Limits { frontends: 65_536, slots: 262_144, members: 65_536, ..LIMITS };
        let mut world = World::with(limits);
        for n in 0..services {
            world.service(service(&format!("s{n}"), &format!("10.97.{}.{}", n / 250, 1 + n % 250)));
            world.slice(slice(&format!("e{n}"), &format!("s{n}"), &["10.0.0.1", "10.0.0.2"]));
        }
        world.sync();
        world.now_ms += LIMITS.grace_ms;
        world.sync();
        let before = std::time::Instant::now();
        world.slice(slice("e7", "s7", &["10.0.0.1", "10.0.0.3"]));
        let changed = world.sync();
        let took = before.elapsed();
        world.now_ms += LIMITS.grace_ms;
        let freed = world.sync();
        world.service(service("new", "10.98.0.1")).slice(slice("e-new", "new", &["10.0.0.1"]));
        let made = world.sync();
        world.state.delete_service(&key("new"));
        let gone = world.sync();
        println!("{services} services: one endpoint changed in {took:?}");
        counts.push([&changed, &freed, &made, &gone].map(|plan| (plan.ops.len(), plan.owners.len())));
    }
    println!("operations and services looked at: {:?}", counts[1]);
    assert_eq!(counts[0], counts[1]);
    assert!(counts[1].iter().all(|(operations, services)| *operations <= 4 && *services <= 1));
}
