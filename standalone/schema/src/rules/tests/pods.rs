//! Pods and what is in them.

use serde_json::{Value, json};

use super::{hold, made, updated, with};

#[test]
fn every_rule_of_a_pods_parts() {
    let base = json!({"spec": {"containers": [{"name": "c", "image": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
    let container = "/spec/containers/0";
    let at = |field: &str| format!("{container}/{field}");
    let (env_from, security, mounts, resources, probe) =
        (at("envFrom"), at("securityContext"), at("volumeMounts"), at("resources"), at("livenessProbe"));
    let sysctls = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
        ("/spec/securityContext", json!({"sysctls": list}))
    };
    let affinity = |term: Value| {
        (
            "/spec/affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}),
        )
    };
    let term =
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]";
    let spread = |policy: &str| json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": policy});
    hold(
        "v1",
        "Pod",
        &base,
        &[
            (
                vec![sysctls(&[
                    "net.ipv4.ip_local_port_range",
                    "kernel.shm_rmid_forced",
                    "net/ipv4/tcp_syncookies",
                ])],
                "",
            ),
            (
                vec![sysctls(&["Net.IPv4"])],
                "spec.securityContext.sysctls[0].name: Invalid value: \"Net.IPv4\": must have at most 253",
            ),
            (vec![sysctls(&["net..a"])], "spec.securityContext.sysctls[0].name: Invalid value"),
            (vec![sysctls(&["net.a b"])], "spec.securityContext.sysctls[0].name: Invalid value"),
            (
                vec![sysctls(&["net.a", "net/a"])],
                "spec.securityContext.sysctls[1].name: Duplicate value: \"net/a\"",
            ),
            (
                vec![sysctls(&["net.a"]), ("/spec/hostNetwork", json!(true))],
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.a\": may not be specified when 'hostNetwork' is true",
            ),
            (
                vec![sysctls(&["kernel.shmmax"]), ("/spec/hostIPC", json!(true))],
                "spec.securityContext.sysctls[0].name: Invalid value",
            ),
            (vec![("/spec/schedulingGates", json!([{"name": "example.com/a"}]))], ""),
            (
                vec![(
                    &at("restartPolicyRules"),
                    json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]),
                )],
                "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            ),
            (
                vec![
                    (&at("restartPolicy"), json!("Never")),
                    (
                        &at("restartPolicyRules"),
                        json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}]),
                    ),
                ],
                "",
            ),
            (
                vec![
                    (&at("restartPolicy"), json!("Never")),
                    (
                        &at("restartPolicyRules"),
                        json!([{"action": "Restart", "exitCodes": {"operator": "Equals", "values": [3]}}]),
                    ),
                ],
                "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Equals\": supported values: \"In\", \"NotIn\"",
            ),
            (
                vec![
                    (&at("restartPolicy"), json!("Never")),
                    (&at("restartPolicyRules"), json!([{"action": "Restart"}])),
                ],
                "spec.containers[0].restartPolicyRules[0].exitCodes: Required value",
            ),
            (
                vec![("/spec/schedulingGates", json!([{"name": "a b"}]))],
                "spec.schedulingGates[0].name: Invalid value",
            ),
            (
                vec![("/spec/schedulingGates", json!([{"name": "a"}, {"name": "a"}]))],
                "spec.schedulingGates[1]: Duplicate value: \"a\"",
            ),
            (
                vec![("/spec/schedulingGates", json!([{"name": "a"}])), ("/spec/nodeName", json!("n"))],
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ),
            (
                vec![("/spec/ephemeralContainers", json!([{"name": "d", "image": "a"}]))],
                "spec.ephemeralContainers: Forbidden: cannot be set on create",
            ),
            (
                vec![("/metadata/annotations/controller.kubernetes.io~1pod-deletion-cost", json!("x"))],
                "metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"x\": must be a 32bit integer",
            ),
            (
                vec![(&env_from, json!([{}]))],
                "spec.containers[0].envFrom[0]: Invalid value: \"\": must specify one of",
            ),
            (
                vec![(&env_from, json!([{"configMapRef": {"name": "a"}, "secretRef": {"name": "a"}}]))],
                "spec.containers[0].envFrom[0]: Invalid value: \"\": may not have more than one",
            ),
            (
                vec![(
                    &mounts,
                    json!([{"name": "v", "mountPath": "/a", "subPath": "a", "subPathExpr": "b"}]),
                )],
                "spec.containers[0].volumeMounts[0].subPathExpr: Invalid value",
            ),
            (
                vec![(&mounts, json!([{"name": "v", "mountPath": "/a", "recursiveReadOnly": "Enabled"}]))],
                "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
            ),
            (
                vec![(
                    &mounts,
                    json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}]),
                )],
                "spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation",
            ),
            (
                vec![(&security, json!({"privileged": true, "allowPrivilegeEscalation": false}))],
                "spec.containers[0].securityContext: Invalid value",
            ),
            (
                vec![(
                    &security,
                    json!({"capabilities": {"add": ["CAP_SYS_ADMIN"]}, "allowPrivilegeEscalation": false}),
                )],
                "spec.containers[0].securityContext: Invalid value",
            ),
            (
                vec![(&security, json!({"procMount": "Unmasked"}))],
                "spec.containers[0].securityContext.procMount: Invalid value",
            ),
            (
                vec![(&security, json!({"seccompProfile": {"type": "Localhost"}}))],
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value",
            ),
            (
                vec![(&security, json!({"seccompProfile": {"type": "Unconfined", "localhostProfile": "a"}}))],
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value",
            ),
            (
                vec![affinity(
                    json!({"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["a"]}]}),
                )],
                &format!("{term}.matchFields[0].key: Invalid value"),
            ),
            (
                vec![affinity(
                    json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}),
                )],
                &format!("{term}.matchFields[0].values: Required value"),
            ),
            (
                vec![affinity(json!({"matchExpressions": [{"key": "a b", "operator": "Exists"}]}))],
                &format!("{term}.matchExpressions[0].key: Invalid value"),
            ),
            (
                vec![(
                    "/spec/topologySpreadConstraints",
                    json!([spread("DoNotSchedule"), spread("DoNotSchedule")]),
                )],
                "spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value",
            ),
            (
                vec![(
                    "/spec/topologySpreadConstraints",
                    json!([with(spread("ScheduleAnyway"), &[("/minDomains", json!(2))])]),
                )],
                "spec.topologySpreadConstraints[0].minDomains: Invalid value: 2: can only use minDomains",
            ),
            (
                vec![(
                    "/spec/dnsConfig",
                    json!({"nameservers": ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]}),
                )],
                "spec.dnsConfig.nameservers: Invalid value",
            ),
            (
                vec![("/spec/dnsConfig", json!({"searches": ["a b"]}))],
                "spec.dnsConfig.searches[0]: Invalid value: \"a b\"",
            ),
            (
                vec![(
                    "/spec/dnsConfig",
                    json!({"searches": [".", "_tcp.example.com."], "options": [{"name": "ndots"}]}),
                )],
                "",
            ),
            (
                vec![("/spec/dnsConfig", json!({"options": [{"value": "1"}]}))],
                "spec.dnsConfig.options[0]: Required value",
            ),
            (
                vec![("/spec/hostAliases", json!([{"ip": "10.0.0.1", "hostnames": ["a b"]}]))],
                "spec.hostAliases[0].hostnames[0]: Invalid",
            ),
            (
                vec![(
                    &probe,
                    json!({"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}}),
                )],
                "spec.containers[0].livenessProbe.httpGet.httpHeaders[0].name: Invalid value",
            ),
            (
                vec![(&resources, json!({"limits": {"gpus": "1"}}))],
                "spec.containers[0].resources.limits[gpus]: Invalid value: \"gpus\": must be a standard resource for containers",
            ),
            (
                vec![(&resources, json!({"limits": {"example.com/gpu": "500m"}}))],
                "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"500m\": must be an integer",
            ),
            (
                vec![(
                    &resources,
                    json!({"limits": {"example.com/gpu": "2"}, "requests": {"example.com/gpu": "1"}}),
                )],
                "spec.containers[0].resources.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2",
            ),
            (
                vec![("/spec/volumes/0", json!({"name": "v", "projected": {"sources": [{}]}}))],
                "spec.volumes[0].projected.sources[0]: Required value",
            ),
            (
                vec![("/spec/volumes/0", json!({"name": "v", "downwardAPI": {"items": [{"path": "a"}]}}))],
                "spec.volumes[0].downwardAPI.items[0]: Required value: one of fieldRef and resourceFieldRef is required",
            ),
        ],
    );
}

