//! Assignment as tables: Services and a ConfigMap in, statuses out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::plan::{Config, Decision, plan};
use super::pools::{self, PoolError};
use super::status;

const POOLS: &str = "
- name: default
  cidrs: [192.0.2.0/30]
";
const DUAL: &str = "
- {name: four, ranges: [192.0.2.1-192.0.2.2]}
- {name: six, cidrs: ['2001:db8::/125']}
";

fn config(text: &str) -> ConfigMap {
    serde_json::from_value(json!({"data": {"pools": text}})).unwrap()
}

/// Services in memory that decisions are written to, by name; the first is the oldest.
struct Services {
    there: Vec<Arc<Service>>,
    unreadable: Vec<Arc<Service>>,
    nodes: BTreeSet<IpAddr>,
}

impl Services {
    fn of(list: &[(&str, Value)]) -> Self {
        let mut services = Self { there: Vec::new(), unreadable: Vec::new(), nodes: BTreeSet::new() };
        list.iter().for_each(|(name, extra)| services.add(name, extra.clone()));
        services
    }

    fn add(&mut self, name: &str, extra: Value) {
        let age = self.there.len();
        let mut service = json!({
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": format!("2026-01-01T00:00:{age:02}Z")},
            "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80}],
                     "selector": {"app": name}},
            "status": {"loadBalancer": {}},
        });
        json_patch::merge(&mut service, &extra);
        self.there.push(Arc::new(serde_json::from_value(service).unwrap()));
    }

    fn change(&mut self, name: &str, change: Value) {
        let service = self.there.iter_mut().find(|service| service.name_any() == name).unwrap();
        let mut value = serde_json::to_value(&**service).unwrap();
        json_patch::merge(&mut value, &change);
        *service = Arc::new(serde_json::from_value(value).unwrap());
    }

    fn remove(&mut self, name: &str) {
        self.there.retain(|service| service.name_any() != name);
    }

    fn decide(&self, config: Config) -> Vec<Decision> {
        plan(config, &self.there, &self.unreadable, &self.nodes)
    }

    /// Decides and writes; what changed, with reasons. Decided again, nothing changes.
    fn run(&mut self, config: Config) -> BTreeMap<String, String> {
        let decisions = self.decide(config);
        let said = decisions.iter().map(|decision| {
            let addresses: Vec<String> = decision.addresses.iter().map(ToString::to_string).collect();
            let said = format!("{} {}", decision.outcome.words().0, addresses.join(" "));
            (decision.key.name().to_string(), said.trim().to_owned())
        });
        let said = said.collect();
        for decision in &decisions {
            let service =
                self.there.iter().find(|service| service.name_any() == decision.key.name()).unwrap();
            let status = status(service, decision);
            self.change(decision.key.name(), json!({"status": status}));
        }
        assert_eq!(self.decide(config), [], "it has settled");
        said
    }

    fn with(&mut self, pools: &str) -> BTreeMap<String, String> {
        let pools = pools::parse(&config(pools)).unwrap();
        self.run(Config::Pools(&pools))
    }

    fn message(&self, name: &str) -> String {
        let service = self.there.iter().find(|service| service.name_any() == name).unwrap();
        super::request::condition(service).unwrap().message.clone()
    }
}

fn said(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, said)| ((*name).to_owned(), (*said).to_owned())).collect()
}

fn annotated(name: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {format!("skerry.io/load-balancer-{name}"): value}}})
}

#[test]
fn services_get_addresses_in_the_order_of_their_age() {
    let mut services = Services::of(&[("b", json!({})), ("a", json!({}))]);
    assert_eq!(services.with(POOLS), said(&[("b", "Assigned 192.0.2.0"), ("a", "Assigned 192.0.2.1")]));
    let status = serde_json::to_value(&services.there[0].status).unwrap();
    assert_eq!(status["loadBalancer"], json!({"ingress": [{"ip": "192.0.2.0", "ipMode": "VIP"}]}));
    assert_eq!(status["conditions"][0]["type"], "skerry.io/AddressAssigned");
    assert_eq!(status["conditions"][0]["status"], "True");
    assert_eq!(services.message("b"), "from pool default");
}

#[test]
fn without_a_configmap_nothing_happens_and_nothing_is_taken_away() {
    let mut services = Services::of(&[("a", json!({}))]);
    assert_eq!(services.run(Config::Absent), said(&[]));
    services.with(POOLS);
    services.add("b", json!({}));
    assert_eq!(services.run(Config::Absent), said(&[]));
}

#[test]
fn an_unreadable_service_keeps_its_address_from_all_others() {
    let mut services = Services::of(&[("a", json!({})), ("b", json!({}))]);
    services.with(POOLS);
    services.unreadable.push(services.there.remove(0));
    services.add("c", json!({}));
    assert_eq!(services.with(POOLS), said(&[("c", "Assigned 192.0.2.2")]));
}

