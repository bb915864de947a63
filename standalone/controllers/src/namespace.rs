//! Ends namespaces: deletes everything in them, then takes the finalizer off.

mod judge;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Request};
use kube::core::discovery::verbs;
use kube::{Resource, ResourceExt};
use skerry_informer::{Change, Item, Next, ObjectKey, Queue, merge_diff};
use skerry_vocabulary::chain;
use tracing::debug;

use crate::context::{Context, now};
use crate::garbage::{Meta, OnChange, WatchedKind};
use judge::{Left, conditions};

const FINALIZER: &str = "kubernetes";
/// Kinds that cannot be watched tell nothing when their last object goes: then a look after this time.
const UNWATCHED_AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("delete all {plural} in namespace {namespace}")]
    Empty {
        plural: String,
        namespace: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("finalize namespace {namespace}")]
    Finalize {
        namespace: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error(transparent)]
    Write(#[from] skerry_informer::WriteError),
}

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let keys = queue.clone();
    context.cache.namespaces.store.on_change(move |change: &Change<Namespace>| keys.add(change.key.clone()));
}

/// An object that goes may be the last one of a namespace that ends.
pub fn on_object_gone(context: &Arc<Context>, queue: Arc<Queue<ObjectKey>>) -> OnChange {
    let weak = Arc::downgrade(context);
    Arc::new(move |_, change| {
        if !change.is_gone() || change.key.namespace().is_empty() {
            return;
        }
        let key = ObjectKey::cluster(change.key.namespace());
        let namespace = weak.upgrade().and_then(|context| context.cache.namespaces.store.get(&key));
        if namespace.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            queue.add(key);
        }
    })
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, Error> {
    let namespaces = &context.cache.namespaces;
    let Some(namespace) = namespaces.store.get(&key) else { return Ok(Next::Change) };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(Next::Change);
    }
    let name = namespace.name_any();
    let mut left = Vec::new();
    let mut failure = None;
    // Pods first: while one runs it may need what stands beside it (KEP-5080).
    for pods_only in [true, false] {
        for (_, kind) in context.inventory.all() {
            let is_pods = kind.resource.group.is_empty() && kind.resource.plural == "pods";
            if !kind.namespaced || is_pods != pods_only || !kind.can(verbs::DELETE) {
                continue;
            }
            match empty(&context, &kind, &name).await {
                Ok(0) => {}
                Ok(count) => left.push(remaining(&kind, &name, count)),
                Err(error) => failure = Some(error),
            }
        }
        if !left.is_empty() {
            break;
        }
    }
    let unwatched = left.iter().any(|kind: &Left| !kind.watched);
    let status = conditions(&namespace, &left, failure.as_ref().map(|error| chain(error)), now());
    if let Some(patch) = merge_diff(&namespace.status.clone().unwrap_or_default(), &status) {
        match namespaces.patch_status(&key, None, patch).await {
            Err(error) if error.is_not_found() => return Ok(Next::Change),
            other => other.map(drop)?,
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    if !left.is_empty() {
        return Ok(if unwatched { Next::After(UNWATCHED_AGAIN) } else { Next::Change });
    }
    finalize(&context, &name, &finalizers).await?;
    Ok(Next::Change)
}

/// Deletes every object of the kind; how many are left. Asks the API server itself: a cache may lag behind.
async fn empty(context: &Context, kind: &WatchedKind, namespace: &str) -> Result<usize, Error> {
    // Whatever the objects say, they can be counted and deleted: metadata one by one, and answers are not
    // read.
    let api: Api<Item<Meta>> = Api::namespaced_with(context.client.clone(), namespace, &kind.resource);
    let delete = Request::new(api.resource_url());
    let all = ListParams::default();
    let failed = |source| Error::Empty {
        plural: kind.resource.plural.clone(),
        namespace: namespace.to_owned(),
        source: Box::new(source),
    };
    let gone = |error: &kube::Error| matches!(error, kube::Error::Api(s) if s.code == 404 || s.code == 405);
    if !kind.can(verbs::LIST) {
        return Ok(0);
    }
    let there = match api.list(&all).await {
        Ok(there) => there.items,
        Err(error) if gone(&error) => return Ok(0),
        Err(error) => return Err(failed(error)),
    };
    if there.is_empty() {
        return Ok(0);
    }
    let to_delete: Vec<_> = there.iter().filter(|meta| meta.meta().deletion_timestamp.is_none()).collect();
    if !to_delete.is_empty() {
        let params = DeleteParams::background();
        if kind.can(verbs::DELETE_COLLECTION) {
            match context.send(delete.delete_collection(&params, &all)).await {
                Ok(_) => {}
                Err(error) if gone(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        } else {
            for meta in to_delete {
                match context.send(delete.delete(&meta.name_any(), &params)).await {
                    Ok(_) => {}
                    Err(error) if gone(&error) => {}
                    Err(error) => return Err(failed(error)),
                }
            }
        }
    }
    let there = api.list(&all).await.map_err(failed)?;
    Ok(there.items.len())
}

fn remaining(kind: &WatchedKind, namespace: &str, count: usize) -> Left {
    let metas = kind.store().map(|store| store.in_namespace(namespace)).unwrap_or_default();
    let finalizers = metas.iter().flat_map(|meta| meta.finalizers().to_vec()).collect();
    debug!(namespace, kind = kind.resource.plural, count, "objects are left");
    Left {
        resource: match kind.resource.group.as_str() {
            "" => format!("{}.", kind.resource.plural),
            group => format!("{}.{group}", kind.resource.plural),
        },
        count,
        finalizers,
        watched: kind.store().is_some(),
    }
}

async fn finalize(context: &Context, name: &str, finalizers: &[String]) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(context.client.clone());
    let failed = |source| Error::Finalize { namespace: name.to_owned(), source: Box::new(source) };
    let left: Vec<String> = finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect();
    let Some(mut live) = api.get_opt(name).await.map_err(failed)? else { return Ok(()) };
    live.spec.get_or_insert_default().finalizers = Some(left);
    match api.replace_subresource("finalize", name, &PostParams::default(), &live).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}
