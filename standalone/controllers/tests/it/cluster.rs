//! Services, namespaces and nodes, against the real API server and scheduler.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{Cluster, eventually};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

pub fn pod(name: &str, namespace: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "nginx", "ports": [{"name": "http", "containerPort": 80}]}]},
    });
    for (name, value) in spec.as_object().unwrap() {
        pod["spec"][name] = value.clone();
    }
    pod
}

async fn addresses(cluster: &Cluster, service: &str) -> BTreeSet<String> {
    let slices = cluster.list::<EndpointSlice>("default").await;
    let ours = slices
        .iter()
        .filter(|slice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == service));
    let endpoints = ours.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)));
    ready.flat_map(|endpoint| endpoint.addresses.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_slices_follow_pods_and_go_with_their_service() {
    let cluster = Cluster::start(&["node1"]).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 8080, "targetPort": "http"}]}});
    cluster.apply(service).await;
    for name in ["a", "b", "c"] {
        cluster.apply(pod(name, "default", json!({}))).await;
    }
    eventually("three endpoints", async || (addresses(&cluster, "web").await.len() == 3).then_some(())).await;
    let slice = cluster.list::<EndpointSlice>("default").await;
    let slice =
        slice.iter().find(|slice| slice.labels().contains_key("endpointslice.kubernetes.io/managed-by"));
    let ports = slice.unwrap().ports.clone().unwrap();
    assert_eq!((ports[0].port, ports[0].protocol.as_deref()), (Some(80), Some("TCP")));

    cluster.api::<Pod>("default").delete("b", &Default::default()).await.unwrap();
    eventually("two endpoints", async || (addresses(&cluster, "web").await.len() == 2).then_some(())).await;
    cluster.patch::<Pod>("default", "a", json!({"metadata": {"labels": {"app": "other"}}})).await;
    eventually("one endpoint", async || (addresses(&cluster, "web").await.len() == 1).then_some(())).await;

    let services: Api<k8s_openapi::api::core::v1::Service> = cluster.api("default");
    services.delete("web", &Default::default()).await.unwrap();
    eventually("the slices go too", async || addresses(&cluster, "web").await.is_empty().then_some(())).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespace_has_its_account_and_ca_and_ends_with_all_that_is_in_it() {
    let cluster = Cluster::start(&["node1"]).await;
    cluster
        .apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mem-example"}}))
        .await;
    eventually("the default account and the CA", async || {
        cluster.api::<ServiceAccount>("mem-example").get_opt("default").await.unwrap()?;
        let map = cluster.api::<ConfigMap>("mem-example").get_opt("kube-root-ca.crt").await.unwrap()?;
        map.data?["ca.crt"].starts_with("-----BEGIN CERTIFICATE-----").then_some(())
    })
    .await;
    cluster.apply(pod("memory-demo", "mem-example", json!({}))).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "mem-example"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.apply(service).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "namespace": "mem-example", "finalizers": ["example.com/hold"]}});
    cluster.apply(map).await;

    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete("mem-example", &Default::default()).await.unwrap();
    eventually("what is left is named", async || {
        let status = namespaces.get("mem-example").await.unwrap().status?;
        let remaining = status.conditions?.into_iter().find(|c| c.type_ == "NamespaceFinalizersRemaining")?;
        remaining.message?.contains("example.com/hold").then_some(())
    })
    .await;
    assert!(cluster.api::<Pod>("mem-example").get_opt("memory-demo").await.unwrap().is_none());
    cluster.patch::<ConfigMap>("mem-example", "held", json!({"metadata": {"finalizers": null}})).await;
    eventually("the namespace is gone", async || {
        namespaces.get_opt("mem-example").await.unwrap().is_none().then_some(())
    })
    .await;
    cluster.stop().await;
}

