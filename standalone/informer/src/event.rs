//! Events (core/v1) about objects, aggregated as users of `kubectl describe` know it: the same text again raises the
//! count of the event that is there instead of making a new one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Events that wait for the API server; more are dropped and counted.
const QUEUE_LENGTH: usize = 1024;
/// Events remembered for counting; the oldest is forgotten first.
const REMEMBERED: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

/// The object an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Regarding {
    pub api_version: String,
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
    pub uid: String,
    pub resource_version: Option<String>,
}

impl Regarding {
    /// Reference to an object of a kind known at compile time.
    pub fn object<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
        }
    }
}

struct Note {
    about: Regarding,
    kind: EventType,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// Hands events to the task that writes them; never blocks, never fails the caller.
#[derive(Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// `reason` is one word in CamelCase, `message` a sentence for people.
    pub fn event(&self, about: Regarding, kind: EventType, reason: &'static str, message: String) {
        if self.notes.try_send(Note { about, kind, reason, message, at: Timestamp::now() }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events that were dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A recorder and the task that writes its events as `component` until `shutdown` (what is queued then is lost: events
/// are news, not state).
pub fn record(
    client: Client,
    component: &'static str,
    shutdown: CancellationToken,
) -> (Recorder, impl Future<Output = ()> + Send + 'static) {
    let (notes, mut queue) = mpsc::channel(QUEUE_LENGTH);
    let recorder = Recorder { notes, dropped: Arc::default() };
    let task = async move {
        let mut memory = Memory::default();
        while let Some(Some(note)) = shutdown.run_until_cancelled(queue.recv()).await {
            let sent = shutdown.run_until_cancelled(send(&client, component, &mut memory, &note)).await;
            if let Some(Err(error)) = sent {
                debug!(reason = note.reason, about = note.about.name, %error, "event was not recorded");
            }
        }
    };
    (recorder, task)
}

type Fingerprint = (Regarding, bool, &'static str, String);

#[derive(Default)]
struct Memory {
    known: HashMap<Fingerprint, (String, i32)>,
    order: VecDeque<Fingerprint>,
}

impl Memory {
    fn remember(&mut self, print: Fingerprint, name: String) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        if self.known.insert(print.clone(), (name, 1)).is_none() {
            self.order.push_back(print);
        }
    }
}

async fn send(client: &Client, component: &str, memory: &mut Memory, note: &Note) -> kube::Result<()> {
    // Events about cluster-scoped objects live in `default`.
    let namespace = note.about.namespace.as_deref().unwrap_or("default");
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let print: Fingerprint = (
        // The revision changes with every write; it must not hide that the text is the same.
        Regarding { resource_version: None, ..note.about.clone() },
        note.kind == EventType::Warning,
        note.reason,
        note.message.clone(),
    );
    if let Some((name, count)) = memory.known.get_mut(&print) {
        let patch = json!({"count": *count + 1, "lastTimestamp": Time(note.at)});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                *count += 1;
                return Ok(());
            }
            // It has expired on the server: write a new one.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let name = format!("{}.{:x}", note.about.name, note.at.as_nanosecond());
    api.create(&PostParams::default(), &event(component, namespace, &name, note)).await?;
    memory.remember(print, name);
    Ok(())
}

fn event(component: &str, namespace: &str, name: &str, note: &Note) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..Default::default()
        },
        involved_object: ObjectReference {
            api_version: Some(note.about.api_version.clone()),
            kind: Some(note.about.kind.clone()),
            namespace: note.about.namespace.clone(),
            name: Some(note.about.name.clone()),
            uid: Some(note.about.uid.clone()),
            resource_version: note.about.resource_version.clone(),
            field_path: None,
        },
        type_: Some(
            match note.kind {
                EventType::Normal => "Normal",
                EventType::Warning => "Warning",
            }
            .to_owned(),
        ),
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.clone()),
        source: Some(EventSource { component: Some(component.to_owned()), host: None }),
        reporting_component: Some(component.to_owned()),
        first_timestamp: Some(Time(note.at)),
        last_timestamp: Some(Time(note.at)),
        count: Some(1),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_forgets_the_oldest_event_first_and_stays_bounded() {
        let mut memory = Memory::default();
        let print = |n: usize| -> Fingerprint {
            let about = Regarding {
                api_version: "v1".into(),
                kind: "Pod".into(),
                namespace: None,
                name: n.to_string(),
                uid: String::new(),
                resource_version: None,
            };
            (about, false, "Reason", String::new())
        };
        for n in 0..REMEMBERED + 10 {
            memory.remember(print(n), n.to_string());
        }
        assert_eq!(memory.known.len(), REMEMBERED);
        assert!(!memory.known.contains_key(&print(9)) && memory.known.contains_key(&print(10)));
    }
}
