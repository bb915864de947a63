//! Writes a pod's status to the API server: only what changed, only the newest, again until it is there.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};
use tokio::{sync::watch, task::JoinHandle};

use crate::spec::PodId;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(20);

/// One pod's line to the API server.
pub struct Reporter {
    wanted: watch::Sender<Arc<PodStatus>>,
    task: JoinHandle<()>,
}

impl Reporter {
    /// `known` is the status that the API server has.
    pub fn start(client: kube::Client, id: PodId, known: PodStatus) -> Reporter {
        let known = Arc::new(known);
        let (wanted, receiver) = watch::channel(known.clone());
        let task = tokio::spawn(report(client, id, known, receiver));
        Reporter { wanted, task }
    }

    /// From now on this is what the API server shall have.
    pub fn report(&self, status: Arc<PodStatus>) {
        self.wanted.send_replace(status);
    }

    /// Waits until the last status is written, at most `limit`.
    pub async fn finish(self, limit: Duration) {
        drop(self.wanted);
        let abort = self.task.abort_handle();
        if tokio::time::timeout(limit, self.task).await.is_err() {
            abort.abort();
        }
    }
}

async fn report(
    client: kube::Client,
    id: PodId,
    mut sent: Arc<PodStatus>,
    mut wanted: watch::Receiver<Arc<PodStatus>>,
) {
    let api: Api<Pod> = Api::namespaced(client, &id.namespace);
    let mut retry = FIRST_RETRY;
    loop {
        let status = wanted.borrow_and_update().clone();
        let Some(patch) = patch(&id.uid, &sent, &status) else {
            if wanted.changed().await.is_err() {
                return;
            }
            continue;
        };
        match api.patch_status(&id.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => {
                sent = status;
                retry = FIRST_RETRY;
            }
            // Gone, or another pod of that name: there is nobody to tell.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => return,
            Err(error) => {
                tracing::warn!(pod = %id, error = crate::error_chain(&error), "status not written, trying again");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

/// A strategic merge patch from one status to the other; `None` when they are the same.
fn patch(uid: &str, from: &PodStatus, to: &PodStatus) -> Option<Value> {
    let (from, to) = (object(from), object(to));
    let mut changes = Map::new();
    for (key, value) in &to {
        let old = from.get(key);
        if old == Some(value) {
            continue;
        }
        let change = match (key.as_str(), value) {
            // Merged by type on the server: others' conditions stay.
            ("conditions", Value::Array(list)) => {
                let olds = old.and_then(Value::as_array).cloned().unwrap_or_default();
                let changed = list.iter().filter(|condition| !olds.contains(condition));
                changed.map(|condition| with_nulls(condition, &olds)).collect()
            }
            // Merged by address on the server: only a replacement makes old ones go.
            ("podIPs", Value::Array(list)) if old.is_some() => {
                std::iter::once(json!({"$patch": "replace"})).chain(list.iter().cloned()).collect()
            }
            _ => value.clone(),
        };
        if change.as_array().is_none_or(|list| !list.is_empty() || key != "conditions") {
            changes.insert(key.clone(), change);
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key) && *key != "conditions") {
        changes.insert(key.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// A condition with `null` for what its older self had and it has not: merged by fields, that would stay.
fn with_nulls(condition: &Value, olds: &[Value]) -> Value {
    let mut patch = condition.clone();
    let old = olds.iter().find(|old| old.get("type") == condition.get("type"));
    if let (Some(old), Some(patch)) = (old.and_then(Value::as_object), patch.as_object_mut()) {
        for key in old.keys() {
            patch.entry(key.clone()).or_insert(Value::Null);
        }
    }
    patch
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_changes_are_sent_and_conditions_of_others_are_left_alone() {
        let from = status(json!({"phase": "Pending", "startTime": "2026-01-01T00:00:00Z", "message": "m",
            "conditions": [{"type": "A", "status": "True"}, {"type": "Other", "status": "True"},
                {"type": "B", "status": "False", "reason": "Why"}]}));
        let to = status(json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]}));
        let patch = patch("u", &from, &to).unwrap();
        assert_eq!(
            patch,
            json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running", "message": null, "conditions": [{"type": "B", "status": "True", "reason": null}]}})
        );
    }

    #[test]
    fn nothing_changed_means_nothing_sent() {
        let same = status(json!({"phase": "Running", "conditions": [{"type": "A", "status": "True"}]}));
        assert_eq!(patch("u", &same, &same), None);
    }

    #[test]
    fn a_new_address_takes_the_old_ones_place() {
        let from = status(json!({"podIPs": [{"ip": "10.0.0.1"}]}));
        let to = status(json!({"podIPs": [{"ip": "10.0.0.2"}]}));
        let patch = patch("u", &from, &to).unwrap();
        assert_eq!(patch["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.0.0.2"}]));
    }
}