async fn node(client: &Client, name: &str) -> Node {
    Api::<Node>::all(client.clone()).get(name).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_get_ranges_of_their_own_and_a_joining_one_a_free_one() {
    let names: Vec<String> = (0..8).map(|n| format!("node{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cluster = Cluster::start(&names).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let ranges = async || {
        let all = nodes.list(&Default::default()).await.unwrap().items;
        all.into_iter().filter_map(|node| node.spec?.pod_cidr).collect::<BTreeSet<String>>()
    };
    eventually("eight distinct ranges", async || (ranges().await.len() == 8).then_some(())).await;
    let first = node(&cluster.client, "node0").await.spec.unwrap();
    assert_eq!(first.pod_cidr.as_deref(), Some("10.244.0.0/24"));
    assert_eq!(first.pod_cidrs, Some(vec!["10.244.0.0/24".to_owned()]));
    nodes.delete("node0", &Default::default()).await.unwrap();
    eventually("its range is free", async || (ranges().await.len() == 7).then_some(())).await;
    cluster.add_node("late", json!({})).await;
    eventually("the late node has it", async || {
        (node(&cluster.client, "late").await.spec?.pod_cidr? == "10.244.0.0/24").then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_node_is_tainted_its_pods_leave_services_and_are_evicted_when_their_time_is_up() {
    let cluster = Cluster::start_with(&["quiet"], |config| config.node_grace = Duration::from_secs(1)).await;
    // Bound by name: a slow machine may have tainted the node before the scheduler sees the pods.
    let short = json!({"nodeName": "quiet", "tolerations": [
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]});
    cluster.apply(pod("short", "default", short.clone())).await;
    // What somebody has to see off stays, and says what became of it.
    let mut lost = pod("lost", "default", short);
    lost["metadata"]["finalizers"] = json!(["example.org/held"]);
    cluster.apply(lost).await;
    let patient = json!({"nodeName": "quiet", "tolerations": [{"operator": "Exists"}]});
    cluster.apply(pod("patient", "default", patient)).await;
    eventually("the node is unreachable", async || {
        let node = node(&cluster.client, "quiet").await;
        let taints = node.spec?.taints?;
        let has = |effect: &str| {
            taints.iter().any(|t| t.key == "node.kubernetes.io/unreachable" && t.effect == effect)
        };
        (has("NoSchedule") && has("NoExecute")).then_some(())
    })
    .await;
    eventually("the impatient pod is evicted", async || {
        cluster.api::<Pod>("default").get_opt("short").await.unwrap().is_none().then_some(())
    })
    .await;
    assert!(cluster.api::<Pod>("default").get_opt("patient").await.unwrap().is_some());
    let status = eventually("the held pod is evicted, too", async || {
        let lost = cluster.api::<Pod>("default").get("lost").await.unwrap();
        lost.metadata.deletion_timestamp.as_ref()?;
        lost.status
    })
    .await;
    assert_eq!(status.reason.as_deref(), Some("NodeLost"));
    assert_eq!(status.message.as_deref(), Some("Node quiet which was running pod lost is unresponsive"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service_cidrs_are_ready_and_stay_until_no_service_needs_them() {
    let cluster = Cluster::start(&[]).await;
    let cidrs: Api<ServiceCIDR> = Api::all(cluster.client.clone());
    let ready = async |name: &str| {
        let conditions = cidrs.get_opt(name).await.unwrap()?.status?.conditions?;
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
        Some((ready.status, ready.reason))
    };
    eventually("the default range is ready", async || {
        (ready("kubernetes").await? == ("True".into(), String::new())).then_some(())
    })
    .await;
    let more = |name: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
            "spec": {"cidrs": ["10.50.0.0/24"]}})
    };
    cluster.apply(more("more")).await;
    eventually("the new range is ready", async || (ready("more").await?.0 == "True").then_some(())).await;
    cluster
        .apply(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.50.0.7", "ports": [{"port": 80}]}}),
        )
        .await;
    cidrs.delete("more", &Default::default()).await.unwrap();
    eventually("it waits for its Service", async || {
        (ready("more").await? == ("False".into(), "Terminating".into())).then_some(())
    })
    .await;
    // Another range with the address lets it go, and the Service lets that one go.
    cluster.apply(more("same")).await;
    let is_gone = async |name: &str| cidrs.get_opt(name).await.unwrap().is_none().then_some(());
    eventually("it is gone", async || is_gone("more").await).await;
    cidrs.delete("same", &Default::default()).await.unwrap();
    eventually("the other one waits", async || (ready("same").await?.0 == "False").then_some(())).await;
    cluster.api::<Service>("default").delete("web", &Default::default()).await.unwrap();
    eventually("it is gone, too", async || is_gone("same").await).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_pod_stays_pending_with_the_reason_and_lands_once_a_node_fits() {
    let cluster = Cluster::start(&["small"]).await;
    let big = json!({"containers": [{"name": "c", "image": "nginx", "resources": {"requests": {"cpu": "3"}}}],
        "nodeSelector": {"disk": "ssd"}});
    cluster.apply(pod("picky", "default", big)).await;
    let message = eventually("the event", async || {
        let events = cluster.events("default", "picky").await;
        events.into_iter().find(|(reason, _)| reason == "FailedScheduling").map(|(_, message)| message)
    })
    .await;
    assert_eq!(
        message,
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are \
         available: 1 Preemption is not helpful for scheduling."
    );
    let condition = eventually("the condition", async || {
        let status = cluster.api::<Pod>("default").get("picky").await.unwrap().status?;
        status.conditions?.into_iter().find(|condition| condition.type_ == "PodScheduled")
    })
    .await;
    assert_eq!((&*condition.status, condition.reason.as_deref()), ("False", Some("Unschedulable")));
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let label = json!({"metadata": {"labels": {"disk": "ssd"}}});
    nodes.patch("small", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    eventually("it runs", async || (cluster.spread("default").await.len() == 1).then_some(())).await;
    let (_, text) = eventually("the event of its placement", async || {
        let events = cluster.events("default", "picky").await;
        events.into_iter().find(|(reason, _)| reason == "Scheduled")
    })
    .await;
    assert_eq!(text, "Successfully assigned default/picky to small");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_written_endpoints_have_slices_and_a_selectors_pods_have_endpoints() {
    let cluster = Cluster::start(&["node1"]).await;
    let service = |name: &str, selector: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}})
    };
    let address = |ip: &str| json!({"ip": ip});
    let by_hand = |subsets: Value| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "outside", "namespace": "default",
            "labels": {"team": "a"}}, "subsets": subsets})
    };
    let slices = async |service: &str| {
        let mut said: Vec<(String, String, i32, bool)> = Vec::new();
        for slice in cluster.list::<EndpointSlice>("default").await {
            if slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == service) {
                let port = slice.ports.iter().flatten().next().and_then(|port| port.port).unwrap_or_default();
                said.extend(slice.endpoints.iter().flatten().map(|endpoint| {
                    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true);
                    (slice.address_type.clone(), endpoint.addresses[0].clone(), port, ready)
                }));
            }
        }
        said.sort();
        said
    };
    let line =
        |family: &str, ip: &str, port: i32, ready: bool| (family.to_owned(), ip.to_owned(), port, ready);
    let http = json!([{"name": "http", "port": 8080}]);
    // As the API server's own are labelled, which has its slice already.
    let mut own = by_hand(json!([{"addresses": [address("192.0.2.8")], "ports": http}]));
    own["metadata"] = json!({"name": "own", "namespace": "default",
        "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}});
    cluster.apply(service("own", Value::Null)).await;
    cluster.apply(own).await;
    cluster.apply(service("outside", Value::Null)).await;
    cluster
        .apply(by_hand(json!([
            {"addresses": [address("192.0.2.1"), address("2001:db8::1")], "notReadyAddresses": [address("192.0.2.2")],
             "ports": http},
            {"addresses": [address("192.0.2.3")], "ports": [{"name": "http", "port": 9090}]}])))
        .await;
    let all = [
        line("IPv4", "192.0.2.1", 8080, true),
        line("IPv4", "192.0.2.2", 8080, false),
        line("IPv4", "192.0.2.3", 9090, true),
        line("IPv6", "2001:db8::1", 8080, true),
    ];
    eventually("the slices say the same", async || (slices("outside").await == all).then_some(())).await;
    let one = json!({"subsets": [{"addresses": [address("192.0.2.9")], "ports": http}]});
    cluster.patch::<Endpoints>("default", "outside", one).await;
    let changed = [line("IPv4", "192.0.2.9", 8080, true)];
    eventually("they follow", async || (slices("outside").await == changed).then_some(())).await;
    // With a selector the Service is the other controller's.
    cluster.patch::<Service>("default", "outside", json!({"spec": {"selector": {"app": "nothing"}}})).await;
    eventually("nobody is behind it", async || slices("outside").await.is_empty().then_some(())).await;
    cluster.patch::<Service>("default", "outside", json!({"spec": {"selector": null}})).await;
    cluster
        .patch::<Endpoints>(
            "default",
            "outside",
            json!({"metadata": {"labels": {"team": "b"}}, "subsets":
        [{"addresses": [address("192.0.2.9")], "ports": http}]}),
        )
        .await;
    eventually("mirrored again", async || (slices("outside").await == changed).then_some(())).await;
    cluster.api::<Endpoints>("default").delete("outside", &Default::default()).await.unwrap();
    eventually("they go with the list", async || slices("outside").await.is_empty().then_some(())).await;

    cluster.apply(service("web", json!({"app": "web"}))).await;
    cluster.apply(pod("one", "default", json!({}))).await;
    let listed = async || cluster.api::<Endpoints>("default").get_opt("web").await.unwrap();
    let made = eventually("the pod is an endpoint", async || {
        listed().await.filter(|made| made.subsets.iter().flatten().any(|subset| subset.addresses.is_some()))
    })
    .await;
    let subset = &made.subsets.as_ref().unwrap()[0];
    let addresses = subset.addresses.as_ref().unwrap();
    assert_eq!((addresses.len(), subset.ports.as_ref().unwrap()[0].port), (1, 80));
    assert_eq!(addresses[0].target_ref.as_ref().unwrap().name.as_deref(), Some("one"));
    assert_eq!(addresses[0].node_name.as_deref(), Some("node1"));
    cluster.api::<Pod>("default").delete("one", &Default::default()).await.unwrap();
    eventually("nobody is", async || listed().await.filter(|made| made.subsets.is_none())).await;
    cluster.api::<Service>("default").delete("web", &Default::default()).await.unwrap();
    eventually("they go with the Service", async || listed().await.is_none().then_some(())).await;
    assert!(slices("own").await.is_empty(), "they are nobody's to mirror");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_on_after_the_api_server_was_away() {
    let mut cluster = Cluster::start(&["node1"]).await;
    cluster.apply(pod("before", "default", json!({}))).await;
    eventually("a pod runs", async || (cluster.spread("default").await.len() == 1).then_some(())).await;
    cluster.restart_api().await;
    eventually("the API server answers", async || cluster.client.apiserver_version().await.ok().map(drop))
        .await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.apply(service).await;
    cluster.apply(pod("after", "default", json!({}))).await;
    eventually("both are endpoints", async || (addresses(&cluster, "web").await.len() == 2).then_some(()))
        .await;
    cluster.stop().await;
}
