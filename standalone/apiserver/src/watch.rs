//! Watches: initial events, replay, the shared hub, bookmarks, and the end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use serde_json::{Map, Value, json};
use skerry_schema::Kind;
use skerry_store::{Entry, Store, Watch, WatchItem};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Api, Call},
    error::ApiError,
    hub::{Event, EventType, Found, Hub, frame},
    list::{Filter, number, select},
    media::Shape,
    object,
    request::Query,
    respond::{self, Reply, RowObject},
};

/// A watch without `timeoutSeconds` ends after this long, plus up to as much again so that they do not end
/// together.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(1_800);
/// The longest a client may ask for.
const MAX_LIFETIME_SECONDS: u64 = 86_400;
/// How often a watcher that allows bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Initial events are sent in pieces of about this many bytes.
const CHUNK_BYTES: usize = 64 << 10;

/// What the query of a watch asks for.
struct Options {
    filter: Filter,
    bookmarks: bool,
    lifetime: Duration,
    /// Send the state at the start as ADDED events.
    initial_events: bool,
    /// And mark their end by a bookmark.
    marks_end: bool,
    /// Start behind this revision; `None`: at the newest.
    after: Option<u64>,
}

impl Options {
    fn of(kind: &Kind, query: &Query) -> Result<Self, ApiError> {
        let bookmarks = query.flag("allowWatchBookmarks");
        let asked = number(query, "resourceVersion")?;
        let send = query.get("sendInitialEvents").map(|text| !matches!(text, "false" | "0"));
        if send.is_some() && query.get("resourceVersionMatch") != Some("NotOlderThan") {
            return Err(ApiError::bad_request(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        let lifetime = match number(query, "timeoutSeconds")? {
            None | Some(0) => DEFAULT_LIFETIME.mul_f64(1.0 + rand::random::<f64>()),
            Some(seconds) => Duration::from_secs(seconds.min(MAX_LIFETIME_SECONDS)),
        };
        Ok(Self {
            filter: Filter::of(kind, query)?,
            bookmarks,
            lifetime,
            // Without a version, or from "any", a watch starts with the state (as the list that was not
            // made).
            initial_events: send.unwrap_or(matches!(asked, None | Some(0))),
            marks_end: send == Some(true) && bookmarks,
            after: asked.filter(|&revision| revision > 0),
        })
    }
}

pub async fn watch(api: &Arc<Api>, call: &Call) -> Result<Reply, ApiError> {
    let mut options = Options::of(call.kind, &call.query)?;
    // The name may stand in the path (`/watch/...`), and a field selector may ask for another one: both hold,
    // as the right to watch was given for the path's.
    if !call.request.name.is_empty() {
        options.filter.fields.pin("metadata.name", &call.request.name);
    }
    let hub = api.hubs.of(call.kind)?;
    let (initial, after) = start(api, call, &options).await?;
    let now = Instant::now();
    let mut bookmarks = tokio::time::interval_at(now + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
    bookmarks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let watcher = Watcher {
        presenter: Presenter { kind: call.kind, shape: call.shape, row_object: RowObject::of(&call.query)? },
        prefix: object::prefix(call.kind, &call.request.namespace),
        filter: options.filter,
        store: api.store.clone(),
        moved: hub.subscribe(),
        hub,
        source: Source::Seek,
        after,
        initial: initial.into_iter(),
        initial_mark: options.marks_end,
        pending: Vec::new().into_iter(),
        ended: false,
        bookmarks: options.bookmarks.then_some(bookmarks),
        deadline: now + options.lifetime,
        shutdown: api.shutdown.clone(),
    };
    let chunks =
        futures::stream::unfold(watcher, |mut watcher| async move { Some((watcher.next().await?, watcher)) });
    Ok(respond::typed(StatusCode::OK, "application/json", respond::stream(chunks)))
}

/// The initial events and the revision they are true of.
async fn start(api: &Api, call: &Call, options: &Options) -> Result<(Vec<Entry>, u64), ApiError> {
    let current = api.store.revision();
    if !options.initial_events {
        return Ok((Vec::new(), options.after.unwrap_or(current)));
    }
    if let Some(asked) = options.after.filter(|&asked| asked > current) {
        return Err(ApiError::version_too_large(asked, current));
    }
    let page = select(api, call.kind, &call.request.namespace, &options.filter, None, None, 0).await?;
    Ok((page.entries, page.revision))
}

/// Where a watcher's events come from.
enum Source {
    /// To be decided.
    Seek,
    /// The store's own history, until the hub's window is reached.
    Replay(Watch),
    /// A place in the hub's window.
    Live(u64),
}

struct Watcher {
    presenter: Presenter,
    prefix: String,
    filter: Filter,
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    moved: watch::Receiver<()>,
    source: Source,
    /// Everything up to this revision has been looked at.
    after: u64,
    initial: std::vec::IntoIter<Entry>,
    initial_mark: bool,
    pending: std::vec::IntoIter<Bytes>,
    ended: bool,
    bookmarks: Option<tokio::time::Interval>,
    deadline: Instant,
    shutdown: CancellationToken,
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(chunk) = self.next_initial() {
            return Some(chunk);
        }
        loop {
            if let Some(frame) = self.pending.next() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            let (shutdown, deadline) = (self.shutdown.clone(), self.deadline);
            // A tick needs the interval while `advance` has the rest: taken out for the time being.
            let mut bookmarks = self.bookmarks.take();
            let tick = async {
                match &mut bookmarks {
                    Some(interval) => interval.tick().await,
                    None => std::future::pending().await,
                }
            };
            let outcome = tokio::select! {
                biased;
                () = shutdown.cancelled() => Outcome::End,
                () = tokio::time::sleep_until(deadline) => Outcome::TimeOut,
                _ = tick => Outcome::Bookmark,
                frames = self.advance() => Outcome::Frames(frames),
            };
            self.bookmarks = bookmarks;
            match outcome {
                Outcome::End => return None,
                Outcome::TimeOut => {
                    self.ended = true;
                    self.pending = self.bookmark_if_allowed();
                }
                Outcome::Bookmark => self.pending = self.bookmark_if_allowed(),
                Outcome::Frames(frames) => self.pending = frames.into_iter(),
            }
        }
    }

    fn next_initial(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES
            && let Some(entry) = self.initial.next()
        {
            out.extend_from_slice(&self.presenter.line(EventType::Added, &entry.value, entry.mod_revision));
        }
        if self.initial.len() == 0 && std::mem::take(&mut self.initial_mark) {
            out.extend_from_slice(&self.presenter.bookmark(self.after, true));
        }
        (!out.is_empty()).then(|| out.into())
    }

    fn bookmark_if_allowed(&self) -> std::vec::IntoIter<Bytes> {
        let frames = self.bookmarks.iter().map(|_| self.presenter.bookmark(self.after, false));
        frames.collect::<Vec<_>>().into_iter()
    }

    /// Waits for something to happen; what is to be sent of it. Cancel-safe: nothing is taken before the last
    /// await.
    async fn advance(&mut self) -> Vec<Bytes> {
        match &mut self.source {
            Source::Seek => self.seek(),
            Source::Replay(changes) => match changes.next().await {
                Some(WatchItem::Change(change)) => {
                    let event = Event::new(change);
                    let frames = self.show(&event);
                    self.after = event.revision();
                    frames.into_iter().collect()
                }
                Some(WatchItem::Progress(revision)) => {
                    self.after = self.after.max(revision);
                    if let Some(place) = self.hub.place_after(self.after) {
                        self.source = Source::Live(place);
                    }
                    Vec::new()
                }
                // Too slow for the store's queue: go on from where we are, if its history still reaches back
                // that far.
                Some(WatchItem::Lagged) => {
                    self.source = Source::Seek;
                    Vec::new()
                }
                None => {
                    self.ended = true;
                    Vec::new()
                }
            },
            Source::Live(place) => {
                let place = *place;
                self.moved.borrow_and_update();
                match self.hub.read(place) {
                    Found::Events { events, next } => {
                        let fresh = events.iter().filter(|event| event.revision() > self.after);
                        let frames = fresh.filter_map(|event| self.show(event)).collect();
                        self.source = Source::Live(next);
                        self.after =
                            events.last().map_or(self.after, |event| self.after.max(event.revision()));
                        frames
                    }
                    Found::UpToDate { seen } => {
                        self.after = self.after.max(seen);
                        if self.moved.changed().await.is_err() {
                            self.ended = true;
                        }
                        Vec::new()
                    }
                    Found::Outside => {
                        self.source = Source::Seek;
                        Vec::new()
                    }
                }
            }
        }
    }

    /// Into the hub's window if the start is in it, else to the store.
    fn seek(&mut self) -> Vec<Bytes> {
        let newest = self.store.revision();
        if self.after > newest {
            // A version from another life of this cluster: the client has to list again.
            return self.fail(&ApiError::expired(self.after, newest));
        }
        if let Some(place) = self.hub.place_after(self.after) {
            self.source = Source::Live(place);
            return Vec::new();
        }
        match self.store.watch(&self.prefix, self.after) {
            Ok(changes) => {
                self.source = Source::Replay(changes);
                Vec::new()
            }
            Err(error) => self.fail(&error.into()),
        }
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Bytes> {
        self.ended = true;
        vec![line("ERROR", &error.status())]
    }

    /// The line for an event, if this watcher is to see it: entering the selection is ADDED, leaving it
    /// DELETED.
    fn show(&self, event: &Event) -> Option<Bytes> {
        if !event.key().starts_with(&self.prefix) {
            return None;
        }
        let kind = self.presenter.kind;
        let event_type = if self.filter.is_empty() {
            event.event_type()
        } else {
            let before = event.previous_index(kind).is_some_and(|index| self.filter.matches(index));
            let after = event.current_index(kind).is_some_and(|index| self.filter.matches(index));
            match (before, after) {
                (false, false) => return None,
                (false, true) => EventType::Added,
                (true, true) => EventType::Modified,
                (true, false) => EventType::Deleted,
            }
        };
        Some(match self.presenter.shape {
            Shape::Object => event.frame(kind, event_type),
            _ => self.presenter.line(event_type, event.shown(event_type), event.revision()),
        })
    }
}

enum Outcome {
    End,
    TimeOut,
    Bookmark,
    Frames(Vec<Bytes>),
}

/// How a watcher wants its objects.
struct Presenter {
    kind: &'static Kind,
    shape: Shape,
    row_object: RowObject,
}

impl Presenter {
    fn line(&self, event_type: EventType, value: &[u8], revision: u64) -> Bytes {
        if self.shape == Shape::Object {
            return frame(self.kind, event_type, value, revision);
        }
        match object::decode(self.kind, value, revision) {
            Ok(object) => line(event_type.as_str(), &self.shaped(object)),
            Err(error) => line("ERROR", &ApiError::internal(error).status()),
        }
    }

    fn shaped(&self, object: Value) -> Value {
        match self.shape {
            Shape::Table(version) => {
                let mut metadata = Map::new();
                metadata.insert("resourceVersion".into(), object["metadata"]["resourceVersion"].clone());
                respond::table(self.kind, version, &[object], metadata, self.row_object, true)
            }
            Shape::PartialMetadata(version) | Shape::PartialMetadataList(version) => {
                respond::partial_metadata(version, &object)
            }
            Shape::Object | Shape::Discovery => object,
        }
    }

    fn bookmark(&self, revision: u64, ends_initial_events: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial_events {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Table(version) => {
                json!({"kind": "Table", "apiVersion": version.api_version(), "metadata": metadata,
                    "columnDefinitions": [], "rows": []})
            }
            Shape::PartialMetadata(version) | Shape::PartialMetadataList(version) => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": version.api_version(), "metadata": metadata})
            }
            Shape::Object | Shape::Discovery => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
        };
        line("BOOKMARK", &object)
    }
}

fn line(event_type: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{event_type}\",\"object\":{object}}}\n").into()
}
