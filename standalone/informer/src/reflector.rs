//! Keeps a [`Store`] equal to the API server: list, then watch from the list's revision, for ever.
//!
//! Own loop rather than kube's `watcher`, since the store needs the list's revision and bookmarks to know which of our
//! own writes the watch has already told (see [`Store::wrote`]).

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use kube::Resource;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::store::Unread;
use crate::{Item, Readers, Store};

/// Objects per page of a list.
const PAGE_SIZE: u32 = 500;
/// Longest life of one watch request; the server ends it and we ask again from where we are.
const WATCH_TIMEOUT_S: u32 = 290;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Watches from one revision that the API server answers with an error before we list anew.
const MAX_REFUSALS: u32 = 5;

/// Selectors that narrow what is watched, in the API's text form; `None` is everything.
#[derive(Clone, Debug, Default)]
pub struct Narrow {
    pub labels: Option<String>,
    pub fields: Option<String>,
}

/// Fills `store` from `api` until `shutdown`; `readers` can tell how it does. For metadata alone `K` is a
/// [`kube::api::PartialObjectMeta`]. Boxed here, so that a crate which spawns it compiles nothing of it.
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
    readers.add(api.resource_url(), &store);
    let reflector = Reflector { api, store, narrow, readers };
    Box::pin(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = reflector.run() => {}
        }
    })
}

struct Reflector<K> {
    api: Api<Item<K>>,
    store: Arc<Store<K>>,
    narrow: Narrow,
    readers: Readers,
}

enum Ended {
    /// The server closed the stream in good order; go on from this revision.
    At(String),
    /// The revision is compacted away, or what follows it can't be understood: only a list leads past it.
    ListAnew(&'static str),
    Failed(String, kube::Error),
}

impl<K> Reflector<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn run(&self) {
        let path = self.api.resource_url();
        let mut backoff = FIRST_BACKOFF;
        let mut revision: Option<String> = None;
        let mut refusals = 0;
        loop {
            let from = match revision.take() {
                Some(revision) => revision,
                None => match self.list().await {
                    Ok(listed) => listed,
                    Err(error) => {
                        warn!(path, %error, "list failed; trying again in {backoff:?}");
                        pause(&mut backoff).await;
                        continue;
                    }
                },
            };
            match self.watch(from.clone(), &mut backoff).await {
                Ended::At(at) => {
                    backoff = FIRST_BACKOFF;
                    revision = Some(at);
                }
                Ended::ListAnew(why) => {
                    debug!(path, why, "listing anew");
                    pause(&mut backoff).await;
                }
                Ended::Failed(at, error) => {
                    refusals = if at == from && is_answer(&error) { refusals + 1 } else { 0 };
                    if refusals < MAX_REFUSALS {
                        debug!(path, %error, "watch failed; trying again in {backoff:?}");
                        revision = Some(at);
                    } else {
                        warn!(path, %error, revision = at, "the watch gets no further; listing anew in {backoff:?}");
                        refusals = 0;
                    }
                    pause(&mut backoff).await;
                }
            }
        }
    }

