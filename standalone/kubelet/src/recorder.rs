//! Events about pods and the node (`kubectl describe`). Repeated ones are counted on one object; nobody waits for them.

use std::{
    borrow::Cow,
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait to be written; more are dropped (they are hints, not state).
const QUEUE: usize = 512;
/// Distinct events whose count is remembered.
const REMEMBERED: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Normal,
    Warning,
}

/// Hands events to a task that writes them.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Entry>,
}

#[derive(Debug)]
struct Entry {
    about: ObjectReference,
    kind: Kind,
    reason: Cow<'static, str>,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// Starts the writing task; it ends with the last clone of the recorder.
    pub fn start(client: kube::Client, node_name: String) -> Recorder {
        let (queue, entries) = mpsc::channel(QUEUE);
        tokio::spawn(write(client, node_name, entries));
        Recorder { queue }
    }

    /// An event about a pod, or about one of its containers (`spec.containers{NAME}`).
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: Kind,
        reason: impl Into<Cow<'static, str>>,
        message: String,
    ) {
        let field = container.map(|name| {
            let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
            let init = init.is_some_and(|list| list.iter().any(|container| container.name == name));
            format!("spec.{}{{{name}}}", if init { "initContainers" } else { "containers" })
        });
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: field,
        };
        self.send(about, kind, reason.into(), message);
    }

    /// An event about the node itself.
    pub fn node(&self, name: &str, kind: Kind, reason: &'static str, message: String) {
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        self.send(about, kind, reason.into(), message);
    }

    fn send(&self, about: ObjectReference, kind: Kind, reason: Cow<'static, str>, message: String) {
        let entry = Entry { about, kind, reason, message, at: Timestamp::now() };
        if let Err(refused) = self.queue.try_send(entry) {
            let reason = refused.into_inner().reason;
            tracing::debug!(%reason, "event dropped: {QUEUE} are waiting");
        }
    }
}

struct Remembered {
    uid: Option<String>,
    field: Option<String>,
    reason: Cow<'static, str>,
    message: String,
    namespace: String,
    name: String,
    count: i32,
}

async fn write(client: kube::Client, node_name: String, mut entries: mpsc::Receiver<Entry>) {
    let mut remembered: VecDeque<Remembered> = VecDeque::new();
    while let Some(entry) = entries.recv().await {
        let namespace = entry.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let same = remembered.iter_mut().find(|old| {
            old.uid == entry.about.uid
                && old.field == entry.about.field_path
                && old.reason == entry.reason
                && old.message == entry.message
        });
        if let Some(old) = same {
            old.count = old.count.saturating_add(1);
            let patch = json!({"count": old.count, "lastTimestamp": Time(entry.at)});
            match api.patch(&old.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => continue,
                // It has expired: a new one takes its place below.
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    let (name, namespace) = (old.name.clone(), old.namespace.clone());
                    remembered.retain(|old| old.name != name || old.namespace != namespace);
                }
                Err(error) => {
                    tracing::debug!(%error, "count an event");
                    continue;
                }
            }
        }
        let name = event_name(&entry);
        let fresh = Remembered {
            uid: entry.about.uid.clone(),
            field: entry.about.field_path.clone(),
            reason: entry.reason.clone(),
            message: entry.message.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            count: 1,
        };
        match api.create(&PostParams::default(), &event(entry, name, namespace, &node_name)).await {
            Ok(_) => {
                remembered.truncate(REMEMBERED - 1);
                remembered.push_front(fresh);
            }
            Err(error) => tracing::debug!(%error, "write an event"),
        }
    }
}

/// `POD.HEX`, unique by the time in nanoseconds, as upstream's recorders name them.
fn event_name(entry: &Entry) -> String {
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("{}.{nanoseconds:x}", entry.about.name.as_deref().unwrap_or("event"))
}

fn event(entry: Entry, name: String, namespace: String, node_name: &str) -> Event {
    let source = EventSource { component: Some("kubelet".to_owned()), host: Some(node_name.to_owned()) };
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..Default::default() },
        involved_object: entry.about,
        type_: Some(format!("{:?}", entry.kind)),
        reason: Some(entry.reason.into_owned()),
        message: Some(entry.message),
        count: Some(1),
        first_timestamp: Some(Time(entry.at)),
        last_timestamp: Some(Time(entry.at)),
        source: Some(source),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node_name.to_owned()),
        ..Default::default()
    }
}
