//! ControllerRevisions: the history of a DaemonSet's or StatefulSet's pod template.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ObjectMeta};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use skerry_informer::{Term, WriteError, key_of};

use crate::context::Context;
use crate::deployment::template_hash;
use crate::owner::controller_reference;

/// Label of pods and revisions: the hash of the template they are of.
pub const HASH_LABEL: &str = "controller-revision-hash";
/// Retries of a name whose hash collided.
const MAX_COLLISIONS: i32 = 16;

/// The template as a revision holds it: a strategic merge patch that replaces the owner's template.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The revision of the present template, made or brought to the front when it is not there.
pub async fn current<O>(
    context: &Context,
    owner: &O,
    template: &PodTemplateSpec,
) -> Result<Arc<ControllerRevision>, WriteError>
where
    O: Resource<DynamicType = ()>,
{
    let revisions = &context.cache.revisions;
    let owned = of(context, owner);
    let wanted = data(template);
    let unreadable = revisions.store.unreadable_by_term(&owner_term(owner));
    let newest = owned.iter().chain(&unreadable).map(|revision| revision.revision).max().unwrap_or(0);
    if let Some(same) = owned.iter().find(|revision| revision.data.as_ref().is_some_and(|d| d.0 == wanted)) {
        if same.revision == newest {
            return Ok(same.clone());
        }
        // An undo: the old template is the newest again.
        let patch = json!({"revision": newest + 1});
        return revisions.patch(&key_of(&**same), &patch).await.map(Arc::new);
    }
    let mut collisions = None;
    loop {
        let hash = template_hash(template, collisions);
        // Whose name has this hash is of this template, or of one whose hash collides: then no other name
        // would help.
        let name = format!("{}-{hash}", owner.name_any());
        if let Some(same) = unreadable.iter().find(|revision| revision.name_any() == name) {
            return Ok(same.clone());
        }
        let mut labels: BTreeMap<String, String> =
            template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(HASH_LABEL.into(), hash.clone());
        let made = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: owner.namespace(),
                labels: Some(labels),
                annotations: owner.meta().annotations.clone(),
                owner_references: Some(vec![controller_reference(owner)]),
                ..Default::default()
            },
            data: Some(RawExtension(wanted.clone())),
            revision: newest + 1,
        };
        match revisions.create(&made).await {
            Ok(made) => return Ok(Arc::new(made)),
            Err(error) if error.is_already_exists() && collisions.unwrap_or(0) < MAX_COLLISIONS => {
                let live = revisions.live(&key_of(&made)).await?;
                let same = live.filter(|live| {
                    live.data.as_ref().is_some_and(|d| d.0 == wanted)
                        && crate::owner::controller_of(live).map(|o| &o.uid) == owner.meta().uid.as_ref()
                });
                if let Some(same) = same {
                    return Ok(Arc::new(same));
                }
                collisions = Some(collisions.unwrap_or(0) + 1);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Every readable revision of the owner, oldest first.
pub fn of<O: Resource>(context: &Context, owner: &O) -> Vec<Arc<ControllerRevision>> {
    let mut owned = context.cache.revisions.store.by_term(&owner_term(owner));
    owned.sort_by_key(|revision| revision.revision);
    owned
}

fn owner_term<O: Resource>(owner: &O) -> Term {
    Term::Owner(owner.meta().uid.clone().unwrap_or_default())
}

/// The template hash that a revision stands for.
pub fn hash(revision: &ControllerRevision) -> &str {
    revision.labels().get(HASH_LABEL).map_or("", String::as_str)
}

/// Deletes the oldest revisions beyond `limit` that no pod is of.
pub async fn clean_up<O>(context: &Context, owner: &O, live: &[&str], limit: usize) -> Result<(), WriteError>
where
    O: Resource<DynamicType = ()>,
{
    let mut dead = of(context, owner);
    dead.retain(|revision| !live.contains(&hash(revision)));
    let surplus = dead.len().saturating_sub(limit);
    for revision in dead.into_iter().take(surplus) {
        context.cache.revisions.delete(&revision, DeleteParams::default()).await?;
    }
    Ok(())
}
