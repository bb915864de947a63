//! One shared watch per kind: every change is taken from the store once, and encoded once for all watchers.
//!
//! A hub keeps a bounded window of the newest events. A watcher has a place in it and reads at its own pace;
//! one that falls out of the window, or starts before it, replays from the store until it has caught up
//! (`watch.rs`).
//!
//! Invariant: a transaction writes at most one key of a kind, so one revision is at most one event of a hub.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use futures::StreamExt;
use skerry_schema::{Kind, selectable_fields};
use skerry_store::{Change, Entry, Store, StoreError, WatchItem};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::object;

/// A window's bounds; whichever is reached first lets go of the oldest event. Without watchers it is empty.
const WINDOW_EVENTS: usize = 2_048;
const WINDOW_BYTES: usize = 1 << 20;

/// What a selector looks at.
#[derive(Debug, Default, Clone)]
pub struct Index {
    pub labels: BTreeMap<String, String>,
    pub fields: BTreeMap<String, String>,
}

impl Index {
    pub fn of(kind: &Kind, object: &serde_json::Value) -> Self {
        let labels = object.pointer("/metadata/labels").and_then(serde_json::Value::as_object);
        let labels = labels.into_iter().flatten();
        Self {
            labels: labels
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            fields: selectable_fields(kind, object)
                .into_iter()
                .map(|(field, value)| (field.to_owned(), value))
                .collect(),
        }
    }

    pub fn of_entry(kind: &Kind, entry: &Entry) -> Self {
        object::decode_entry(kind, entry).map(|object| Self::of(kind, &object)).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
        }
    }
}

/// A change with what watchers need of it, each made at most once.
#[derive(Debug)]
pub struct Event {
    change: Arc<Change>,
    frames: [OnceLock<Bytes>; 3],
    current: OnceLock<Index>,
    previous: OnceLock<Index>,
}

impl Event {
    pub fn new(change: Arc<Change>) -> Self {
        Self { change, frames: Default::default(), current: OnceLock::new(), previous: OnceLock::new() }
    }

    pub fn revision(&self) -> u64 {
        self.change.revision()
    }

    pub fn key(&self) -> &str {
        self.change.key()
    }

    pub fn event_type(&self) -> EventType {
        match &*self.change {
            Change::Put { previous: None, .. } => EventType::Added,
            Change::Put { .. } => EventType::Modified,
            Change::Delete { .. } => EventType::Deleted,
        }
    }

    /// The state after the change; `None`: deleted.
    pub fn current(&self) -> Option<&Entry> {
        match &*self.change {
            Change::Put { entry, .. } => Some(entry),
            Change::Delete { .. } => None,
        }
    }

    pub fn previous(&self) -> Option<&Entry> {
        match &*self.change {
            Change::Put { previous, .. } => previous.as_ref(),
            Change::Delete { previous, .. } => Some(previous),
        }
    }

    pub fn current_index(&self, kind: &Kind) -> Option<&Index> {
        let entry = self.current()?;
        Some(self.current.get_or_init(|| Index::of_entry(kind, entry)))
    }

    pub fn previous_index(&self, kind: &Kind) -> Option<&Index> {
        let entry = self.previous()?;
        Some(self.previous.get_or_init(|| Index::of_entry(kind, entry)))
    }

    /// The bytes an event of `event_type` shows: the state before, for a deletion (also one that a selector
    /// makes).
    pub fn shown(&self, event_type: EventType) -> &[u8] {
        let entry = if event_type == EventType::Deleted { self.previous() } else { self.current() };
        entry.map_or(&[], |entry| &entry.value)
    }

    /// `{"type":...,"object":...}` and a newline.
    pub fn frame(&self, kind: &Kind, event_type: EventType) -> Bytes {
        let made = || frame(kind, event_type, self.shown(event_type), self.revision());
        self.frames[event_type as usize].get_or_init(made).clone()
    }

    /// What it keeps in memory: the state after it and its frame. The state before is the event's before it.
    fn bytes(&self) -> usize {
        2 * self.current().or(self.previous()).map_or(0, |entry| entry.value.len())
    }
}

/// One line of a watch response.
pub fn frame(kind: &Kind, event_type: EventType, value: &[u8], revision: u64) -> Bytes {
    let mut out = Vec::with_capacity(value.len() + 192);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event_type.as_str().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object::write_json(kind, value, revision, &mut out);
    out.extend_from_slice(b"}\n");
    out.into()
}