#[test]
fn a_bad_configmap_leaves_what_is_assigned_and_says_so_to_who_waits() {
    let mut services = Services::of(&[("a", json!({}))]);
    services.with(POOLS);
    services.add("b", json!({}));
    assert_eq!(services.run(Config::Bad("pools[0] is odd")), said(&[("b", "BadConfiguration")]));
    assert!(services.message("b").ends_with("pools[0] is odd"));
    assert_eq!(services.with(POOLS), said(&[("b", "Assigned 192.0.2.1")]));
}

#[test]
fn an_address_is_free_again_when_its_service_goes_or_changes_type_or_class() {
    let mut services =
        Services::of(&[("a", json!({})), ("b", json!({})), ("c", json!({})), ("d", json!({}))]);
    services.with(POOLS);
    services.add("e", json!({}));
    assert_eq!(services.with(POOLS), said(&[("e", "PoolExhausted")]));
    assert!(services.message("e").contains("no IPv4 address is free in pool default: add addresses"));
    services.remove("b");
    assert_eq!(services.with(POOLS), said(&[("e", "Assigned 192.0.2.1")]));
    services.change("c", json!({"spec": {"type": "ClusterIP"}}));
    services.add("f", json!({}));
    assert_eq!(services.with(POOLS), said(&[("c", "Released"), ("f", "Assigned 192.0.2.2")]));
    services.change("d", json!({"spec": {"loadBalancerClass": "example.com/other"}}));
    assert_eq!(services.with(POOLS), said(&[("d", "Released")]));
    let c = serde_json::to_value(&services.there[1].status).unwrap();
    assert_eq!(c, json!({"loadBalancer": {}}));
    // Released also while there is no configuration.
    services.change("f", json!({"spec": {"type": "NodePort"}}));
    assert_eq!(services.run(Config::Absent), said(&[("f", "Released")]));
}

#[test]
fn our_class_is_served_and_others_are_not() {
    let class = |name: &str| json!({"spec": {"loadBalancerClass": name}});
    let mut services = Services::of(&[("a", class("skerry.io/pool")), ("b", class("example.com/other"))]);
    services.add("c", json!({"spec": {"type": "ClusterIP"}}));
    assert_eq!(services.with(POOLS), said(&[("a", "Assigned 192.0.2.0")]));
}

