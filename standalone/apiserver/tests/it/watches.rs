//! Watches.

use crate::support::{CONFIG_MAPS, PODS, TestServer, bind, config_map, pod};
use serde_json::json;

#[tokio::test]
async fn a_watch_without_a_version_starts_with_the_state() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let mut events = admin.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(events.brief().await, "ADDED a");
    let made = admin.post(CONFIG_MAPS, &config_map("b")).await.ok();
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "ADDED");
    assert_eq!(event["object"], made);
    admin.patch(&format!("{CONFIG_MAPS}/b"), "merge", &json!({"data": {"x": "y"}})).await.ok();
    assert_eq!(events.brief().await, "MODIFIED b");
    admin.delete(&format!("{CONFIG_MAPS}/b")).await.ok();
    let gone = events.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["data"]["x"], "y");
    let version = |object: &serde_json::Value| {
        object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
    };
    assert!(version(&gone["object"]) > version(&made));
}

#[tokio::test]
async fn a_watch_from_a_version_gets_what_came_after_it() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let first = admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    admin.post(CONFIG_MAPS, &config_map("b")).await.ok();
    admin.post(PODS, &pod("p")).await.ok();
    admin.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = admin.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(events.brief().await, "ADDED b");
    assert_eq!(events.brief().await, "DELETED a");
    admin.post(CONFIG_MAPS, &config_map("c")).await.ok();
    assert_eq!(events.brief().await, "ADDED c");
}

#[tokio::test]
async fn every_watcher_sees_every_change_once_and_in_order() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let start = crate::support::revision(&*server.store);
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={start}");
    let mut watchers = Vec::new();
    for _ in 0..8 {
        watchers.push(admin.watch(&path).await);
    }
    for number in 0..50 {
        admin.post(CONFIG_MAPS, &config_map(&format!("m{number}"))).await.ok();
    }
    // One that comes late replays first.
    watchers.push(admin.watch(&path).await);
    for watcher in &mut watchers {
        for number in 0..50 {
            assert_eq!(watcher.brief().await, format!("ADDED m{number}"));
        }
    }
}

#[tokio::test]
async fn other_namespaces_are_not_seen() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut events = admin.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    admin.post("/api/v1/namespaces/kube-system/configmaps", &config_map("other")).await.ok();
    admin.post(CONFIG_MAPS, &config_map("mine")).await.ok();
    assert_eq!(events.brief().await, "ADDED mine");
}

#[tokio::test]
async fn an_object_that_enters_or_leaves_a_selection_is_added_or_deleted() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut labelled = admin.watch(&format!("{PODS}?watch=1&labelSelector=tier%3Dfront")).await;
    let mut bound = admin.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1").await;
    admin.post(PODS, &pod("a")).await.ok();
    let path = format!("{PODS}/a");
    admin.patch(&path, "merge", &json!({"metadata": {"labels": {"tier": "front"}}})).await.ok();
    assert_eq!(labelled.brief().await, "ADDED a");
    bind(&admin, "a", "n1").await.ok();
    assert_eq!(labelled.brief().await, "MODIFIED a");
    assert_eq!(bound.brief().await, "ADDED a");
    let left = admin.patch(&path, "merge", &json!({"metadata": {"labels": {"tier": "back"}}})).await.ok();
    let event = labelled.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    // The state before, under the version of the change.
    assert_eq!(event["object"]["metadata"]["labels"]["tier"], "front");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left["metadata"]["resourceVersion"]);
    assert_eq!(bound.brief().await, "MODIFIED a");
    admin.delete(&format!("{path}?gracePeriodSeconds=0")).await.ok();
    assert_eq!(bound.brief().await, "DELETED a");
}

#[tokio::test]
async fn a_watch_list_marks_the_end_of_its_initial_events() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["a", "b"] {
        admin.post(CONFIG_MAPS, &config_map(name)).await.ok();
    }
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = admin.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(events.brief().await, "ADDED a");
    assert_eq!(events.brief().await, "ADDED b");
    let mark = events.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["kind"], "ConfigMap");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(
        mark["object"]["metadata"]["resourceVersion"],
        crate::support::revision(&*server.store).to_string()
    );
    admin.post(CONFIG_MAPS, &config_map("c")).await.ok();
    assert_eq!(events.brief().await, "ADDED c");
    admin.get(&format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=true")).await.refused(400);
}

#[tokio::test]
async fn a_watch_ends_after_its_time_with_a_bookmark() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let query = "watch=1&timeoutSeconds=1&allowWatchBookmarks=true";
    let mut events = admin.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    // What other kinds' changes have done to the revision is known to a bookmark.
    admin.post(PODS, &pod("p")).await.ok();
    let mark = events.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_version_that_is_forgotten_is_answered_with_gone() {
    let server = TestServer::start_forgetful().await;
    let admin = server.admin();
    for number in 0..12 {
        admin.post(CONFIG_MAPS, &config_map(&format!("m{number}"))).await.ok();
    }
    for version in ["1", "999999"] {
        let mut events = admin.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}")).await;
        let error = events.next().await.unwrap();
        assert_eq!(error["type"], "ERROR");
        assert_eq!(error["object"]["code"], 410);
        assert_eq!(error["object"]["reason"], "Expired");
        assert!(events.next().await.is_none());
    }
}

#[tokio::test]
async fn kubectl_watches_tables() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut events = admin.watch_as(&format!("{PODS}?watch=1"), accept).await;
    admin.post(PODS, &pod("a")).await.ok();
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "ADDED");
    assert_eq!(event["object"]["kind"], "Table");
    assert_eq!(event["object"]["rows"][0]["cells"][0], "a");
}

#[tokio::test]
async fn one_name_can_be_watched() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut events = admin.watch(&format!("{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name%3Db")).await;
    for name in ["a", "b", "bb"] {
        admin.post(CONFIG_MAPS, &config_map(name)).await.ok();
    }
    admin.delete(&format!("{CONFIG_MAPS}/b")).await.ok();
    assert_eq!(events.brief().await, "ADDED b");
    assert_eq!(events.brief().await, "DELETED b");
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let server = TestServer::start().await;
    let mut events = server.admin().watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    server.stop().await;
    assert!(events.next().await.is_none());
}
