//! ConfigMaps, Secrets and RuntimeClasses that pods name: one watch an object, shared by the node's pods,
//! ended with the last of them.

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

/// Keeps `sender` at what the API server has of the one object that `target` names, for as long as it is
/// awaited.
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
        take(&sender, known);
    }
}

/// What was read before stays good while the server is away, or while the object can't be read.
fn take<K>(sender: &watch::Sender<Known<K>>, known: Known<K>) {
    let is_worse = matches!(known, Known::Failed(_));
    if !(is_worse && matches!(*sender.borrow(), Known::Present(_) | Known::Absent)) {
        sender.send_replace(known);
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

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    /// A server that answers in this order, and then says nothing.
    fn server(answers: impl IntoIterator<Item = String>) -> Client {
        let answers: Mutex<VecDeque<String>> = Mutex::new(answers.into_iter().collect());
        let answer = move |_: Request<Body>| {
            let next = answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            async move {
                match next {
                    Some(text) => Ok::<_, Infallible>(Response::new(Body::from(text.into_bytes()))),
                    None => std::future::pending().await,
                }
            }
        };
        Client::new(tower::service_fn(answer), "default")
    }

    fn list(items: serde_json::Value) -> String {
        json!({"metadata": {"resourceVersion": "5"}, "items": items}).to_string()
    }

    fn map(data: serde_json::Value) -> serde_json::Value {
        json!({"metadata": {"name": "m", "namespace": "ns", "resourceVersion": "6"}, "data": data})
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_read_is_said_to_be_so() {
        let maps = Objects::<ConfigMap>::namespaced(server([list(json!([map(json!(7))]))]));
        let watched = maps.watch("ns", "m");
        let mut known = watched.subscribe();
        let failed = known.wait_for(|known| !matches!(known, Known::Loading)).await.unwrap().clone();
        assert!(matches!(&failed, Known::Failed(why) if why.starts_with("ns/m can't be read")), "{failed:?}");
    }

    #[test]
    fn what_was_read_once_stays_while_it_cannot_be_read() {
        let (good, broken) = (map(json!({"a": "1"})).to_string(), map(json!(7)).to_string());
        let object = |text| read::<ConfigMap>(Object { text, received: tokio::time::Instant::now() });
        let (sender, known) = watch::channel(Known::Loading);
        take(&sender, object(&broken));
        assert!(matches!(*known.borrow(), Known::Failed(_)));
        take(&sender, object(&good));
        take(&sender, object(&broken));
        assert!(matches!(&*known.borrow(), Known::Present(map) if map.data.as_ref().unwrap()["a"] == "1"));
        take(&sender, Known::Absent);
        take(&sender, Known::Failed("the server is away".to_owned()));
        assert!(matches!(*known.borrow(), Known::Absent));
    }

    #[tokio::test]
    async fn an_object_that_is_not_there_is_absent() {
        let maps = Objects::<ConfigMap>::namespaced(server([list(json!([]))]));
        let watched = maps.watch("ns", "m");
        let mut known = watched.subscribe();
        assert!(known.wait_for(|known| matches!(known, Known::Absent)).await.is_ok());
    }
}
