//! What becomes of a StatefulSet's claims when it is deleted or scaled down
//! (`persistentVolumeClaimRetentionPolicy`, KEP-1847). Pure.
//!
//! A claim that is to go is owned by what it goes with: the set, or the pod that is one too many. The garbage
//! collector does the rest.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

fn goes(set: &StatefulSet, when: &str) -> bool {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let said = policy.and_then(|policy| match when {
        "deleted" => policy.when_deleted.as_deref(),
        _ => policy.when_scaled.as_deref(),
    });
    said == Some("Delete")
}

fn reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        ..Default::default()
    }
}

/// Who owns a claim of a pod that stays, or of one that is too many.
fn owner(set: &StatefulSet, pod: Option<&Pod>, is_condemned: bool) -> Option<OwnerReference> {
    if is_condemned && goes(set, "scaled") {
        return pod.map(reference);
    }
    goes(set, "deleted").then(|| reference(set))
}

/// The owners of a claim that is made for a pod that stays.
pub fn owners_at_first(set: &StatefulSet) -> Option<Vec<OwnerReference>> {
    owner(set, None, false).map(|owner| vec![owner])
}

/// Merge patch that gives the claim the owner that the policy asks for; `None` where it has it.
pub fn patch(
    set: &StatefulSet,
    pod: &Pod,
    claim: &PersistentVolumeClaim,
    is_condemned: bool,
) -> Option<Value> {
    let wanted = owner(set, Some(pod), is_condemned);
    let ours = |known: &&OwnerReference| {
        known.uid == set.uid().unwrap_or_default() || (known.kind == "Pod" && known.name == pod.name_any())
    };
    let known = claim.owner_references();
    let has: Vec<&OwnerReference> = known.iter().filter(ours).collect();
    let same = match (&wanted, &has[..]) {
        (None, []) => true,
        (Some(wanted), [one]) => wanted.uid == one.uid,
        _ => false,
    };
    // What another set controls is not ours to give away.
    let is_anothers = known.iter().any(|other| other.controller == Some(true) && !ours(&other));
    if same || is_anothers {
        return None;
    }
    let others = known.iter().filter(|known| !ours(known)).cloned();
    let owners: Vec<OwnerReference> = others.chain(wanted).collect();
    let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
    Some(
        json!({"metadata": {"resourceVersion": claim.resource_version(), "uid": claim.uid(), "ownerReferences": owners}}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        serde_json::from_value(
            json!({"metadata": {"name": "web", "uid": "set"}, "spec": {"serviceName": "web",
            "selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}}),
        )
        .unwrap()
    }

    /// Owners by uid after the step, from these before.
    fn owners(set: &StatefulSet, before: &[&str], is_condemned: bool) -> Vec<String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-1", "uid": "pod"}})).unwrap();
        let reference = |uid: &&str| {
            let (kind, name) = match *uid {
                "set" => ("StatefulSet", "web"),
                "other" => ("ConfigMap", "other"),
                _ => ("Pod", "web-1"),
            };
            json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid})
        };
        let before_references: Vec<Value> = before.iter().map(reference).collect();
        let claim = json!({"metadata": {"name": "data-web-1", "ownerReferences": before_references}});
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        match patch(set, &pod, &claim, is_condemned) {
            None => before.iter().map(|uid| (*uid).to_owned()).collect(),
            Some(patch) => {
                let owners = patch["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
                owners.iter().map(|owner| owner["uid"].as_str().unwrap().to_owned()).collect()
            }
        }
    }

    #[test]
    fn a_claim_goes_with_its_set_or_with_the_pod_that_is_too_many_as_the_policy_says() {
        for (deleted, scaled, is_condemned, before, after) in [
            ("Retain", "Retain", false, &[][..], &[][..]),
            ("Retain", "Retain", true, &["set"], &[]),
            ("Delete", "Retain", false, &[], &["set"]),
            ("Delete", "Retain", true, &["set"], &["set"]),
            ("Retain", "Delete", false, &[], &[]),
            ("Retain", "Delete", true, &[], &["pod"]),
            ("Delete", "Delete", false, &[], &["set"]),
            ("Delete", "Delete", true, &["set"], &["pod"]),
            // It was scaled up again before the pod had gone, or has a new pod of the name.
            ("Delete", "Delete", false, &["pod"], &["set"]),
            ("Retain", "Delete", true, &["old-pod"], &["pod"]),
            ("Delete", "Retain", false, &["other"], &["other", "set"]),
        ] {
            let found = owners(&set(deleted, scaled), before, is_condemned);
            assert_eq!(found, after, "{deleted} {scaled} {is_condemned} {before:?}");
        }
    }
}
