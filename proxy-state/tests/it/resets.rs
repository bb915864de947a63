//! Which connections a Service wants ended.

use std::net::IpAddr;

use crate::world::{World, service, slice};
use proxy_abi::{Addr, Be16, FrontendKey, frontend_kind, proto};
use proxy_state::{ObjectKey, Standing};
use serde_json::{Value, json};

fn annotated(text: &str) -> Value {
    let mut web = service("web", "10.96.0.1");
    web["metadata"]["annotations"] = json!({"service.skerry.io/reset-on-endpoint-removal": text});
    web
}

fn backend(ip: &str) -> (Addr, Be16) {
    (ip.parse::<IpAddr>().unwrap().into(), Be16::new(8080))
}

fn service_id(world: &World) -> u32 {
    let addr = "10.96.0.1".parse::<IpAddr>().unwrap().into();
    let key = FrontendKey { addr, port: Be16::new(80), proto: proto::TCP, kind: frontend_kind::ADDRESS };
    world.maps.frontends[&key].service_id
}

#[test]
fn an_endpoint_is_gone_when_no_slice_has_it_and_not_before() {
    let mut world = World::new();
    world.service(annotated(" true "));
    world.slice(slice("a", "web", &["10.0.0.1", "10.0.0.2"])).slice(slice("b", "web", &["10.0.0.2"])).sync();
    let id = service_id(&world);
    let is_gone = |world: &World, ip: &str| world.state.resets(&world.actual).is_gone(id, backend(ip));
    assert!(world.state.take_resets_dirty());
    assert!(!is_gone(&world, "10.0.0.1") && !is_gone(&world, "10.0.0.2") && is_gone(&world, "10.0.0.3"));
    // It gets no new connections, and finishes those that it has.
    let mut leaving = slice("a", "web", &["10.0.0.1"]);
    leaving["endpoints"][0]["conditions"] = json!({"ready": false, "serving": false, "terminating": true});
    world.slice(leaving).sync();
    assert!(world.state.take_resets_dirty());
    assert!(
        !is_gone(&world, "10.0.0.1") && !is_gone(&world, "10.0.0.2"),
        "one not ready, one in another slice"
    );
    world.slice(slice("a", "web", &[])).sync();
    assert!(is_gone(&world, "10.0.0.1") && !is_gone(&world, "10.0.0.2"));
    world.state.take_resets_dirty();
    world.service(service("web", "10.96.0.1")).sync();
    assert!(world.state.take_resets_dirty() && world.state.resets(&world.actual).is_empty());
    assert!(!is_gone(&world, "10.0.0.1"), "the annotation was taken away");
    world.slice(slice("a", "web", &["10.0.0.4"])).sync();
    assert!(!world.state.take_resets_dirty(), "a Service without it costs nothing");
}

#[test]
fn connections_of_a_service_that_is_gone_or_of_another_are_let_be() {
    let mut world = World::new();
    world
        .service(annotated("true"))
        .service(service("other", "10.96.0.2"))
        .slice(slice("a", "web", &[]))
        .sync();
    let id = service_id(&world);
    let resets = world.state.resets(&world.actual);
    assert!(resets.is_gone(id, backend("10.0.0.1")));
    for other in (0..=id + 5).filter(|other| *other != id) {
        assert!(!resets.is_gone(other, backend("10.0.0.1")), "{other}");
    }
    world.state.delete_service(&ObjectKey::new("ns", "web"));
    world.sync();
    assert!(world.state.take_resets_dirty() && world.state.resets(&world.actual).is_empty());
}

#[test]
fn an_annotation_that_cant_be_read_is_false_and_its_owner_is_told() {
    for (text, is_understood) in [("true", true), ("false", true), ("yes", false), ("", false), ("1", false)]
    {
        let mut world = World::new();
        world.service(annotated(text)).slice(slice("a", "web", &["10.0.0.1"])).sync();
        assert_eq!(world.state.resets(&world.actual).is_empty(), text != "true", "{text}");
        let warnings = world.state.warnings(&ObjectKey::new("ns", "web"));
        assert_eq!(warnings.is_empty(), is_understood, "{text}: {warnings:?}");
        for warning in warnings {
            let names = ["reset-on-endpoint-removal", &format!("`{text}`"), "true or false"];
            assert!(names.iter().all(|name| warning.note.contains(name)), "{}", warning.note);
        }
    }
}

#[test]
fn only_what_stays_gone_is_due() {
    let mut standing = Standing::new(1_000);
    let look = |standing: &mut Standing<u8>, stale: &[u8], now_ms| {
        let mut found = standing.look(stale, now_ms);
        found.due.sort();
        (found.due, found.next_ms)
    };
    assert_eq!(look(&mut standing, &[1, 2], 5_000), (vec![], Some(6_000)));
    assert_eq!(look(&mut standing, &[2, 3], 5_400), (vec![], Some(6_000)));
    // The first has come back for a moment: it begins anew.
    assert_eq!(look(&mut standing, &[1, 2, 3], 6_000), (vec![2], Some(6_400)));
    assert_eq!(look(&mut standing, &[1, 3], 7_000), (vec![1, 3], None));
    assert_eq!(look(&mut standing, &[], 7_001), (vec![], None));
}
