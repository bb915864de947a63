//! What a node may write into the objects that it may write: what upstream's NodeRestriction admission
//! decides, and more where a node's word would reach other nodes. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use skerry_schema::Kind;

use crate::{
    authorize::node_name,
    error::{ApiError, Subject},
    object::{self, text},
    pki,
};

/// Labels of Kubernetes' own namespaces that a kubelet sets …
const KUBELET_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// … and the namespaces of labels, with all below them, that are a kubelet's.
const KUBELET_NAMESPACES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// An Event's reporting instance has at most this many bytes; a Node's name may have 253.
const MAX_INSTANCE_BYTES: usize = 128;

/// Refuses what a node may not say. `old`: `None` at a create.
///
/// # Errors
/// 403, with the reason.
pub fn check(
    writer: &pki::Subject,
    kind: &Kind,
    subresource: &str,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    let Some(node) = node_name(writer) else { return Ok(()) };
    let verdict = match (kind.storage, subresource) {
        ("nodes", "") => match old {
            None => node_created(node, new),
            Some(old) => node_changed(node, old, new),
        },
        ("events", "") => event(node, old, new),
        ("pods", "status") => pod_status(node, old),
        ("persistentvolumes", "") => volume_released(node, old, new),
        _ => Ok(()),
    };
    verdict.map_err(|why| ApiError::forbidden(Subject::new(kind, object::name(new)), &why))
}

fn node_created(node: &str, new: &Value) -> Result<(), String> {
    let labels = forbidden_labels(&Value::Null, new);
    if !labels.is_empty() {
        return Err(format!(
            "node {node:?} is not allowed to set the following labels: {}",
            labels.join(", ")
        ));
    }
    for field in ["podCIDR", "podCIDRs", "providerID"] {
        if is_given(&new["spec"][field]) {
            return Err(format!("node {node:?} is not allowed to set spec.{field}: a controller assigns it"));
        }
    }
    // Whoever may delete the owner could have the Node deleted with it, and make it anew with other taints.
    if is_given(&new["metadata"]["ownerReferences"]) {
        return Err(format!("node {node:?} is not allowed to set ownerReferences"));
    }
    Ok(())
}

fn node_changed(node: &str, old: &Value, new: &Value) -> Result<(), String> {
    for (pointer, what) in [
        ("/spec/taints", "taints"),
        ("/spec/podCIDR", "spec.podCIDR"),
        ("/spec/podCIDRs", "spec.podCIDRs"),
        ("/spec/providerID", "spec.providerID"),
        ("/metadata/ownerReferences", "ownerReferences"),
    ] {
        let part = |object: &Value| object.pointer(pointer).filter(|part| is_given(part)).cloned();
        if part(old) != part(new) {
            return Err(format!("node {node:?} is not allowed to modify {what}"));
        }
    }
    let labels = forbidden_labels(old, new);
    if !labels.is_empty() {
        return Err(format!("is not allowed to modify labels: {}", labels.join(", ")));
    }
    Ok(())
}

/// The labels that differ and are not a node's to set, change or take off.
fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let none = Map::new();
    let [old, new] = [old, new].map(|object| object.pointer("/metadata/labels").and_then(Value::as_object));
    let (old, new) = (old.unwrap_or(&none), new.unwrap_or(&none));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changed.filter(|name| !node_may_set_label(name)).cloned().collect()
}

/// Whether a node may set this label of its own: any outside of Kubernetes' namespaces, and a kubelet's in
/// them.
pub fn node_may_set_label(label: &str) -> bool {
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |outer: &str| {
        namespace.strip_suffix(outer).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let is_kubernetes = within("kubernetes.io") || within("k8s.io");
    !is_kubernetes || KUBELET_LABELS.contains(&label) || KUBELET_NAMESPACES.iter().any(|outer| within(outer))
}

/// The pod may have been made anew for another node since the client's right was looked at.
fn pod_status(node: &str, old: Option<&Value>) -> Result<(), String> {
    if old.is_none_or(|pod| text(pod, "/spec/nodeName") == node) {
        return Ok(());
    }
    Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))
}

/// Finalizer of a volume whose folder its node has to remove first.
const LOCAL_VOLUME_FINALIZER: &str = "skerry.io/local-path";