#[test]
fn what_would_run_unprotected_is_refused_in_pods_and_templates() {
    let pod = json!({"spec": {"containers": [{"name": "c", "image": "a"}]}});
    let annotation = "/metadata/annotations/container.apparmor.security.beta.kubernetes.io~1c";
    let profile = |kind: &str| json!({"appArmorProfile": {"type": kind, "localhostProfile": if kind == "Localhost" { "p" } else { "" }}});
    hold(
        "v1",
        "Pod",
        &pod,
        &[
            (vec![("/spec/hostUsers", json!(true))], ""),
            (vec![("/spec/hostUsers", json!(false))], "spec.hostUsers: Forbidden: "),
            (vec![("/spec/securityContext", profile("Unconfined"))], ""),
            (
                vec![("/spec/securityContext", profile("RuntimeDefault"))],
                "spec.securityContext.appArmorProfile: Forbidden: ",
            ),
            (
                vec![("/spec/containers/0/securityContext", profile("Localhost"))],
                "spec.containers[0].securityContext.appArmorProfile: Forbidden: ",
            ),
            (vec![(annotation, json!("unconfined"))], ""),
            (
                vec![(annotation, json!("runtime/default"))],
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: Forbidden: ",
            ),
        ],
    );
    let template = with(pod, &[("/metadata/labels", json!({"a": "b"}))]);
    let set = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    hold(
        "apps/v1",
        "DaemonSet",
        &set,
        &[(
            vec![("/spec/template/spec/hostUsers", json!(false))],
            "spec.template.spec.hostUsers: Forbidden: ",
        )],
    );
    // What was there before must stay changeable.
    let mut old = made("apps/v1", "DaemonSet", set).unwrap();
    old["spec"]["template"]["spec"]["hostUsers"] = json!(false);
    let relabelled = with(old.clone(), &[("/metadata/labels", json!({"c": "d"}))]);
    updated("apps/v1", "DaemonSet", &old, relabelled, None).unwrap();
}

