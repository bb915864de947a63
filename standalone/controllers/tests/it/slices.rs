//! Who writes which slices of a Service, and with which hints.

use std::collections::BTreeSet;

use crate::cluster::pod;
use crate::support::{Cluster, eventually};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

/// Who keeps slices of the Service, with the ready addresses in them.
async fn kept(cluster: &Cluster, service: &str) -> BTreeSet<(String, String)> {
    let slices = cluster.list::<EndpointSlice>("default").await;
    let ours = slices
        .iter()
        .filter(|slice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == service));
    let mut kept = BTreeSet::new();
    for slice in ours {
        let by = &slice.labels()["endpointslice.kubernetes.io/managed-by"];
        let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.clone());
        kept.extend(addresses.map(|address| (by.trim_end_matches("-controller.k8s.io").to_owned(), address)));
    }
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_controller_has_written_is_mirrored_by_none() {
    let cluster = Cluster::start(&["node1"]).await;
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec});
    let ports = json!([{"port": 80}]);
    cluster.apply(service("web", json!({"selector": {"app": "web"}, "ports": ports}))).await;
    cluster.apply(pod("a", "default", json!({}))).await;
    eventually("the endpoint", async || (kept(&cluster, "web").await.len() == 1).then_some(())).await;
    let (by, address) = kept(&cluster, "web").await.pop_first().unwrap();
    assert_eq!(by, "endpointslice");
    let made = async |address: &str| {
        let endpoints = cluster.api::<Endpoints>("default").get_opt("web").await.unwrap()?;
        let subsets = endpoints.subsets?;
        (subsets[0].addresses.as_ref()?[0].ip == address).then_some(())
    };
    eventually("the Endpoints", async || made(&address).await).await;

    // Hand-written Endpoints that are mirrored meanwhile show that there was time to mirror the others.
    let mut round = 0;
    let mut others_are_mirrored = async || {
        round += 1;
        let name = format!("hand-{round}");
        cluster.apply(service(&name, json!({"ports": ports}))).await;
        let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name, "namespace": "default"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]}]});
        cluster.apply(endpoints).await;
        eventually("the mirror", async || (kept(&cluster, &name).await.len() == 1).then_some(())).await;
    };
    let only_ours: BTreeSet<_> = [(by.clone(), address.clone())].into();
    for spec in [
        json!({"type": "ExternalName", "externalName": "x.example", "clusterIP": null, "clusterIPs": null}),
        json!({"selector": null}),
        json!({"type": "ClusterIP", "externalName": null}),
        json!({"selector": {"app": "web"}}),
        json!({"selector": null}),
    ] {
        cluster.patch::<Service>("default", "web", json!({"spec": spec})).await;
        others_are_mirrored().await;
        assert_eq!(kept(&cluster, "web").await, only_ours, "after {spec}");
    }
    // Now they are somebody's own, and only they count.
    let subsets = json!({"subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 80}]}]});
    cluster.patch::<Endpoints>("default", "web", subsets).await;
    let mirrored: BTreeSet<_> = [("endpointslicemirroring".to_owned(), "192.0.2.7".to_owned())].into();
    eventually("the mirror alone", async || (kept(&cluster, "web").await == mirrored).then_some(())).await;
    cluster.patch::<Service>("default", "web", json!({"spec": {"selector": {"app": "web"}}})).await;
    eventually("the selector counts again", async || {
        (kept(&cluster, "web").await == only_ours).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topology_mode_auto_sets_hints_by_the_zones_of_the_nodes() {
    let cluster = Cluster::start(&["node1", "node2"]).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let zone = async |node: &str, zone: &str| {
        let patch = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
        nodes.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    };
    zone("node1", "a").await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default",
        "annotations": {"service.kubernetes.io/topology-mode": "Auto"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.apply(service).await;
    for (name, node) in [("a", "node1"), ("b", "node1"), ("c", "node1"), ("d", "node2")] {
        cluster.apply(pod(name, "default", json!({"nodeSelector": {"kubernetes.io/hostname": node}}))).await;
    }
    let hints = async || {
        let slices = cluster.list::<EndpointSlice>("default").await;
        let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let of_pods = endpoints.filter(|endpoint| endpoint.target_ref.is_some());
        let mut zones: Vec<String> = of_pods
            .map(|endpoint| {
                let zones = endpoint.hints.clone().and_then(|hints| hints.for_zones).unwrap_or_default();
                zones.into_iter().map(|zone| zone.name).collect()
            })
            .collect();
        zones.sort();
        zones
    };
    eventually("endpoints without hints", async || (hints().await == ["", "", "", ""]).then_some(())).await;
    eventually("it is said why", async || {
        let events = cluster.events("default", "web").await;
        events.iter().any(|(reason, _)| reason == "TopologyAwareHintsDisabled").then_some(())
    })
    .await;
    zone("node2", "b").await;
    eventually("half of them for each zone", async || (hints().await == ["a", "a", "b", "b"]).then_some(()))
        .await;
    cluster.stop().await;
}
