//! IP families of Services (KEP-563): what they get, and what updates may change.

use crate::support::{Client, SERVICES, TestServer, service};
use serde_json::{Value, json};

const BOTH: [&str; 2] = ["10.9.0.0/16", "fd00:9::/112"];

async fn cluster(ranges: &[&str]) -> TestServer {
    let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    TestServer::start_with(move |config| config.service_cidrs = ranges, skerry_store::Options::default())
        .await
}

/// A Service of this name with these fields of `spec` besides its port and selector, and `clusterIP` where
/// `clusterIPs` is one of them.
fn with(name: &str, fields: Value) -> Value {
    let mut made = service(name);
    for (field, value) in fields.as_object().unwrap() {
        made["spec"][field] = value.clone();
        if field == "clusterIPs" {
            made["spec"]["clusterIP"] = value[0].clone();
        }
    }
    made
}

async fn made(client: &Client, name: &str, fields: Value) -> Value {
    client.post(SERVICES, &with(name, fields)).await.ok()["spec"].clone()
}

async fn refused(client: &Client, fields: Value, part: &str) {
    let message = client.post(SERVICES, &with("refused", fields)).await.refused(422);
    assert!(message.contains(part), "{message}");
}

fn ips(spec: &Value) -> Vec<String> {
    spec["clusterIPs"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_service_gets_the_families_its_policy_asks_for() {
    let server = cluster(&BOTH).await;
    let admin = server.admin();
    let plain = made(&admin, "plain", json!({})).await;
    assert_eq!((&plain["ipFamilyPolicy"], &plain["ipFamilies"]), (&json!("SingleStack"), &json!(["IPv4"])));
    for policy in ["PreferDualStack", "RequireDualStack"] {
        let spec = made(&admin, &policy.to_lowercase(), json!({"ipFamilyPolicy": policy})).await;
        assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
        let ips = ips(&spec);
        assert!(ips[0].starts_with("10.9.") && ips[1].starts_with("fd00:9::"), "{ips:?}");
        assert_eq!(spec["clusterIP"], json!(ips[0]));
    }
    // The family of an address that is asked for, and an order that is.
    let six = made(&admin, "six", json!({"ipFamilies": ["IPv6"]})).await;
    assert!(ips(&six)[0].starts_with("fd00:9::") && ips(&six).len() == 1);
    let by_address = made(&admin, "address", json!({"clusterIP": "fd00:9::77"})).await;
    assert_eq!(by_address["ipFamilies"], json!(["IPv6"]));
    let turned =
        made(&admin, "turned", json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}))
            .await;
    assert!(ips(&turned)[0].starts_with("fd00:9::") && ips(&turned)[1].starts_with("10.9."));
    let chosen = json!({"clusterIPs": ["10.9.0.99", "fd00:9::99"], "ipFamilyPolicy": "RequireDualStack"});
    assert_eq!(ips(&made(&admin, "chosen", chosen).await), ["10.9.0.99", "fd00:9::99"]);
    let external = json!({"type": "ExternalName", "externalName": "example.com"});
    assert!(made(&admin, "external", external).await.get("ipFamilies").is_none());
}