/// Of a volume a node says only that its folder is gone, once it is to go.
fn volume_released(node: &str, old: Option<&Value>, new: &Value) -> Result<(), String> {
    let refused = || {
        let what = format!(
            "take the finalizer {LOCAL_VOLUME_FINALIZER} off a volume of its own that is being deleted"
        );
        Err(format!("node {node:?} may only {what}"))
    };
    let Some(old) = old.filter(|old| object::is_being_deleted(old)) else { return refused() };
    let mut allowed = old.clone();
    let finalizers = object::finalizers(old).into_iter().filter(|name| name != LOCAL_VOLUME_FINALIZER);
    let left: Vec<Value> = finalizers.map(Value::from).collect();
    let same = |left: &Value, right: &Value| {
        let bare = |object: &Value| {
            let mut object = object.clone();
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                ["managedFields", "resourceVersion", "finalizers"].iter().for_each(|name| {
                    metadata.shift_remove(*name);
                });
            }
            object
        };
        bare(left) == bare(right)
    };
    allowed["metadata"]["finalizers"] = Value::Array(left);
    if object::finalizers(&allowed) == object::finalizers(new) && same(&allowed, new) {
        Ok(())
    } else {
        refused()
    }
}

/// A node writes Events in its own name, and counts on those only.
fn event(node: &str, old: Option<&Value>, new: &Value) -> Result<(), String> {
    let stranger = [old, Some(new)].into_iter().flatten().find(|event| !tells(event, node));
    match stranger {
        Some(_) if old.is_some() => {
            Err(format!("node {node:?} may only change events that it reports itself"))
        }
        Some(_) => Err(format!(
            "node {node:?} must name itself as the host of the source, or as the reporting instance, of an event"
        )),
        None => Ok(()),
    }
}

/// Whether an Event, of either group, is told by this node and by nobody else.
fn tells(event: &Value, node: &str) -> bool {
    let hosts = ["/source/host", "/deprecatedSource/host"].map(|pointer| text(event, pointer));
    let instance = text(event, "/reportingInstance");
    let cut = node.get(..MAX_INSTANCE_BYTES).unwrap_or(node);
    let is_other = |host: &&str| !host.is_empty() && *host != node;
    let instance_is_ours = instance == node || instance == cut;
    let named = instance_is_ours || hosts.contains(&node);
    named && !hosts.iter().any(is_other) && (instance.is_empty() || instance_is_ours)
}

