//! Lists: pages, versions, selectors, tables.

use crate::support::{CONFIG_MAPS, PODS, TestServer, bind, config_map, names, pod};
use http::Method;
use serde_json::json;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn pages_are_of_one_snapshot() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for name in ["a", "b", "c", "d", "e"] {
        admin.post(CONFIG_MAPS, &config_map(name)).await.ok();
    }
    let first = admin.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    assert_eq!(first["kind"], "ConfigMapList");
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    admin.delete(&format!("{CONFIG_MAPS}/d")).await.ok();
    admin.post(CONFIG_MAPS, &config_map("bb")).await.ok();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = admin.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.ok();
    assert_eq!(names(&third), ["e"]);
    assert!(third["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn a_token_of_a_forgotten_snapshot_is_expired_and_offers_another() {
    let server = TestServer::start_forgetful().await;
    let admin = server.admin();
    for name in ["a", "b", "c"] {
        admin.post(CONFIG_MAPS, &config_map(name)).await.ok();
    }
    let first = admin.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok();
    for number in 0..8 {
        admin
            .patch(&format!("{CONFIG_MAPS}/a"), "merge", &json!({"data": {"n": number.to_string()}}))
            .await
            .ok();
    }
    let token = first["metadata"]["continue"].as_str().unwrap();
    let expired = admin.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}")).await;
    assert_eq!(expired.body["reason"], "Expired");
    let token = expired.body["metadata"]["continue"].as_str().unwrap().to_owned();
    expired.refused(410);
    let rest = admin.get(&format!("{CONFIG_MAPS}?continue={token}")).await.ok();
    assert_eq!(names(&rest), ["b", "c"]);
    admin.get(&format!("{CONFIG_MAPS}?continue=garbage")).await.refused(400);
}

#[tokio::test]
async fn versions_say_how_old_a_list_may_be() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let first = admin.post(CONFIG_MAPS, &config_map("a")).await.ok();
    admin.post(CONFIG_MAPS, &config_map("b")).await.ok();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let list = |query: String| {
        let admin = admin.clone();
        async move { admin.get(&format!("{CONFIG_MAPS}?{query}")).await }
    };
    assert_eq!(names(&list("resourceVersion=0".into()).await.ok()), ["a", "b"]);
    assert_eq!(names(&list(format!("resourceVersion={version}")).await.ok()), ["a", "b"]);
    assert_eq!(
        names(&list(format!("resourceVersion={version}&resourceVersionMatch=Exact")).await.ok()),
        ["a"]
    );
    let message = list("resourceVersion=999999".into()).await.refused(504);
    assert!(message.starts_with("Too large resource version: 999999, current: "), "{message}");
    list("resourceVersionMatch=Exact".into()).await.refused(400);
    list("resourceVersion=x".into()).await.refused(400);
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for (name, tier) in [("a", "front"), ("b", "back"), ("c", "front")] {
        let mut object = pod(name);
        object["metadata"]["labels"]["tier"] = tier.into();
        admin.post(PODS, &object).await.ok();
    }
    bind(&admin, "c", "n1").await.ok();
    let cases = [
        ("labelSelector=tier%3Dfront", vec!["a", "c"]),
        ("labelSelector=tier+in+(back,none),app", vec!["b"]),
        ("labelSelector=!app", vec![]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=spec.nodeName%3Dn1", vec!["c"]),
        ("fieldSelector=spec.nodeName%3D", vec!["a", "b"]),
        ("fieldSelector=status.phase!%3DPending", vec![]),
        ("labelSelector=tier%3Dfront&fieldSelector=spec.nodeName!%3Dn1", vec!["a"]),
        ("labelSelector=tier%3Dfront&limit=1", vec!["a"]),
    ];
    for (query, expected) in cases {
        assert_eq!(names(&admin.get(&format!("{PODS}?{query}")).await.ok()), expected, "{query}");
    }
    let message = admin.get(&format!("{PODS}?fieldSelector=spec.nope%3Dx")).await.refused(400);
    assert!(message.contains("field label not supported: spec.nope"), "{message}");
    admin.get(&format!("{PODS}?labelSelector=a%3D%3D%3Db")).await.refused(400);
}

#[tokio::test]
async fn a_filtered_list_has_pages_too() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for number in 0..10 {
        let mut object = config_map(&format!("m{number}"));
        object["metadata"]["labels"] = json!({"odd": (number % 2 == 1).to_string()});
        admin.post(CONFIG_MAPS, &object).await.ok();
    }
    let (mut found, mut query) = (Vec::new(), "limit=2&labelSelector=odd%3Dtrue".to_owned());
    loop {
        let page = admin.get(&format!("{CONFIG_MAPS}?{query}")).await.ok();
        assert!(names(&page).len() <= 2);
        found.extend(names(&page).into_iter().map(str::to_owned));
        let Some(token) = page["metadata"]["continue"].as_str() else { break };
        query = format!("limit=2&labelSelector=odd%3Dtrue&continue={token}");
    }
    assert_eq!(found, ["m1", "m3", "m5", "m7", "m9"]);
}

#[tokio::test]
async fn kubectl_gets_tables() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(PODS, &pod("a")).await.ok();
    let table = admin.send(Method::GET, PODS, &[("accept", TABLE)], "").await.ok();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    let row = &table["rows"][0];
    assert_eq!(row["cells"][0], "a");
    assert_eq!(row["cells"].as_array().unwrap().len(), table["columnDefinitions"].as_array().unwrap().len());
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    let one = admin
        .send(Method::GET, &format!("{PODS}/a?includeObject=Object"), &[("accept", TABLE)], "")
        .await
        .ok();
    assert_eq!(one["rows"][0]["object"]["spec"]["containers"][0]["name"], "main");
}

#[tokio::test]
async fn metadata_alone_can_be_asked_for() {
    let server = TestServer::start().await;
    let admin = server.admin();
    admin.post(PODS, &pod("a")).await.ok();
    let accept = [("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
    let list = admin.send(Method::GET, PODS, &accept, "").await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(names(&list), ["a"]);
    assert!(list["items"][0].get("spec").is_none());
    admin.send(Method::GET, PODS, &[("accept", "text/csv")], "").await.refused(406);
}
