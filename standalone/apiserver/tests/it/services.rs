//! Cluster IPs and node ports.

use std::collections::BTreeSet;

use crate::support::{SERVICES, TestServer, node_port_service, service, until};
use serde_json::{Value, json};

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
    let advertise = |config: &mut skerry_apiserver::Config| config.advertise = [192, 0, 2, 1].into();
    let server = TestServer::start_with(advertise, skerry_store::Options::default()).await;
    let admin = server.admin();
    let path = format!("{SERVICES}/kubernetes");
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(cluster_ip(&admin.get(&path).await.ok()), "10.96.0.1");
    let found = admin.get(slice).await.ok();
    assert_eq!(found["endpoints"][0]["addresses"], json!(["192.0.2.1"]));
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

const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn cidr(name: &str, range: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": [range]}})
}

#[tokio::test]
async fn addresses_come_from_all_service_cidrs_that_are_not_being_deleted() {
    let narrow = |config: &mut skerry_apiserver::Config| {
        config.service_cidrs = vec!["10.9.0.0/29".parse().unwrap()];
    };
    let server = TestServer::start_with(narrow, skerry_store::Options::default()).await;
    let admin = server.admin();
    let default = admin.get(&format!("{CIDRS}/kubernetes")).await.ok();
    assert_eq!(default["spec"]["cidrs"], json!(["10.9.0.0/29"]));
    // Without the network's own address, that of `kubernetes`, and the broadcast address there are five.
    for name in ["a", "b", "c", "d", "e"] {
        admin.post(SERVICES, &service(name)).await.ok();
    }
    let message = admin.post(SERVICES, &service("full")).await.refused(500);
    assert!(message.contains("range 10.9.0.0/29 is full"), "{message}");
    let mut held = cidr("more", "10.50.0.0/24");
    held["metadata"]["finalizers"] = json!(["example.com/held"]);
    admin.post(CIDRS, &held).await.ok();
    let made = admin.post(SERVICES, &service("fits")).await.ok();
    assert!(cluster_ip(&made).starts_with("10.50.0."), "{made}");
    let mut asked = service("asked");
    asked["spec"]["clusterIP"] = "10.50.0.77".into();
    admin.post(SERVICES, &asked).await.ok();
    // While the range is being deleted its addresses stay with who has them, and nobody gets another.
    admin.delete(&format!("{CIDRS}/more")).await.ok();
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let kept = admin.patch(&format!("{SERVICES}/asked"), "merge", &label).await.ok();
    assert_eq!(cluster_ip(&kept), "10.50.0.77");
    admin.post(SERVICES, &service("late")).await.refused(500);
    asked["metadata"]["name"] = "late".into();
    asked["spec"]["clusterIP"] = "10.50.0.78".into();
    let message = admin.post(SERVICES, &asked).await.refused(422);
    assert!(message.contains("The range of valid IPs is 10.9.0.0/29"), "{message}");
}

#[tokio::test]
async fn service_cidrs_that_make_no_sense_are_refused_by_field() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for (ranges, part) in [
        (json!([]), "spec.cidrs: Required value"),
        (json!(["10.50.0.0/33"]), "spec.cidrs[0]: Invalid value"),
        (
            json!(["10.50.0.1/24"]),
            "spec.cidrs[0]: Invalid value: \"10.50.0.1/24\": must not have bits set beyond",
        ),
        (
            json!(["fd00::/64", "fd01::1/64"]),
            "spec.cidrs[1]: Invalid value: \"fd01::1/64\": must not have bits set",
        ),
        (json!(["10.50.0.0/24", "10.51.0.0/24"]), "may specify no more than one IP for each IP family"),
        (json!(["10.50.0.0/24", "fd00::/64", "10.51.0.0/24"]), "may only hold up to 2 values"),
    ] {
        let mut wrong = cidr("wrong", "10.50.0.0/24");
        wrong["spec"]["cidrs"] = ranges.clone();
        let message = admin.post(CIDRS, &wrong).await.refused(422);
        assert!(message.contains(part), "{ranges}: {message}");
    }
    for (name, ranges) in [("a", json!(["0.0.0.0/0", "::/0"])), ("b", json!(["10.0.0.1/32"]))] {
        let mut right = cidr(name, "");
        right["spec"]["cidrs"] = ranges;
        admin.post(CIDRS, &right).await.ok();
    }
    let other = json!({"spec": {"cidrs": ["10.7.0.0/16"]}});
    let message = admin.patch(&format!("{CIDRS}/b"), "merge", &other).await.refused(422);
    assert!(message.contains("field is immutable"), "{message}");
}

