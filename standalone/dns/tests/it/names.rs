//! The cluster's names: as the agent says, also when it says nothing.

use hickory_proto::rr::RecordType;
use serde_json::json;
use skerry_dns::serve::{Lookup, ask_admin};

use crate::world::World;

const WEB: &str = "web.ns.svc.cluster.local.";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_answered_as_soon_as_it_was_said() {
    let world = World::new(&[]).await;
    world.service("web", json!({"clusterIP": "10.96.0.7"}));
    world.eventually(WEB, RecordType::A, "10.96.0.7").await;
    world.service("web", json!({"clusterIP": "10.96.0.8"}));
    world.eventually(WEB, RecordType::A, "10.96.0.8").await;
    world.source.listed(0, |_| false);
    world.eventually(WEB, RecordType::A, "NXDOMAIN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_transports_answer_and_what_does_not_fit_is_asked_for_by_tcp() {
    let world = World::new(&[]).await;
    let endpoints: Vec<_> = (0..200).map(|last| json!({"addresses": [format!("10.244.0.{last}")]})).collect();
    world.service("many", json!({"clusterIP": "None"}));
    world.slice("many-1", "many", json!(endpoints));
    let name = "mAny.ns.svc.cluster.local.";
    let mut cut = None;
    while cut.as_ref().is_none_or(|cut: &hickory_proto::op::Message| cut.answers.is_empty()) {
        cut = world.ask_with(&World::question(name, RecordType::A, None)).await;
    }
    let cut = cut.unwrap();
    assert!(cut.metadata.truncation && cut.metadata.authoritative && cut.answers.len() < 40);
    let whole = world.ask_by_tcp(&World::question(name, RecordType::A, None)).await;
    assert!(!whole.metadata.truncation && whole.answers.len() == 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_without_an_agent_and_after_a_restart_without_one() {
    let mut world = World::new(&[]).await;
    world.service("web", json!({"clusterIP": "10.96.0.7"}));
    world.service("old", json!({"clusterIP": "10.96.0.9"}));
    world.complete();
    world.eventually("old.ns.svc.cluster.local.", RecordType::A, "10.96.0.9").await;
    world.eventually(WEB, RecordType::A, "10.96.0.7").await;
    world.stop_agent();
    assert_eq!(world.ask(WEB, RecordType::A).await, "10.96.0.7");
    // Another process, from the same folder, is told something else by a new agent: what is not said is gone.
    let state = std::fs::read(world.path("state")).unwrap();
    let mut later = World::new(&[]).await;
    assert_eq!(later.ask(WEB, RecordType::A).await, "NXDOMAIN");
    std::fs::write(later.path("state"), state).unwrap();
    later.start().await;
    later.eventually(WEB, RecordType::A, "10.96.0.7").await;
    later.service("web", json!({"clusterIP": "10.96.0.7"}));
    later.complete();
    // Two processes read from one socket here: whichever it is, in the end all say so.
    later.eventually("old.ns.svc.cluster.local.", RecordType::A, "NXDOMAIN").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_begins_anew_is_heard_again() {
    let mut world = World::new(&[]).await;
    world.service("web", json!({"clusterIP": "10.96.0.7"}));
    world.complete();
    world.eventually(WEB, RecordType::A, "10.96.0.7").await;
    world.stop_agent();
    world.service("web", json!({"clusterIP": "10.96.0.8"}));
    world.start_agent();
    world.eventually(WEB, RecordType::A, "10.96.0.8").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_told_why() {
    let world = World::new(&[]).await;
    world.service("web", json!({"clusterIP": "10.96.0.7"}));
    world.eventually(WEB, RecordType::A, "10.96.0.7").await;
    let path = world.path("admin.sock");
    let ask = |name: &str, kind: &str| {
        let (path, lookup) = (path.clone(), Lookup { name: name.to_owned(), kind: kind.to_owned() });
        tokio::task::spawn_blocking(move || ask_admin(&path, &lookup))
    };
    let told = ask("web.ns.svc.cluster.local", "a").await.unwrap().unwrap();
    assert_eq!((told.code.as_str(), told.answers.len()), ("NOERROR", 1));
    assert!(told.why[0].contains("address of its own"), "{told:?}");
    let told = ask("wbe.ns.svc.cluster.local", "A").await.unwrap().unwrap();
    assert_eq!(told.code, "NXDOMAIN");
    assert!(told.why[0].contains("no Service of this name"), "{told:?}");
    let error = ask("web", "NONSENSE").await.unwrap().unwrap_err().to_string();
    assert!(error.contains("NONSENSE"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_have_the_names_that_dashboards_read() {
    let world = World::new(&[]).await;
    world.service("web", json!({"clusterIP": "10.96.0.7"}));
    world.eventually(WEB, RecordType::A, "10.96.0.7").await;
    world.ask("nobody.ns.svc.cluster.local.", RecordType::AAAA).await;
    let text = world.metrics.text();
    for line in [
        r#"coredns_dns_requests_total{server="dns://:53",zone="cluster.local.",view="",proto="udp",family="1",type="A"}"#,
        r#"coredns_dns_responses_total{server="dns://:53",zone="cluster.local.",view="",rcode="NXDOMAIN",plugin="kubernetes"}"#,
        "coredns_dns_request_duration_seconds_bucket",
        "skerry_dns_services 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
