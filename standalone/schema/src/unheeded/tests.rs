use serde_json::json;

use super::{document::document, *};
use crate::{Shape, find_kind, kinds};

fn told(api_version: &str, kind: &str, old: Option<Value>, new: Value) -> Vec<String> {
    warnings(find_kind(api_version, kind).unwrap(), old.as_ref(), &new, None)
}

#[test]
fn what_nobody_carries_out_is_told_at_its_creation_and_when_it_changes() {
    let policy = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {}}});
    let text = "NetworkPolicy.networking.k8s.io: no traffic is held back by it";
    assert_eq!(told("networking.k8s.io/v1", "NetworkPolicy", None, policy.clone()), [text]);
    let mut labelled = policy.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(told("networking.k8s.io/v1", "NetworkPolicy", Some(policy.clone()), labelled).is_empty());
    let mut changed = policy.clone();
    changed["spec"]["policyTypes"] = json!(["Egress"]);
    assert_eq!(told("networking.k8s.io/v1", "NetworkPolicy", Some(policy), changed), [text]);

    let namespace = |labels: Value| json!({"metadata": {"name": "n", "labels": labels}});
    let enforced = namespace(json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let texts = told("v1", "Namespace", Some(namespace(json!({"a": "b"}))), enforced.clone());
    assert!(texts[0].starts_with("metadata.labels[pod-security.kubernetes.io/enforce]: "), "{texts:?}");
    assert!(told("v1", "Namespace", Some(enforced.clone()), enforced).is_empty());
    assert!(told("v1", "ConfigMap", None, json!({"data": {"a": "b"}})).is_empty());
}

#[test]
fn templates_are_told_of_as_typed_and_not_the_pods_that_come_of_them() {
    let pod = json!({
        "metadata": {"name": "p", "annotations": {"kubernetes.io/egress-bandwidth": "1M"}},
        "spec": {"containers": [{"ports": [{"containerPort": 80}]}, {"ports": [{"hostPort": 80}]}]},
    });
    let texts = [
        "spec.template.metadata.annotations[kubernetes.io/egress-bandwidth]: the pod's bandwidth is not limited",
        "spec.template.spec.containers[1].ports[0].hostPort: the port is not opened on the node",
    ];
    for (api_version, kind) in [("apps/v1", "Deployment"), ("apps/v1", "DaemonSet"), ("batch/v1", "Job")] {
        let object = json!({"metadata": {"name": "x"}, "spec": {"template": pod}});
        assert_eq!(told(api_version, kind, None, object.clone()), texts);
        let mut scaled = object.clone();
        scaled["spec"]["replicas"] = json!(2);
        assert!(told(api_version, kind, Some(object), scaled).is_empty());
    }
    assert_eq!(told("v1", "Pod", None, pod.clone()).len(), 2);
    let mut made = pod.clone();
    made["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet", "controller": true}]);
    assert!(told("v1", "Pod", None, made).is_empty());
    // On the node's own network every port is the node's.
    let mut own = pod;
    own["spec"]["hostNetwork"] = json!(true);
    assert_eq!(told("v1", "Pod", None, own).len(), 1);
}

#[test]
fn volumes_that_no_node_sets_up_are_told_of_by_name() {
    let pod = |volumes: Value| json!({"spec": {"volumes": volumes}});
    let known =
        json!([{"name": "a", "emptyDir": {}}, {"name": "b", "projected": {"sources": [{"secret": {}}]}}]);
    assert!(told("v1", "Pod", None, pod(known)).is_empty());
    let texts = told(
        "v1",
        "Pod",
        None,
        pod(
            json!([{"name": "a", "nfs": {}}, {"name": "b", "projected": {"sources": [{"serviceAccountToken": {}}]}}]),
        ),
    );
    assert!(texts[0].starts_with("spec.volumes[0].nfs: "), "{texts:?}");
    assert!(texts[1].starts_with("spec.volumes[1].projected.sources[0].serviceAccountToken: "), "{texts:?}");
}

