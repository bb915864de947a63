//! Garbage collection by owner references: background, foreground, orphan.
//!
//! Every kind that can be listed, watched and deleted is watched by its metadata alone
//! (PartialObjectMetadata). There is no graph beside these caches: they are indexed by the uids of owners,
//! and that is the graph.

mod inventory;
mod judge;

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy, Request};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use skerry_informer::{Item as Read, Next, ObjectKey, Term};

use crate::context::Context;
use crate::owner::disowning;
pub use inventory::{Inventory, Meta, OnChange, WatchedKind, discover, queue_on_change};
use judge::{OwnerState, Verdict, View, is_held, judge};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
/// Uids of owners that are known to be gone; the oldest is forgotten first.
const REMEMBERED_ABSENT: usize = 4096;

/// An object of any kind.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Item {
    /// `group/version/plural`.
    pub resource: Arc<str>,
    pub key: ObjectKey,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.resource, self.key)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {item}")]
    Api {
        operation: &'static str,
        item: Item,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{item} names an owner of unknown kind {api_version} {kind}: is its API registered?")]
    UnknownKind { item: Item, api_version: String, kind: String },
}

/// Owners that a live read found gone.
#[derive(Default)]
pub struct Absent(Mutex<(HashSet<String>, VecDeque<String>)>);

impl Absent {
    fn has(&self, uid: &str) -> bool {
        self.0.lock().expect("not poisoned").0.contains(uid)
    }

    fn add(&self, uid: &str) {
        let mut known = self.0.lock().expect("not poisoned");
        if known.0.insert(uid.to_owned()) {
            known.1.push_back(uid.to_owned());
        }
        if known.1.len() > REMEMBERED_ABSENT
            && let Some(oldest) = known.1.pop_front()
        {
            known.0.remove(&oldest);
        }
    }
}

pub async fn reconcile(context: Arc<Context>, item: Item) -> Result<Next, Error> {
    let inventory = &context.inventory;
    let Some(kind) = inventory.kind(&item.resource) else { return Ok(Next::Change) };
    let Some(object) = kind.store().and_then(|store| store.get(&item.key)) else { return Ok(Next::Change) };
    let uid = object.uid().unwrap_or_default();
    let dependents = inventory.dependents(&uid);
    if object.metadata.deletion_timestamp.is_some() {
        return end(&context, &kind, &item, &object, dependents).await;
    }
    let mut owners = Vec::new();
    for owner in object.metadata.owner_references.iter().flatten() {
        owners.push((owner.uid.clone(), owner_state(&context, &item, owner).await?));
    }
    let finalizers = object.finalizers();
    let view = View {
        owners: &owners,
        orphans: finalizers.iter().any(|f| f == ORPHAN),
        foreground: finalizers.iter().any(|f| f == FOREGROUND),
        has_dependents: !dependents.is_empty(),
    };
    match judge(&view) {
        Verdict::Keep => {}
        Verdict::Disown(gone) => {
            let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
            patch(&context, &kind, &item, &disowning(&*object, &gone)).await?;
        }
        Verdict::Delete(policy) => delete(&context, &kind, &item, &object, policy).await?,
    }
    Ok(Next::Change)
}

/// An object that is being deleted and waits for its dependents: to be deleted too, or to be left alone.
async fn end(
    context: &Context,
    kind: &WatchedKind,
    item: &Item,
    object: &Meta,
    dependents: Vec<(Item, Arc<Meta>)>,
) -> Result<Next, Error> {
    let uid = object.uid().unwrap_or_default();
    let finalizers = object.finalizers();
    if finalizers.iter().any(|f| f == ORPHAN) {
        for (dependent, meta) in dependents {
            if let Some(kind) = context.inventory.kind(&dependent.resource) {
                patch(context, &kind, &dependent, &disowning(&*meta, &[&uid])).await?;
            }
        }
        return remove_finalizer(context, kind, item, object, ORPHAN).await;
    }
    if finalizers.iter().any(|f| f == FOREGROUND) {
        if is_held(&uid, &|owner| blockers(&context.inventory, owner)) {
            return Ok(Next::Change);
        }
        return remove_finalizer(context, kind, item, object, FOREGROUND).await;
    }
    Ok(Next::Change)
}

/// Uids of the objects that hold this one's deletion in the foreground back, and whether each waits for its
/// own.
fn blockers(inventory: &Inventory, uid: &str) -> Vec<(String, bool)> {
    let blocks = |meta: &Meta| {
        let owners = meta.metadata.owner_references.iter().flatten();
        owners.into_iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
    };
    let dependents = inventory.dependents(uid).into_iter().filter(|(_, meta)| blocks(meta));
    dependents.map(|(_, meta)| (meta.uid().unwrap_or_default(), waits(&meta))).collect()
}

