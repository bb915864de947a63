//! What every namespace has: the ServiceAccount `default`, and the ConfigMap with the cluster's CA.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::json;
use skerry_informer::{Change, Next, ObjectKey, Queue, WriteError};

use crate::cache::ROOT_CA;
use crate::context::Context;

const DEFAULT: &str = "default";
/// Key of the certificate in the ConfigMap, where pods' projected volumes look for it.
const CA_FILE: &str = "ca.crt";

pub fn listen(context: &Arc<Context>, queue: &Arc<Queue<ObjectKey>>) {
    let keys = queue.clone();
    context.cache.namespaces.store.on_change(move |change: &Change<Namespace>| keys.add(change.key.clone()));
    let keys = queue.clone();
    context.cache.service_accounts.store.on_change(move |change: &Change<ServiceAccount>| {
        if change.key.name() == DEFAULT && change.is_gone() {
            keys.add(ObjectKey::cluster(change.key.namespace()));
        }
    });
    let keys = queue.clone();
    context.cache.root_cas.store.on_change(move |change: &Change<ConfigMap>| {
        keys.add(ObjectKey::cluster(change.key.namespace()));
    });
}

pub async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Next, WriteError> {
    let cache = &context.cache;
    let Some(namespace) = cache.namespaces.store.get(&key) else { return Ok(Next::Change) };
    if namespace.metadata.deletion_timestamp.is_some() {
        return Ok(Next::Change);
    }
    let name = namespace.name_any();
    let meta = |object: &str| ObjectMeta {
        name: Some(object.to_owned()),
        namespace: Some(name.clone()),
        ..Default::default()
    };
    if !cache.service_accounts.store.exists(&ObjectKey::new(&name, DEFAULT)) {
        let account = ServiceAccount { metadata: meta(DEFAULT), ..Default::default() };
        settled(cache.service_accounts.create(&account).await)?;
    }
    let Some(ca) = &context.ca else { return Ok(Next::Change) };
    let map_key = ObjectKey::new(&name, ROOT_CA);
    match cache.root_cas.store.get(&map_key) {
        None if cache.root_cas.store.exists(&map_key) => {}
        None => {
            let data = [(CA_FILE.to_owned(), ca.clone())].into();
            let map = ConfigMap { metadata: meta(ROOT_CA), data: Some(data), ..Default::default() };
            settled(cache.root_cas.create(&map).await)?;
        }
        Some(map) if map.data.as_ref().and_then(|data| data.get(CA_FILE)) != Some(ca) => {
            let patch = json!({"data": {CA_FILE: ca}});
            settled(cache.root_cas.patch(&map_key, &patch).await)?;
        }
        Some(_) => {}
    }
    Ok(Next::Change)
}

/// Someone else made it, or the namespace ends: either way there is nothing left to do.
fn settled<K>(outcome: Result<K, WriteError>) -> Result<(), WriteError> {
    match outcome {
        Err(error)
            if error.is_already_exists() || error.is_namespace_terminating() || error.is_not_found() =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}