#[test]
fn a_subresource_is_told_of_what_is_written_through_it() {
    let pod = find_kind("v1", "Pod").unwrap();
    let with = |device: &str| {
        let devices = json!([{"name": device, "devicePath": "/dev/x"}]);
        json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "a", "volumeDevices": devices}]}})
    };
    let texts = warnings(pod, Some(&json!({})), &with("a"), Some("ephemeralcontainers"));
    assert_eq!(
        texts,
        ["spec.ephemeralContainers[0].volumeDevices: block devices are not given to containers"]
    );
    assert!(warnings(pod, Some(&with("a")), &with("a"), Some("ephemeralcontainers")).is_empty());
    assert!(warnings(pod, Some(&json!({})), &with("a"), Some("status")).is_empty());
}

/// Where the templates of pods are in a shape, by a walk.
fn templates(shape: Shape, path: &[&'static str], found: &mut Vec<Vec<&'static str>>) {
    for field in shape.fields() {
        let Some(inner) = field.ty().shape().filter(|inner| inner.name().starts_with("io.k8s.api.")) else {
            continue;
        };
        let path: Vec<&str> = path.iter().copied().chain([field.name()]).collect();
        if inner.short_name() == "PodTemplateSpec" {
            found.push(path);
        } else if path.len() < 6 {
            templates(inner, &path, found);
        }
    }
}

#[test]
fn every_kind_with_a_pod_template_is_known() {
    let mut found = vec![("", "Pod", Vec::new())];
    for kind in kinds() {
        let mut paths = Vec::new();
        templates(Shape::of(kind.group, kind.version, kind.kind).unwrap(), &[], &mut paths);
        found.extend(paths.into_iter().map(|path| (kind.group, kind.kind, path)));
    }
    found.sort();
    let known: Vec<_> = TEMPLATES.iter().map(|(group, kind, path)| (*group, *kind, path.to_vec())).collect();
    assert_eq!(known, found);
}

/// Whether a row's steps lead to a field of the shape.
fn leads(ty: crate::Ty, field: &[&str]) -> bool {
    let Some((step, rest)) = field.split_first() else { return true };
    if *step == "[]" || matches!(ty, crate::Ty::Map(_)) {
        return ty.inner().is_some_and(|inner| leads(inner, rest));
    }
    let Some(shape) = ty.shape() else { return false };
    match step.strip_prefix('!') {
        Some(known) => known.split(',').all(|name| shape.field(name).is_some()),
        None => shape.field(step).is_some_and(|field| leads(field.ty(), rest)),
    }
}

#[test]
fn every_row_is_about_a_kind_and_a_field_that_exist() {
    for row in ROWS {
        let (group, name) = match row.scope {
            Scope::Kind(group, name) => (group, name),
            Scope::Pods => ("", "Pod"),
        };
        let kind = kinds().iter().find(|kind| kind.group == group && kind.kind == name);
        let kind = kind.unwrap_or_else(|| panic!("{group} {name}"));
        let shape = Shape::of(kind.group, kind.version, kind.kind).unwrap();
        let leads = |path: &[&str]| {
            path.split_first()
                .is_none_or(|(first, rest)| shape.field(first).is_some_and(|field| leads(field.ty(), rest)))
        };
        assert!(leads(row.field) && leads(row.unless), "{name} {:?}", row.field);
        assert!(
            row.subresource.is_none_or(|sub| kind.subresource(sub).is_some()),
            "{name} {:?}",
            row.subresource
        );
    }
}

#[test]
fn the_docs_list_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/not-carried-out.md");
    if std::env::var_os("SKERRY_WRITE_DOCS").is_some() {
        std::fs::write(path, document()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        written,
        document(),
        "docs/not-carried-out.md is not the table's list: SKERRY_WRITE_DOCS=1 writes it"
    );
}
