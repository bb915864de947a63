//! Which volume a claim may have: one rule for who binds them and for who chooses a pod's node. Pure.
//!
//! <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding>

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume};

use crate::{matches_selector, selects_node, whole};

/// The node that a claim's first pod goes to, by name: written by the scheduler.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: claim and volume know each other.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: not its maker named the other side.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The provisioner whose volumes are folders of the nodes.
pub const LOCAL_PATH: &str = "skerry.io/local-path";
/// Classes with this provisioner have only volumes that somebody made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// A node as volumes see it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub name: &'a String,
    pub labels: &'a BTreeMap<String, String>,
}

/// The claim of a pod's volume: the one that it names, or its own, which is `POD-VOLUME` (KEP-1698).
pub fn claim_name(pod: &str, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{pod}-{}", volume.name)),
        (None, None) => None,
    }
}

/// The claims of a pod's volumes, those that it shares with others and its own.
pub fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| claim_name(name, volume))
}

/// The claims that are the pod's own.
pub fn own_claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some()).filter_map(move |volume| claim_name(name, volume))
}

/// Whether a claim was made for the pod with this uid.
///
/// # Errors
/// That it was not, in upstream's words.
pub fn is_own(claim: &PersistentVolumeClaim, pod: &str, uid: &str) -> Result<(), String> {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    if owners.any(|owner| owner.controller == Some(true) && owner.uid == uid) {
        return Ok(());
    }
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    Err(format!("PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)"))
}

/// The class that a claim asks for; `None` when it leaves that open, `""` when it wants none.
pub fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotated = claim.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
    annotated.or(claim.spec.as_ref()?.storage_class_name.as_ref()).map(String::as_str)
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let annotated = volume.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
    let spec = volume.spec.as_ref();
    annotated.or_else(|| spec?.storage_class_name.as_ref()).map(String::as_str).unwrap_or_default()
}

/// Whether claim and volume know each other, so that pods may use it.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let names_one =
        claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).is_some_and(|name| !name.is_empty());
    names_one && claim.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BIND_COMPLETED))
}

/// Whether the reference is to this claim; one without a uid is to whichever has the name.
pub fn refers_to(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    reference.name == claim.metadata.name
        && reference.namespace == claim.metadata.namespace
        && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
}

/// The bytes that a claim asks for.
pub fn size_asked(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let asked = resources.and_then(|resources| resources.requests.as_ref()?.get("storage"));
    asked.and_then(whole).unwrap_or(0)
}

/// The bytes that a volume has.
pub fn size_of(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.and_then(whole).unwrap_or(0)
}

/// Whether the volume can be used on the node.
pub fn reaches(volume: &PersistentVolume, node: Place<'_>) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    affinity.is_none_or(|selector| selects_node(selector, node.name, node.labels))
}

/// Why a volume is not for a claim, in upstream's words; its node and whether it is free aside.
pub fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let (Some(asked), Some(has)) = (&claim.spec, &volume.spec) else {
        return Some("there is no specification");
    };
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = has.access_modes.as_deref().unwrap_or_default();
    if size_of(volume) < size_asked(claim) {
        return Some("requested PV is too small");
    }
    if class_of_volume(volume) != class_of(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    if mode(&asked.volume_mode) != mode(&has.volume_mode) {
        return Some("incompatible volumeMode");
    }
    let attributes = |name: &Option<String>| name.clone().unwrap_or_default();
    if attributes(&asked.volume_attributes_class_name) != attributes(&has.volume_attributes_class_name) {
        return Some("volumeAttributesClassName does not match");
    }
    if !asked.access_modes.iter().flatten().all(|mode| modes.contains(mode)) {
        return Some("incompatible accessMode");
    }
    None
}

