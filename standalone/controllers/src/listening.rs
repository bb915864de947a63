//! What every kind of pod owner listens to.

use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Resource, ResourceExt};
use skerry_informer::{Change, Kind, ObjectKey, Queue, key_of, matches_selector};

use crate::context::Context;
use crate::owner::controller_of;

/// Queues an owner when it changes, when one of its pods does, and when a pod turns up that it may adopt.
pub fn listen_to_pods<O>(
    context: &Arc<Context>,
    queue: &Arc<Queue<ObjectKey>>,
    owners: fn(&Context) -> &Kind<O>,
    selector: fn(&O) -> Option<LabelSelector>,
) where
    O: Resource<DynamicType = ()> + Send + Sync + 'static,
{
    let keys = queue.clone();
    owners(context).store.on_change(move |change: &Change<O>| keys.add(change.key.clone()));
    let (keys, weak): (_, Weak<Context>) = (queue.clone(), Arc::downgrade(context));
    context.cache.pods.store.on_change(move |change: &Change<Pod>| {
        for pod in change.old.iter().chain(change.known()) {
            if let Some(owner) = controller_of(&**pod).filter(|owner| owner.kind == O::kind(&())) {
                keys.add(ObjectKey::new(change.key.namespace(), &owner.name));
            }
        }
        let orphan = change.known().map(|pod| &**pod).filter(|pod| controller_of(*pod).is_none());
        if let (Some(orphan), Some(context)) = (orphan, weak.upgrade()) {
            for owner in owners(&context).store.in_namespace(change.key.namespace()) {
                if selector(&owner).is_some_and(|s| matches_selector(&s, Some(orphan.labels()))) {
                    keys.add(key_of(&*owner));
                }
            }
        }
    });
}
