//! How large a backend's share is.

use crate::{
    shown::{key, node_port},
    world::{LIMITS, World, service, slice},
};
use proxy_abi::{Frontend, FrontendKey, Window, frontend_flag, proto};
use proxy_state::{Limits, ObjectKey};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[test]
fn maglev_by_annotation_gives_each_backend_its_share() {
    let mut world = World::with(Limits { slots: 8192, ..LIMITS });
    let mut web = service("web", "10.96.0.1");
    web["metadata"]["annotations"] =
        json!({"service.skerry.io/balancing": "maglev", "service.skerry.io/maglev-table-size": "4000"});
    world.service(web).slice(slice("e", "web", &["10.0.0.1", "10.0.0.2"])).sync();
    let frontend = world.maps.frontends[&key("10.96.0.1", 80, proto::TCP)];
    assert!(frontend.flags & frontend_flag::MAGLEV != 0 && frontend.inside.count == 4093, "{frontend:?}");
    let run = &world.maps.slots[frontend.inside.first as usize..frontend.inside.end() as usize];
    let first = run.iter().filter(|slot| slot.addr.to_string() == "10.0.0.1").count();
    assert!(first.abs_diff(4093 / 2) <= 1, "{first}");
    assert!(world.plan().ops.is_empty(), "the same table is not written twice");
}

/// How often each backend stands in a window, by the last number of its address.
fn shares(world: &World, of: FrontendKey, window: impl Fn(&Frontend) -> Window) -> BTreeMap<u8, u32> {
    let window = window(&world.maps.frontends[&of]);
    let mut shares = BTreeMap::new();
    for slot in &world.maps.slots[window.first as usize..window.end() as usize] {
        *shares.entry(slot.addr.octets()[15]).or_default() += 1;
    }
    shares
}

fn weighted(name: &str, weight: &str, ips: &[&str]) -> Value {
    let mut slice = slice(name, "web", ips);
    slice["metadata"]["annotations"] = json!({"service.skerry.io/weight": weight});
    slice
}

#[test]
fn a_slices_weight_is_the_share_of_its_endpoints() {
    let mut world = World::with(Limits { slots: 8192, ..LIMITS });
    let at = key("10.96.0.1", 80, proto::TCP);
    world.service(service("web", "10.96.0.1"));
    world.slice(weighted("strong", "90", &["10.0.0.1", "10.0.0.2"])).slice(weighted(
        "weak",
        "10",
        &["10.0.0.3"],
    ));
    world.sync();
    assert_eq!(shares(&world, at, |f| f.inside), [(1, 9), (2, 9), (3, 1)].into());
    assert!(world.plan().ops.is_empty(), "the same run is not written twice");
    // An endpoint on its way from one slice to another counts once, by the larger weight.
    world.slice(weighted("weak", "10", &["10.0.0.2", "10.0.0.3"])).sync();
    assert_eq!(shares(&world, at, |f| f.inside), [(1, 9), (2, 9), (3, 1)].into());
    // Alike again: one element each.
    world.slice(weighted("weak", "90", &["10.0.0.3"])).sync();
    assert_eq!(shares(&world, at, |f| f.inside), [(1, 1), (2, 1), (3, 1)].into());
    // Weights with no common divisor, of many endpoints: shares are rounded, nobody goes without.
    let many: Vec<String> = (1..=250).map(|n| format!("10.0.1.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    world
        .slice(weighted("strong", "97", &many))
        .slice(weighted("weak", "1", &["10.0.0.3", "10.0.0.4"]))
        .sync();
    let all = shares(&world, at, |f| f.inside);
    assert!(all.values().sum::<u32>() <= 4_096 + 252 && all[&200] == 16 && all[&3] == 17, "{all:?}");
}

#[test]
fn weights_hold_in_both_windows_and_in_maglev_tables() {
    let mut world = World::with(Limits { slots: 8192, ..LIMITS });
    let mut web = service("web", "10.96.0.1");
    web["spec"]["type"] = json!("NodePort");
    web["spec"]["ports"][0]["nodePort"] = json!(30080);
    web["spec"]["externalTrafficPolicy"] = json!("Local");
    let near = |name: &str, weight: &str, ips: &[&str]| {
        let mut slice = weighted(name, weight, ips);
        for endpoint in slice["endpoints"].as_array_mut().unwrap() {
            endpoint["nodeName"] = json!("here");
        }
        slice
    };
    world.service(web.clone());
    world.slice(near("here", "6", &["10.0.0.1"])).slice(near("too", "3", &["10.0.0.2"]));
    world.slice(weighted("far", "9", &["10.0.0.3"])).sync();
    let at = node_port(30_080);
    assert_eq!(shares(&world, at, |f| f.inside), [(1, 2), (2, 1), (3, 3)].into());
    assert_eq!(shares(&world, at, |f| f.outside), [(1, 2), (2, 1)].into());
    web["metadata"]["annotations"] = json!({"service.skerry.io/balancing": "maglev"});
    world.service(web).sync();
    let table = shares(&world, at, |f| f.inside);
    let size = table.values().sum::<u32>();
    assert!(table[&3].abs_diff(size / 2) <= 9 && table[&2].abs_diff(size / 6) <= 9, "{table:?}");
}

#[test]
fn a_weight_that_cant_be_read_is_one_and_its_owner_is_told() {
    for text in ["0", "101", "much", "-1", "2.5"] {
        let mut world = World::new();
        world.service(service("web", "10.96.0.1")).slice(weighted("odd", text, &["10.0.0.1"]));
        world.slice(weighted("even", " 3 ", &["10.0.0.2"])).sync();
        assert_eq!(shares(&world, key("10.96.0.1", 80, proto::TCP), |f| f.inside), [(1, 1), (2, 3)].into());
        let warnings = world.state.warnings(&ObjectKey::new("ns", "web"));
        assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
        let note = &warnings[0].note;
        assert!(note.contains("odd") && note.contains(text) && note.contains("from 1 to 100"), "{note}");
    }
}
