//! What the API server holds, set against what the node wants there.

use std::{sync::Arc, time::Duration};

use kube::{Resource, ResourceExt as _};
use serde_json::{Map, Value};
use tokio::time::Instant;

/// How far a watch may be behind the answer to a write. Later an older version is no echo: the server was set
/// back.
const ECHO_LIMIT: Duration = Duration::from_secs(10);

/// One object as the API server has it, by what was heard last: from a watch, or as the answer to a write of
/// our own.
pub struct Stored<K> {
    object: Arc<K>,
    seen: Arc<K>,
    answered: Option<(u64, Instant)>,
}

impl<K: Resource> Stored<K> {
    pub fn new(object: Arc<K>) -> Stored<K> {
        Stored { seen: object.clone(), object, answered: None }
    }

    pub fn object(&self) -> &Arc<K> {
        &self.object
    }

    /// What the watch says, unless the answer to a write was newer. Versions that are no numbers cannot be
    /// compared.
    pub fn see(&mut self, object: Arc<K>, now: Instant) {
        if Arc::ptr_eq(&self.seen, &object) {
            return;
        }
        let is_echo = self.answered.is_some_and(|(answered, at)| {
            now < at + ECHO_LIMIT && version(object.as_ref()).is_some_and(|version| version < answered)
        });
        self.seen = object.clone();
        if !is_echo {
            self.object = object;
        }
    }

    /// What the server answered to a write, or to a question.
    pub fn take_answer(&mut self, object: Arc<K>, now: Instant) {
        self.answered = version(object.as_ref()).map(|version| (version, now));
        self.object = object;
    }
}

fn version<K: Resource>(object: &K) -> Option<u64> {
    object.resource_version().and_then(|version| version.parse().ok())
}

/// Without nulls, empty objects and empty lists, which servers add or leave out as they like.
pub fn bare(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(map) => {
            let map: Map<String, Value> =
                map.iter().filter_map(|(key, value)| Some((key.clone(), bare(value)?))).collect();
            (!map.is_empty()).then_some(Value::Object(map))
        }
        Value::Array(list) => {
            // Places count in a list: only empty lists as a whole are left out.
            let list: Vec<Value> = list.iter().map(|value| bare(value).unwrap_or(Value::Null)).collect();
            (!list.is_empty()).then_some(Value::Array(list))
        }
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;

    fn node(version: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"resourceVersion": version}})).unwrap())
    }

    #[test]
    fn an_echo_does_not_take_the_place_of_an_answer_and_a_server_that_was_set_back_is_heard() {
        let now = Instant::now();
        let mut stored = Stored::new(node("5"));
        let shown = |stored: &Stored<Node>| stored.object().metadata.resource_version.clone().unwrap();
        stored.take_answer(node("10"), now);
        let echo = node("9");
        stored.see(echo.clone(), now);
        assert_eq!(shown(&stored), "10");
        stored.see(echo, now + 2 * ECHO_LIMIT);
        assert_eq!(shown(&stored), "10", "it was seen before");
        stored.see(node("11"), now);
        assert_eq!(shown(&stored), "11");
        stored.see(node("3"), now + 2 * ECHO_LIMIT);
        assert_eq!(shown(&stored), "3");
        stored.take_answer(node("x"), now);
        stored.see(node("y"), now);
        assert_eq!(shown(&stored), "y");
    }
}
