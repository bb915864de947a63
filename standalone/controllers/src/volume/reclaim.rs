//! One step of a volume: its phase, and what becomes of it after its claim. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus};
use kube::ResourceExt;
use serde_json::{Value, json};
use skerry_informer::volume::BOUND_BY_CONTROLLER;

use super::{News, VOLUME_PROTECTION, has_finalizer, local};

/// The claim that a volume names.
#[derive(Debug)]
pub enum Claim {
    /// It names none.
    None,
    There(Arc<PersistentVolumeClaim>),
    Unreadable,
    Gone,
}

#[derive(Debug, Default)]
pub struct Plan {
    pub news: Vec<News>,
    pub status: Option<PersistentVolumeStatus>,
    /// Merge patch of the volume.
    pub patch: Option<Value>,
    /// A finalizer that has nothing left to wait for.
    pub free: Option<&'static str>,
    pub delete: bool,
    /// The claim is gone: to be asked for once more before anything is done.
    pub is_release: bool,
}

/// `node_is_gone`: that of the volume's folder.
pub fn plan(volume: &PersistentVolume, claim: &Claim, node_is_gone: bool) -> Plan {
    let mut plan = Plan::default();
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let uid = reference.and_then(|reference| reference.uid.as_ref()).filter(|uid| !uid.is_empty());
    let was = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let mut phase = was;
    match (uid, claim) {
        (_, Claim::Unreadable) => return plan,
        // Free, or kept for a claim of a name.
        (None, _) => phase = "Available",
        (Some(uid), Claim::There(claim)) if claim.metadata.uid.as_ref() == Some(uid) => {
            let has = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            if volume.metadata.name.as_deref() == Some(has) {
                phase = "Bound";
            } else if !has.is_empty() {
                spare(volume, &mut plan);
                phase = if plan.delete { "Released" } else { "Available" };
            } else if was == "Pending" {
                // Its claim comes to it next.
                phase = "Available";
            }
        }
        _ => {
            plan.is_release = true;
            phase = release(volume, was, &mut plan);
        }
    }
    if phase != was || plan.status.is_some() {
        let status = plan.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
    }
    if volume.metadata.deletion_timestamp.is_some() {
        plan.delete = false;
        plan.patch = None;
        if phase != "Bound" && has_finalizer(volume, VOLUME_PROTECTION) {
            plan.free = Some(VOLUME_PROTECTION);
        } else if phase != "Bound" && node_is_gone && has_finalizer(volume, local::FINALIZER) {
            let text = "The node of the volume's folder is gone, and its data with it";
            plan.news.push(News::fine("VolumeNodeGone", text));
            plan.free = Some(local::FINALIZER);
        }
    }
    plan
}

