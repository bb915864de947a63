use serde_json::{Value, json};

use super::*;

const ROOM: Room = Room { vips: 100, ranges: 100, sources: [true, true] };

fn read(mut object: Value, change: Value) -> Value {
    fn merge(into: &mut Value, from: Value) {
        match (into.as_object_mut(), from) {
            (Some(into), Value::Object(from)) => {
                from.into_iter().for_each(|(name, value)| merge(&mut into[&name], value))
            }
            (_, from) => *into = from,
        }
    }
    fn grow(into: &mut Value, from: &Value) {
        if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
            for (name, value) in from {
                grow(
                    into.entry(name)
                        .or_insert_with(|| if value.is_object() { json!({}) } else { Value::Null }),
                    value,
                );
            }
        }
    }
    grow(&mut object, &change);
    merge(&mut object, change);
    object
}

fn service(name: &str, change: Value) -> Object {
    let object = json!({
        "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "web", "port": 80, "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}},
    });
    Object::Service(serde_json::from_value(read(object, change)).unwrap())
}

fn node(number: u8, change: Value) -> Object {
    let object = json!({
        "metadata": {"name": format!("n{number}")},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [
            {"type": "InternalIP", "address": format!("10.0.0.{number}")},
            {"type": "InternalIP", "address": format!("fd00::{number}")},
            {"type": "ExternalIP", "address": "203.0.113.9"}]},
    });
    Object::Node(serde_json::from_value(read(object, change)).unwrap())
}

/// Endpoints by node and conditions.
fn slice(service: &str, endpoints: &[(&str, Value)]) -> Object {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(node, conditions)| json!({"addresses": ["10.1.0.1"], "nodeName": node, "conditions": conditions}))
        .collect();
    let object = json!({
        "metadata": {"name": format!("{service}-x"), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}], "endpoints": endpoints,
    });
    Object::Slice(serde_json::from_value(object).unwrap())
}

fn cluster(objects: Vec<Object>) -> Cluster {
    let mut cluster =
        Cluster::new(Rules { class: Some("ours".to_owned()), asks_kube_proxy: true, ..Rules::default() });
    for object in objects {
        let _ = cluster.change(Change::Applied(object));
    }
    cluster
}

fn backends(vip: &Vip) -> Vec<String> {
    vip.backends.iter().map(|backend| backend.address.to_string()).collect()
}

fn causes(asked: &Asked) -> Vec<(Cause, &str)> {
    asked.notes.iter().map(|note| (note.cause, note.about.as_str())).collect()
}

#[test]
fn a_service_leads_to_the_node_port_of_nodes_that_take_traffic() {
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let excepted =
        json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}});
    let mut cluster = cluster(vec![
        node(1, json!({})),
        node(2, json!({"metadata": {"annotations": {"skerry.io/balancer-weight": "3"}}})),
        node(3, not_ready),
        node(4, excepted),
        node(5, json!({"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z"}})),
        node(6, json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}})),
        service("web", json!({"spec": {"loadBalancerSourceRanges": ["198.51.100.0/24", "fd01::/16"]}})),
    ]);
    let asked = cluster.asked(&[], ROOM);
    let [vip] = &asked.vips[..] else { panic!("{asked:?}") };
    assert_eq!((vip.address, vip.proto), ("192.0.2.1:80".parse().unwrap(), proto::TCP));
    assert_eq!(backends(vip), ["10.0.0.1:30080", "10.0.0.2:30080"]);
    assert_eq!(vip.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(vip.allowed, Some(vec![(Addr::from_v4([198, 51, 100, 0]), 120)]));
    let check = vip.check.as_ref().unwrap();
    assert_eq!((check.path.as_deref(), check.port), (Some("/healthz"), Some(10_256)));
    assert!(cluster.change(Change::Deleted(Kind::Nodes, ObjectKey::cluster("n1"))));
    assert_eq!(backends(&cluster.asked(&[], ROOM).vips[0]), ["10.0.0.2:30080"]);
    assert!(cluster.change(Change::Listed { kind: Kind::Services, objects: Vec::new(), kept: Vec::new() }));
    assert_eq!(cluster.asked(&[], ROOM).vips, []);
}

#[test]
fn what_is_listed_and_cannot_be_read_stays_as_it_was() {
    let mut cluster = cluster(vec![node(1, json!({})), node(2, json!({})), service("web", json!({}))]);
    let before = cluster.asked(&[], ROOM).vips;
    let kept = vec![ObjectKey::new("shop", "web")];
    assert!(cluster.change(Change::Listed { kind: Kind::Services, objects: Vec::new(), kept }));
    let kept = vec![ObjectKey::cluster("n2")];
    assert!(cluster.change(Change::Listed { kind: Kind::Nodes, objects: vec![node(1, json!({}))], kept }));
    assert_eq!(cluster.asked(&[], ROOM).vips, before);
}

/// Nodes tell of themselves every few seconds, and most slices are of Services inside.
#[test]
fn what_does_not_matter_asks_for_no_new_look() {
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    let mut cluster = cluster(vec![node(1, json!({})), service("web", json!({})), service("near", local)]);
    let mut matters = |object: Object| cluster.change(Change::Applied(object));
    let heartbeat = json!({"metadata": {"resourceVersion": "9"}, "status": {"nodeInfo": {"x": "y"}}});
    assert!(!matters(node(1, heartbeat)));
    assert!(matters(node(1, json!({"metadata": {"annotations": {"skerry.io/balancer-weight": "2"}}}))));
    assert!(!matters(service("web", json!({"metadata": {"labels": {"a": "b"}}}))));
    for (name, expected) in [("web", false), ("unknown", false), ("near", true)] {
        assert_eq!(matters(slice(name, &[("n1", json!({}))])), expected, "{name}");
        assert!(!matters(slice(name, &[("n1", json!({}))])), "the same again");
    }
}

