use std::borrow::Cow;

use jiff::Timestamp;
use kube::Resource;
use serde_json::{Value, json};
use skerry_vocabulary::time;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// The object an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// Empty: not told.
    pub api_version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
    pub namespace: Option<String>,
    pub name: String,
    /// Empty: not known.
    pub uid: String,
    pub resource_version: Option<String>,
    /// The part of the object: `spec.containers{NAME}`.
    pub field_path: Option<String>,
}

impl Regarding {
    /// Reference to an object of a kind known at compile time.
    pub fn object<K: Resource<DynamicType = ()>>(object: &K) -> Regarding {
        let meta = object.meta();
        Regarding {
            api_version: K::api_version(&()).into_owned().into(),
            kind: K::kind(&()).into_owned().into(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        }
    }

    /// Where its events live: those of what is in no namespace in `default`.
    pub(super) fn home(&self) -> &str {
        self.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
    }

    fn reference(&self) -> Value {
        let fields = [
            ("apiVersion", Some(&*self.api_version)),
            ("kind", Some(&*self.kind)),
            ("namespace", self.namespace.as_deref()),
            ("name", Some(&*self.name)),
            ("uid", Some(&*self.uid)),
            ("resourceVersion", self.resource_version.as_deref()),
            ("fieldPath", self.field_path.as_deref()),
        ];
        let told = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        told.filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, Value::from(value))).collect()
    }
}

/// One piece of news.
#[derive(Clone, Debug)]
pub struct Note {
    pub about: Regarding,
    pub kind: EventType,
    /// One word in CamelCase.
    pub reason: Cow<'static, str>,
    /// A sentence for people; cut off after 1,024 bytes, which is what the API takes.
    pub message: String,
    /// What was being done, one word in CamelCase; only events.k8s.io/v1 tells it.
    pub action: &'static str,
    pub at: Timestamp,
}

/// How an event that is repeated is counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// core/v1: `count`, `firstTimestamp`, `lastTimestamp`.
    Counted,
    /// events.k8s.io/v1: `eventTime` and a `series`.
    Series,
}

/// Who tells.
#[derive(Clone, Debug)]
pub struct Teller {
    /// `kubelet`, `default-scheduler`.
    pub controller: &'static str,
    /// Which of them: the node's name.
    pub instance: Option<String>,
    pub form: Form,
}

const MAX_MESSAGE: usize = 1024;
const MAX_INSTANCE: usize = 128;
/// Of an object's name in its event's, which has 253 at most.
const MAX_NAME: usize = 253 - 41;

impl Teller {
    /// One program of the cluster, which counts.
    pub fn counted(controller: &'static str) -> Teller {
        Teller { controller, instance: None, form: Form::Counted }
    }

    pub(super) fn path(&self, namespace: &str) -> String {
        let group = match self.form {
            Form::Counted => "api/v1",
            Form::Series => "apis/events.k8s.io/v1",
        };
        format!("/{group}/namespaces/{namespace}/events")
    }

    /// `OBJECT.TIME`, as client-go makes them; the instance tells apart who tells in one moment.
    pub(super) fn name(&self, note: &Note) -> String {
        let teller = self.instance.as_deref().unwrap_or(self.controller);
        let hash = teller.bytes().fold(0_u32, |sum, b| sum.rotate_left(5) ^ u32::from(b));
        let object = cut(&note.about.name, MAX_NAME).trim_end_matches(['.', '-']);
        format!("{object}.{:x}{hash:08x}", note.at.as_nanosecond())
    }

    pub(super) fn event(&self, note: &Note, name: &str, times: u64) -> Value {
        let (namespace, message) = (note.about.home(), cut(&note.message, MAX_MESSAGE));
        let instance = self.instance.as_deref().map(|instance| cut(instance, MAX_INSTANCE));
        let mut event = json!({
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "type": note.kind.as_str(), "reason": note.reason,
        });
        match self.form {
            Form::Counted => {
                let mut source = json!({"component": self.controller});
                if let Some(instance) = instance {
                    source["host"] = json!(instance);
                    event["reportingInstance"] = json!(instance);
                }
                event["apiVersion"] = json!("v1");
                event["involvedObject"] = note.about.reference();
                event["message"] = json!(message);
                event["count"] = json!(times);
                event["firstTimestamp"] = json!(time::seconds(note.at));
                event["lastTimestamp"] = json!(time::seconds(note.at));
                event["source"] = source;
                event["reportingComponent"] = json!(self.controller);
            }
            Form::Series => {
                event["apiVersion"] = json!("events.k8s.io/v1");
                event["regarding"] = note.about.reference();
                event["note"] = json!(message);
                event["eventTime"] = json!(time::micros(note.at));
                event["action"] = json!(note.action);
                event["reportingController"] = json!(self.controller);
                event["reportingInstance"] = json!(instance.unwrap_or(self.controller));
            }
        }
        event
    }

