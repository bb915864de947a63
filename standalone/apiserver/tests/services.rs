//! Cluster IPs and node ports.

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::{SERVICES, TestServer, node_port_service, service, until};

fn cluster_ip(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

fn node_port(service: &Value) -> u64 {
    service["spec"]["ports"][0]["nodePort"].as_u64().unwrap()
}

#[tokio::test]
async fn a_service_gets_an_address_and_a_node_port() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let made = admin.post(SERVICES, &node_port_service("web")).await.ok();
    assert!(cluster_ip(&made).starts_with("10."));
    assert_eq!(made["spec"]["clusterIPs"], json!([cluster_ip(&made)]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(made["spec"]["ipFamilyPolicy"], "SingleStack");
    assert!((30_000..=32_767).contains(&node_port(&made)));
}

#[tokio::test]
async fn services_made_at_once_never_share_a_number() {
    // So few numbers that every random choice collides with another.
    let server = TestServer::start_with(
        |config| {
            config.service_cidrs = vec!["10.9.0.0/27".parse().unwrap()];
            config.nodeport_range = 31_000..=31_023;
        },
        skerry_store::Options::default(),
    )
    .await;
    let admin = server.admin();
    let makers = (0..24).map(|number| {
        let admin = admin.clone();
        tokio::spawn(
            async move { admin.post(SERVICES, &node_port_service(&format!("s{number}"))).await.ok() },
        )
    });
    let (mut ips, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for maker in makers.collect::<Vec<_>>() {
        let made = maker.await.unwrap();
        assert!(ips.insert(cluster_ip(&made)) && ports.insert(node_port(&made)));
    }
    assert!(!ips.contains("10.9.0.1"));
    let message = admin.post(SERVICES, &node_port_service("full")).await.refused(500);
    assert!(message.contains("range 31000-31023 is full"), "{message}");
    // One goes, another fits in; the address that was tried for "full" is not lost either.
    admin.delete(&format!("{SERVICES}/s0")).await.ok();
    admin.post(SERVICES, &node_port_service("fits")).await.ok();
}

#[tokio::test]
async fn asked_for_numbers_are_checked() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut wanted = node_port_service("a");
    wanted["spec"]["clusterIP"] = "10.96.7.7".into();
    wanted["spec"]["ports"][0]["nodePort"] = 30_080.into();
    let made = admin.post(SERVICES, &wanted).await.ok();
    assert_eq!((cluster_ip(&made).as_str(), node_port(&made)), ("10.96.7.7", 30_080));
    let refuse = |field: &'static str, value: Value| {
        let (admin, mut wanted) = (admin.clone(), node_port_service("b"));
        if field == "nodePort" {
            wanted["spec"]["ports"][0]["nodePort"] = value;
        } else {
            wanted["spec"]["clusterIP"] = value;
        }
        async move { admin.post(SERVICES, &wanted).await.refused(422) }
    };
    let message = refuse("clusterIP", "10.96.7.7".into()).await;
    assert!(message.contains("spec.clusterIPs: Invalid value"), "{message}");
    assert!(message.contains("provided IP is already allocated"), "{message}");
    let message = refuse("clusterIP", "192.0.2.1".into()).await;
    assert!(
        message.contains("is not in the valid range. The range of valid IPs is 10.96.0.0/12"),
        "{message}"
    );
    let message = refuse("nodePort", 30_080.into()).await;
    assert!(
        message.contains("spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"),
        "{message}"
    );
    let message = refuse("nodePort", 80.into()).await;
    assert!(message.contains("provided port is not in the valid range"), "{message}");
}

#[tokio::test]
async fn numbers_stay_through_updates_and_are_released_with_the_type() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let made = admin.post(SERVICES, &node_port_service("a")).await.ok();
    let path = format!("{SERVICES}/a");
    // As `kubectl replace` of the original file: the numbers are not in it.
    let replaced = admin.put(&path, &node_port_service("a")).await.ok();
    assert_eq!((cluster_ip(&replaced), node_port(&replaced)), (cluster_ip(&made), node_port(&made)));
    let inside = admin.patch(&path, "merge", &json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert_eq!(cluster_ip(&inside), cluster_ip(&made));
    assert!(inside["spec"]["ports"][0].get("nodePort").is_none());
    // The port is free for another one at once.
    let mut other = node_port_service("b");
    other["spec"]["ports"][0]["nodePort"] = node_port(&made).into();
    admin.post(SERVICES, &other).await.ok();
    // And the address, once the service is gone.
    admin.delete(&path).await.ok();
    let mut heir = service("c");
    heir["spec"]["clusterIP"] = cluster_ip(&made).into();
    admin.post(SERVICES, &heir).await.ok();
}

#[tokio::test]
async fn headless_and_external_services_get_no_address() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let mut headless = service("headless");
    headless["spec"]["clusterIP"] = "None".into();
    let made = admin.post(SERVICES, &headless).await.ok();
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    let external = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "external"},
        "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let made = admin.post(SERVICES, &external).await.ok();
    assert!(made["spec"].get("clusterIP").is_none_or(|ip| ip == ""));
}

#[tokio::test]
async fn two_protocols_on_one_port_share_their_node_port() {
    let server = TestServer::start().await;
    let mut dns = node_port_service("dns");
    dns["spec"]["ports"] = json!([{"name": "tcp", "port": 53, "protocol": "TCP"}, {"name": "udp", "port": 53, "protocol": "UDP"}]);
    let made = server.admin().post(SERVICES, &dns).await.ok();
    assert_eq!(made["spec"]["ports"][0]["nodePort"], made["spec"]["ports"][1]["nodePort"]);
}

#[tokio::test]
async fn the_kubernetes_service_is_kept() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = format!("{SERVICES}/kubernetes");
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(cluster_ip(&admin.get(&path).await.ok()), "10.96.0.1");
    let found = admin.get(slice).await.ok();
    assert_eq!(found["endpoints"][0]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(found["ports"][0]["port"], server.address.port());
    admin.delete(&path).await.ok();
    admin.patch(slice, "merge", &json!({"endpoints": []})).await.ok();
    until("both are back", || async {
        let endpoints = admin.get(slice).await.ok()["endpoints"].as_array().map_or(0, Vec::len);
        admin.try_get(&path).await.is_some() && endpoints == 1
    })
    .await;
    assert_eq!(cluster_ip(&admin.get(&path).await.ok()), "10.96.0.1");
}