#[test]
fn a_pods_deadline_comes_nearer_only_and_debug_containers_stay() {
    let base = json!({"spec": {"activeDeadlineSeconds": 60, "containers": [{"name": "c", "image": "a"}]}});
    let old = made("v1", "Pod", base).unwrap();
    let until = |value: Value| {
        updated("v1", "Pod", &old, with(old.clone(), &[("/spec/activeDeadlineSeconds", value)]), None)
    };
    assert!(until(json!(30)).is_ok());
    assert!(until(json!(90)).unwrap_err()[0].contains("must be less than or equal to previous value"));
    let debug = |name: &str| json!([{"name": name, "image": "a", "targetContainerName": "c"}]);
    let with_debug = |old: &Value, containers: Value| {
        updated(
            "v1",
            "Pod",
            old,
            with(old.clone(), &[("/spec/ephemeralContainers", containers)]),
            Some("ephemeralcontainers"),
        )
    };
    let debugged = with_debug(&old, debug("d")).unwrap();
    assert!(with_debug(&debugged, debug("e")).unwrap_err()[0].contains("\"d\" may not be removed"));
    let lost =
        json!([{"name": "d", "image": "a", "targetContainerName": "x", "ports": [{"containerPort": 1}]}]);
    let errors = with_debug(&old, lost).unwrap_err();
    assert!(
        errors
            .iter()
            .any(|error| error.starts_with("spec.ephemeralContainers[0].targetContainerName: Not found")),
        "{errors:?}"
    );
    assert!(
        errors.iter().any(|error| error.ends_with("cannot be set for an Ephemeral Container")),
        "{errors:?}"
    );
}