#[test]
fn addresses_that_another_load_balancer_gave_are_left_alone() {
    let foreign = |ip: &str| json!({"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}});
    let mut services = Services::of(&[("theirs", foreign("198.51.100.7"))]);
    services.add("named", json!({"status": {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}}));
    assert_eq!(services.with(POOLS), said(&[]));
    // One out of our own pool is ours: the mark was lost, or an older version gave it.
    services.add("ours", foreign("192.0.2.3"));
    assert_eq!(services.with(POOLS), said(&[("ours", "Assigned 192.0.2.3")]));
}

#[test]
fn an_address_can_be_asked_for() {
    let mut services = Services::of(&[
        ("field", json!({"spec": {"loadBalancerIP": "192.0.2.2"}})),
        ("both", json!({"spec": {"loadBalancerIP": "192.0.2.2"}})),
        ("taken", json!({"spec": {"loadBalancerIP": "192.0.2.2"}})),
        ("outside", json!({"spec": {"loadBalancerIP": "192.0.2.9"}})),
        ("family", annotated("ips", "2001:db8::1")),
        ("odd", annotated("ips", "192.0.2.x")),
        ("any", json!({})),
    ]);
    services.change("both", annotated("ips", "192.0.2.0"));
    let expected = [
        ("field", "Assigned 192.0.2.2"),
        ("both", "Assigned 192.0.2.0"),
        ("taken", "AddressTaken"),
        ("outside", "AddressNotInPool"),
        ("family", "InvalidRequest"),
        ("odd", "InvalidRequest"),
        ("any", "Assigned 192.0.2.1"),
    ];
    assert_eq!(services.with(POOLS), said(&expected));
    assert!(services.message("taken").contains("spec.loadBalancerIP: 192.0.2.2 belongs to Service ns/field"));
    assert!(services.message("odd").contains("skerry.io/load-balancer-ips"));
    // The wish changes, and what was let go is had by who waited for it.
    services.change("field", json!({"spec": {"loadBalancerIP": "192.0.2.3"}}));
    assert_eq!(
        services.with(POOLS),
        said(&[("field", "Assigned 192.0.2.3"), ("taken", "Assigned 192.0.2.2")])
    );
    // A wish that can't be understood takes nothing away.
    services.change("both", annotated("ips", "nonsense"));
    assert_eq!(services.with(POOLS), said(&[("both", "InvalidRequest 192.0.2.0")]));
}

#[test]
fn of_two_with_one_address_the_older_keeps_it() {
    let has = |ip: &str| {
        json!({"status": {"loadBalancer": {"ingress": [{"ip": ip}]},
            "conditions": [{"type": "skerry.io/AddressAssigned", "status": "True", "reason": "Assigned",
                "message": "from pool default", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    };
    let mut services = Services::of(&[("older", has("192.0.2.1")), ("newer", has("192.0.2.1"))]);
    assert_eq!(services.with(POOLS), said(&[("newer", "Assigned 192.0.2.0")]));
}

#[test]
fn addresses_are_shared_only_where_all_ask_for_it_and_it_can_work() {
    let with = |port: u16, policy: &str, app: &str| {
        let mut service = annotated("sharing-key", "web");
        json_patch::merge(
            &mut service,
            &json!({"spec": {"ports": [{"port": port}], "externalTrafficPolicy": policy, "selector": {"app": app}}}),
        );
        service
    };
    let mut services = Services::of(&[
        ("http", with(80, "Cluster", "a")),
        ("https", with(443, "Cluster", "b")),
        ("again", with(80, "Cluster", "c")),
        ("alone", json!({"spec": {"ports": [{"port": 8080}]}})),
    ]);
    services.add("elsewhere", with(9000, "Cluster", "d"));
    services.change("elsewhere", json!({"metadata": {"namespace": "other"}}));
    let expected = [
        ("http", "Assigned 192.0.2.0"),
        ("https", "Assigned 192.0.2.0"),
        ("again", "Assigned 192.0.2.1"),
        ("alone", "Assigned 192.0.2.2"),
        ("elsewhere", "Assigned 192.0.2.3"),
    ];
    assert_eq!(services.with(POOLS), said(&expected));

    // Two Local ones with different pods need different nodes.
    let mut services = Services::of(&[
        ("one", with(80, "Local", "a")),
        ("same", with(81, "Local", "a")),
        ("other", with(82, "Local", "b")),
    ]);
    let expected =
        [("one", "Assigned 192.0.2.0"), ("same", "Assigned 192.0.2.0"), ("other", "Assigned 192.0.2.1")];
    assert_eq!(services.with(POOLS), said(&expected));
    // Who does not ask any more has to leave, and who came first stays.
    services
        .change("same", json!({"metadata": {"annotations": {"skerry.io/load-balancer-sharing-key": null}}}));
    assert_eq!(services.with(POOLS), said(&[("same", "Assigned 192.0.2.2")]));
}

#[test]
fn families_follow_the_service() {
    let families =
        |policy: &str, list: Value| json!({"spec": {"ipFamilyPolicy": policy, "ipFamilies": list}});
    let both = json!(["IPv6", "IPv4"]);
    let mut services = Services::of(&[
        ("six", families("SingleStack", json!(["IPv6"]))),
        ("require", families("RequireDualStack", both.clone())),
        ("prefer", families("PreferDualStack", both.clone())),
        ("late", families("RequireDualStack", both.clone())),
        ("last", families("PreferDualStack", both)),
    ]);
    let expected = [
        ("six", "Assigned 2001:db8::"),
        ("require", "Assigned 2001:db8::1 192.0.2.1"),
        ("prefer", "Assigned 2001:db8::2 192.0.2.2"),
        ("late", "PoolExhausted"),
        ("last", "Assigned 2001:db8::3"),
    ];
    assert_eq!(services.with(DUAL), said(&expected));
    assert!(services.message("late").contains("no IPv4 address is free in pool four, six"));
    services.change("prefer", families("SingleStack", json!(["IPv6"])));
    services.remove("six");
    assert_eq!(
        services.with(DUAL),
        said(&[("prefer", "Assigned 2001:db8::2"), ("late", "Assigned 2001:db8:: 192.0.2.2")])
    );
    let mut services = Services::of(&[("six", families("SingleStack", json!(["IPv6"])))]);
    assert_eq!(services.with(POOLS), said(&[("six", "NoAddressOfFamily")]));
}

#[test]
fn pools_serve_whom_they_are_for() {
    let pools = "
- {name: spare, cidrs: [192.0.2.0/32], autoAssign: false}
- {name: common, cidrs: [192.0.2.1/32]}
- {name: shop, cidrs: [192.0.2.2/32], namespaces: [shop]}
- name: gold
  cidrs: [192.0.2.3/32]
  serviceSelector: {matchExpressions: [{key: tier, operator: In, values: [gold]}]}
";
    let mut services = Services::of(&[
        ("gold", json!({"metadata": {"labels": {"tier": "gold"}}})),
        ("shop", json!({"metadata": {"namespace": "shop"}})),
        ("plain", json!({})),
        ("none", json!({})),
        ("spare", annotated("pool", "spare")),
        ("stranger", annotated("pool", "shop")),
        ("by-address", json!({"spec": {"loadBalancerIP": "192.0.2.3"}})),
    ]);
    let expected = [
        ("gold", "Assigned 192.0.2.3"),
        ("shop", "Assigned 192.0.2.2"),
        ("plain", "Assigned 192.0.2.1"),
        ("none", "PoolExhausted"),
        ("spare", "Assigned 192.0.2.0"),
        ("stranger", "NoPool"),
        ("by-address", "AddressNotInPool"),
    ];
    assert_eq!(services.with(pools), said(&expected));
    assert!(services.message("stranger").contains("\"shop\""));
    // A pool that is gone takes its addresses with it; who can have another gets one.
    let moved = services.with("[{\"name\": \"new\", \"cidrs\": [\"198.51.100.0/24\"]}]");
    assert_eq!(moved["gold"], "Assigned 198.51.100.0");
    assert_eq!(moved["spare"], "NoPool");
    let mut services = Services::of(&[("a", json!({}))]);
    assert_eq!(
        services.with("- {name: spare, cidrs: [192.0.2.0/32], autoAssign: false}"),
        said(&[("a", "NoPool")])
    );
}

#[test]
fn addresses_of_nodes_and_of_services_that_end_are_taken() {
    let mut services = Services::of(&[("ends", json!({})), ("new", json!({}))]);
    services.nodes = BTreeSet::from(["192.0.2.0".parse().unwrap()]);
    assert_eq!(services.with(POOLS), said(&[("ends", "Assigned 192.0.2.1"), ("new", "Assigned 192.0.2.2")]));
    services.change("ends", json!({"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z"}}));
    services.add("newer", json!({"spec": {"loadBalancerIP": "192.0.2.1"}}));
    services.add("bold", json!({"spec": {"loadBalancerIP": "192.0.2.0"}}));
    assert_eq!(services.with(POOLS), said(&[("newer", "AddressTaken"), ("bold", "AddressTaken")]));
    assert!(services.message("bold").contains("belongs to a node"));
}

#[test]
fn conditions_of_others_stay() {
    let other = json!([{"type": "example.com/Other", "status": "True", "reason": "R", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let mut services = Services::of(&[("a", json!({"status": {"conditions": other}}))]);
    let types = |services: &Services| -> Vec<String> {
        let status = services.there[0].status.clone().unwrap();
        status.conditions.unwrap().into_iter().map(|condition| condition.type_).collect()
    };
    services.with(POOLS);
    assert_eq!(types(&services), ["example.com/Other", "skerry.io/AddressAssigned"]);
    services.change("a", json!({"spec": {"type": "ClusterIP"}}));
    services.with(POOLS);
    assert_eq!(types(&services), ["example.com/Other"]);
    assert_eq!(services.decide(Config::Absent), []);
}

#[test]
fn a_wrong_configuration_names_the_field() {
    let error = |text: &str| pools::parse(&config(text)).unwrap_err().to_string();
    for (text, part) in [
        ("nonsense", "data.pools of ConfigMap kube-system/skerry-load-balancer is no list of pools"),
        ("- {name: a, cidr: [192.0.2.0/24]}", "cidr"),
        ("- {name: a, cidrs: [192.0.2.0/33]}", "pools[0].cidrs[0] \"192.0.2.0/33\" is no range"),
        ("- {name: a, ranges: [192.0.2.9-192.0.2.1]}", "pools[0].ranges[0]"),
        ("- {name: a, ranges: ['192.0.2.9-2001:db8::1']}", "write FIRST-LAST"),
        ("- {name: a, cidrs: [127.0.0.0/8]}", "no client can use"),
        ("- {cidrs: [192.0.2.0/24]}", "pools[0].name is empty"),
        ("- {name: a}", "pools[0] (\"a\") has no addresses"),
        ("[{name: a, cidrs: [192.0.2.0/24]}, {name: a, cidrs: [198.51.100.0/24]}]", "pools[1].name \"a\""),
        (
            "[{name: a, cidrs: [192.0.2.0/24]}, {name: b, ranges: [192.0.2.7]}]",
            "pools \"a\" and \"b\" both have 192.0.2.7",
        ),
    ] {
        assert!(error(text).contains(part), "{text}: {}", error(text));
    }
    assert!(matches!(pools::parse(&ConfigMap::default()), Err(PoolError::Missing)));
    assert!(pools::parse(&config("[]")).unwrap().is_empty());
}
