//! PersistentVolumes and their claims: who has which, who makes and removes them, and what keeps them there.
//!
//! Both sides name each other: `spec.claimRef` of the volume with the claim's uid, then `spec.volumeName` of
//! the claim. The volume's side comes first, under the version that was decided on, so that no two claims get
//! one volume. Volumes of the built-in provisioner (`skerry.io/local-path`) are folders of a node. The node's
//! agent makes the folder when a pod mounts it, and removes it when the volume is to go; a finalizer keeps
//! the object until then.

mod claim;
pub mod ephemeral;
mod local;
mod reclaim;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ListParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use skerry_informer::volume::class_of;
use skerry_informer::{Change, Item, Next, ObjectKey, Queue, Term, WriteError, key_of, merge_diff};

use crate::context::{Context, now};
use crate::dependents::unless_gone;

/// Keeps a claim that a pod uses.
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume that is bound.
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// An event about a claim or a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
struct News {
    reason: &'static str,
    message: String,
    is_warning: bool,
}

impl News {
    fn fine(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), is_warning: false }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), is_warning: true }
    }
}

fn tell<K: Resource<DynamicType = ()>>(context: &Context, about: &K, news: &[News]) {
    for news in news {
        if news.is_warning {
            context.warning(about, news.reason, news.message.clone());
        } else {
            context.normal(about, news.reason, news.message.clone());
        }
    }
}

/// What is patched is what was decided on, or nothing.
fn on_this<K: Resource>(object: &K, mut patch: Value) -> Value {
    patch["metadata"]["resourceVersion"] = json!(object.meta().resource_version);
    patch["metadata"]["uid"] = json!(object.meta().uid);
    patch
}

/// Merge patch that takes a finalizer off.
fn without<K: Resource>(object: &K, finalizer: &str) -> Value {
    let left: Vec<&String> = object.finalizers().iter().filter(|known| *known != finalizer).collect();
    on_this(
        object,
        json!({"metadata": {"finalizers": if left.is_empty() { Value::Null } else { json!(left) }}}),
    )
}

fn has_finalizer<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.finalizers().iter().any(|known| known == finalizer)
}

/// The claim that a volume is for.
pub fn claimed(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

/// Keys are claims: themselves, the volumes that are or could be theirs, pods that use them, classes.
pub fn listen_for_claims(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let cache = &context.cache;
    let keys = queue.clone();
    cache.claims.store.on_change(move |change: &Change<PersistentVolumeClaim>| keys.add(change.key.clone()));
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    cache.volumes.store.on_change(move |change: &Change<PersistentVolume>| {
        for volume in change.old.iter().chain(change.known()) {
            claimed(volume).into_iter().for_each(|key| keys.add(key));
        }
        let is_free = change.new.as_ref().is_some_and(|volume| claimed(volume).is_none());
        if let (true, Some(context)) = (is_free, weak.upgrade()) {
            unbound(&context, |_| true).for_each(|key| keys.add(key));
        }
        // A claim may name it before it is there.
        if let Some(context) = weak.upgrade().filter(|_| change.old.is_none()) {
            named(&context, change.key.name()).for_each(|key| keys.add(key));
        }
    });
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    cache.classes.store.on_change(move |change: &Change<StorageClass>| {
        let Some(context) = weak.upgrade() else { return };
        let wanted =
            |claim: &PersistentVolumeClaim| class_of(claim).is_none_or(|class| class == change.key.name());
        unbound(&context, wanted).for_each(|key| keys.add(key));
    });
    let keys = queue.clone();
    cache.pods.store.on_change(move |change: &Change<Pod>| {
        // Only one that goes can set a claim free.
        let going = change.new.as_ref().filter(|pod| ephemeral::is_shut_down(pod));
        if let Some(pod) = change.old.as_ref().filter(|_| change.is_gone()).or(going) {
            claims_of(pod).for_each(|key| keys.add(key));
        }
    });
}

fn unbound(
    context: &Context,
    wanted: impl Fn(&PersistentVolumeClaim) -> bool,
) -> impl Iterator<Item = ObjectKey> {
    let claims = context.cache.claims.store.list().into_iter();
    claims
        .filter(move |claim| !skerry_informer::volume::is_bound(claim) && wanted(claim))
        .map(|claim| key_of(&*claim))
}

fn named(context: &Context, volume: &str) -> impl Iterator<Item = ObjectKey> {
    let claims = context.cache.claims.store.list().into_iter();
    claims
        .filter(move |claim| claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) == Some(volume))
        .map(|claim| key_of(&*claim))
}

/// The claims that a pod mounts.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    skerry_informer::volume::claim_names(pod).map(move |name| ObjectKey::new(namespace, &name))
}

