//! Services, endpoint slices, endpoints, and statuses.

use serde_json::{Value, json};

use super::{hold, job, made, updated, with};

#[test]
fn every_rule_of_services() {
    let base = json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let cluster_ip = || ("/spec/type", json!("ClusterIP"));
    let only = "may only be used when `type` is 'LoadBalancer'";
    let only_class = format!("spec.loadBalancerClass: Forbidden: {only}");
    let only_ports = format!("spec.allocateLoadBalancerNodePorts: Forbidden: {only}");
    let only_ranges = format!("spec.loadBalancerSourceRanges: Forbidden: {only}");
    let only_annotation = format!(
        "metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: {only}"
    );
    let annotation = "/metadata/annotations/service.beta.kubernetes.io~1load-balancer-source-ranges";
    hold(
        "v1",
        "Service",
        &base,
        &[
            (vec![("/spec/loadBalancerClass", json!("example.com/a"))], ""),
            (
                vec![("/spec/loadBalancerClass", json!("a b"))],
                "spec.loadBalancerClass: Invalid value: \"a b\"",
            ),
            (vec![cluster_ip(), ("/spec/loadBalancerClass", json!("example.com/a"))], &only_class),
            (vec![cluster_ip(), ("/spec/allocateLoadBalancerNodePorts", json!(false))], &only_ports),
            (vec![("/spec/loadBalancerSourceRanges", json!([" 10.0.0.0/8 "]))], ""),
            (vec![cluster_ip(), ("/spec/loadBalancerSourceRanges", json!(["10.0.0.0/8"]))], &only_ranges),
            (
                vec![("/spec/loadBalancerSourceRanges", json!(["10.0.0.0"]))],
                "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\"",
            ),
            (vec![(annotation, json!("10.0.0.0/8, 10.1.0.0/16"))], ""),
            (vec![cluster_ip(), (annotation, json!("10.0.0.0/8"))], &only_annotation),
            (
                vec![("/spec/externalIPs", json!(["127.0.0.1"]))],
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                vec![("/spec/externalIPs", json!(["fe80::1"]))],
                "spec.externalIPs[0]: Invalid value: \"fe80::1\": may not be",
            ),
            (
                vec![("/spec/externalIPs", json!(["0.0.0.0"]))],
                "spec.externalIPs[0]: Invalid value: \"0.0.0.0\": may not be",
            ),
            (vec![("/spec/externalIPs", json!(["192.0.2.1"]))], ""),
            (
                vec![
                    ("/spec/type", json!("ExternalName")),
                    ("/spec/externalName", json!("a.b")),
                    ("/spec/ipFamilies", json!(["IPv4"])),
                ],
                "spec.ipFamilies: Forbidden: may not be set for ExternalName services",
            ),
            (
                vec![("/spec/ports/0/port", json!(0))],
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535",
            ),
            (vec![("/spec/ports/0/appProtocol", json!("a b"))], "spec.ports[0].appProtocol: Invalid value"),
            (
                vec![("/spec/trafficDistribution", json!("Near"))],
                "spec.trafficDistribution: Unsupported value",
            ),
            (
                vec![("/spec/healthCheckNodePort", json!(30000))],
                "spec.healthCheckNodePort: Invalid value: 30000: may only",
            ),
        ],
    );
}

#[test]
fn a_load_balancers_class_and_health_port_stay() {
    let base = json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "example.com/a", "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30001, "ports": [{"port": 80}]}});
    let old = made("v1", "Service", base).unwrap();
    for (change, complaint) in [
        (("/spec/loadBalancerClass", json!("example.com/b")), "spec.loadBalancerClass: Invalid value"),
        (
            ("/spec/loadBalancerClass", Value::Null),
            "spec.loadBalancerClass: Invalid value: null: may not change once set",
        ),
        (
            ("/spec/healthCheckNodePort", json!(30002)),
            "spec.healthCheckNodePort: Forbidden: field is immutable",
        ),
    ] {
        let mut new = with(old.clone(), &[change]);
        if new["spec"]["loadBalancerClass"].is_null() {
            new["spec"].as_object_mut().unwrap().remove("loadBalancerClass");
        }
        let errors = updated("v1", "Service", &old, new, None).unwrap_err();
        assert!(errors[0].starts_with(complaint), "{errors:?}");
    }
    // Sent back with another type, both go.
    let cluster_ip = with(old.clone(), &[("/spec/type", json!("ClusterIP"))]);
    let after = updated("v1", "Service", &old, cluster_ip, None).unwrap();
    assert!(
        after["spec"].get("loadBalancerClass").is_none()
            && after["spec"].get("healthCheckNodePort").is_none()
    );
}

