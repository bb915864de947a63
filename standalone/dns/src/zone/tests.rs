//! The Kubernetes DNS specification 1.1.0, row by row: objects, a question, the answer as text.

use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};

use super::*;
use crate::model::{Service, Slice};

/// Two namespaces with one Service of each kind.
fn zone() -> Zone {
    let ranges = ["10.96.0.0/12", "10.244.0.0/16", "fd00:244::/48"].map(|range| range.parse().unwrap());
    let mut zone = Zone::new(
        Name::from_ascii("cluster.local.").unwrap(),
        ranges.to_vec(),
        vec!["10.96.0.10".parse().unwrap()],
    );
    for (name, spec) in [
        (
            "web",
            json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80},
            {"name": "quic", "port": 443, "protocol": "UDP"}, {"port": 9}]}),
        ),
        (
            "both",
            json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "fd00:96::8"],
            "ports": [{"name": "http", "port": 80}]}),
        ),
        ("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
        ("early", json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
        ("out", json!({"type": "ExternalName", "externalName": "db.example.org"})),
        ("in", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"})),
        ("round", json!({"type": "ExternalName", "externalName": "round.ns.svc.cluster.local"})),
        ("none", json!({})),
    ] {
        add_service(&mut zone, name, spec);
    }
    let port = json!([{"name": "sql", "port": 15432}]);
    add_slice(
        &mut zone,
        "db-1",
        "db",
        "IPv4",
        &port,
        json!([
        {"addresses": ["10.244.1.3"], "hostname": "db-1"},
        {"addresses": ["10.244.1.2"], "hostname": "db-0"},
        {"addresses": ["10.244.1.4"]},
        {"addresses": ["10.244.1.5"], "hostname": "db-2", "conditions": {"ready": false}}]),
    );
    add_slice(
        &mut zone,
        "db-2",
        "db",
        "IPv6",
        &port,
        json!([{"addresses": ["fd00:244::2"], "hostname": "db-0"}]),
    );
    add_slice(
        &mut zone,
        "early-1",
        "early",
        "IPv4",
        &json!([]),
        json!([{"addresses": ["10.244.2.1"], "conditions": {"ready": false}}]),
    );
    add_slice(&mut zone, "web-1", "web", "IPv4", &json!([]), json!([{"addresses": ["10.244.3.1"]}]));
    zone
}

fn add_service(zone: &mut Zone, name: &str, spec: Value) {
    let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
    let service = Service::from_api(&serde_json::from_value(object).unwrap());
    assert!(zone.apply(Change::Service(format!("ns/{name}").into(), Some(service))));
}

fn add_slice(zone: &mut Zone, name: &str, service: &str, family: &str, ports: &Value, endpoints: Value) {
    let object = json!({"metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": family, "ports": ports, "endpoints": endpoints});
    let slice = Slice::from_api(&serde_json::from_value(object).unwrap());
    assert!(zone.apply(Change::Slice(format!("ns/{name}").into(), slice)));
}

/// `NXDOMAIN`, `NODATA`, `ELSEWHERE`, or the records' types and contents; what is added after ` + `.
fn asked(zone: &Zone, name: &str, kind: RecordType, turn: usize) -> String {
    let answer = zone.answer(&Name::from_ascii(name).unwrap(), kind, turn);
    let text = |records: &[hickory_proto::rr::Record]| {
        records.iter().map(|it| format!("{} {}", it.record_type(), it.data)).collect::<Vec<_>>().join(", ")
    };
    let says_nothing = answer.answers.is_empty() && answer.outcome != Outcome::Elsewhere;
    assert_eq!(
        answer.soa.is_some(),
        says_nothing,
        "{name} {kind}: an SOA goes with nothing, and only with that"
    );
    match (&answer.outcome, answer.answers.is_empty()) {
        (Outcome::NoSuchName, true) => "NXDOMAIN".to_owned(),
        (Outcome::Elsewhere, _) => "ELSEWHERE".to_owned(),
        (Outcome::Continues(target), _) => format!("{} > {target}", text(&answer.answers)),
        (_, true) => "NODATA".to_owned(),
        (_, false) if answer.additionals.is_empty() => text(&answer.answers),
        (_, false) => format!("{} + {}", text(&answer.answers), text(&answer.additionals)),
    }
}

#[test]
fn names_are_answered_as_the_specification_says() {
    use RecordType as T;
    let zone = zone();
    for (name, kind, expected) in [
        // 2.2: the version.
        ("dns-version.cluster.local.", T::TXT, "TXT 1.1.0"),
        ("dns-version.cluster.local.", T::A, "NODATA"),
        // 2.3: a Service with an address.
        ("web.ns.svc.cluster.local.", T::A, "A 10.96.0.7"),
        ("WEB.ns.SVC.Cluster.Local.", T::A, "A 10.96.0.7"),
        ("web.ns.svc.cluster.local.", T::AAAA, "NODATA"),
        ("web.ns.svc.cluster.local.", T::MX, "NODATA"),
        ("both.ns.svc.cluster.local.", T::AAAA, "AAAA fd00:96::8"),
        (
            "both.ns.svc.cluster.local.",
            T::ANY,
            "A 10.96.0.8, AAAA fd00:96::8, SRV 0 100 80 both.ns.svc.cluster.local. + \
             A 10.96.0.8, AAAA fd00:96::8",
        ),
        (
            "_http._tcp.web.ns.svc.cluster.local.",
            T::SRV,
            "SRV 0 100 80 web.ns.svc.cluster.local. + A 10.96.0.7",
        ),
        (
            "_quic._udp.web.ns.svc.cluster.local.",
            T::SRV,
            "SRV 0 100 443 web.ns.svc.cluster.local. + A 10.96.0.7",
        ),
        (
            "_http._tcp.both.ns.svc.cluster.local.",
            T::SRV,
            "SRV 0 100 80 both.ns.svc.cluster.local. + A 10.96.0.8, AAAA fd00:96::8",
        ),
        ("_http._tcp.web.ns.svc.cluster.local.", T::A, "NODATA"),
        ("_tcp.web.ns.svc.cluster.local.", T::SRV, "NODATA"),
        ("_sctp.web.ns.svc.cluster.local.", T::SRV, "NXDOMAIN"),
        ("_http._udp.web.ns.svc.cluster.local.", T::SRV, "NXDOMAIN"),
        ("_none._tcp.web.ns.svc.cluster.local.", T::SRV, "NXDOMAIN"),
        (
            "web.ns.svc.cluster.local.",
            T::SRV,
            "SRV 0 50 80 web.ns.svc.cluster.local., SRV 0 50 443 web.ns.svc.cluster.local. + A 10.96.0.7",
        ),
        ("10-244-3-1.web.ns.svc.cluster.local.", T::A, "A 10.244.3.1"),
        ("none.ns.svc.cluster.local.", T::A, "NODATA"),
        // 2.4: a headless one: those that are ready.
        ("db.ns.svc.cluster.local.", T::A, "A 10.244.1.2, A 10.244.1.3, A 10.244.1.4"),
        ("db.ns.svc.cluster.local.", T::AAAA, "AAAA fd00:244::2"),
        ("db-0.db.ns.svc.cluster.local.", T::A, "A 10.244.1.2"),
        ("db-0.db.ns.svc.cluster.local.", T::AAAA, "AAAA fd00:244::2"),
        ("db-1.db.ns.svc.cluster.local.", T::AAAA, "NODATA"),
        ("db-2.db.ns.svc.cluster.local.", T::A, "NXDOMAIN"),
        ("10-244-1-4.db.ns.svc.cluster.local.", T::A, "A 10.244.1.4"),
        ("early.ns.svc.cluster.local.", T::A, "A 10.244.2.1"),
        ("10-244-2-1.early.ns.svc.cluster.local.", T::A, "A 10.244.2.1"),
        (
            "_sql._tcp.db.ns.svc.cluster.local.",
            T::SRV,
            "SRV 0 33 15432 10-244-1-4.db.ns.svc.cluster.local., SRV 0 33 15432 db-0.db.ns.svc.cluster.local., \
             SRV 0 33 15432 db-1.db.ns.svc.cluster.local. + A 10.244.1.4, A 10.244.1.2, AAAA fd00:244::2, A 10.244.1.3",
        ),
        // 2.5: another name.
        ("out.ns.svc.cluster.local.", T::A, "CNAME db.example.org. > db.example.org."),
        ("out.ns.svc.cluster.local.", T::CNAME, "CNAME db.example.org."),
        ("in.ns.svc.cluster.local.", T::A, "CNAME web.ns.svc.cluster.local., A 10.96.0.7"),
        // Reverse names.
        ("7.0.96.10.in-addr.arpa.", T::PTR, "PTR web.ns.svc.cluster.local."),
        ("2.1.244.10.in-addr.arpa.", T::PTR, "PTR db-0.db.ns.svc.cluster.local."),
        ("4.1.244.10.in-addr.arpa.", T::PTR, "PTR 10-244-1-4.db.ns.svc.cluster.local."),
        ("5.1.244.10.in-addr.arpa.", T::PTR, "NXDOMAIN"),
        ("1.3.244.10.in-addr.arpa.", T::PTR, "NXDOMAIN"),
        ("7.0.96.10.in-addr.arpa.", T::A, "NODATA"),
        (
            "8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.",
            T::PTR,
            "PTR both.ns.svc.cluster.local.",
        ),
        ("8.8.8.8.in-addr.arpa.", T::PTR, "ELSEWHERE"),
        ("in-addr.arpa.", T::PTR, "ELSEWHERE"),
        // Pods by their addresses.
        ("10-244-9-9.ns.pod.cluster.local.", T::A, "A 10.244.9.9"),
        ("fd00-244--9.ns.pod.cluster.local.", T::AAAA, "AAAA fd00:244::9"),
        ("10-244-9-9.ns.pod.cluster.local.", T::AAAA, "NODATA"),
        ("web.ns.pod.cluster.local.", T::A, "NXDOMAIN"),
        // What lies above names is there and has nothing.
        ("ns.svc.cluster.local.", T::A, "NODATA"),
        ("svc.cluster.local.", T::A, "NODATA"),
        ("pod.cluster.local.", T::A, "NODATA"),
        ("cluster.local.", T::A, "NODATA"),
        ("cluster.local.", T::NS, "NS ns.dns.cluster.local."),
        ("ns.dns.cluster.local.", T::A, "A 10.96.0.10"),
        // What is not there, and what is not ours.
        ("nobody.ns.svc.cluster.local.", T::A, "NXDOMAIN"),
        ("web.nowhere.svc.cluster.local.", T::A, "NXDOMAIN"),
        ("nowhere.svc.cluster.local.", T::A, "NXDOMAIN"),
        ("a.b.web.ns.svc.cluster.local.", T::A, "NXDOMAIN"),
        ("example.org.cluster.local.", T::A, "NXDOMAIN"),
        ("a.b.c.d.e.f.svc.cluster.local.", T::A, "NXDOMAIN"),
        ("example.org.", T::A, "ELSEWHERE"),
        ("local.", T::A, "ELSEWHERE"),
        (".", T::NS, "ELSEWHERE"),
    ] {
        assert_eq!(asked(&zone, name, kind, 0), expected, "{name} {kind}");
    }
}

#[test]
fn an_alias_that_leads_to_itself_ends() {
    let answer = zone().answer(&Name::from_ascii("round.ns.svc.cluster.local.").unwrap(), RecordType::A, 0);
    assert_eq!((answer.why, answer.answers.len()), (Why::AliasesInACircle, 9));
}

#[test]
fn equal_records_take_turns() {
    let zone = zone();
    let firsts: Vec<String> = (0..4)
        .map(|turn| asked(&zone, "db.ns.svc.cluster.local.", RecordType::A, turn).chars().take(12).collect())
        .collect();
    assert_eq!(firsts, ["A 10.244.1.2", "A 10.244.1.3", "A 10.244.1.4", "A 10.244.1.2"]);
}

#[test]
fn names_keep_the_capitals_of_the_question() {
    let name = Name::from_ascii("wEb.ns.svc.cluster.local.").unwrap();
    let answer = zone().answer(&name, RecordType::A, 0);
    assert_eq!(answer.answers[0].name.to_ascii(), "wEb.ns.svc.cluster.local.");
}

#[test]
fn why_names_the_fault() {
    let zone = zone();
    for (name, why) in [
        ("web.ns.svc.cluster.local.", Why::ClusterAddress),
        ("db.ns.svc.cluster.local.", Why::Headless { named: 4, unready: 1 }),
        ("nobody.ns.svc.cluster.local.", Why::NoSuchService),
        ("web.nowhere.svc.cluster.local.", Why::NoSuchNamespace),
        ("db-2.db.ns.svc.cluster.local.", Why::NoSuchEndpoint),
        ("none.ns.svc.cluster.local.", Why::NoAddressYet),
        ("_http._tcp.web.ns.svc.cluster.local.", Why::OtherType),
    ] {
        assert_eq!(zone.answer(&Name::from_ascii(name).unwrap(), RecordType::A, 0).why, why, "{name}");
    }
}

/// Everything that the tables hold follows what is said, in whatever order it comes.
#[test]
fn what_is_taken_back_leaves_nothing() {
    let (mut zone, whole) = (zone(), zone());
    let mut all: Vec<Change> = whole.contents().collect();
    all.sort_by_key(|change| format!("{change:?}"));
    let gone = |change: &Change| Change::absent(change.key().0, change.key().1);
    for order in [all.clone(), all.iter().rev().cloned().collect()] {
        order.iter().for_each(|change| assert!(zone.apply(gone(change))));
        assert_eq!((zone.counts(), zone.by_address.len(), zone.namespaces.len()), ((0, 0), 0, 0));
        assert_eq!(zone.contents().count(), 0);
        order.iter().for_each(|change| assert!(zone.apply(change.clone())));
        order.iter().for_each(|change| assert!(!zone.apply(change.clone())));
        assert_eq!(zone.by_address.len(), whole.by_address.len());
        let name = "db.ns.svc.cluster.local.";
        assert_eq!(asked(&zone, name, RecordType::A, 0), asked(&whole, name, RecordType::A, 0));
    }
    let listed = [(0, "ns/web".into())].into();
    zone.retain(&listed);
    assert_eq!((zone.counts(), zone.by_address.len()), ((1, 0), 1));
}

#[test]
fn a_headless_service_that_gets_an_address_gives_its_endpoints_names_back() {
    let mut zone = zone();
    assert_eq!(
        asked(&zone, "2.1.244.10.in-addr.arpa.", RecordType::PTR, 0),
        "PTR db-0.db.ns.svc.cluster.local."
    );
    add_service(&mut zone, "db", json!({"clusterIP": "10.96.1.1"}));
    assert_eq!(asked(&zone, "2.1.244.10.in-addr.arpa.", RecordType::PTR, 0), "NXDOMAIN");
    assert_eq!(asked(&zone, "1.1.96.10.in-addr.arpa.", RecordType::PTR, 0), "PTR db.ns.svc.cluster.local.");
}

#[test]
fn addresses_of_nodes_are_known_as_long_as_a_node_has_them() {
    let mut zone = zone();
    let node = |name: &str, ips: &[&str]| {
        Change::Node(name.into(), Some(ips.iter().map(|ip| ip.parse().unwrap()).collect()))
    };
    let ip = "192.0.2.1".parse().unwrap();
    zone.apply(node("a", &["192.0.2.1"]));
    zone.apply(node("b", &["192.0.2.1", "192.0.2.2"]));
    zone.apply(node("a", &[]));
    assert!(zone.is_node(ip));
    zone.apply(Change::Node("b".into(), None));
    assert!(!zone.is_node(ip));
}
