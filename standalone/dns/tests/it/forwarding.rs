//! Names of others: resolvers that are slow, silent, lying, looping.

use std::{sync::Arc, time::Duration};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use serde_json::json;

use crate::{
    stub::{Stub, answer_to},
    world::{World, text},
};

fn with_address(question: &Message, last: u8, ttl: u32) -> Message {
    let mut answer = answer_to(question);
    let name = question.queries[0].name().clone();
    answer.add_answer(Record::from_rdata(name, ttl, RData::A(A::new(192, 0, 2, last))));
    answer
}

async fn well() -> Stub {
    Stub::new(|question, _| vec![with_address(question, 1, 60)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_asked_once_in_capitals_of_our_own_and_kept() {
    let stub = well().await;
    let world = World::new(&[stub.address]).await;
    let name = "a-rather-long-name.with-many-letters.example.";
    world.eventually(name, RecordType::A, "192.0.2.1").await;
    for _ in 0..5 {
        assert_eq!(world.ask(&name.to_uppercase(), RecordType::A).await, "192.0.2.1");
    }
    let heard: Vec<String> = stub.heard.lock().unwrap().clone();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0] != name && heard[0].eq_ignore_ascii_case(name), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_want_the_same_ask_once() {
    let stub = well().await;
    let world = Arc::new(World::new(&[stub.address]).await);
    world.eventually("first.example.", RecordType::A, "192.0.2.1").await;
    let asking: Vec<_> = (0..50)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.ask("same.example.", RecordType::A).await })
        })
        .collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), "192.0.2.1");
    }
    assert_eq!(stub.asked(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_resolver_is_passed_over_and_then_left_alone() {
    let (silent, stub) = (Stub::new(|_, _| Vec::new()).await, well().await);
    let world = World::new(&[silent.address, stub.address]).await;
    for number in 0..6 {
        world.eventually(&format!("n{number}.example."), RecordType::A, "192.0.2.1").await;
    }
    assert!(silent.asked() < 6, "asked {} times", silent.asked());
    assert!(world.metrics.text().contains("coredns_proxy_healthcheck_failures_total"));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_that_is_said_in_time() {
    let silent = Stub::new(|_, _| Vec::new()).await;
    let world = World::new(&[silent.address]).await;
    world.eventually("a.example.", RecordType::A, "SERVFAIL").await;
    let without = World::new(&[]).await;
    assert_eq!(without.ask("a.example.", RecordType::A).await, "SERVFAIL");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_run_out_serves_while_nobody_answers() {
    let is_well = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let stub = {
        let is_well = is_well.clone();
        Stub::new(move |question, _| match is_well.load(std::sync::atomic::Ordering::SeqCst) {
            true => vec![with_address(question, 1, 1)],
            false => Vec::new(),
        })
        .await
    };
    let world = World::new(&[stub.address]).await;
    world.eventually("a.example.", RecordType::A, "192.0.2.1").await;
    is_well.store(false, std::sync::atomic::Ordering::SeqCst);
    // Its second runs out, and the resolver is asked in vain; all the while there is an answer.
    let until = tokio::time::Instant::now() + crate::world::PATIENCE;
    let mut ttl = 1;
    while ttl != 30 {
        assert!(tokio::time::Instant::now() < until, "still fresh: {ttl} s");
        let answer = world.ask_with(&World::question("a.example.", RecordType::A, None)).await.unwrap();
        assert_eq!(text(&answer), "192.0.2.1");
        ttl = answer.answers[0].ttl;
    }
    let asked = stub.asked();
    assert!(asked > 1, "asked {asked} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_fetched_by_tcp() {
    let stub = Stub::new(|question, by_tcp| {
        let mut answer = answer_to(question);
        if by_tcp {
            let name = question.queries[0].name();
            let record = |last| Record::from_rdata(name.clone(), 60, RData::A(A::new(192, 0, 2, last)));
            answer.add_answers((0..150).map(record));
        } else {
            answer.metadata.truncation = true;
        }
        vec![answer]
    })
    .await;
    let world = World::new(&[stub.address]).await;
    let question = World::question("many.example.", RecordType::A, None);
    let mut whole = world.ask_by_tcp(&question).await;
    while whole.metadata.response_code == ResponseCode::ServFail {
        whole = world.ask_by_tcp(&question).await;
    }
    assert_eq!(whole.answers.len(), 150);
    let cut = world.ask_with(&question).await.unwrap();
    assert!(cut.metadata.truncation && cut.answers.len() < 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_were_not_asked_for_are_not_believed() {
    let stub = Stub::new(|question, by_tcp| {
        let forged = |change: &dyn Fn(&mut Message)| {
            let mut answer = with_address(question, 66, 60);
            change(&mut answer);
            answer
        };
        if by_tcp {
            return vec![with_address(question, 1, 60)];
        }
        vec![
            forged(&|answer| answer.metadata.id = answer.metadata.id.wrapping_add(1)),
            forged(&|answer| answer.queries[0].name = Name::from_ascii("other.example.").unwrap()),
            // The right name in other capitals: somebody has guessed the rest.
            forged(&|answer| answer.queries[0].name = answer.queries[0].name.to_lowercase()),
        ]
    })
    .await;
    let world = World::new(&[stub.address]).await;
    world.eventually("a-name-with-many-letters-in-it.example.", RecordType::A, "192.0.2.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_asks_us_is_found_and_left_out() {
    let world = Arc::new(World::new(&[]).await);
    let (back, socket) = (world.address, tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let looping = socket.local_addr().unwrap();
    // It hands every question on to us, and our answer back.
    tokio::spawn(async move {
        let onward = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        onward.connect(back).await.unwrap();
        let (mut question, mut answer) = ([0; 2048], [0; 2048]);
        let mut asked_by = None;
        loop {
            tokio::select! {
                got = socket.recv_from(&mut question) => {
                    let (length, from) = got.unwrap();
                    asked_by = Some(from);
                    onward.send(&question[..length]).await.unwrap();
                }
                got = onward.recv(&mut answer) => {
                    let length = got.unwrap();
                    socket.send_to(&answer[..length], asked_by.unwrap()).await.unwrap();
                }
            }
        }
    });
    world.set(&format!("forward: ['{looping}']"));
    let path = world.path("admin.sock");
    let why = || async {
        let path = path.clone();
        let lookup = skerry_dns::serve::Lookup { name: "a.example".into(), kind: "A".into() };
        let told = tokio::task::spawn_blocking(move || skerry_dns::serve::ask_admin(&path, &lookup));
        told.await.unwrap().unwrap().why.join("; ")
    };
    let until = tokio::time::Instant::now() + crate::world::PATIENCE;
    loop {
        let why = why().await;
        if why.contains("leads back here") && why.contains("every resolver") {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_take_all_places_and_is_named() {
    let silent = Stub::new(|_, _| Vec::new()).await;
    let world = World::new(&[silent.address]).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(world.address).await.unwrap();
    world.service("web", json!({"clusterIP": "10.96.0.7"}));
    world.eventually("web.ns.svc.cluster.local.", RecordType::A, "10.96.0.7").await;
    let mut refused = false;
    let mut buffer = [0; 1500];
    for number in 0..2000 {
        let question = World::question(&format!("n{number}.example."), RecordType::A, None);
        socket.send(&question.to_vec().unwrap()).await.unwrap();
        while let Ok(length) = socket.try_recv(&mut buffer) {
            let answer = Message::from_vec(&buffer[..length]).unwrap();
            refused |= answer.metadata.response_code == ResponseCode::Refused;
        }
        tokio::task::yield_now().await;
    }
    while !refused {
        let length =
            tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.unwrap().unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        refused = answer.metadata.response_code == ResponseCode::Refused;
    }
    assert!(world.metrics.text().contains(r#"skerry_dns_dropped_total{reason="client_limit"}"#));
    // The cluster's own names are answered all the while; a question that finds the socket's queue full of
    // the flood is lost, and asked again, as resolvers do.
    world.eventually("web.ns.svc.cluster.local.", RecordType::A, "10.96.0.7").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_name_is_followed_to_its_address() {
    let stub = well().await;
    let world = World::new(&[stub.address]).await;
    world.service("out", json!({"type": "ExternalName", "externalName": "db.example.org"}));
    world.eventually("out.ns.svc.cluster.local.", RecordType::A, "db.example.org., 192.0.2.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_sets_zones_hosts_and_other_names() {
    let (stub, corp) = (well().await, Stub::new(|question, _| vec![with_address(question, 2, 60)]).await);
    let world = World::new(&[]).await;
    world.set(&format!(
        "forward: ['{}']\nstubDomains: {{corp.example: ['{}']}}\nhosts: {{here.example: [192.0.2.3]}}\n\
         rewrites: [{{name: old.example, to: a.corp.example}}]\n",
        stub.address, corp.address
    ));
    world.eventually("a.example.", RecordType::A, "192.0.2.1").await;
    for (name, kind, expected) in [
        ("b.corp.example.", RecordType::A, "192.0.2.2"),
        ("here.example.", RecordType::A, "192.0.2.3"),
        ("here.example.", RecordType::AAAA, "NODATA"),
        ("3.2.0.192.in-addr.arpa.", RecordType::PTR, "here.example."),
    ] {
        assert_eq!(world.ask(name, kind).await, expected, "{name} {kind}");
    }
    let answer = world.ask_with(&World::question("OLD.example.", RecordType::A, None)).await.unwrap();
    assert_eq!(
        (text(&answer).as_str(), answer.answers[0].name.to_ascii().as_str()),
        ("192.0.2.2", "OLD.example.")
    );
    // What can't be read changes nothing.
    world.set("forward: nonsense");
    world.service("web", json!({"clusterIP": "10.96.0.7"}));
    world.eventually("web.ns.svc.cluster.local.", RecordType::A, "10.96.0.7").await;
    assert_eq!(world.ask("c.corp.example.", RecordType::A).await, "192.0.2.2");
}