/// The claim has another volume: one that was made for it goes, one that we gave it is free again.
fn spare(volume: &PersistentVolume, plan: &mut Plan) {
    let deletes = policy(volume) == "Delete";
    if deletes && local::is_ours(volume) {
        plan.delete = true;
    } else if volume.annotations().contains_key(BOUND_BY_CONTROLLER) {
        let gone = json!({BOUND_BY_CONTROLLER: null});
        plan.patch = Some(json!({"spec": {"claimRef": null}, "metadata": {"annotations": gone}}));
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// The claim is gone. What the policy asks for; the phase that comes of it.
fn release(volume: &PersistentVolume, was: &str, plan: &mut Plan) -> &'static str {
    let mut fail = |reason: &'static str, text: String| {
        let status = PersistentVolumeStatus { message: Some(text.clone()), ..Default::default() };
        plan.status = Some(status);
        if was != "Failed" {
            plan.news.push(News::warning(reason, text));
        }
        "Failed"
    };
    match policy(volume) {
        "Delete" if local::is_ours(volume) => {
            plan.delete = true;
            "Released"
        }
        // Somebody else's to remove.
        "Delete" if volume.annotations().contains_key(local::PROVISIONED_BY) => "Released",
        "Delete" => fail(
            "VolumeFailedDelete",
            format!(
                "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                volume.name_any()
            ),
        ),
        "Recycle" => fail(
            "VolumeFailedRecycle",
            "volumes are not recycled: empty it by hand and take spec.claimRef off, or use Retain or Delete"
                .to_owned(),
        ),
        _ => "Released",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(extra: Value) -> PersistentVolume {
        let mut volume = json!({
            "metadata": {"name": "v", "uid": "v"},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/a"},
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": "ns", "name": "data", "uid": "c"}},
            "status": {"phase": "Bound"},
        });
        json_patch::merge(&mut volume, &extra);
        serde_json::from_value(volume).unwrap()
    }

    fn claim(uid: &str, volume: &str) -> Claim {
        let claim = json!({"metadata": {"name": "data", "namespace": "ns", "uid": uid}, "spec": {"volumeName": volume}});
        Claim::There(Arc::new(serde_json::from_value(claim).unwrap()))
    }

    fn phase(plan: &Plan) -> Option<&str> {
        plan.status.as_ref().and_then(|status| status.phase.as_deref())
    }

    #[test]
    fn the_phase_follows_the_claim() {
        let at = |phase: &str| json!({"status": {"phase": phase}});
        let free = json!({"spec": {"claimRef": null}, "status": {"phase": "Pending"}});
        let kept = json!({"spec": {"claimRef": {"uid": null}}, "status": {"phase": "Pending"}});
        for (extra, claim, expected) in [
            (free, Claim::None, Some("Available")),
            (kept, Claim::Gone, Some("Available")),
            (at("Available"), claim("c", "v"), Some("Bound")),
            (at("Bound"), claim("c", "v"), None),
            (at("Pending"), claim("c", ""), Some("Available")),
            (at("Bound"), Claim::Gone, Some("Released")),
            (at("Bound"), claim("another", "v"), Some("Released")),
            (at("Released"), Claim::Gone, None),
            (at("Bound"), Claim::Unreadable, None),
        ] {
            let plan = plan(&volume(extra.clone()), &claim, false);
            assert_eq!(phase(&plan), expected, "{extra} {claim:?}");
            assert!(!plan.delete && plan.patch.is_none());
        }
    }

    #[test]
    fn after_its_claim_a_volume_stays_goes_or_fails_as_its_policy_says() {
        let of = |policy: &str, by: Option<&str>| {
            let mut volume = volume(json!({"spec": {"persistentVolumeReclaimPolicy": policy}}));
            volume.metadata.annotations =
                by.map(|by| [(local::PROVISIONED_BY.to_owned(), by.to_owned())].into());
            plan(&volume, &Claim::Gone, false)
        };
        let told = |plan: &Plan| plan.news.first().map(|news| news.reason);
        for (policy, by, expected, deletes, news) in [
            ("Retain", None, "Released", false, None),
            ("Retain", Some("skerry.io/local-path"), "Released", false, None),
            ("Delete", Some("skerry.io/local-path"), "Released", true, None),
            ("Delete", Some("example.com/disks"), "Released", false, None),
            ("Delete", None, "Failed", false, Some("VolumeFailedDelete")),
            ("Recycle", None, "Failed", false, Some("VolumeFailedRecycle")),
        ] {
            let plan = of(policy, by);
            assert_eq!(
                (phase(&plan), plan.delete, told(&plan)),
                (Some(expected), deletes, news),
                "{policy} {by:?}"
            );
            assert!(plan.is_release);
        }
    }

    #[test]
    fn a_volume_that_is_to_go_waits_for_its_claim_and_then_for_its_node() {
        let going = |finalizers: Value, phase: &str| {
            volume(
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": finalizers},
                "status": {"phase": phase}}),
            )
        };
        let both = json!([VOLUME_PROTECTION, local::FINALIZER]);
        assert_eq!(plan(&going(both.clone(), "Bound"), &claim("c", "v"), false).free, None);
        assert_eq!(plan(&going(both, "Bound"), &Claim::Gone, false).free, Some(VOLUME_PROTECTION));
        let last = json!([local::FINALIZER]);
        assert_eq!(
            plan(&going(last.clone(), "Released"), &Claim::Gone, false).free,
            None,
            "the node is asked"
        );
        assert_eq!(plan(&going(last, "Released"), &Claim::Gone, true).free, Some(local::FINALIZER));
    }

    #[test]
    fn a_volume_that_its_claim_did_not_take_is_free_again_or_goes() {
        let ours = json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: "yes"}}});
        let freed = plan(&volume(ours), &claim("c", "other"), false);
        assert_eq!(freed.patch.unwrap()["spec"]["claimRef"], Value::Null);
        let by_user = plan(&volume(json!({})), &claim("c", "other"), false);
        assert!(by_user.patch.is_none() && !by_user.delete);
        let made = json!({"metadata": {"annotations": {local::PROVISIONED_BY: "skerry.io/local-path"}},
            "spec": {"persistentVolumeReclaimPolicy": "Delete"}});
        assert!(plan(&volume(made), &claim("c", "other"), false).delete);
    }
}