    /// Counts on: `times` is how often it was seen, of all times.
    pub(super) fn count(&self, times: u64, at: Timestamp) -> Value {
        match self.form {
            Form::Counted => json!({"count": times, "lastTimestamp": time::seconds(at)}),
            Form::Series => json!({"series": {"count": times, "lastObservedTime": time::micros(at)}}),
        }
    }
}

/// At most so many bytes, whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn note() -> Note {
        let about = Regarding {
            api_version: "v1".into(),
            kind: "Service".into(),
            namespace: Some("ns".into()),
            name: "web".into(),
            uid: "u".into(),
            ..Regarding::default()
        };
        let at = "2026-11-24T12:50:04.5Z".parse().unwrap();
        let (kind, reason) = (EventType::Warning, "AddressTaken".into());
        Note { about, kind, reason, message: "taken".into(), action: "Balance", at }
    }

    #[test]
    fn a_series_names_its_object_its_reason_and_who_tells() {
        let instance = Some("n".repeat(200));
        let teller = Teller { controller: "skerry.io/proxy", instance, form: Form::Series };
        let event = teller.event(&note(), "web.1", 1);
        assert_eq!(event["eventTime"], "2026-11-24T12:50:04.500000Z");
        assert_eq!(event["regarding"]["uid"], "u");
        assert_eq!((event["reason"].as_str(), event["note"].as_str()), (Some("AddressTaken"), Some("taken")));
        assert_eq!(event["reportingInstance"].as_str().map(str::len), Some(128));
        assert_eq!(teller.path("ns"), "/apis/events.k8s.io/v1/namespaces/ns/events");
        assert_eq!(teller.count(7, note().at)["series"]["count"], 7);
        let mut of_node = note();
        of_node.about.namespace = None;
        of_node.about.uid = String::new();
        let event = teller.event(&of_node, "n2.1", 1);
        assert_eq!(event["metadata"]["namespace"], "default");
        assert!(event["regarding"].get("uid").is_none() && event["regarding"].get("namespace").is_none());
    }

    #[test]
    fn a_counted_event_is_what_describe_shows() {
        let teller = Teller { controller: "kubelet", instance: Some("n1".into()), form: Form::Counted };
        let mut note = note();
        note.about.field_path = Some("spec.containers{c}".into());
        let event = teller.event(&note, "web.1", 3);
        assert_eq!(event["involvedObject"]["fieldPath"], "spec.containers{c}");
        assert_eq!(event["source"], json!({"component": "kubelet", "host": "n1"}));
        assert_eq!((&event["count"], &event["type"]), (&json!(3), &json!("Warning")));
        assert_eq!(event["lastTimestamp"], "2026-11-24T12:50:04Z");
        let typed: k8s_openapi::api::core::v1::Event = serde_json::from_value(event).unwrap();
        assert_eq!(typed.reporting_instance.as_deref(), Some("n1"));
    }

    #[test]
    fn what_is_too_long_is_cut_and_not_refused() {
        let teller = Teller { controller: "kubelet", instance: None, form: Form::Counted };
        let mut long = note();
        long.message = "ä".repeat(2000);
        long.about.name = format!("{}.{}", "a".repeat(211), "b".repeat(41));
        let name = teller.name(&long);
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        assert_eq!(teller.event(&long, &name, 1)["message"].as_str().unwrap().len(), 1024);
    }

    #[test]
    fn an_object_is_referred_to_by_its_kind() {
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".into());
        let about = Regarding::object(&pod);
        assert_eq!((&*about.api_version, &*about.kind, about.name.as_str()), ("v1", "Pod", "p"));
    }
}