#[tokio::test]
async fn fields_that_contradict_each_other_are_refused_by_name() {
    let server = cluster(&BOTH).await;
    let admin = server.admin();
    let many = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";
    refused(
        &admin,
        json!({"ipFamilies": ["IPv4", "IPv6"]}),
        &format!("spec.ipFamilyPolicy: Invalid value: \"SingleStack\": {many} IP families are specified"),
    )
    .await;
    refused(
        &admin,
        json!({"clusterIPs": ["10.9.0.5", "fd00:9::5"]}),
        &format!("{many} cluster IPs are specified"),
    )
    .await;
    let prefer = |fields: Value| {
        let mut fields = fields;
        fields["ipFamilyPolicy"] = "PreferDualStack".into();
        fields
    };
    let mut without = with("refused", prefer(json!({"clusterIPs": ["10.9.0.5"]})));
    without["spec"]["clusterIP"] = "".into();
    let message = admin.post(SERVICES, &without).await.refused(422);
    assert!(message.contains("must be empty when `clusterIP` is not specified"), "{message}");
    for (fields, part) in [
        (json!({"ipFamilies": ["IPv4", "IPv4"]}), "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
        (
            json!({"ipFamilies": ["IPv6"], "clusterIPs": ["10.9.0.5"]}),
            "spec.clusterIPs[0]: Invalid value: \"10.9.0.5\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            json!({"clusterIPs": ["10.9.0.5", "10.9.0.6"]}),
            "may specify no more than one IP for each IP family",
        ),
        (
            json!({"clusterIPs": ["10.9.0.5", "nonsense"]}),
            "spec.clusterIPs[1]: Invalid value: \"nonsense\": must be a valid IP address",
        ),
        (json!({"clusterIPs": ["None", "10.9.0.6"]}), "'None' must be the first and only value"),
        (
            json!({"clusterIPs": ["10.9.0.5", "fd00:9::5", "fd00:9::6"]}),
            "spec.clusterIPs: Invalid value: [\"10.9.0.5\",\"fd00:9::5\",\"fd00:9::6\"]: may only hold up to 2 values",
        ),
    ] {
        refused(&admin, prefer(fields), part).await;
    }
}

#[tokio::test]
async fn one_family_alone_prefers_what_there_is_and_refuses_what_is_required() {
    for (range, family, other) in [(BOTH[0], "IPv4", "IPv6"), (BOTH[1], "IPv6", "IPv4")] {
        let server = cluster(&[range]).await;
        let admin = server.admin();
        assert_eq!(made(&admin, "plain", json!({})).await["ipFamilies"], json!([family]));
        let preferred = made(&admin, "preferred", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
        assert_eq!(preferred["ipFamilies"], json!([family]));
        refused(
            &admin,
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        )
        .await;
        let part = format!("spec.ipFamilies[0]: Invalid value: \"{other}\": not configured on this cluster");
        refused(&admin, json!({"ipFamilies": [other]}), &part).await;
        // Whoever writes the endpoints of a headless Service without a selector knows their families.
        let headless = json!({"clusterIP": "None", "selector": null});
        let headless = made(&admin, "headless", headless).await;
        assert_eq!(headless["ipFamilyPolicy"], "RequireDualStack");
        assert_eq!(headless["ipFamilies"], json!([family, other]));
        assert_eq!(headless["clusterIPs"], json!(["None"]));
    }
}

#[tokio::test]
async fn a_change_of_policy_adds_and_releases_the_second_family() {
    let server = cluster(&BOTH).await;
    let admin = server.admin();
    let path = format!("{SERVICES}/web");
    let first = ips(&made(&admin, "web", json!({})).await);
    let patch = async |fields: Value| {
        admin.patch(&path, "merge", &json!({"spec": fields})).await.ok()["spec"].clone()
    };
    let refuse = async |fields: Value, part: &str| {
        let message = admin.patch(&path, "merge", &json!({"spec": fields})).await.refused(422);
        assert!(message.contains(part), "{message}");
    };
    let both = patch(json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(both["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(ips(&both)[0], first[0]);
    let second = ips(&both)[1].clone();
    // As `kubectl replace` of the original file.
    let replaced = admin.put(&path, &service("web")).await.ok()["spec"].clone();
    assert_eq!((ips(&replaced), &replaced["ipFamilyPolicy"]), (ips(&both), &json!("PreferDualStack")));
    // Nothing goes without a word, and what is there is not exchanged.
    refuse(json!({"ipFamilies": ["IPv4"]}), "must be 'SingleStack' to release the secondary IP family").await;
    refuse(json!({"clusterIPs": [first[0]]}), "must be 'SingleStack' to release the secondary cluster IP")
        .await;
    refuse(json!({"clusterIPs": [first[0], "fd00:9::42"]}), "spec.clusterIPs[1]").await;
    refuse(json!({"ipFamilies": ["IPv6", "IPv4"]}), "spec.ipFamilies[0]").await;
    let single = patch(json!({"ipFamilyPolicy": "SingleStack"})).await;
    assert_eq!((ips(&single), &single["ipFamilies"]), (first.clone(), &json!(["IPv4"])));
    // The address is free for another one at once.
    let heir = json!({"ipFamilies": ["IPv6"], "clusterIP": second});
    assert_eq!(ips(&made(&admin, "heir", heir).await), [second]);
    let named = json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": [first[0], "fd00:9::42"]});
    assert_eq!(ips(&patch(named).await), [first[0].as_str(), "fd00:9::42"]);
}

#[tokio::test]
async fn a_service_that_takes_what_there_is_rests_when_the_cluster_changes() {
    let start = async |folder: tempfile::TempDir, ranges: &[&str]| {
        let ranges: Vec<_> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let options = skerry_store::Options::default();
        TestServer::start_in(folder, move |config| config.service_cidrs = ranges, options).await
    };
    let path = format!("{SERVICES}/web");
    let server = start(tempfile::tempdir().unwrap(), &BOTH[..1]).await;
    made(&server.admin(), "web", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    let server = start(server.stop().await, &BOTH).await;
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let spec = server.admin().patch(&path, "merge", &label).await.ok()["spec"].clone();
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]), "a change of something else adds no family");
    let named = json!({"spec": {"ipFamilies": ["IPv4", "IPv6"]}});
    let spec = server.admin().patch(&path, "merge", &named).await.ok()["spec"].clone();
    assert_eq!(ips(&spec).len(), 2);
    let server = start(server.stop().await, &BOTH[..1]).await;
    let label = json!({"metadata": {"labels": {"a": "c"}}});
    let spec = server.admin().patch(&path, "merge", &label).await.ok()["spec"].clone();
    assert_eq!(ips(&spec).len(), 2, "and none is lost");
}

#[tokio::test]
async fn the_kubernetes_service_is_of_the_first_family() {
    let server = cluster(&[BOTH[1], BOTH[0]]).await;
    let spec = server.admin().get(&format!("{SERVICES}/kubernetes")).await.ok()["spec"].clone();
    assert_eq!(ips(&spec), ["fd00:9::1"]);
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
}

#[tokio::test]
async fn the_dns_service_has_the_tenth_address_of_each_range_and_stays_as_somebody_makes_it() {
    let path = "/api/v1/namespaces/kube-system/services/kube-dns";
    let server = cluster(&BOTH).await;
    let service = server.admin().get(path).await.ok();
    assert_eq!(ips(&service["spec"]), ["10.9.0.10", "fd00:9::a"]);
    assert_eq!(service["spec"]["ipFamilyPolicy"], "RequireDualStack");
    let own = json!({"spec": {"selector": {"k8s-app": "kube-dns"}}});
    server.admin().patch(path, "merge", &own).await.ok();
    let options = skerry_store::Options::default();
    let ranges: Vec<_> = BOTH.iter().map(|range| range.parse().unwrap()).collect();
    let folder = server.stop().await;
    let server = TestServer::start_in(folder, move |config| config.service_cidrs = ranges, options).await;
    let service = server.admin().get(path).await.ok();
    assert_eq!(service["spec"]["selector"]["k8s-app"], "kube-dns");
}
