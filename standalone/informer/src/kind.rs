//! One kind: its cache together with its writes, so that every write of ours is read back at once.

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Item, ObjectKey, Store, key_of};

/// A write that the API server refused or that did not reach it.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {kind} {key}")]
pub struct WriteError {
    pub operation: &'static str,
    pub kind: String,
    pub key: String,
    #[source]
    pub source: Box<kube::Error>,
}

impl WriteError {
    /// HTTP status of the API server's answer, if it answered.
    pub fn code(&self) -> Option<u16> {
        match &*self.source {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }

    /// 404: the object, or the one it belongs to, is gone.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// 409 with reason AlreadyExists.
    pub fn is_already_exists(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status) if status.is_already_exists())
    }

    /// The API server's own words, for events.
    pub fn server_message(&self) -> String {
        match &*self.source {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        }
    }

    /// A create refused because its namespace is being deleted: trying again is pointless.
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(&*self.source, kube::Error::Api(status)
            if status.code == 403 && status.message.contains("is being terminated"))
    }
}

type WriteResult<T> = Result<T, WriteError>;
/// Boxed here, so that a crate which awaits it compiles nothing of it.
type Writing<'a, T> = BoxFuture<'a, WriteResult<T>>;

/// Cache and writes of one kind.
pub struct Kind<K> {
    pub store: Arc<Store<K>>,
    client: Client,
    api: fn(Client, &str) -> Api<Item<K>>,
}

impl<K> Kind<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    pub fn namespaced(client: &Client, store: Arc<Store<K>>) -> Self {
        let api = |client, namespace: &str| match namespace {
            "" => Api::all(client),
            namespace => Api::namespaced(client, namespace),
        };
        Self { store, client: client.clone(), api }
    }
}

impl<K> Kind<K>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
{
    pub fn cluster(client: &Client, store: Arc<Store<K>>) -> Self {
        Self { store, client: client.clone(), api: |client, _| Api::all(client) }
    }
}

/// An object of a kind that is known when this is compiled.
pub trait Object:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Serialize + Sync + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Serialize + Sync + 'static
{
}

impl<K: Object> Kind<K> {
    /// The client side of this kind in `namespace` (all of them when empty; ignored for cluster-scoped
    /// kinds). What the API server answers may be unreadable where what was asked for is done.
    pub fn api(&self, namespace: &str) -> Api<Item<K>> {
        (self.api)(self.client.clone(), namespace)
    }

    /// Reads the object past the cache, or what can be read of it; `None` when it is not there.
    pub fn live<'a>(&'a self, key: &'a ObjectKey) -> Writing<'a, Option<K>> {
        async move {
            let live = self
                .api(key.namespace())
                .get_opt(key.name())
                .await
                .map_err(|e| self.failed("get", key, e))?;
            Ok(live.map(Item::any))
        }
        .boxed()
    }

    pub fn create<'a>(&'a self, object: &'a K) -> Writing<'a, K> {
        async move {
            let key = key_of(object);
            let made = self.api(key.namespace()).create(&PostParams::default(), &object.clone().into()).await;
            let made = made.map_err(|e| {
                let name = if key.name().is_empty() {
                    format!("{}*", object.meta().generate_name.as_deref().unwrap_or(""))
                } else {
                    key.name().to_string()
                };
                self.failed("create", &ObjectKey::new(key.namespace(), &name), e)
            })?;
            self.store.wrote(made.clone());
            Ok(made.any())
        }
        .boxed()
    }

    /// Merge patch (RFC 7386) of the object.
    pub fn patch<'a>(&'a self, key: &'a ObjectKey, patch: &'a Value) -> Writing<'a, K> {
        async move {
            let params = PatchParams::default();
            let made = self.api(key.namespace()).patch(key.name(), &params, &Patch::Merge(patch)).await;
            let made = made.map_err(|e| self.failed("patch", key, e))?;
            self.store.wrote(made.clone());
            Ok(made.any())
        }
        .boxed()
    }

    /// Merge patch of the status alone; nothing else in `patch` has effect. Pass the revision the decision
    /// was taken on to have a stale decision refused (409).
    pub fn patch_status<'a>(
        &'a self,
        key: &'a ObjectKey,
        revision: Option<&'a str>,
        status: Value,
    ) -> Writing<'a, K> {
        async move {
            let mut patch = json!({"status": status});
            if let Some(revision) = revision {
                patch["metadata"] = json!({"resourceVersion": revision});
            }
            let params = PatchParams::default();
            let made =
                self.api(key.namespace()).patch_status(key.name(), &params, &Patch::Merge(&patch)).await;
            let made = made.map_err(|e| self.failed("patch status of", key, e))?;
            self.store.wrote(made.clone());
            Ok(made.any())
        }
        .boxed()
    }

    /// Deletes the object that has this uid; that it is gone already (or another stands there) is no error.
    /// Background propagation unless `params` say otherwise.
    pub fn delete<'a>(&'a self, object: &'a K, params: DeleteParams) -> Writing<'a, ()> {
        async move {
            let key = key_of(object);
            let uid = object.uid().unwrap_or_default();
            let preconditions = Preconditions { uid: Some(uid.clone()), resource_version: None };
            match self.api(key.namespace()).delete(key.name(), &params.preconditions(preconditions)).await {
                Ok(answer) => {
                    // The object, when it lives on for its grace period or finalizers; its last state or a
                    // Status else.
                    let lives_on = answer.left().filter(|left| {
                        let meta = left.meta();
                        meta.deletion_timestamp.is_some()
                            && (meta.deletion_grace_period_seconds.unwrap_or(0) > 0
                                || meta.finalizers.as_ref().is_some_and(|f| !f.is_empty()))
                    });
                    match lives_on {
                        Some(object) => self.store.wrote(object),
                        None => self.store.ended(&key, &uid),
                    }
                    Ok(())
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => {
                    self.store.ended(&key, &uid);
                    Ok(())
                }
                Err(error) => Err(self.failed("delete", &key, error)),
            }
        }
        .boxed()
    }

    fn failed(&self, operation: &'static str, key: &ObjectKey, source: kube::Error) -> WriteError {
        WriteError {
            operation,
            kind: K::kind(&()).into_owned(),
            key: key.to_string(),
            source: Box::new(source),
        }
    }
}
