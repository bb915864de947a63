//! Addresses for Services of type LoadBalancer, through the real API server.

use crate::support::{Cluster, eventually};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const CONFIG: &str = "skerry-load-balancer";

async fn service(cluster: &Cluster, name: &str, spec: Value) {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}]}});
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    cluster.apply(service).await;
}

async fn configure(cluster: &Cluster, pools: &str) {
    let api = cluster.api::<ConfigMap>(NAMESPACE);
    if api.get_opt(CONFIG).await.unwrap().is_some() {
        cluster.patch::<ConfigMap>(NAMESPACE, CONFIG, json!({"data": {"pools": pools}})).await;
        return;
    }
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG, "namespace": NAMESPACE},
            "data": {"pools": pools}}))
        .await;
}

async fn status(cluster: &Cluster, name: &str) -> Value {
    let service = cluster.api::<Service>("default").get(name).await.unwrap();
    serde_json::to_value(service.status).unwrap()
}

/// Waits until the service has exactly this address; empty: none.
async fn has(cluster: &Cluster, name: &str, ip: &str) {
    eventually(&format!("{name} has {ip:?}"), async || {
        let status = status(cluster, name).await;
        (status["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default() == ip).then_some(())
    })
    .await;
}

async fn said(cluster: &Cluster, name: &str, reason: &str) -> String {
    eventually(&format!("an event {reason} about {name}"), async || {
        let events = cluster.events("default", name).await;
        events.into_iter().find(|(there, _)| there == reason).map(|(_, message)| message)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_come_from_the_configmap_and_go_back_with_their_services() {
    let mut cluster = Cluster::start(&[]).await;
    service(&cluster, "web", json!({})).await;
    // Another controller has done its work, so this one has had its turn: nothing without a ConfigMap.
    eventually("the service has its slices", async || {
        let slices = cluster.list::<k8s_openapi::api::discovery::v1::EndpointSlice>("default").await;
        slices
            .iter()
            .any(|slice| slice.metadata.labels.iter().flatten().any(|(_, v)| v == "web"))
            .then_some(())
    })
    .await;
    assert_eq!(status(&cluster, "web").await, json!({"loadBalancer": {}}));

    configure(&cluster, "- {name: default, ranges: [192.0.2.10-192.0.2.11]}").await;
    has(&cluster, "web", "192.0.2.10").await;
    let there = status(&cluster, "web").await;
    assert_eq!(there["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.10", "ipMode": "VIP"}]));
    assert_eq!(there["conditions"][0]["reason"], "Assigned");
    assert_eq!(said(&cluster, "web", "AddressAssigned").await, "assigned 192.0.2.10 from pool default");

    service(&cluster, "second", json!({"loadBalancerIP": "192.0.2.11"})).await;
    has(&cluster, "second", "192.0.2.11").await;
    service(&cluster, "third", json!({})).await;
    let message = said(&cluster, "third", "PoolExhausted").await;
    assert!(
        message.contains("no IPv4 address is free in pool default: add addresses in ConfigMap"),
        "{message}"
    );

    // A wrong ConfigMap is told of, and takes nothing away.
    configure(&cluster, "- {name: default, cidrs: [192.0.2.0/99]}").await;
    let message = said(&cluster, "third", "BadConfiguration").await;
    assert!(message.contains("pools[0].cidrs[0] \"192.0.2.0/99\""), "{message}");
    let about: Vec<(String, String)> = eventually("an event about the ConfigMap", async || {
        Some(cluster.events(NAMESPACE, CONFIG).await).filter(|events| !events.is_empty())
    })
    .await;
    assert_eq!(about[0].0, "BadConfiguration");
    has(&cluster, "web", "192.0.2.10").await;

    // What is assigned survives the API server; a type change and a deletion release.
    cluster.restart_api().await;
    eventually("the API server answers", async || cluster.client.apiserver_version().await.ok().map(drop))
        .await;
    configure(&cluster, "- {name: default, ranges: [192.0.2.10-192.0.2.11]}").await;
    cluster.patch::<Service>("default", "web", json!({"spec": {"type": "ClusterIP"}})).await;
    has(&cluster, "third", "192.0.2.10").await;
    has(&cluster, "web", "").await;
    assert_eq!(status(&cluster, "web").await, json!({"loadBalancer": {}}));
    has(&cluster, "second", "192.0.2.11").await;
    cluster.api::<Service>("default").delete("second", &Default::default()).await.unwrap();
    service(&cluster, "fourth", json!({"loadBalancerClass": "skerry.io/pool"})).await;
    has(&cluster, "fourth", "192.0.2.11").await;
    cluster.stop().await;
}