#[test]
fn a_status_names_addresses_that_there_can_be() {
    let service =
        |kind: &str| made("v1", "Service", json!({"spec": {"type": kind, "ports": [{"port": 80}]}})).unwrap();
    let point = |point: Value| json!({"loadBalancer": {"ingress": [point]}});
    let path = "status.loadBalancer.ingress[0]";
    for (kind, status, complaint) in [
        ("LoadBalancer", point(json!({"ip": "192.0.2.1", "ipMode": "VIP"})), String::new()),
        ("LoadBalancer", point(json!({"ip": "nonsense"})), format!("{path}.ip: Invalid value: \"nonsense\"")),
        (
            "LoadBalancer",
            point(json!({"hostname": "192.0.2.1"})),
            format!("{path}.hostname: Invalid value: \"192.0.2.1\": must be a DNS"),
        ),
        (
            "LoadBalancer",
            point(json!({"hostname": "a", "ipMode": "VIP"})),
            format!("{path}.ipMode: Forbidden: may not be"),
        ),
        (
            "LoadBalancer",
            point(json!({"ip": "192.0.2.1", "ipMode": "X"})),
            format!("{path}.ipMode: Unsupported value"),
        ),
        (
            "ClusterIP",
            point(json!({"ip": "192.0.2.1"})),
            "status.loadBalancer.ingress: Forbidden: may only".to_owned(),
        ),
    ] {
        let old = service(kind);
        let outcome =
            updated("v1", "Service", &old, with(old.clone(), &[("/status", status)]), Some("status"));
        match outcome {
            Ok(_) => assert_eq!(complaint, ""),
            Err(errors) => assert!(!complaint.is_empty() && errors[0].starts_with(&complaint), "{errors:?}"),
        }
    }
    let pod = made("v1", "Pod", json!({"spec": {"containers": [{"name": "c", "image": "a"}]}})).unwrap();
    let addressed = |list: Value| {
        let new = with(pod.clone(), &[("/status/podIPs", list)]);
        updated("v1", "Pod", &pod, new, Some("status")).map(drop)
    };
    assert_eq!(addressed(json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])), Ok(()));
    assert!(
        addressed(json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}])).unwrap_err()[0]
            .contains("no more than one IP")
    );
    assert!(addressed(json!([{"ip": "x"}])).unwrap_err()[0].starts_with("status.podIPs[0]: Invalid value"));
    let job = made("batch/v1", "Job", job()).unwrap();
    let negative = with(job.clone(), &[("/status/failed", json!(-1))]);
    let errors = updated("batch/v1", "Job", &job, negative, Some("status")).unwrap_err();
    assert_eq!(errors, ["status.failed: Invalid value: -1: must be greater than or equal to 0"]);
}

#[test]
fn every_rule_of_endpoint_slices_and_endpoints() {
    let base =
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]});
    let address = "endpoints[0].addresses[0]: Invalid value";
    let complaint = |text: &str, why: &str| format!("{address}: \"{text}\": {why}");
    hold(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        &base,
        &[
            (
                vec![("/endpoints/0/addresses/0", json!("127.0.0.1"))],
                &complaint("127.0.0.1", "may not be in the loopback"),
            ),
            (
                vec![("/endpoints/0/addresses/0", json!("169.254.1.1"))],
                &complaint("169.254.1.1", "may not be in the link-local"),
            ),
            (
                vec![("/endpoints/0/addresses/0", json!("224.0.0.5"))],
                &complaint("224.0.0.5", "may not be in the link-local multicast"),
            ),
            (
                vec![("/endpoints/0/addresses/0", json!("0.0.0.0"))],
                &complaint("0.0.0.0", "may not be unspecified (0.0.0.0)"),
            ),
            (vec![("/endpoints/0/addresses/0", json!("x"))], &complaint("x", "must be a valid IPv4 address")),
            (
                vec![("/addressType", json!("IPv6")), ("/endpoints/0/addresses/0", json!("::ffff:10.0.0.1"))],
                &complaint("::ffff:10.0.0.1", "must be a valid IPv6 address"),
            ),
            (
                vec![("/addressType", json!("IPv6")), ("/endpoints/0/addresses/0", json!("::1"))],
                &complaint("::1", "may not be"),
            ),
            (vec![("/addressType", json!("FQDN")), ("/endpoints/0/addresses/0", json!("a.b"))], ""),
            (
                vec![("/addressType", json!("FQDN")), ("/endpoints/0/addresses/0", json!("a"))],
                &complaint("a", "should be a domain"),
            ),
            (vec![("/endpoints/0/addresses", json!([]))], "endpoints[0].addresses: Required value"),
            (vec![("/endpoints/0/hostname", json!("A"))], "endpoints[0].hostname: Invalid value"),
            (
                vec![("/endpoints/0/hints", json!({"forZones": vec![json!({"name": "z"}); 9]}))],
                "endpoints[0].hints.forZones: Too many: 9: must have at most 8 items",
            ),
            (
                vec![("/ports", json!([{"name": "a"}, {"name": "a"}]))],
                "ports[1].name: Duplicate value: \"a\"",
            ),
            (vec![("/ports/0/port", json!(70000))], "ports[0].port: Invalid value: 70000"),
            (vec![("/ports/0/appProtocol", json!("a b"))], "ports[0].appProtocol: Invalid value"),
        ],
    );
    let base = json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]});
    let ip = "subsets[0].addresses[0].ip: Invalid value";
    hold(
        "v1",
        "Endpoints",
        &base,
        &[
            (
                vec![("/subsets/0/addresses/0/ip", json!("169.254.1.1"))],
                &format!("{ip}: \"169.254.1.1\": may not be in the link-local"),
            ),
            (
                vec![("/subsets/0/addresses/0/ip", json!("x"))],
                &format!("{ip}: \"x\": must be a valid IP address"),
            ),
            (
                vec![("/subsets/0/addresses", json!([]))],
                "subsets[0]: Required value: must specify `addresses` or",
            ),
            (
                vec![("/subsets/0/addresses/0/hostname", json!("A"))],
                "subsets[0].addresses[0].hostname: Invalid value",
            ),
            (
                vec![("/subsets/0/addresses/0/nodeName", json!("A"))],
                "subsets[0].addresses[0].nodeName: Invalid value",
            ),
            (
                vec![("/subsets/0/ports", json!([{"port": 1}, {"port": 2}]))],
                "subsets[0].ports[0].name: Required value",
            ),
            (
                vec![("/subsets/0/ports/0/port", json!(0))],
                "subsets[0].ports[0].port: Invalid value: 0: must be between",
            ),
        ],
    );
}
