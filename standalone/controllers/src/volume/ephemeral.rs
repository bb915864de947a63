//! Claims that are a pod's own (`volumes[].ephemeral`, KEP-1698): made with the pod, and gone with it, since it
//! owns them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use kube::ResourceExt;
use skerry_informer::volume::{claim_name, is_own, own_claim_names};
use skerry_informer::{Change, Next, ObjectKey, Queue, Term, WriteError, key_of};

use crate::context::Context;
use crate::owner::controller_reference;

/// Keys are pods: those with such volumes, when they come, and when a claim of theirs goes.
pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let keys = queue.clone();
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        if change.new.as_ref().is_some_and(|pod| own_claim_names(pod).next().is_some()) {
            keys.add(change.key.clone());
        }
    });
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    context.cache.claims.store.on_change(move |change: &Change<PersistentVolumeClaim>| {
        let Some(context) = weak.upgrade().filter(|_| change.is_gone()) else { return };
        for pod in context.cache.pods.store.by_term(&Term::Claim(change.key.clone())) {
            keys.add(key_of(&*pod));
        }
    });
}

/// Makes the claims that the pod has not yet.
pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(pod) = cache.pods.store.get(&key) else { return Ok(Next::Change) };
    if pod.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let Some(claim) = made(&pod, volume) else { continue };
        let name = ObjectKey::new(key.namespace(), &claim.name_any());
        if cache.claims.store.unreadable_at(&name).is_some() {
            continue;
        }
        let failed = match cache.claims.store.get(&name) {
            // Somebody else's stays: the pod waits until it goes.
            Some(there) => is_own(&there, key.name(), &pod.uid().unwrap_or_default()).err(),
            None => match cache.claims.create(&claim).await {
                Ok(_) => None,
                // Not seen yet: whose it is is judged then.
                Err(error) if error.is_already_exists() => return Err(error),
                Err(error) => {
                    let text = format!("create PVC {}: {}", claim.name_any(), error.server_message());
                    tell(&context, &pod, volume, &text);
                    return Err(error);
                }
            },
        };
        if let Some(text) = failed {
            tell(&context, &pod, volume, &text);
        }
    }
    Ok(Next::Change)
}

/// Whether the pod's node has taken all of it down, and only the object is left.
pub fn is_shut_down(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Whether the claim is the pod's own and needed no more: a pod that is deleted in the foreground waits for
/// its claim, which must not wait for the pod.
pub fn has_done_with(pod: &Pod, claim: &ObjectKey) -> bool {
    is_shut_down(pod)
        && pod.metadata.namespace.as_deref() == Some(claim.namespace())
        && own_claim_names(pod).any(|name| name == claim.name())
}

fn tell(context: &Context, pod: &Pod, volume: &Volume, text: &str) {
    context.warning(pod, "FailedBinding", format!("ephemeral volume {}: {text}", volume.name));
}

/// The claim of a volume that has one of its own.
fn made(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
    let mut claim = PersistentVolumeClaim { spec: Some(template.spec), ..Default::default() };
    let given = template.metadata.unwrap_or_default();
    claim.metadata.name = claim_name(&pod.name_any(), volume);
    claim.metadata.namespace.clone_from(&pod.metadata.namespace);
    claim.metadata.labels = given.labels;
    claim.metadata.annotations = given.annotations;
    claim.metadata.owner_references = Some(vec![controller_reference(pod)]);
    Some(claim)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_made_as_its_template_says_and_is_the_pods() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "shared", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "own", "ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}},
                {"name": "none", "emptyDir": {}}]}}))
        .unwrap();
        let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
        let claims: Vec<_> = volumes.iter().filter_map(|volume| made(&pod, volume)).collect();
        let [claim] = &claims[..] else { panic!("{claims:?}") };
        assert_eq!((claim.name_any().as_str(), claim.namespace().as_deref()), ("p-own", Some("ns")));
        assert_eq!((claim.labels()["a"].as_str(), claim.annotations()["c"].as_str()), ("b", "d"));
        assert_eq!(claim.spec.as_ref().unwrap().access_modes, Some(vec!["ReadWriteOnce".to_owned()]));
        assert_eq!(is_own(claim, "p", "u"), Ok(()));
        let ending = |grace: i64| {
            let mut pod = pod.clone();
            pod.metadata.deletion_timestamp = Some(crate::context::now());
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            ["p-own", "data"].map(|name| has_done_with(&pod, &ObjectKey::new("ns", name)))
        };
        assert_eq!([ending(30), ending(0)], [[false, false], [true, false]]);
        let text = "PVC ns/p-own was not created for pod ns/p (pod is not owner)";
        assert_eq!(is_own(claim, "p", "another"), Err(text.to_owned()));
    }
}