fn is_given(part: &Value) -> bool {
    match part {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_labels_itself_within_a_kubelets_bounds() {
        for label in [
            "disk",
            "example.com/zone",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/anything",
            "sub.kubelet.kubernetes.io/x",
            "mykubernetes.io/x",
        ] {
            assert!(node_may_set_label(label), "{label}");
        }
        for label in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/secure",
            "team.node-restriction.kubernetes.io/secure",
            "kubernetes.io/role",
            "k8s.io/x",
            "any.k8s.io/x",
            "node-role.kubernetes.io/",
        ] {
            assert!(!node_may_set_label(label), "{label}");
        }
    }

    fn node(labels: Value, spec: Value) -> Value {
        json!({"metadata": {"name": "a", "labels": labels}, "spec": spec})
    }

    #[test]
    fn a_node_brings_taints_and_no_range_or_role_when_it_is_made() {
        let taint = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        assert_eq!(node_created("a", &node(json!({"kubernetes.io/os": "linux"}), taint)), Ok(()));
        let role = node(json!({"node-role.kubernetes.io/control-plane": "", "x": "y"}), json!({}));
        let why =
            "node \"a\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane";
        assert_eq!(node_created("a", &role), Err(why.into()));
        for (field, value) in [
            ("podCIDR", json!("10.0.0.0/8")),
            ("podCIDRs", json!(["10.0.0.0/8"])),
            ("providerID", json!("cloud://another")),
        ] {
            assert!(node_created("a", &node(json!({}), json!({field: value}))).is_err(), "{field}");
        }
        let mut owned = node(json!({}), json!({}));
        owned["metadata"]["ownerReferences"] = json!([{"kind": "Pod", "name": "p"}]);
        assert!(node_created("a", &owned).is_err());
    }

    #[test]
    fn a_node_changes_neither_its_taints_nor_its_range() {
        let old = node(
            json!({"node-role.kubernetes.io/x": ""}),
            json!({"taints": [{"key": "k"}], "podCIDR": "10.1.0.0/24"}),
        );
        let mut same = old.clone();
        same["metadata"]["labels"]["mine"] = "1".into();
        same["spec"]["unschedulable"] = true.into();
        assert_eq!(node_changed("a", &old, &same), Ok(()));
        let merges = [
            json!({"spec": {"taints": []}}),
            json!({"spec": {"podCIDR": "10.0.0.0/8"}}),
            json!({"spec": {"podCIDRs": ["10.1.0.0/24", "fd00::/64"]}}),
            json!({"spec": {"podCIDR": ""}}),
            json!({"spec": {"providerID": "cloud://other"}}),
            json!({"metadata": {"labels": {"node-role.kubernetes.io/x": "1"}}}),
            json!({"metadata": {"labels": {"node-restriction.kubernetes.io/y": "1"}}}),
            json!({"metadata": {"ownerReferences": [{"kind": "Pod"}]}}),
        ];
        for merge in merges {
            let mut new = old.clone();
            for part in ["spec", "metadata"] {
                for (field, value) in merge[part].as_object().into_iter().flatten() {
                    new[part][field] = value.clone();
                }
            }
            assert!(node_changed("a", &old, &new).is_err(), "{merge}");
        }
        let mut bare = old.clone();
        bare["metadata"]["labels"] = json!({});
        assert!(node_changed("a", &old, &bare).is_err(), "a role is not taken off either");
    }

    #[test]
    fn a_pods_status_is_its_nodes() {
        let pod = |node: &str| json!({"spec": {"nodeName": node}});
        assert!(pod_status("a", Some(&pod("a"))).is_ok() && pod_status("a", Some(&pod("b"))).is_err());
    }

    #[test]
    fn of_a_volume_a_node_only_says_that_its_folder_is_gone() {
        let volume = |deleted: bool, finalizers: Value, path: &str| {
            let mut volume = json!({"metadata": {"name": "v", "finalizers": finalizers},
                "spec": {"local": {"path": path}}});
            if deleted {
                volume["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            volume
        };
        let both = json!(["kubernetes.io/pv-protection", LOCAL_VOLUME_FINALIZER]);
        let left = json!(["kubernetes.io/pv-protection"]);
        let going = volume(true, both.clone(), "/a");
        let check = |old: &Value, new: Value| volume_released("n", Some(old), &new).is_ok();
        assert!(check(&going, volume(true, left.clone(), "/a")));
        assert!(
            !check(&volume(false, both.clone(), "/a"), volume(false, left.clone(), "/a")),
            "it is to stay"
        );
        assert!(!check(&going, volume(true, json!([LOCAL_VOLUME_FINALIZER]), "/a")), "another's finalizer");
        assert!(!check(&going, volume(true, left, "/b")), "another folder");
        assert!(!check(&going, going.clone()));
        assert!(volume_released("n", None, &going).is_err());
    }

    #[test]
    fn an_event_is_its_reporters() {
        let ours = [
            json!({"source": {"component": "kubelet", "host": "a"}}),
            json!({"source": {"host": "a"}, "reportingInstance": "a"}),
            json!({"reportingInstance": "a", "deprecatedSource": {}}),
        ];
        let theirs = [
            json!({}),
            json!({"source": {"host": "b"}}),
            json!({"source": {"host": "b"}, "reportingInstance": "a"}),
            json!({"source": {"host": "a"}, "reportingInstance": "b"}),
            json!({"deprecatedSource": {"host": "b"}, "reportingInstance": "a"}),
        ];
        for event in &ours {
            assert!(tells(event, "a"), "{event}");
        }
        for event in &theirs {
            assert!(!tells(event, "a"), "{event}");
            assert!(super::event("a", Some(event), &ours[0]).is_err(), "taken over: {event}");
            assert!(super::event("a", Some(&ours[0]), event).is_err(), "handed over: {event}");
        }
        let long = "n".repeat(200);
        assert!(tells(&json!({"reportingInstance": "n".repeat(128)}), &long));
    }
}
