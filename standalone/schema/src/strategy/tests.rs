use serde_json::json;

use super::*;
use crate::{Format, decode, find_kind};

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// A new object as the server stores it, or the faults as text.
fn create(api_version: &str, kind: &str, mut body: Value) -> Result<Value, Vec<String>> {
    let found = find_kind(api_version, kind).unwrap();
    let metadata = &mut body["metadata"];
    if metadata["name"].is_null() {
        metadata["name"] = json!("x");
    }
    if found.namespaced {
        metadata["namespace"] = json!("default");
    }
    metadata["uid"] = json!("u-1");
    let mut object = decode(api_version, kind, body.to_string().as_bytes(), Format::Json).unwrap().value;
    match prepare_create(found, &mut object, now()) {
        Ok(()) => Ok(object),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

fn update(
    api_version: &str,
    kind: &str,
    old: &Value,
    new: Value,
    sub: Option<&str>,
) -> Result<Value, Vec<String>> {
    let mut object = decode(api_version, kind, new.to_string().as_bytes(), Format::Json).unwrap().value;
    match prepare_update(find_kind(api_version, kind).unwrap(), old, &mut object, sub, now()) {
        Ok(()) => Ok(object),
        Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
    }
}

fn deployment() -> Value {
    json!({"spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}},
    }})
}

#[test]
fn a_deployment_gets_upstreams_defaults() {
    let made = create("apps/v1", "Deployment", deployment()).unwrap();
    let spec = &made["spec"];
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["status"], json!({}));
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["revisionHistoryLimit"], 10);
    assert_eq!(spec["progressDeadlineSeconds"], 600);
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    let mut pod = spec["template"]["spec"].clone();
    pod.sort_all_objects();
    assert_eq!(
        pod,
        json!({
            "containers": [{
                "image": "nginx", "imagePullPolicy": "Always", "name": "c", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30,
        })
    );
}

#[test]
fn a_gated_pod_says_so_from_the_start() {
    let pod = |gates: Value| json!({"spec": {"schedulingGates": gates, "containers": [{"name": "c", "image": "a:1"}]}});
    let made = create("v1", "Pod", pod(json!([{"name": "x.io/y"}]))).unwrap();
    let condition = &made["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
    assert_eq!(condition["reason"], "SchedulingGated");
    assert_eq!(condition["message"], "Scheduling is blocked due to non-empty scheduling gates");
    assert_eq!(create("v1", "Pod", pod(json!([]))).unwrap()["status"].get("conditions"), None);
}

#[test]
fn a_pod_is_admitted_with_account_tolerations_and_class() {
    let made = create(
        "v1",
        "Pod",
        json!({"status": {"phase": "Running"}, "spec": {"containers": [{"name": "c", "image": "a:1", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}}),
    )
    .unwrap();
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));
    let spec = &made["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["enableServiceLinks"], true);
    assert_eq!(spec["containers"][0]["resources"]["requests"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "IfNotPresent");
    let keys: Vec<&str> = spec["tolerations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|toleration| toleration["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
}

#[test]
fn faults_are_named_in_upstreams_words() {
    let with = |path: &str, value: Value| {
        let mut body = deployment();
        let (parent, field) = path.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[field] = value;
        create("apps/v1", "Deployment", body).unwrap_err().join("; ")
    };
    let container = "/spec/template/spec/containers/0";
    let cases = [
        ("/spec/replicas", json!(-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        (
            "/spec/selector/matchLabels",
            json!({"app": "other"}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
        ),
        (
            "/spec/selector",
            json!({}),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        ("/spec/selector", Value::Null, "spec.selector: Required value"),
        ("/spec/template/spec/containers", json!([]), "spec.template.spec.containers: Required value"),
        (
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            "/spec/strategy",
            json!({"type": "Rolling"}),
            "spec.strategy.type: Unsupported value: \"Rolling\": supported values: \"Recreate\", \"RollingUpdate\"",
        ),
        (&format!("{container}/image"), json!(""), "spec.template.spec.containers[0].image: Required value"),
        (
            &format!("{container}/imagePullPolicy"),
            json!("Sometimes"),
            "spec.template.spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            &format!("{container}/ports"),
            json!([{"containerPort": 70000}]),
            "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            &format!("{container}/volumeMounts"),
            json!([{"name": "v", "mountPath": "/v"}]),
            "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            &format!("{container}/resources"),
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            "spec.template.spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            &format!("{container}/livenessProbe"),
            json!({}),
            "spec.template.spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            "/metadata",
            json!({"name": "Bad_Name"}),
            "metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of",
        ),
    ];
    for (path, value, wanted) in cases {
        let body = if path == "/metadata" {
            let mut body = deployment();
            body["metadata"] = value;
            create("apps/v1", "Deployment", body).unwrap_err().join("; ")
        } else {
            with(path, value)
        };
        assert!(body.contains(wanted), "{path}: {body}");
    }
}

#[test]
fn an_update_keeps_what_it_may_not_change_and_counts_generations() {
    let old = create("apps/v1", "Deployment", deployment()).unwrap();
    let mut new = old.clone();
    new["status"] = json!({"replicas": 9});
    new["metadata"]["labels"] = json!({"a": "b"});
    let same = update("apps/v1", "Deployment", &old, new.clone(), None).unwrap();
    assert_eq!((&same["metadata"]["generation"], &same["status"]), (&json!(1), &json!({})));
    new["spec"]["replicas"] = json!(5);
    new["metadata"]["uid"] = json!("");
    let scaled = update("apps/v1", "Deployment", &old, new.clone(), None).unwrap();
    assert_eq!((&scaled["metadata"]["generation"], &scaled["metadata"]["uid"]), (&json!(2), &json!("u-1")));
    let status = update("apps/v1", "Deployment", &old, new.clone(), Some("status")).unwrap();
    assert_eq!((&status["spec"]["replicas"], &status["status"]), (&json!(1), &json!({"replicas": 9})));
    assert_eq!(status["metadata"]["generation"], 1);
    new["spec"]["selector"] = json!({"matchLabels": {"app": "x"}});
    new["spec"]["template"]["metadata"]["labels"] = json!({"app": "x"});
    let refused = update("apps/v1", "Deployment", &old, new, None).unwrap_err();
    assert_eq!(
        refused,
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable"]
    );
}

#[test]
fn a_running_pod_changes_only_where_it_may() {
    let old = create("v1", "Pod", json!({"spec": {"containers": [{"name": "c", "image": "a:1"}]}})).unwrap();
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("a:2");
    assert_eq!(update("v1", "Pod", &old, new.clone(), None).unwrap()["metadata"]["generation"], 2);
    // As `kubectl apply` sends it a second time.
    new["spec"]["tolerations"] = json!([]);
    let again = update("v1", "Pod", &old, new.clone(), None).unwrap();
    assert_eq!(again["spec"]["tolerations"], old["spec"]["tolerations"]);
    new["spec"]["containers"][0]["command"] = json!(["x"]);
    assert!(
        update("v1", "Pod", &old, new, None).unwrap_err()[0]
            .starts_with("spec: Forbidden: pod updates may not")
    );
    let mut resized = old.clone();
    resized["spec"]["containers"][0]["image"] = json!("a:3");
    resized["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
    let refused = update("v1", "Pod", &old, resized, Some("resize")).unwrap_err();
    assert!(refused[0].contains("Pod QOS Class may not change"), "{refused:?}");
}

#[test]
fn services_get_defaults_and_keep_what_was_allocated() {
    let made = create(
        "v1",
        "Service",
        json!({"spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}}),
    )
    .unwrap();
    let mut spec = made["spec"].clone();
    spec.sort_all_objects();
    assert_eq!(
        spec,
        json!({
            "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "selector": {"a": "b"}, "sessionAffinity": "None", "type": "NodePort",
        })
    );
    let mut old = made;
    old["spec"]["clusterIP"] = json!("10.96.0.9");
    old["spec"]["clusterIPs"] = json!(["10.96.0.9"]);
    old["spec"]["ports"][0]["nodePort"] = json!(30001);
    let new = json!({"metadata": {"name": "x", "namespace": "default"}, "spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 81}]}});
    let kept = update("v1", "Service", &old, new, None).unwrap();
    assert_eq!(kept["spec"]["clusterIPs"], json!(["10.96.0.9"]));
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], 30001);
    let mut plain = old.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    let plain = update("v1", "Service", &old, plain, None).unwrap();
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(plain["spec"].get("externalTrafficPolicy"), None);
    let mut moved = old.clone();
    moved["spec"]["clusterIP"] = json!("10.96.0.10");
    moved["spec"]["clusterIPs"] = json!(["10.96.0.10"]);
    assert!(update("v1", "Service", &old, moved, None).unwrap_err()[0].contains("may not change once set"));
    let faults =
        create("v1", "Service", json!({"spec": {"ports": [{"port": 80}, {"port": 80, "nodePort": 31000}]}}))
            .unwrap_err();
    assert_eq!(
        faults,
        [
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Required value",
            "spec.ports[1]: Duplicate value: {\"protocol\":\"TCP\",\"port\":80}",
            "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ]
    );
}

#[test]
fn a_stateful_sets_claims_are_volumes() {
    let mut body = deployment();
    body["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/d"}]);
    assert_eq!(create("apps/v1", "StatefulSet", body.clone()).unwrap_err().len(), 1);
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    body["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": claim}]);
    let made = create("apps/v1", "StatefulSet", body).unwrap();
    assert_eq!(
        made["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    let retention = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    assert_eq!(made["spec"]["persistentVolumeClaimRetentionPolicy"], retention);
    let mut renamed = made.clone();
    renamed["spec"]["serviceName"] = json!("other");
    let refused = update("apps/v1", "StatefulSet", &made, renamed, None).unwrap_err();
    assert!(refused[0].starts_with("spec: Forbidden: updates to statefulset spec for fields other than"));
}

#[test]
fn a_job_finds_its_pods_by_its_uid() {
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "a"}]}});
    let made = create("batch/v1", "Job", json!({"spec": {"template": template}})).unwrap();
    let spec = &made["spec"];
    assert_eq!(spec["selector"]["matchLabels"], json!({"batch.kubernetes.io/controller-uid": "u-1"}));
    assert_eq!(spec["template"]["metadata"]["labels"]["job-name"], "x");
    assert_eq!(
        (&spec["backoffLimit"], &spec["completions"], &spec["parallelism"]),
        (&json!(6), &json!(1), &json!(1))
    );
    let mut again = made.clone();
    again["spec"]["template"]["spec"]["containers"][0]["image"] = json!("b");
    assert!(
        update("batch/v1", "Job", &made, again, None).unwrap_err()[0]
            .starts_with("spec.template: Invalid value:")
    );
    let always = create(
        "batch/v1",
        "Job",
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a"}]}}}}),
    );
    assert_eq!(
        always.unwrap_err(),
        ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
    );
    let cron = json!({"spec": {"schedule": "61 * * * *", "jobTemplate": {"spec": {"template": template}}}});
    assert!(
        create("batch/v1", "CronJob", cron).unwrap_err()[0]
            .starts_with("spec.schedule: Invalid value: \"61 * * * *\"")
    );
}

#[test]
fn namespaces_secrets_and_nodes_are_made_ready() {
    let namespace = create("v1", "Namespace", json!({})).unwrap();
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(namespace["status"], json!({"phase": "Active"}));
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "x");
    let mut emptied = namespace.clone();
    emptied["spec"]["finalizers"] = json!([]);
    let kept = update("v1", "Namespace", &namespace, emptied.clone(), None).unwrap();
    assert_eq!(kept["spec"]["finalizers"], json!(["kubernetes"]));
    let done = update("v1", "Namespace", &namespace, emptied, Some("finalize")).unwrap();
    assert_eq!(done["spec"]["finalizers"], json!([]));
    let secret = create("v1", "Secret", json!({"stringData": {"a": "hi"}})).unwrap();
    assert_eq!((&secret["data"], &secret["type"]), (&json!({"a": "aGk="}), &json!("Opaque")));
    let node = create("v1", "Node", json!({"status": {"nodeInfo": {"kubeletVersion": "v1.36.0"}}})).unwrap();
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.0");
    let keys = create("v1", "ConfigMap", json!({"data": {"a b": "x"}})).unwrap_err();
    assert!(
        keys[0].starts_with("data[a b]: Invalid value: \"a b\": a valid config key must consist of"),
        "{keys:?}"
    );
    let big = create("v1", "ConfigMap", json!({"data": {"a": "x".repeat(2 << 20)}})).unwrap_err();
    assert!(big[0].contains("Too long: may not be more than 1048576 bytes"));
}

#[test]
fn the_answer_names_every_fault_once_and_stays_short() {
    let kind = find_kind("apps/v1", "Deployment").unwrap();
    let errors = [FieldError::required("spec.selector", "")];
    let status = crate::invalid_status(kind, "x", &errors);
    assert_eq!(status["message"], "Deployment.apps \"x\" is invalid: spec.selector: Required value");
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueRequired");
    let containers: Vec<Value> = (0..600).map(|_| json!({"name": "Bad!".repeat(1000)})).collect();
    let many = create("v1", "Pod", json!({"spec": {"containers": containers}})).unwrap_err();
    assert!(many.len() <= 64 && many.iter().map(String::len).sum::<usize>() < 128 << 10);
}

#[test]
fn every_kind_survives_an_empty_object() {
    for kind in crate::kinds() {
        let api_version = kind.api_version();
        let mut object = decode(&api_version, kind.kind, b"{}", Format::Json).unwrap().value;
        let _ = prepare_create(kind, &mut object, now());
        let old = object.clone();
        for sub in [
            None,
            Some("status"),
            Some("finalize"),
            Some("resize"),
            Some("approval"),
            Some("ephemeralcontainers"),
        ] {
            let mut new = decode(&api_version, kind.kind, b"{}", Format::Json).unwrap().value;
            let _ = prepare_update(kind, &old, &mut new, sub, now());
        }
        assert_eq!(crate::cells(kind, &object, now()).len(), crate::columns(kind).len(), "{}", kind.kind);
    }
}

#[test]
fn a_nodes_ranges_of_pods_are_two_names_of_one_thing_and_are_set_once() {
    let node = |spec: Value| create("v1", "Node", json!({"spec": spec}));
    let one = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]});
    assert_eq!(node(json!({"podCIDR": "10.1.0.0/24"})).unwrap()["spec"], one);
    assert_eq!(node(json!({"podCIDRs": ["10.1.0.0/24"]})).unwrap()["spec"], one);
    assert!(node(json!({"podCIDRs": ["10.1.0.0/24", "fd00::/64"]})).is_ok());
    for refused in [
        json!({"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.1.0.0/24"]}),
        json!({"podCIDRs": ["10.1.0.0/24", "10.2.0.0/24"]}),
        json!({"podCIDRs": ["10.1.0.0/24", "fd00::/64", "10.2.0.0/24"]}),
        json!({"podCIDR": "everywhere"}),
    ] {
        assert!(node(refused.clone()).is_err(), "{refused}");
    }
    let bare = node(json!({})).unwrap();
    let mut given = bare.clone();
    given["spec"]["podCIDR"] = json!("10.1.0.0/24");
    let given = update("v1", "Node", &bare, given, None).unwrap();
    assert_eq!(given["spec"], one);
    for spec in
        [json!({}), json!({"podCIDR": "10.2.0.0/24"}), json!({"podCIDRs": ["10.1.0.0/24", "fd00::/64"]})]
    {
        let mut new = given.clone();
        new["spec"] = spec.clone();
        let faults = update("v1", "Node", &given, new, None).unwrap_err();
        assert!(faults[0].contains("node updates may not change podCIDR"), "{spec}: {faults:?}");
    }
}

#[test]
fn an_approval_keeps_the_annotations_and_nothing_else_of_a_request_changes() {
    let api = "certificates.k8s.io/v1";
    let spec = json!({"request": "eA==", "signerName": "example.com/s", "usages": ["client auth"], "username": "ann"});
    let old = create(api, "CertificateSigningRequest", json!({"spec": spec})).unwrap();
    let mut new = old.clone();
    new["metadata"]["annotations"] = json!({"by": "bob"});
    new["spec"]["username"] = json!("eve");
    new["status"] = json!({"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True"}]});
    let approved = update(api, "CertificateSigningRequest", &old, new.clone(), Some("approval")).unwrap();
    assert_eq!(approved["metadata"]["annotations"], json!({"by": "bob"}));
    assert_eq!(approved["spec"], old["spec"]);
    assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
    assert!(approved["status"].get("certificate").is_none());
    let changed = update(api, "CertificateSigningRequest", &approved, new, None).unwrap();
    assert_eq!(changed["spec"], old["spec"]);
    assert_eq!(changed["status"], approved["status"]);
}
