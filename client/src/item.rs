//! One object of a list, a watch or an answer, read by itself: one that can't be read says so and stops no
//! other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Resource;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use skerry_vocabulary::ObjectKey;

/// Stands in for `K` in a client (`Api<Item<K>>`), so that lists and watches are decoded object by object.
#[derive(Clone, Debug)]
pub enum Item<K> {
    Readable(K),
    Unreadable {
        /// What could be read, field by field: metadata, and of each other part the fields that make sense.
        partial: K,
        /// Why the whole could not.
        error: Arc<str>,
    },
}

impl<K> Item<K> {
    /// The object, or what could be read of it.
    pub fn any(self) -> K {
        match self {
            Self::Readable(object) | Self::Unreadable { partial: object, .. } => object,
        }
    }

    /// The object, if all of it could be read.
    pub fn readable(self) -> Option<K> {
        match self {
            Self::Readable(object) => Some(object),
            Self::Unreadable { .. } => None,
        }
    }

    fn as_any(&self) -> &K {
        match self {
            Self::Readable(object) | Self::Unreadable { partial: object, .. } => object,
        }
    }
}

impl<K> From<K> for Item<K> {
    fn from(object: K) -> Self {
        Self::Readable(object)
    }
}

impl<K: DeserializeOwned> Item<K> {
    /// The object in `text` (JSON), or what can be read of it.
    ///
    /// # Errors
    /// When nothing can: it is no object.
    pub fn read(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text).map(Self::Readable).or_else(|error| match partial(text) {
            Some(partial) => Ok(Self::Unreadable { partial, error: error.to_string().into() }),
            None => Err(error),
        })
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Item<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Skips over the object without recursion, however deep it is.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Self::read(text.get()).map_err(serde::de::Error::custom)
    }
}

impl<K: Serialize> Serialize for Item<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_any().serialize(serializer)
    }
}

impl<K: Resource> Resource for Item<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn api_version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::api_version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn url_path(of: &Self::DynamicType, namespace: Option<&str>) -> String {
        K::url_path(of, namespace)
    }

    fn meta(&self) -> &ObjectMeta {
        self.as_any().meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Readable(object) | Self::Unreadable { partial: object, .. } => object.meta_mut(),
        }
    }
}

/// The name of an object.
pub fn key_of<K: Resource>(object: &K) -> ObjectKey {
    let meta = object.meta();
    ObjectKey::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The object without what can't be read: whole parts where they can be, else those of their fields that can.
fn partial<K: DeserializeOwned>(text: &str) -> Option<K> {
    let reads = |text: &str| serde_json::from_str::<K>(text).is_ok();
    let mut kept = Vec::new();
    for (name, part) in serde_json::from_str::<Fields<'_>>(text).ok()? {
        let whole = field(&name, part.get());
        if reads(&object(std::slice::from_ref(&whole))) {
            kept.push(whole);
        } else if let Ok(fields) = serde_json::from_str::<Fields<'_>>(part.get()) {
            let alone = |inner: &String| object(&[field(&name, &object(std::slice::from_ref(inner)))]);
            let inner = fields.iter().map(|(name, value)| field(name, value.get()));
            let inner: Vec<String> = inner.filter(|inner| reads(&alone(inner))).collect();
            kept.push(field(&name, &object(&inner)));
        }
    }
    serde_json::from_str(&object(&kept)).ok()
}

fn field(name: &str, value: &str) -> String {
    format!("{}:{value}", serde_json::Value::from(name))
}

fn object(fields: &[String]) -> String {
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::ControllerRevision;
    use k8s_openapi::api::core::v1::{Pod, Service};
    use kube::ResourceExt;
    use kube::api::{DynamicObject, ObjectList, PartialObjectMeta, WatchEvent};

    const SERVICE: &str = r#"{"metadata":{"name":"bad","namespace":"ns","uid":"u","resourceVersion":"7","labels":{"a":"b"}},
        "spec":{"clusterIP":"10.96.0.9"},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]},
        "conditions":[{"type":"X","status":"True","reason":"E","message":"m","lastTransitionTime":null}]}}"#;

    fn unreadable<K>(item: Item<K>) -> K {
        match item {
            Item::Unreadable { partial, .. } => partial,
            Item::Readable(_) => panic!("it can be read"),
        }
    }

    #[test]
    fn list_with_one_broken_object_has_all_the_others() {
        let list = format!(
            r#"{{"kind":"ServiceList","apiVersion":"v1","metadata":{{"resourceVersion":"9"}},
            "items":[{{"metadata":{{"name":"good"}}}},{SERVICE}]}}"#
        );
        let list: ObjectList<Item<Service>> = serde_json::from_str(&list).unwrap();
        let [good, bad] = <[_; 2]>::try_from(list.items).unwrap();
        assert_eq!(good.readable().unwrap().name_any(), "good");
        let bad = unreadable(bad);
        assert_eq!((bad.name_any().as_str(), bad.labels()["a"].as_str()), ("bad", "b"));
        assert_eq!(bad.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.9"));
        let status = bad.status.unwrap();
        assert!(status.conditions.is_none(), "what can't be read is left out");
        assert_eq!(status.load_balancer.unwrap().ingress.unwrap()[0].ip.as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn watch_event_of_a_broken_object_is_an_event() {
        let event: WatchEvent<Item<Service>> =
            serde_json::from_str(&format!(r#"{{"type":"MODIFIED","object":{SERVICE}}}"#)).unwrap();
        let WatchEvent::Modified(item) = event else { panic!("modified") };
        assert_eq!(unreadable(item).resource_version().as_deref(), Some("7"));
    }

    #[test]
    fn object_of_any_depth_keeps_its_metadata() {
        let deep = format!("{}0{}", "[".repeat(100_000), "]".repeat(100_000));
        let text = format!(
            r#"{{"metadata":{{"name":"r","ownerReferences":[{{"apiVersion":"apps/v1","kind":"DaemonSet","name":"d","uid":"d"}}]}},
            "revision":3,"data":{deep}}}"#
        );
        let revision = unreadable(serde_json::from_str::<Item<ControllerRevision>>(&text).unwrap());
        assert_eq!((revision.name_any().as_str(), revision.revision), ("r", 3));
        assert_eq!(revision.owner_references()[0].uid, "d");
        assert!(revision.data.is_none());
    }

    #[test]
    fn broken_metadata_costs_the_field_that_is_broken() {
        let text = r#"{"metadata":{"name":"p","uid":"u","labels":{"a":7},"finalizers":["x/y"]},"spec":{"nodeName":"n","containers":7}}"#;
        let pod = unreadable(serde_json::from_str::<Item<Pod>>(text).unwrap());
        assert_eq!((pod.name_any().as_str(), pod.finalizers()), ("p", &["x/y".to_owned()][..]));
        assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("n"));
        type Meta = PartialObjectMeta<DynamicObject>;
        let meta = unreadable(serde_json::from_str::<Item<Meta>>(text).unwrap());
        assert_eq!(meta.uid().as_deref(), Some("u"));
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        assert!(serde_json::from_str::<Item<Pod>>("7").is_err());
    }
}
