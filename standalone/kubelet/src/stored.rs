//! What the API server holds, set against what the node wants there.

use std::{sync::Arc, time::Duration};

use kube::{Resource, ResourceExt as _, runtime::utils::Backoff};
use serde_json::{Map, Value};

/// The newer of two readings of one object. Versions that are no numbers cannot be compared: what was read last counts.
pub fn newer<K: Resource>(have: Arc<K>, read: Arc<K>) -> Arc<K> {
    let version = |object: &K| object.resource_version().and_then(|version| version.parse::<u64>().ok());
    match (version(&have), version(&read)) {
        (Some(old), Some(new)) if new < old => have,
        _ => read,
    }
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

/// How long a watch waits before it asks again: a server that comes back is to be heard within seconds.
#[derive(Default)]
pub struct WatchBackoff {
    failures: u32,
}

impl WatchBackoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LAST: Duration = Duration::from_secs(5);
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = Self::FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        Some(delay.min(Self::LAST))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.failures = 0;
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
    fn an_older_reading_does_not_take_a_newer_ones_place() {
        assert_eq!(newer(node("10"), node("9")), node("10"));
        assert_eq!(newer(node("9"), node("10")), node("10"));
        assert_eq!(newer(node("x"), node("y")), node("y"));
    }

    #[test]
    fn a_watch_asks_again_within_five_seconds_and_at_once_after_it_was_heard() {
        let mut backoff = WatchBackoff::default();
        assert_eq!(backoff.by_ref().take(2).map(|delay| delay.as_millis()).collect::<Vec<_>>(), [200, 400]);
        assert!(backoff.by_ref().take(60).all(|delay| delay <= WatchBackoff::LAST));
        backoff.reset();
        assert_eq!(backoff.next(), Some(WatchBackoff::FIRST));
    }
}