#[tokio::test]
async fn an_address_in_use_is_an_object_that_nobody_can_take_away() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let ip = cluster_ip(&admin.post(SERVICES, &service("web")).await.ok());
    let path = format!("{ADDRESSES}/{ip}");
    let object = admin.get(&path).await.ok();
    let parent = json!({"group": "", "resource": "services", "namespace": "default", "name": "web"});
    assert_eq!(object["spec"]["parentRef"], parent);
    assert_eq!(object["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    // Deleted by hand it comes back, with another uid.
    admin.delete(&path).await.ok();
    until("the object is back", async || admin.get(&path).await.status.as_u16() == 200).await;
    assert_ne!(admin.get(&path).await.ok()["metadata"]["uid"], object["metadata"]["uid"]);
    // One made by hand keeps the address from Services.
    let taken = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.96.7.7"},
        "spec": {"parentRef": {"resource": "routers", "group": "example.com", "name": "edge"}}});
    admin.post(ADDRESSES, &taken).await.ok();
    let mut asked = service("asked");
    asked["spec"]["clusterIP"] = "10.96.7.7".into();
    let message = admin.post(SERVICES, &asked).await.refused(422);
    assert!(message.contains("provided IP is already allocated"), "{message}");
    // It goes with its Service.
    admin.delete(&format!("{SERVICES}/web")).await.ok();
    assert_eq!(admin.get(&path).await.status, 404);
    // A store whose addresses have no objects gets them at the start: here one was deleted behind the
    // server's back.
    let ip = cluster_ip(&admin.post(SERVICES, &service("old")).await.ok());
    let folder = server.stop().await;
    {
        let store =
            skerry_store::LogStore::open(&folder.path().join("store"), skerry_store::Options::default())
                .unwrap();
        let key = format!("/registry/ipaddresses.networking.k8s.io/{ip}");
        assert!(skerry_store::Store::get(&store, &key).await.unwrap().is_some());
        let delete = skerry_store::Op::Delete { key: key.into(), expect: skerry_store::Expect::Any };
        skerry_store::Store::commit(&store, skerry_store::Txn { ops: vec![delete] }).await.unwrap();
    }
    let server = TestServer::start_in(folder, |_| {}, skerry_store::Options::default()).await;
    let admin = server.admin();
    assert_eq!(admin.get(&format!("{ADDRESSES}/{ip}")).await.ok()["spec"]["parentRef"]["name"], "old");
}

#[tokio::test]
async fn a_change_of_type_or_policy_lets_go_of_what_has_no_use_any_more() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let path = format!("{SERVICES}/web");
    let mut wanted = service("web");
    wanted["spec"]["type"] = "LoadBalancer".into();
    wanted["spec"]["loadBalancerClass"] = "example.com/lb".into();
    wanted["spec"]["externalTrafficPolicy"] = "Local".into();
    let made = admin.post(SERVICES, &wanted).await.ok();
    let health = made["spec"]["healthCheckNodePort"].as_u64().unwrap();
    let patch = async |spec: Value| {
        admin.patch(&path, "merge", &json!({"spec": spec})).await.ok()["spec"].as_object().cloned().unwrap()
    };
    let there = |spec: &serde_json::Map<String, Value>| {
        let fields = [
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
            "internalTrafficPolicy",
        ];
        fields.into_iter().filter(|field| spec.contains_key(*field)).collect::<Vec<_>>()
    };
    let spec = patch(json!({"externalTrafficPolicy": "Cluster"})).await;
    assert!(!spec.contains_key("healthCheckNodePort") && spec.contains_key("loadBalancerClass"), "{spec:?}");
    // Its number is free again, and others can have it.
    let mut other = node_port_service("other");
    other["spec"]["ports"][0]["nodePort"] = health.into();
    admin.post(SERVICES, &other).await.ok();
    let spec = patch(json!({"externalTrafficPolicy": "Local"})).await;
    assert!(spec["healthCheckNodePort"].as_u64().is_some_and(|port| port != health), "{spec:?}");
    let spec = patch(json!({"type": "NodePort"})).await;
    assert_eq!(there(&spec), ["externalTrafficPolicy", "internalTrafficPolicy"]);
    let spec = patch(json!({"type": "ClusterIP"})).await;
    assert_eq!(there(&spec), ["internalTrafficPolicy"]);
    let spec = patch(json!({"type": "LoadBalancer"})).await;
    assert_eq!(
        there(&spec),
        ["externalTrafficPolicy", "allocateLoadBalancerNodePorts", "internalTrafficPolicy"]
    );
    let spec = patch(json!({"type": "ExternalName", "externalName": "example.com"})).await;
    assert_eq!(there(&spec), [""; 0]);
    assert!(!spec.contains_key("clusterIP") && spec["ports"][0].get("nodePort").is_none(), "{spec:?}");
    let spec = patch(json!({"type": "ClusterIP", "externalName": null})).await;
    assert!(spec["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.")), "{spec:?}");
}
