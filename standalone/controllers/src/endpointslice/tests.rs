//! Slices by their documented behaviour, and placement as a property.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::desired::{groups, keep};
use super::place::{Keeper, MAX_ENDPOINTS, Plan, place};

fn service(spec: Value) -> Service {
    let mut all = json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.9", "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 8080, "targetPort": 80}]});
    for (name, value) in spec.as_object().unwrap() {
        all[name] = value.clone();
    }
    let meta = json!({"name": "web", "namespace": "ns", "uid": "svc", "labels": {"team": "a"}});
    serde_json::from_value(json!({"metadata": meta, "spec": all})).unwrap()
}

fn pod(n: usize, ready: bool, extra: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}")},
        "spec": {"nodeName": "node1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80 + n % 2}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": format!("10.244.{}.{}", n / 250, n % 250 + 1)}, {"ip": format!("fd00::{n:x}")}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    });
    for (path, value) in extra.as_object().unwrap() {
        *pod.pointer_mut(path.rsplit_once('/').unwrap().0)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .entry(path.rsplit_once('/').unwrap().1)
            .or_insert(Value::Null) = value.clone();
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn zone(_: &str) -> Option<String> {
    Some("z1".into())
}

/// Slices in memory that plans are applied to.
#[derive(Default)]
struct Slices {
    there: Vec<Arc<EndpointSlice>>,
    made: usize,
}

impl Slices {
    fn sync(&mut self, service: &Service, pods: &[Arc<Pod>]) -> usize {
        let plan = place(&Keeper::of_service(service), &self.there, groups(service, pods, zone));
        let writes = plan.create.len() + plan.update.len() + plan.delete.len();
        self.apply(plan);
        writes
    }

    fn apply(&mut self, plan: Plan) {
        for mut slice in plan.create {
            self.made += 1;
            slice.metadata.name = Some(format!("web-{}", self.made));
            self.there.push(Arc::new(slice));
        }
        for (key, patch) in plan.update {
            let slice = self.there.iter_mut().find(|slice| slice.name_any() == key.name()).unwrap();
            let mut value = serde_json::to_value(&**slice).unwrap();
            for part in ["endpoints", "ports"] {
                if let Some(new) = patch.get(part) {
                    value[part] = new.clone();
                }
            }
            *slice = Arc::new(serde_json::from_value(value).unwrap());
        }
        let gone: Vec<String> = plan.delete.iter().map(|slice| slice.name_any()).collect();
        self.there.retain(|slice| !gone.contains(&slice.name_any()));
    }

    fn pods(&self) -> Vec<String> {
        let endpoints = self.there.iter().flat_map(|slice| slice.endpoints.iter().flatten());
        let mut names: Vec<String> = endpoints.filter_map(|e| e.target_ref.as_ref()?.name.clone()).collect();
        names.sort();
        names
    }
}

#[test]
fn endpoint_says_what_kubernetes_would_say() {
    let mut slices = Slices::default();
    slices.sync(&service(json!({})), &[pod(0, true, json!({}))]);
    let slice = serde_json::to_value(&*slices.there[0]).unwrap();
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(slice["ports"], json!([{"name": "http", "port": 80, "protocol": "TCP"}]));
    assert_eq!(
        slice["endpoints"],
        json!([{
            "addresses": ["10.244.0.1"], "nodeName": "node1", "zone": "z1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": "p0", "namespace": "ns", "uid": "u0"},
        }])
    );
    assert_eq!(
        slice["metadata"]["labels"],
        json!({"team": "a", "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"})
    );
    assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "svc");
}

#[test]
fn conditions_follow_readiness_termination_and_publish_not_ready() {
    let conditions = |service: &Service, pod: Arc<Pod>| {
        let groups = groups(service, &[pod], zone);
        let conditions = groups[0].endpoints[0].conditions.clone().unwrap();
        (conditions.ready.unwrap(), conditions.serving.unwrap(), conditions.terminating.unwrap())
    };
    let plain = service(json!({}));
    let ending = json!({"/metadata/deletionTimestamp": "2026-01-01T00:00:00Z"});
    assert_eq!(conditions(&plain, pod(0, false, json!({}))), (false, false, false));
    assert_eq!(conditions(&plain, pod(0, true, ending.clone())), (false, true, true));
    let all = service(json!({"publishNotReadyAddresses": true}));
    assert_eq!(conditions(&all, pod(0, false, json!({}))), (true, false, false));
    assert!(
        groups(&plain, &[pod(0, true, json!({"/status/phase": "Succeeded"}))], zone)[0].endpoints.is_empty()
    );
}

#[test]
fn hints_follow_traffic_distribution() {
    let hints = |spec: Value, pod: Arc<Pod>| {
        let groups = groups(&service(spec), &[pod], zone);
        serde_json::to_value(&groups[0].endpoints[0].hints).unwrap()
    };
    let ready = || pod(0, true, json!({}));
    let zones = json!({"forZones": [{"name": "z1"}]});
    assert_eq!(hints(json!({}), ready()), Value::Null);
    for close in ["PreferClose", "PreferSameZone"] {
        assert_eq!(hints(json!({"trafficDistribution": close}), ready()), zones);
    }
    let near = json!({"trafficDistribution": "PreferSameNode"});
    assert_eq!(
        hints(near.clone(), ready()),
        json!({"forZones": [{"name": "z1"}], "forNodes": [{"name": "node1"}]})
    );
    assert_eq!(hints(near, pod(0, false, json!({}))), Value::Null, "nobody is sent to an unready one");
}

