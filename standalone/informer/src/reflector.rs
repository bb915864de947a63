//! Keeps a [`Store`] equal to the API server, for ever.

use std::{fmt::Debug, sync::Arc};

use futures::future::BoxFuture;
use kube::Resource;
use kube::api::Api;
use serde::de::DeserializeOwned;
use skerry_client::{Follow, News, Object, Options, Target};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::store::Unread;
use crate::{Item, Readers, Store};

/// Selectors that narrow what is watched, in the API's text form; `None` is everything.
#[derive(Clone, Debug, Default)]
pub struct Narrow {
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// Fills `store` from `api` until `shutdown`; `readers` can tell how it does. For metadata alone `K` is a
/// [`kube::api::PartialObjectMeta`].
pub fn reflect<K>(
    api: Api<Item<K>>,
    store: Arc<Store<K>>,
    narrow: Narrow,
    readers: Readers,
    shutdown: CancellationToken,
) -> BoxFuture<'static, ()>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let path = api.resource_url().to_owned();
    readers.add(&path, &store);
    let target =
        Target { path, labels: narrow.labels, fields: narrow.fields, metadata_only: K::metadata_api() };
    let follow = Follow::new(api.into_client(), target.clone(), Options::default());
    let filling = Filling { store, readers, path: target.path, listed: Vec::new() };
    Box::pin(fill(follow, Box::new(filling), shutdown))
}

/// Not generic: compiled once for all kinds.
async fn fill(mut follow: Follow, mut filled: Box<dyn Filled>, shutdown: CancellationToken) {
    while let Some(news) = shutdown.run_until_cancelled(follow.next()).await {
        match news {
            News::Begin => filled.begin(),
            News::Listed(object) => filled.list(object),
            News::Complete { revision } => filled.complete(number(revision)),
            News::Applied(object) => filled.apply(object),
            News::Deleted(object) => filled.delete(object),
            News::Progress { revision } => filled.progress(number(revision)),
            News::Interrupted(_) | News::Absent(_) => {}
        }
    }
}

/// 0 for a server whose revisions are no numbers.
fn number(revision: &str) -> u64 {
    revision.parse().unwrap_or(0)
}

/// Whoever takes in what a watch tells.
trait Filled: Send {
    fn begin(&mut self);
    fn list(&mut self, object: Object<'_>);
    fn complete(&mut self, revision: u64);
    fn apply(&mut self, object: Object<'_>);
    fn delete(&mut self, object: Object<'_>);
    fn progress(&mut self, revision: u64);
}

struct Filling<K> {
    store: Arc<Store<K>>,
    readers: Readers,
    path: String,
    /// Of the list that is under way.
    listed: Vec<Item<K>>,
}

impl<K: DeserializeOwned> Filling<K> {
    /// The object, or what can be read of it; of what is not even that nothing is known.
    fn read(&self, object: Object<'_>) -> Option<Item<K>> {
        let read = object.item();
        read.inspect_err(|error| {
            self.readers.met_unreadable();
            warn!(path = self.path, %error, "what can't be read at all is left out");
        })
        .ok()
    }

    fn name(&self, unread: &Unread) {
        self.readers.met_unreadable();
        let Unread { key, revision, error } = unread;
        let path = &self.path;
        warn!(path, object = %key, revision, %error, "object can't be read: it stays as it is, all others go on");
    }
}

impl<K: Resource + DeserializeOwned + Send + Sync> Filled for Filling<K> {
    fn begin(&mut self) {
        self.listed.clear();
    }

    fn list(&mut self, object: Object<'_>) {
        self.listed.extend(self.read(object));
    }

    fn complete(&mut self, revision: u64) {
        let listed = std::mem::take(&mut self.listed);
        self.store.listed(listed, revision).iter().for_each(|unread| self.name(unread));
    }

    fn apply(&mut self, object: Object<'_>) {
        let Some(item) = self.read(object) else { return };
        self.store.applied(item).iter().for_each(|unread| self.name(unread));
    }

    fn delete(&mut self, object: Object<'_>) {
        if let Some(item) = self.read(object) {
            self.store.deleted(&item.any());
        }
    }

    fn progress(&mut self, revision: u64) {
        self.store.progressed(revision);
    }
}
