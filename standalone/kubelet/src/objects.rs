//! ConfigMaps, Secrets and RuntimeClasses that pods name: one watch an object, shared by the node's pods, ended with the last of them.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use futures::StreamExt as _;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::AbortHandle};

use crate::stored::WatchBackoff;

/// What is known of one object.
#[derive(Clone, Debug)]
pub enum Known<K> {
    Loading,
    Absent,
    Present(Arc<K>),
    /// It could not be read; the watch goes on trying.
    Failed(String),
}

/// A live view of one object.
pub struct Watched<K> {
    known: watch::Receiver<Known<K>>,
    task: AbortHandle,
}

impl<K> Watched<K> {
    pub fn subscribe(&self) -> watch::Receiver<Known<K>> {
        self.known.clone()
    }
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type NamespacedName = (String, String);

/// All objects of one kind that are watched for somebody.
pub struct Objects<K> {
    client: kube::Client,
    /// The part of the API where objects of a namespace are.
    api: fn(kube::Client, &str) -> Api<K>,
    watched: Mutex<HashMap<NamespacedName, Weak<Watched<K>>>>,
}

impl<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>> Objects<K> {
    pub fn namespaced(client: kube::Client) -> Objects<K> {
        Objects { client, api: Api::namespaced, watched: Mutex::default() }
    }
}

impl<K: Resource<Scope = ClusterResourceScope, DynamicType = ()>> Objects<K> {
    /// Of a kind without namespaces; the one that is asked for has no meaning.
    pub fn of_cluster(client: kube::Client) -> Objects<K> {
        Objects { client, api: |client, _| Api::all(client), watched: Mutex::default() }
    }
}

impl<K> Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// The view of `namespace/name`, shared with whoever asked before.
    pub fn watch(&self, namespace: &str, name: &str) -> Arc<Watched<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = watched.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        watched.retain(|_, entry| entry.strong_count() > 0);
        let (sender, known) = watch::channel(Known::Loading);
        let api = (self.api)(self.client.clone(), namespace);
        let task = tokio::spawn(follow(api, name.to_owned(), sender)).abort_handle();
        let entry = Arc::new(Watched { known, task });
        watched.insert(key, Arc::downgrade(&entry));
        entry
    }
}

/// Keeps `sender` at what the API server has of one object, for as long as it is awaited.
pub async fn follow<K>(api: Api<K>, name: String, sender: watch::Sender<Known<K>>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).any_semantic();
    let mut events = std::pin::pin!(watcher(api, config).backoff(WatchBackoff::default()));
    let mut found = false;
    while let Some(event) = events.next().await {
        let known = match event {
            Ok(watcher::Event::Apply(object)) => Known::Present(Arc::new(object)),
            Ok(watcher::Event::InitApply(object)) => {
                found = true;
                Known::Present(Arc::new(object))
            }
            Ok(watcher::Event::Delete(_)) => Known::Absent,
            Ok(watcher::Event::Init) => {
                found = false;
                continue;
            }
            Ok(watcher::Event::InitDone) if found => continue,
            Ok(watcher::Event::InitDone) => Known::Absent,
            // What was read before stays good while the server is away.
            Err(_) if matches!(*sender.borrow(), Known::Present(_) | Known::Absent) => continue,
            Err(error) => Known::Failed(error.to_string()),
        };
        sender.send_replace(known);
    }
}