#[test]
fn only_services_of_ours_with_an_address_that_is_no_proxys() {
    for (change, count) in [
        (json!({"spec": {"loadBalancerClass": "ours"}}), 1),
        (json!({"spec": {"loadBalancerClass": "theirs"}}), 0),
        // No node serves them.
        (json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}}), 0),
        (json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}), 0),
        (json!({"spec": {"type": "NodePort"}}), 0),
        (json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}]}}}), 0),
        (
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "127.0.0.1"}, {"hostname": "x.example"}]}}}),
            0,
        ),
        (json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}}), 2),
    ] {
        let cluster = cluster(vec![node(1, json!({})), service("web", change.clone())]);
        assert_eq!(cluster.asked(&[], ROOM).vips.len(), count, "{change}");
    }
}

#[test]
fn a_local_policy_keeps_to_nodes_with_endpoints_and_asks_at_its_own_port() {
    let local = json!({"spec": {"externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}});
    let mut cluster =
        cluster(vec![node(1, json!({})), node(2, json!({})), node(3, json!({})), service("web", local)]);
    let mut of = |endpoints: &[(&str, Value)]| {
        let _ = cluster.change(Change::Applied(slice("web", endpoints)));
        let vip = cluster.asked(&[], ROOM).vips.remove(0);
        (backends(&vip), vip.check.unwrap().port)
    };
    let ending = || json!({"ready": false, "serving": true, "terminating": true});
    let seen = of(&[("n1", json!({})), ("n2", json!({"ready": false})), ("n3", ending())]);
    assert_eq!(seen, (vec!["10.0.0.1:30080".to_owned()], Some(31_000)));
    // Nothing ready anywhere: those that still serve, which their Service's own check would call dead.
    let seen =
        of(&[("n2", json!({"ready": false, "serving": false, "terminating": true})), ("n3", ending())]);
    assert_eq!(seen, (vec!["10.0.0.3:30080".to_owned()], Some(10_256)));
    assert_eq!(of(&[]).0, Vec::<String>::new());
}

#[test]
fn the_file_comes_first_then_the_older_service() {
    let young = json!({"metadata": {"creationTimestamp": "2026-02-01T00:00:00Z"}});
    let cluster = cluster(vec![node(1, json!({})), service("a", young), service("b", json!({}))]);
    let asked = cluster.asked(&[], ROOM);
    assert_eq!((asked.vips.len(), causes(&asked)), (1, vec![(Cause::AddressTaken, "Service shop/a")]));
    assert!(asked.notes.first().unwrap().text.contains("older Service shop/b"));
    let of_file = asked.vips;
    let asked = cluster.asked(&of_file, ROOM);
    assert_eq!(asked.vips, []);
    assert!(asked.notes.iter().all(|note| note.text.contains("is in the file")) && asked.notes.len() == 2);
}

#[test]
fn what_cannot_be_balanced_is_named_and_holds_up_nothing_else() {
    let ports = json!([
        {"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30081, "protocol": "UDP"},
        {"name": "c", "port": 82, "nodePort": 30082, "protocol": "SCTP"}]);
    let annotations = json!({"skerry.io/balancer-mode": "nat", "service.skerry.io/balancing": "maglef"});
    let odd = json!({"metadata": {"annotations": annotations},
        "spec": {"ports": ports, "loadBalancerSourceRanges": ["10.0.0.0"]}});
    let weight = json!({"metadata": {"annotations": {"skerry.io/balancer-weight": "0"}}});
    let asked = cluster(vec![node(1, weight), service("odd", odd.clone())]).asked(&[], ROOM);
    let [vip] = &asked.vips[..] else { panic!("{asked:?}") };
    assert_eq!((vip.proto, vip.backends[0].weight, vip.allowed.as_deref()), (proto::UDP, 1, Some(&[][..])));
    let of = "Service shop/odd";
    let expected = [
        (Cause::NoNodePort, of),
        (Cause::Protocol, of),
        (Cause::Annotation, "Node n1"),
        (Cause::Annotation, of),
        (Cause::Annotation, of),
        (Cause::SourceRange, of),
    ];
    assert_eq!(causes(&asked), expected);

    // A direct packet keeps its port and needs no NodePort.
    let direct = json!({"metadata": {"annotations": {"skerry.io/balancer-mode": "dsr"}}});
    let asked = cluster(vec![node(1, json!({})), service("odd", read(odd, direct))]).asked(&[], ROOM);
    let ports: Vec<String> = asked.vips.iter().flat_map(backends).collect();
    assert_eq!(ports, ["10.0.0.1:80", "10.0.0.1:81"]);

    let two = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}});
    let cluster = cluster(vec![node(1, json!({})), service("two", two)]);
    let no_v6 = cluster.asked(&[], Room { sources: [true, false], ..ROOM });
    assert_eq!((no_v6.vips.len(), causes(&no_v6)[0].0), (1, Cause::NoSource));
    let full = cluster.asked(&[], Room { vips: 1, ..ROOM });
    assert_eq!((full.vips.len(), causes(&full)[0].0), (1, Cause::DoesNotFit));
}