type GroupVersionResource = (&'static str, &'static str, &'static str);

/// All hubs, made at a kind's first watch.
pub struct Hubs {
    store: Arc<dyn Store>,
    hubs: Mutex<HashMap<GroupVersionResource, Arc<Hub>>>,
    shutdown: CancellationToken,
}

impl Hubs {
    pub fn new(store: Arc<dyn Store>, shutdown: CancellationToken) -> Self {
        Self { store, hubs: Mutex::new(HashMap::new()), shutdown }
    }

    pub fn of(&self, kind: &'static Kind) -> Result<Arc<Hub>, StoreError> {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (kind.group, kind.version, kind.plural);
        if let Some(hub) = hubs.get(&place).filter(|hub| !hub.is_broken()) {
            return Ok(hub.clone());
        }
        let hub = Hub::start(kind, &self.store, self.shutdown.clone())?;
        hubs.insert(place, hub.clone());
        Ok(hub)
    }
}

struct Window {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Every event after this revision, up to `seen`, is in the window.
    start: u64,
    /// Everything up to this revision has been taken in.
    seen: u64,
    /// The number of the first event in the window, counted from the hub's start.
    first: u64,
    /// The store let go of us: watchers leave, the next one starts a new hub.
    broken: bool,
}

pub struct Hub {
    window: Mutex<Window>,
    changed: watch::Sender<()>,
}

/// What a watcher finds at its place.
pub enum Found {
    Events {
        events: Vec<Arc<Event>>,
        next: u64,
    },
    /// Nothing new; everything up to this revision has been seen.
    UpToDate {
        seen: u64,
    },
    /// The place is no longer (or not yet) in the window.
    Outside,
}

/// The most events handed to a watcher at once.
const BATCH: usize = 128;

impl Hub {
    fn start(
        kind: &'static Kind,
        store: &Arc<dyn Store>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let start = store.revision();
        let mut changes = store.watch(&object::prefix(kind, ""), start)?;
        let window =
            Window { events: VecDeque::new(), bytes: 0, start, seen: start, first: 0, broken: false };
        let hub = Arc::new(Self { window: Mutex::new(window), changed: watch::Sender::new(()) });
        let feeding = hub.clone();
        tokio::spawn(async move {
            loop {
                let item = tokio::select! {
                    () = shutdown.cancelled() => break,
                    item = changes.next() => item,
                };
                match item {
                    Some(WatchItem::Change(change)) => feeding.take(Event::new(change)),
                    Some(WatchItem::Progress(revision)) => feeding.progress(revision),
                    Some(WatchItem::Lagged) | None => break,
                }
            }
            feeding.lock().broken = true;
            feeding.changed.send_replace(());
        });
        Ok(hub)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_broken(&self) -> bool {
        self.lock().broken
    }

    /// Told whenever the window has moved.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn take(&self, event: Event) {
        let mut window = self.lock();
        window.seen = event.revision();
        window.bytes += event.bytes();
        window.events.push_back(Arc::new(event));
        let is_watched = self.changed.receiver_count() > 0;
        let is_full = |window: &Window| {
            let (events, bytes) = (window.events.len(), window.bytes);
            !is_watched || events > WINDOW_EVENTS || (bytes > WINDOW_BYTES && events > 1)
        };
        while is_full(&window)
            && let Some(oldest) = window.events.pop_front()
        {
            window.bytes -= oldest.bytes();
            window.start = oldest.revision();
            window.first += 1;
        }
        drop(window);
        self.changed.send_replace(());
    }

    fn progress(&self, revision: u64) {
        let mut window = self.lock();
        window.seen = window.seen.max(revision);
        drop(window);
        self.changed.send_replace(());
    }

    /// The place of the first event after `revision`; `None`: it may have left the window, replay first.
    pub fn place_after(&self, revision: u64) -> Option<u64> {
        let window = self.lock();
        if window.broken || revision < window.start {
            return None;
        }
        let skipped = window.events.partition_point(|event| event.revision() <= revision);
        Some(window.first + skipped as u64)
    }

    pub fn read(&self, place: u64) -> Found {
        let window = self.lock();
        let Some(offset) = place.checked_sub(window.first).and_then(|offset| usize::try_from(offset).ok())
        else {
            return Found::Outside;
        };
        if window.broken || offset > window.events.len() {
            return Found::Outside;
        }
        let events: Vec<_> = window.events.iter().skip(offset).take(BATCH).cloned().collect();
        match events.len() {
            0 => Found::UpToDate { seen: window.seen },
            taken => Found::Events { next: place + taken as u64, events },
        }
    }
}

#[cfg(test)]
mod tests {
    use skerry_schema::find;

    use super::*;

    fn event(revision: u64, value: &'static str) -> Event {
        let entry = Entry {
            key: "/registry/configmaps/a/b".into(),
            value: Bytes::from_static(value.as_bytes()),
            create_revision: 1,
            mod_revision: revision,
        };
        Event::new(Arc::new(Change::Put { entry, previous: None }))
    }

    #[test]
    fn an_event_is_encoded_once_for_all_watchers() {
        let kind = find("", "v1", "configmaps").unwrap();
        let event = event(7, "{\"metadata\":{\"name\":\"b\"}}");
        let (one, two) = (event.frame(kind, EventType::Added), event.frame(kind, EventType::Added));
        assert_eq!(one.as_ptr(), two.as_ptr());
        assert_eq!(
            one,
            "{\"type\":\"ADDED\",\"object\":{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"7\",\
             \"name\":\"b\"}}}\n"
        );
    }

    #[test]
    fn a_window_is_bounded_and_a_watcher_that_fell_out_is_told() {
        let window = Window { events: VecDeque::new(), bytes: 0, start: 0, seen: 0, first: 0, broken: false };
        let hub = Hub { window: Mutex::new(window), changed: watch::Sender::new(()) };
        hub.take(event(1, "{\"metadata\":{}}"));
        assert_eq!(hub.place_after(0), None);
        let _watcher = hub.subscribe();
        let count = WINDOW_EVENTS as u64 + 10;
        for revision in 2..=count {
            hub.take(event(revision, "{\"metadata\":{}}"));
        }
        assert!(matches!(hub.read(0), Found::Outside));
        assert_eq!(hub.place_after(5), None);
        let place = hub.place_after(count - 1).unwrap();
        let Found::Events { events, next } = hub.read(place) else { panic!("one event") };
        assert_eq!((events.len(), events[0].revision()), (1, count));
        assert!(matches!(hub.read(next), Found::UpToDate { seen } if seen == count));
    }
}