pub async fn reconcile_claim(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(claim) = cache.claims.store.get(&key) else { return Ok(Next::Change) };
    if claim.metadata.deletion_timestamp.is_some() && has_finalizer(&*claim, CLAIM_PROTECTION) {
        if !is_used(&context, &key).await? {
            unless_gone(cache.claims.patch(&key, &without(&*claim, CLAIM_PROTECTION)).await)?;
        }
        return Ok(Next::Change);
    }
    let selected =
        claim.annotations().get(skerry_informer::volume::SELECTED_NODE).map(|name| ObjectKey::cluster(name));
    let plan = claim::plan(&claim::Snapshot {
        claim: &claim,
        volumes: &cache.volumes.store.list(),
        volume_is_unreadable: claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_ref())
            .is_some_and(|name| cache.volumes.store.unreadable_at(&ObjectKey::cluster(name)).is_some()),
        classes: &cache.classes.store.list(),
        node: selected.and_then(|key| cache.nodes.store.get(&key)).as_deref(),
    });
    tell(&context, &*claim, &plan.news);
    if let Some(volume) = &plan.make {
        match cache.volumes.create(volume).await {
            Ok(_) => {
                let text = format!("Successfully provisioned volume {}", volume.name_any());
                context.normal(&*claim, "ProvisioningSucceeded", text);
            }
            Err(error) if error.is_already_exists() => {}
            Err(error) => {
                let text = format!("failed to provision volume: {}", error.server_message());
                context.warning(&*claim, "ProvisioningFailed", text);
                return Err(error);
            }
        }
        return Ok(Next::Change);
    }
    if let Some((volume, patch)) = &plan.reserve {
        cache.volumes.patch(&key_of(&**volume), &on_this(&**volume, patch.clone())).await?;
    }
    let mut claim = (*claim).clone();
    if let Some(patch) = &plan.claim {
        let Some(changed) = unless_gone(cache.claims.patch(&key, &on_this(&claim, patch.clone())).await)?
        else {
            return Ok(Next::Change);
        };
        claim = changed;
    }
    let before = claim.status.clone().unwrap_or_default();
    if let Some(patch) = plan.status.and_then(|status| merge_diff(&before, &status)) {
        unless_gone(
            cache.claims.patch_status(&key, claim.metadata.resource_version.as_deref(), patch).await,
        )?;
    }
    Ok(Next::Change)
}

/// Whether a pod that was given a node uses the claim: asked past the cache, since its data may go with it.
async fn is_used(context: &Context, key: &ObjectKey) -> Result<bool, WriteError> {
    let uses = |pod: &Pod| {
        let named = crate::pod::node_name(pod).is_some() && claims_of(pod).any(|claim| claim == *key);
        named && !ephemeral::has_done_with(pod, key)
    };
    let pods = &context.cache.pods;
    let term = Term::Claim(key.clone());
    if pods.store.by_term(&term).iter().chain(&pods.store.unreadable_by_term(&term)).any(|pod| uses(pod)) {
        return Ok(true);
    }
    let live = pods.api(key.namespace()).list(&ListParams::default()).await;
    let live = live.map_err(|source| WriteError {
        operation: "list pods that use",
        kind: "PersistentVolumeClaim".to_owned(),
        key: key.to_string(),
        source: Box::new(source),
    })?;
    Ok(live.items.into_iter().map(Item::any).any(|pod| uses(&pod)))
}

/// Keys are volumes: themselves, their claims, and all of a node that goes.
pub fn listen_for_volumes(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let cache = &context.cache;
    let keys = queue.clone();
    cache.volumes.store.on_change(move |change: &Change<PersistentVolume>| keys.add(change.key.clone()));
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    cache.claims.store.on_change(move |change: &Change<PersistentVolumeClaim>| {
        let Some(context) = weak.upgrade() else { return };
        for volume in context.cache.volumes.store.by_term(&Term::Claim(change.key.clone())) {
            keys.add(key_of(&*volume));
        }
    });
    let (keys, weak) = (queue.clone(), Arc::downgrade(context));
    cache.nodes.store.on_change(move |change| {
        let Some(context) = weak.upgrade().filter(|_| change.is_gone()) else { return };
        for volume in context.cache.volumes.store.list() {
            if local::node_of(&volume) == Some(change.key.name()) {
                keys.add(key_of(&*volume));
            }
        }
    });
}

pub async fn reconcile_volume(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(volume) = cache.volumes.store.get(&key) else { return Ok(Next::Change) };
    let claim_key = claimed(&volume);
    let claim = match &claim_key {
        None => reclaim::Claim::None,
        Some(key) if cache.claims.store.unreadable_at(key).is_some() => reclaim::Claim::Unreadable,
        Some(key) => match cache.claims.store.get(key) {
            Some(claim) => reclaim::Claim::There(claim),
            None => reclaim::Claim::Gone,
        },
    };
    let node_is_gone =
        local::node_of(&volume).is_some_and(|node| !cache.nodes.store.exists(&ObjectKey::cluster(node)));
    let plan = reclaim::plan(&volume, &claim, node_is_gone);
    if plan.is_release
        && let Some(key) = &claim_key
    {
        // Data may go: the cache's word is not enough.
        let live = cache.claims.live(key).await?;
        let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if live
            .is_some_and(|live| reference.is_some_and(|it| it.uid.is_some() && it.uid == live.metadata.uid))
        {
            return Ok(Next::After(std::time::Duration::from_secs(1)));
        }
    }
    tell(&context, &*volume, &plan.news);
    let mut volume = (*volume).clone();
    let before = volume.status.clone().unwrap_or_default();
    if let Some(mut status) = plan.status {
        status.last_phase_transition_time = match status.phase == before.phase {
            true => before.last_phase_transition_time.clone(),
            false => Some(now()),
        };
        if let Some(patch) = merge_diff(&before, &status) {
            let revision = volume.metadata.resource_version.clone();
            let Some(changed) =
                unless_gone(cache.volumes.patch_status(&key, revision.as_deref(), patch).await)?
            else {
                return Ok(Next::Change);
            };
            volume = changed;
        }
    }
    if let Some(patch) = plan.patch {
        unless_gone(cache.volumes.patch(&key, &on_this(&volume, patch)).await)?;
    } else if let Some(finalizer) = plan.free {
        unless_gone(cache.volumes.patch(&key, &without(&volume, finalizer)).await)?;
    } else if plan.delete {
        cache.volumes.delete(&volume, DeleteParams::default()).await?;
    }
    Ok(Next::Change)
}
