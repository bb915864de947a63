//! ConfigMaps, Secrets and RuntimeClasses that pods name: one watch an object, shared by the node's pods, ended with the last of them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use serde::de::DeserializeOwned;
use skerry_client::{Client, Follow, Item, News, Object, Options, Target};
use tokio::{sync::watch, task::AbortHandle};

/// What is known of one object.
#[derive(Clone, Debug)]
pub enum Known<K> {
    Loading,
    Absent,
    Present(Arc<K>),
    /// It could not be had yet, or can't be read; the watch goes on trying.
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
    client: Client,
    /// Path of the list that objects of a namespace are in.
    path: fn(&str) -> String,
    watched: Mutex<HashMap<NamespacedName, Weak<Watched<K>>>>,
}

impl<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>> Objects<K> {
    pub fn namespaced(client: Client) -> Objects<K> {
        Objects { client, path: |namespace| K::url_path(&(), Some(namespace)), watched: Mutex::default() }
    }
}

impl<K: Resource<Scope = ClusterResourceScope, DynamicType = ()>> Objects<K> {
    /// Of a kind without namespaces; the one that is asked for has no meaning.
    pub fn of_cluster(client: Client) -> Objects<K> {
        Objects { client, path: |_| K::url_path(&(), None), watched: Mutex::default() }
    }
}

impl<K: DeserializeOwned + Send + Sync + 'static> Objects<K> {
    /// The view of `namespace/name`, shared with whoever asked before.
    pub fn watch(&self, namespace: &str, name: &str) -> Arc<Watched<K>> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = watched.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        watched.retain(|_, entry| entry.strong_count() > 0);
        let (sender, known) = watch::channel(Known::Loading);
        let target = Target::named((self.path)(namespace), name);
        let task = tokio::spawn(follow(self.client.clone(), target, sender)).abort_handle();
        let entry = Arc::new(Watched { known, task });
        watched.insert(key, Arc::downgrade(&entry));
        entry
    }
}

/// Keeps `sender` at what the API server has of the one object that `target` names, for as long as it is awaited.
pub async fn follow<K: DeserializeOwned>(client: Client, target: Target, sender: watch::Sender<Known<K>>) {
    let mut events = Follow::new(client, target, Options::default());
    let mut found = false;
    loop {
        let known = match events.next().await {
            News::Begin => {
                found = false;
                continue;
            }
            News::Listed(object) => {
                found = true;
                read(object)
            }
            News::Applied(object) => read(object),
            News::Complete { .. } if found => continue,
            News::Complete { .. } | News::Deleted(_) => Known::Absent,
            News::Progress { .. } => continue,
            News::Interrupted(error) | News::Absent(error) => Known::Failed(skerry_vocabulary::chain(&error)),
        };
        // What was read before stays good while the server is away, or while the object can't be read.
        let is_worse = matches!(known, Known::Failed(_));
        if !(is_worse && matches!(*sender.borrow(), Known::Present(_) | Known::Absent)) {
            sender.send_replace(known);
        }
    }
}

fn read<K: DeserializeOwned>(object: Object<'_>) -> Known<K> {
    match object.item() {
        Ok(Item::Readable(object)) => Known::Present(Arc::new(object)),
        Ok(Item::Unreadable { error, .. }) => unread(object, &error),
        Err(error) => unread(object, &error),
    }
}

fn unread<K>(object: Object<'_>, error: &dyn std::fmt::Display) -> Known<K> {
    let name = object.key().map(|key| key.to_string()).unwrap_or_default();
    tracing::warn!(name, %error, "object can't be read: what was known of it stays");
    Known::Failed(format!("{name} can't be read: {error}"))
}