/// Whether the object is being deleted, its dependents first.
fn waits(meta: &Meta) -> bool {
    meta.metadata.deletion_timestamp.is_some() && meta.finalizers().iter().any(|f| f == FOREGROUND)
}

async fn remove_finalizer(
    context: &Context,
    kind: &WatchedKind,
    item: &Item,
    object: &Meta,
    finalizer: &str,
) -> Result<Next, Error> {
    let left: Vec<&String> = object.finalizers().iter().filter(|f| *f != finalizer).collect();
    let meta = json!({
        "uid": object.metadata.uid,
        "resourceVersion": object.metadata.resource_version,
        "finalizers": if left.is_empty() { Value::Null } else { json!(left) },
    });
    patch(context, kind, item, &json!({"metadata": meta})).await?;
    Ok(Next::Change)
}

async fn owner_state(context: &Context, item: &Item, owner: &OwnerReference) -> Result<OwnerState, Error> {
    let group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let Some(kind) = context.inventory.by_kind(group, &owner.kind) else {
        let (api_version, kind) = (owner.api_version.clone(), owner.kind.clone());
        return Err(Error::UnknownKind { item: item.clone(), api_version, kind });
    };
    if kind.namespaced && item.key.namespace().is_empty() {
        // A cluster-scoped object cannot be owned by a namespaced one: such a reference says nothing.
        return Ok(OwnerState::Solid);
    }
    let namespace = if kind.namespaced { item.key.namespace() } else { "" };
    let key = ObjectKey::new(namespace, &owner.name);
    let cached = kind
        .store()
        .and_then(|store| store.get(&key))
        .filter(|o| o.metadata.uid.as_ref() == Some(&owner.uid));
    if let Some(cached) = cached {
        return Ok(if waits(&cached) { OwnerState::Waiting } else { OwnerState::Solid });
    }
    let unreadable = kind.store().and_then(|store| store.unreadable_at(&key));
    if unreadable.is_some_and(|there| there.metadata.uid.as_ref() == Some(&owner.uid)) {
        return Ok(OwnerState::Solid);
    }
    if context.absent.has(&owner.uid) {
        return Ok(OwnerState::Absent);
    }
    // Caches of different kinds are not of the same moment: only the API server knows that an owner is gone.
    let live = api(context, &kind, namespace).get_opt(&owner.name).await;
    let live = live.map_err(|e| failed("look for the owner of", item, e))?;
    match live {
        Some(live) if live.meta().uid.as_ref() == Some(&owner.uid) => Ok(OwnerState::Solid),
        _ => {
            context.absent.add(&owner.uid);
            Ok(OwnerState::Absent)
        }
    }
}

/// Asks and answers metadata alone.
fn api(context: &Context, kind: &WatchedKind, namespace: &str) -> Api<Read<Meta>> {
    if kind.namespaced {
        Api::namespaced_with(context.client.clone(), namespace, &kind.resource)
    } else {
        Api::all_with(context.client.clone(), &kind.resource)
    }
}

async fn patch(context: &Context, kind: &WatchedKind, item: &Item, patch: &Value) -> Result<(), Error> {
    let api = api(context, kind, item.key.namespace());
    match api.patch(item.key.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(failed("patch", item, error)),
    }
}

/// Deletes exactly the object that was judged: another revision may have gained an owner.
async fn delete(
    context: &Context,
    kind: &WatchedKind,
    item: &Item,
    object: &Meta,
    policy: PropagationPolicy,
) -> Result<(), Error> {
    let params = DeleteParams {
        propagation_policy: Some(policy),
        preconditions: Some(Preconditions {
            uid: object.metadata.uid.clone(),
            resource_version: object.metadata.resource_version.clone(),
        }),
        ..Default::default()
    };
    let request = Request::new(api(context, kind, item.key.namespace()).resource_url());
    match context.send(request.delete(item.key.name(), &params)).await {
        Ok(()) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(failed("delete", item, error)),
    }
}

fn failed(operation: &'static str, item: &Item, source: kube::Error) -> Error {
    Error::Api { operation, item: item.clone(), source: Box::new(source) }
}

/// Terms that the metadata of any object is indexed by.
fn terms(meta: &Meta) -> Vec<Term> {
    meta.metadata.owner_references.iter().flatten().map(|owner| Term::Owner(owner.uid.clone())).collect()
}
