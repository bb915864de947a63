//! Keeps a [`Store`] equal to the API server: list, then watch from the list's revision, for ever.
//!
//! Own loop rather than kube's `watcher`, since the store needs the list's revision and bookmarks to know which of our
//! own writes the watch has already told (see [`Store::wrote`]).

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::Resource;
use kube::api::{Api, DynamicObject, ListParams, ObjectList, PartialObjectMeta, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::Store;

/// Objects per page of a list.
const PAGE_SIZE: u32 = 500;
/// Longest life of one watch request; the server ends it and we ask again from where we are.
const WATCH_TIMEOUT_S: u32 = 290;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// Where a reflector gets its objects from.
pub trait Source: Send + Sync + 'static {
    type Object: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static;

    fn list(
        &self,
        params: &ListParams,
    ) -> impl Future<Output = kube::Result<ObjectList<Self::Object>>> + Send;

    fn watch(
        &self,
        params: &WatchParams,
        revision: &str,
    ) -> impl Future<Output = WatchResult<Self::Object>> + Send;

    /// For logs.
    fn path(&self) -> &str;
}

type WatchResult<K> = kube::Result<BoxStream<'static, kube::Result<WatchEvent<K>>>>;

/// Whole objects.
pub struct FullObjects<K>(pub Api<K>);

impl<K> Source for FullObjects<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    type Object = K;

    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<K>> {
        self.0.list(params).await
    }

    async fn watch(&self, params: &WatchParams, revision: &str) -> WatchResult<K> {
        Ok(self.0.watch(params, revision).await?.boxed())
    }

    fn path(&self) -> &str {
        self.0.resource_url()
    }
}

/// Only the metadata of a kind that is known by discovery.
pub struct MetadataOnly(pub Api<DynamicObject>);

impl Source for MetadataOnly {
    type Object = PartialObjectMeta<DynamicObject>;

    async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<Self::Object>> {
        self.0.list_metadata(params).await
    }

    async fn watch(&self, params: &WatchParams, revision: &str) -> WatchResult<Self::Object> {
        Ok(self.0.watch_metadata(params, revision).await?.boxed())
    }

    fn path(&self) -> &str {
        self.0.resource_url()
    }
}

/// Selectors that narrow what is watched, in the API's text form; `None` is everything.
#[derive(Clone, Debug, Default)]
pub struct Narrow {
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// Fills `store` from `source` until `shutdown`.
pub async fn reflect<S: Source>(
    source: S,
    store: Arc<Store<S::Object>>,
    narrow: Narrow,
    shutdown: CancellationToken,
) {
    let run = run(&source, &store, narrow);
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = run => {}
    }
}

async fn run<S: Source>(source: &S, store: &Store<S::Object>, narrow: Narrow) {
    let mut backoff = FIRST_BACKOFF;
    let mut revision: Option<String> = None;
    loop {
        let from = match revision.take() {
            Some(revision) => revision,
            None => match list(source, store, &narrow).await {
                Ok(listed) => {
                    backoff = FIRST_BACKOFF;
                    listed
                }
                Err(error) => {
                    warn!(path = source.path(), %error, "list failed; trying again in {backoff:?}");
                    pause(&mut backoff).await;
                    continue;
                }
            },
        };
        match watch(source, store, &narrow, from.clone(), &mut backoff).await {
            Ended::At(at) => revision = Some(at),
            Ended::Expired => debug!(path = source.path(), "revision is too old; listing anew"),
            Ended::Failed(at, error) => {
                debug!(path = source.path(), %error, "watch failed; trying again in {backoff:?}");
                revision = Some(at);
                pause(&mut backoff).await;
            }
        }
    }
}

async fn pause(backoff: &mut Duration) {
    tokio::time::sleep(*backoff).await;
    *backoff = (*backoff * 2).min(MAX_BACKOFF);
}

async fn list<S: Source>(source: &S, store: &Store<S::Object>, narrow: &Narrow) -> kube::Result<String> {
    let mut params = ListParams {
        limit: Some(PAGE_SIZE),
        label_selector: narrow.labels.clone(),
        field_selector: narrow.fields.clone(),
        ..Default::default()
    };
    let mut objects = Vec::new();
    loop {
        let page = source.list(&params).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => {
                let revision = page.metadata.resource_version.unwrap_or_default();
                store.listed(objects, revision.parse().unwrap_or(0));
                return Ok(revision);
            }
        }
    }
}

enum Ended {
    /// The server closed the stream in good order; go on from this revision.
    At(String),
    /// 410: the revision is compacted away.
    Expired,
    Failed(String, kube::Error),
}

async fn watch<S: Source>(
    source: &S,
    store: &Store<S::Object>,
    narrow: &Narrow,
    mut at: String,
    backoff: &mut Duration,
) -> Ended {
    let params = WatchParams {
        label_selector: narrow.labels.clone(),
        field_selector: narrow.fields.clone(),
        timeout: Some(WATCH_TIMEOUT_S),
        bookmarks: true,
        ..Default::default()
    };
    let mut events = match source.watch(&params, &at).await {
        Ok(events) => events,
        Err(kube::Error::Api(status)) if status.code == 410 => return Ended::Expired,
        Err(error) => return Ended::Failed(at, error),
    };
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ended::At(at),
            Err(error) => return Ended::Failed(at, error),
        };
        *backoff = FIRST_BACKOFF;
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                follow(&mut at, &object);
                store.applied(object);
            }
            WatchEvent::Deleted(object) => {
                follow(&mut at, &object);
                store.deleted(&object);
            }
            WatchEvent::Bookmark(bookmark) => {
                store.progressed(bookmark.metadata.resource_version.parse().unwrap_or(0));
                at = bookmark.metadata.resource_version;
            }
            WatchEvent::Error(status) if status.code == 410 => return Ended::Expired,
            WatchEvent::Error(status) => return Ended::Failed(at, kube::Error::Api(status)),
        }
    }
}

fn follow<K: Resource>(at: &mut String, object: &K) {
    if let Some(revision) = &object.meta().resource_version {
        at.clone_from(revision);
    }
}
