//! Who controls what: owner references, adoption and release.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use skerry_informer::matches_selector;

/// The owner reference with `controller: true`, if there is one.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The reference that makes `owner` the controller of a dependent and holds its foreground deletion back.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Objects sorted by what an owner with a selector has to do with them.
#[derive(Debug)]
pub struct Claims<K> {
    /// Controlled by the owner and still selected.
    pub owned: Vec<Arc<K>>,
    /// Selected, controlled by nobody: to be adopted.
    pub adopt: Vec<Arc<K>>,
    /// Controlled by the owner, no longer selected: to be released.
    pub release: Vec<Arc<K>>,
}

/// Sorts `candidates`. An owner that is being deleted adopts nothing, an object that is being deleted is
/// neither adopted nor released, and an owner that selects everything selects nothing.
pub fn claim<O: Resource, K: Resource>(
    owner: &O,
    selector: &LabelSelector,
    candidates: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    let owner_ends = owner.meta().deletion_timestamp.is_some();
    let selects_nothing = selector.match_labels.as_ref().is_none_or(|l| l.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|e| e.is_empty());
    for object in candidates {
        let ends = object.meta().deletion_timestamp.is_some();
        let selected = !selects_nothing && matches_selector(selector, object.meta().labels.as_ref());
        match controller_of(&*object) {
            Some(by) if Some(&by.uid) == owner.meta().uid.as_ref() => {
                if selected || ends || owner_ends {
                    claims.owned.push(object);
                } else {
                    claims.release.push(object);
                }
            }
            Some(_) => {}
            None if selected && !ends && !owner_ends => claims.adopt.push(object),
            None => {}
        }
    }
    claims
}

/// Merge patch that makes `owner` the controller. Carries uid and revision, so that neither a namesake nor an
/// object that someone else adopted meanwhile is taken.
pub fn adoption<K: Resource>(object: &K, owner: OwnerReference) -> Value {
    let mut owners = object.meta().owner_references.clone().unwrap_or_default();
    owners.push(owner);
    owners_patch(object, &owners)
}

/// Merge patch that removes the owners with these uids.
pub fn disowning<K: Resource>(object: &K, gone: &[&str]) -> Value {
    let owners = object.meta().owner_references.iter().flatten();
    let kept: Vec<_> = owners.filter(|owner| !gone.contains(&owner.uid.as_str())).cloned().collect();
    owners_patch(object, &kept)
}

fn owners_patch<K: Resource>(object: &K, owners: &[OwnerReference]) -> Value {
    json!({"metadata": {
        "uid": object.meta().uid,
        "resourceVersion": object.meta().resource_version,
        "ownerReferences": if owners.is_empty() { Value::Null } else { json!(owners) },
    }})
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::ObjectMeta;

    fn meta(name: &str, app: &str, owner: Option<&ReplicaSet>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            uid: Some(format!("uid-{name}")),
            labels: Some([("app".to_owned(), app.to_owned())].into()),
            owner_references: owner.map(|owner| vec![controller_reference(owner)]),
            ..Default::default()
        }
    }

    fn pod(name: &str, app: &str, owner: Option<&ReplicaSet>) -> Arc<Pod> {
        Arc::new(Pod { metadata: meta(name, app, owner), ..Default::default() })
    }

    #[test]
    fn orphans_are_adopted_strangers_left_and_mismatches_released() {
        let ours = ReplicaSet { metadata: meta("ours", "web", None), ..Default::default() };
        let theirs = ReplicaSet { metadata: meta("theirs", "web", None), ..Default::default() };
        let selector = LabelSelector {
            match_labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..Default::default()
        };
        let pods = [
            pod("owned", "web", Some(&ours)),
            pod("orphan", "web", None),
            pod("strange", "web", Some(&theirs)),
            pod("relabelled", "db", Some(&ours)),
            pod("other", "db", None),
        ];
        let names = |pods: &[Arc<Pod>]| pods.iter().map(|p| p.name_any()).collect::<Vec<_>>();
        let claims = claim(&ours, &selector, pods.clone());
        assert_eq!(names(&claims.owned), ["owned"]);
        assert_eq!(names(&claims.adopt), ["orphan"]);
        assert_eq!(names(&claims.release), ["relabelled"]);

        let nothing = claim(&ours, &LabelSelector::default(), pods);
        assert!(nothing.adopt.is_empty(), "an empty selector adopts nothing");
    }
}