#[test]
fn unreadable_pod_keeps_the_endpoint_that_it_has() {
    let (service, mut slices) = (service(json!({})), Slices::default());
    slices.sync(&service, &[pod(0, true, json!({})), pod(1, true, json!({}))]);
    let sync = |slices: &mut Slices, readable: &[Arc<Pod>], unreadable: &[Arc<Pod>]| {
        let mut groups = groups(&service, readable, zone);
        keep(&mut groups, &slices.there, unreadable);
        slices.apply(place(&Keeper::of_service(&service), &slices.there, groups));
    };
    sync(&mut slices, &[pod(2, true, json!({}))], &[pod(1, false, json!({})), pod(3, true, json!({}))]);
    assert_eq!(slices.pods(), ["p1", "p2"], "as it was; one that had none gets none");
    sync(&mut slices, &[], &[pod(1, false, json!({}))]);
    let endpoints: Vec<_> = slices.there.iter().flat_map(|slice| slice.endpoints.clone().unwrap()).collect();
    assert_eq!(endpoints[0].conditions.as_ref().unwrap().ready, Some(true));
    assert_eq!((slices.there.len(), endpoints.len()), (1, 1));
}

#[test]
fn topology_mode_comes_before_traffic_distribution() {
    let mut service = service(json!({"trafficDistribution": "PreferClose"}));
    let hints =
        |service: &Service| groups(service, &[pod(0, true, json!({}))], zone)[0].endpoints[0].hints.clone();
    assert!(hints(&service).is_some());
    let mode = ("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned());
    service.metadata.annotations = Some([mode].into());
    assert!(hints(&service).is_none());
}

#[test]
fn pods_that_name_a_port_differently_get_slices_of_their_own() {
    let service = service(json!({"ports": [{"port": 80, "targetPort": "web"}]}));
    let found =
        groups(&service, &[pod(0, true, json!({})), pod(1, true, json!({})), pod(2, true, json!({}))], zone);
    let ports: Vec<_> = found.iter().map(|g| (g.ports[0].port.unwrap(), g.endpoints.len())).collect();
    assert_eq!(ports, [(80, 2), (81, 1)]);
    assert_eq!(found[0].ports[0].name.as_deref(), Some(""));
}

#[test]
fn dual_stack_service_has_slices_of_both_families() {
    let service = service(json!({"ipFamilies": ["IPv6", "IPv4"]}));
    let found = groups(&service, &[pod(5, true, json!({}))], zone);
    let addresses: Vec<_> =
        found.iter().map(|g| (g.family.name(), g.endpoints[0].addresses[0].clone())).collect();
    assert_eq!(addresses, [("IPv6", "fd00::5".to_owned()), ("IPv4", "10.244.0.6".to_owned())]);
}

#[test]
fn service_without_endpoints_keeps_one_empty_slice_and_fills_it_again() {
    let (service, mut slices) = (service(json!({})), Slices::default());
    slices.sync(&service, &[]);
    assert_eq!((slices.there.len(), slices.pods().len()), (1, 0));
    slices.sync(&service, &[pod(0, true, json!({}))]);
    assert_eq!((slices.there.len(), slices.made), (1, 1), "the same slice");
    slices.sync(&service, &[]);
    assert_eq!((slices.there.len(), slices.made), (1, 1));
}

#[test]
fn one_change_in_a_big_service_touches_one_slice() {
    let (service, mut slices) = (service(json!({})), Slices::default());
    let mut pods: Vec<_> = (0..350).map(|n| pod(n * 2, true, json!({}))).collect();
    slices.sync(&service, &pods);
    assert_eq!(slices.there.len(), 4);
    pods[17] = pod(34, false, json!({}));
    assert_eq!(slices.sync(&service, &pods), 1);
    pods.remove(200);
    assert_eq!(slices.sync(&service, &pods), 1);
    pods.push(pod(9_000, true, json!({})));
    assert_eq!(slices.sync(&service, &pods), 1);
    assert_eq!(slices.sync(&service, &pods), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn slices_always_hold_exactly_the_pods_and_then_rest(
        rounds in prop::collection::vec((0usize..320, 0usize..320, any::<bool>()), 1..6),
    ) {
        let (service, mut slices) = (service(json!({})), Slices::default());
        for (from, count, ready) in rounds {
            let pods: Vec<_> = (from..from + count).map(|n| pod(n, ready, json!({}))).collect();
            slices.sync(&service, &pods);
            let mut names: Vec<String> = pods.iter().map(|pod| pod.name_any()).collect();
            names.sort();
            prop_assert_eq!(slices.pods(), names);
            prop_assert!(slices.there.iter().all(|slice| slice.endpoints.iter().flatten().count() <= MAX_ENDPOINTS));
            prop_assert!(!slices.there.is_empty());
            prop_assert_eq!(slices.sync(&service, &pods), 0);
        }
    }
}