    async fn list(&self) -> kube::Result<String> {
        let mut params = ListParams {
            limit: Some(PAGE_SIZE),
            label_selector: self.narrow.labels.clone(),
            field_selector: self.narrow.fields.clone(),
            ..Default::default()
        };
        let mut objects = Vec::new();
        loop {
            let page = self.api.list(&params).await?;
            objects.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let revision = page.metadata.resource_version.unwrap_or_default();
                    for unread in self.store.listed(objects, revision.parse().unwrap_or(0)) {
                        self.name(&unread);
                    }
                    return Ok(revision);
                }
            }
        }
    }

    async fn watch(&self, mut at: String, backoff: &mut Duration) -> Ended {
        let params = WatchParams {
            label_selector: self.narrow.labels.clone(),
            field_selector: self.narrow.fields.clone(),
            timeout: Some(WATCH_TIMEOUT_S),
            bookmarks: true,
            ..Default::default()
        };
        let mut events = match self.api.watch(&params, &at).await {
            Ok(events) => events.boxed(),
            Err(kube::Error::Api(status)) if status.code == 410 => return Ended::ListAnew("it is too old"),
            Err(error) => return Ended::Failed(at, error),
        };
        loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ended::At(at),
                Err(error @ kube::Error::SerdeError(_)) => {
                    warn!(path = self.api.resource_url(), %error, revision = at, "an event is not understood; listing anew");
                    return Ended::ListAnew("an event after it is not understood");
                }
                Err(error) => return Ended::Failed(at, error),
            };
            *backoff = FIRST_BACKOFF;
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    follow(&mut at, &object);
                    self.store.applied(object).iter().for_each(|unread| self.name(unread));
                }
                WatchEvent::Deleted(object) => {
                    follow(&mut at, &object);
                    self.store.deleted(&object.any());
                }
                WatchEvent::Bookmark(bookmark) => {
                    self.store.progressed(bookmark.metadata.resource_version.parse().unwrap_or(0));
                    at = bookmark.metadata.resource_version;
                }
                WatchEvent::Error(status) if status.code == 410 => {
                    return Ended::ListAnew("it is too old");
                }
                WatchEvent::Error(status) => return Ended::Failed(at, kube::Error::Api(status)),
            }
        }
    }

    fn name(&self, unread: &Unread) {
        self.readers.met_unreadable();
        let Unread { key, revision, error } = unread;
        let path = self.api.resource_url();
        warn!(path, object = %key, revision, %error, "object can't be read: it stays as it is, all others go on");
    }
}

/// Whether the API server has answered, rather than been away.
fn is_answer(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(_))
}

async fn pause(backoff: &mut Duration) {
    tokio::time::sleep(*backoff).await;
    *backoff = (*backoff * 2).min(MAX_BACKOFF);
}

fn follow<K: Resource>(at: &mut String, object: &K) {
    if let Some(revision) = &object.meta().resource_version {
        at.clone_from(revision);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::ObjectKey;
    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Client;
    use kube::client::Body;

    /// An API server whose every watch says `event` and ends, and whose n-th list holds the ConfigMap `list-n`.
    fn server(event: &'static str, code: u16) -> (Client, Arc<AtomicU32>) {
        let lists = Arc::new(AtomicU32::new(0));
        let counter = lists.clone();
        let answer = move |request: Request<Body>| {
            let is_watch = request.uri().query().unwrap_or_default().contains("watch=true");
            let text = if is_watch {
                event.to_owned()
            } else {
                let n = counter.fetch_add(1, Ordering::Relaxed);
                format!(
                    r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":"{}"}},
                    "items":[{{"metadata":{{"name":"list-{n}","namespace":"ns","resourceVersion":"1"}}}}]}}"#,
                    n + 10
                )
            };
            let response = Response::builder().status(if is_watch { code } else { 200 });
            std::future::ready(Ok::<_, std::io::Error>(response.body(Body::from(text.into_bytes())).unwrap()))
        };
        (Client::new(tower::service_fn(answer), "ns"), lists)
    }

    async fn until_listed_again(client: Client) -> Arc<Store<ConfigMap>> {
        let store = Store::new(|_| Vec::new(), |_| {});
        let (found, mut seen) = tokio::sync::mpsc::unbounded_channel();
        store.on_change(move |change: &crate::Change<ConfigMap>| _ = found.send(change.key.clone()));
        let shutdown = CancellationToken::new();
        let api = Api::all(client);
        let run = reflect(api, store.clone(), Narrow::default(), Readers::default(), shutdown.clone());
        let task = tokio::spawn(run);
        let again = ObjectKey::new("ns", "list-1");
        let met = async { while seen.recv().await.is_some_and(|key| key != again) {} };
        tokio::time::timeout(Duration::from_secs(20), met).await.expect("a second list");
        shutdown.cancel();
        task.await.unwrap();
        store
    }

    #[tokio::test]
    async fn event_that_is_not_understood_leads_to_a_list_and_not_back_to_it() {
        let (client, lists) = server("{\"type\":\"MODIFIED\",\"object\":7}\n", 200);
        let store = until_listed_again(client).await;
        assert!(store.is_synced() && lists.load(Ordering::Relaxed) >= 2);
    }

    #[tokio::test]
    async fn revision_that_the_server_refuses_again_and_again_is_given_up() {
        let refusal =
            r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"broken","code":500}"#;
        let (client, lists) = server(refusal, 500);
        until_listed_again(client).await;
        assert!(lists.load(Ordering::Relaxed) >= 2);
    }
}