/// The volume that the claim is given: one that was made for it, else the smallest free one that fits.
///
/// With a node it must reach it. `only_reserved`: the node is still to be chosen, so only one that is the
/// claim's already.
pub fn best<'a, V: AsRef<PersistentVolume>>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a V>,
    node: Option<Place<'_>>,
    only_reserved: bool,
) -> Option<&'a V> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let mut smallest: Option<&V> = None;
    for candidate in volumes {
        let volume = candidate.as_ref();
        if volume.metadata.deletion_timestamp.is_some() || mismatch(claim, volume).is_some() {
            continue;
        }
        let reachable = node.is_none_or(|node| reaches(volume, node));
        match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
            Some(reference) if refers_to(reference, claim) => return reachable.then_some(candidate),
            Some(_) => continue,
            None => {}
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        let selected =
            selector.is_none_or(|selector| matches_selector(selector, volume.metadata.labels.as_ref()));
        if only_reserved || !reachable || !selected || phase != Some("Available") {
            continue;
        }
        let rank = |volume: &PersistentVolume| (size_of(volume), volume.metadata.name.clone());
        if smallest.is_none_or(|best| rank(volume) < rank(best.as_ref())) {
            smallest = Some(candidate);
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn merged(mut base: Value, extra: Value) -> Value {
        for (name, value) in extra.as_object().unwrap() {
            base[name] = value.clone();
        }
        base
    }

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let base = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}, "storageClassName": "c"});
        let claim =
            json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u"}, "spec": merged(base, spec)});
        serde_json::from_value(claim).unwrap()
    }

    fn volume(name: &str, spec: Value) -> Arc<PersistentVolume> {
        let base = json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": "10Gi"}, "storageClassName": "c",
            "hostPath": {"path": "/a"}});
        let volume = json!({"metadata": {"name": name, "labels": {"name": name}}, "spec": merged(base, spec),
            "status": {"phase": "Available"}});
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    #[test]
    fn a_volume_must_have_what_the_claim_asks_for() {
        for (asked, has, expected) in [
            (json!({}), json!({}), None),
            (json!({}), json!({"capacity": {"storage": "5Gi"}}), None),
            (json!({}), json!({"capacity": {"storage": "5368709119"}}), Some("requested PV is too small")),
            (json!({"storageClassName": "d"}), json!({}), Some("storageClassName does not match")),
            (json!({"storageClassName": ""}), json!({"storageClassName": null}), None),
            (json!({"volumeMode": "Block"}), json!({}), Some("incompatible volumeMode")),
            (json!({"accessModes": ["ReadOnlyMany"]}), json!({}), None),
            (json!({"accessModes": ["ReadWriteMany"]}), json!({}), Some("incompatible accessMode")),
            (json!({"accessModes": ["ReadWriteOncePod"]}), json!({}), Some("incompatible accessMode")),
            (
                json!({"volumeAttributesClassName": "fast"}),
                json!({}),
                Some("volumeAttributesClassName does not match"),
            ),
        ] {
            assert_eq!(mismatch(&claim(asked.clone()), &volume("v", has.clone())), expected, "{asked} {has}");
        }
    }

    #[test]
    fn the_smallest_that_fits_is_taken_unless_one_was_made_for_the_claim() {
        let small = volume("small", json!({"capacity": {"storage": "6Gi"}}));
        let tiny = volume("tiny", json!({"capacity": {"storage": "1Gi"}}));
        let made = volume(
            "made",
            json!({"capacity": {"storage": "90Gi"}, "claimRef": {"namespace": "ns", "name": "data"}}),
        );
        let others = volume(
            "others",
            json!({"capacity": {"storage": "5Gi"}, "claimRef": {"namespace": "ns", "name": "x"}}),
        );
        let namesake =
            volume("namesake", json!({"claimRef": {"namespace": "ns", "name": "data", "uid": "old"}}));
        let all = vec![volume("large", json!({})), tiny, small, others, namesake];
        let name = |claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], reserved: bool| {
            best(claim, volumes, None, reserved).and_then(|volume| volume.metadata.name.clone())
        };
        assert_eq!(name(&claim(json!({})), &all, false).as_deref(), Some("small"));
        assert_eq!(name(&claim(json!({})), &all, true), None, "the node is to be chosen first");
        let selector = json!({"selector": {"matchLabels": {"name": "large"}}});
        assert_eq!(name(&claim(selector), &all, false).as_deref(), Some("large"));
        let with: Vec<_> = all.into_iter().chain([made]).collect();
        assert_eq!(name(&claim(json!({})), &with, true).as_deref(), Some("made"));
    }

    #[test]
    fn what_is_released_goes_or_is_elsewhere_is_not_given() {
        let mut released = (*volume("r", json!({}))).clone();
        released.status.as_mut().unwrap().phase = Some("Released".into());
        let affinity = json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["a"]}]}]}}});
        let all = [Arc::new(released), volume("on-a", affinity)];
        let (here, there) = ("a".to_owned(), "b".to_owned());
        let labels = |name: &String| BTreeMap::from([("kubernetes.io/hostname".to_owned(), name.clone())]);
        let (on_a, on_b) = (labels(&here), labels(&there));
        let claim = claim(json!({}));
        let at = |name, labels| best(&claim, &all, Some(Place { name, labels }), false).is_some();
        assert!(at(&here, &on_a) && !at(&there, &on_b));
    }
}