#[test]
fn what_holds_thousands_of_things_is_refused() {
    let labels: serde_json::Map<String, Value> = (0..1001).map(|n| (format!("l{n}"), json!("x"))).collect();
    let finalizers: Vec<String> = (0..1001).map(|n| format!("example.com/f{n}")).collect();
    let containers: Vec<Value> = (0..1001).map(|n| json!({"name": format!("c{n}"), "image": "a"})).collect();
    let pod = json!({"spec": {"containers": [{"name": "c", "image": "a"}]}});
    hold(
        "v1",
        "Pod",
        &pod,
        &[
            (
                vec![("/metadata/labels", json!(labels))],
                "metadata.labels: Too many: 1001: must have at most 1000 items",
            ),
            (
                vec![("/metadata/finalizers", json!(finalizers))],
                "metadata.finalizers: Too many: 1001: must have at most 1000",
            ),
            (
                vec![("/spec/containers", json!(containers))],
                "spec.containers: Too many: 1001: must have at most 1000 items",
            ),
        ],
    );
    // Defaults make of a body that fits an object that does not.
    let ports: Vec<Value> = (1..=1000).map(|port| json!({"containerPort": port})).collect();
    let many: Vec<Value> =
        (0..60).map(|n| json!({"name": format!("c{n}"), "image": "a", "ports": ports})).collect();
    let errors = made("v1", "Pod", with(pod, &[("/spec/containers", json!(many))])).unwrap_err();
    assert_eq!(errors, [": Too many: an object must have at most 150000 values"]);
}

#[test]
fn every_rule_of_a_pods_own_claims() {
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let volumes = |template: Value| json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]);
    let base = json!({"spec": {"containers": [{"name": "c", "image": "a"}],
        "volumes": volumes(json!({"metadata": {"labels": {"a": "b"}}, "spec": spec}))}});
    let template = "/spec/volumes/0/ephemeral/volumeClaimTemplate";
    let at = |field: &str| format!("{template}/{field}");
    let (named, size, modes) = (at("metadata/name"), at("spec/resources"), at("spec/accessModes"));
    let mut both = base["spec"]["volumes"].clone();
    both.as_array_mut().unwrap().push(json!({"name": "w", "persistentVolumeClaim": {"claimName": "x-v"}}));
    hold(
        "v1",
        "Pod",
        &base,
        &[
            (vec![], ""),
            (
                vec![(named.as_str(), json!("mine"))],
                "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set for an ephemeral volume",
            ),
            (
                vec![(size.as_str(), json!({}))],
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
            ),
            (
                vec![(modes.as_str(), json!([]))],
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Required value",
            ),
            (
                vec![("/spec/volumes/0/ephemeral", json!({}))],
                "spec.volumes[0].ephemeral.volumeClaimTemplate: Required value",
            ),
            (
                vec![("/spec/volumes", both)],
                "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"x-v\": must not reference a PVC that gets created for an ephemeral volume",
            ),
        ],
    );
    let mut named = base.clone();
    named["metadata"]["name"] = json!("n".repeat(252));
    let mut errors = crate::rules::Errors::default();
    crate::rules::storage::own_claims(named.as_object().unwrap(), &mut errors);
    let told: String = errors.into_result().unwrap_err().iter().map(ToString::to_string).collect();
    assert!(told.starts_with("spec.volumes[0].name: Invalid value: \"v\": PVC name \"nnn"), "{told}");
}
