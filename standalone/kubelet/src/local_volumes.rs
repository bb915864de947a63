//! Removes the folders of this node's volumes that are to go, and says so: a finalizer holds each object
//! until then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use skerry_client::{Follow, Item, News, Object, Options, Target};
use skerry_vocabulary::chain;
use tokio::sync::mpsc;

use crate::{
    agent::Agent,
    volumes::{ClaimError, NODE_LABEL, remove_folder},
};

const FINALIZER: &str = "skerry.io/local-path";
/// Volumes that wait to be looked at; the watch waits in turn.
const QUEUE: usize = 64;
/// Between two tries to remove what could not be removed.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
enum RemoveError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("remove folder {}", path.display())]
    Folder { path: std::path::PathBuf, source: std::io::Error },
    #[error("take the finalizer off volume {name}")]
    Object { name: String, source: Box<kube::Error> },
}

/// Runs as long as the agent.
pub async fn run(agent: Arc<Agent>) {
    let (to_us, heard) = mpsc::channel(QUEUE);
    // The watch is never dropped half-way: it would begin anew.
    tokio::join!(follow(&agent, to_us), remove_all(&agent, heard));
}

/// What the watch tells of one volume.
enum Heard {
    ToGo(Box<PersistentVolume>),
    Gone(String),
}

async fn follow(agent: &Agent, to: mpsc::Sender<Heard>) {
    let mut target = Target::all("/api/v1/persistentvolumes");
    target.labels = Some(format!("{NODE_LABEL}={}", agent.config.node_name));
    let mut events = Follow::new(agent.client.clone(), target, Options::default());
    loop {
        let heard = match events.next().await {
            News::Listed(object) | News::Applied(object) => to_go(object).map(|it| Heard::ToGo(Box::new(it))),
            News::Deleted(object) => object.key().map(|key| Heard::Gone(key.name().to_owned())),
            News::Interrupted(error) | News::Absent(error) => {
                tracing::warn!(error = chain(&error), "watch of this node's volumes interrupted");
                None
            }
            News::Begin | News::Complete { .. } | News::Progress { .. } => None,
        };
        if let Some(heard) = heard
            && to.send(heard).await.is_err()
        {
            return;
        }
    }
}

async fn remove_all(agent: &Agent, mut heard: mpsc::Receiver<Heard>) {
    // What could not be removed yet, by name: bounded by this node's volumes.
    let mut left: BTreeMap<String, PersistentVolume> = BTreeMap::new();
    loop {
        let again = async {
            match left.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            told = heard.recv() => match told {
                Some(Heard::ToGo(volume)) => _ = left.insert(volume.name_any(), *volume),
                Some(Heard::Gone(name)) => _ = left.remove(&name),
                None => return,
            },
            () = again => {}
        }
        for (name, volume) in left.clone() {
            match remove(agent, &volume).await {
                Ok(()) => _ = left.remove(&name),
                Err(error) => {
                    tracing::warn!(volume = name, error = chain(&error), "volume not removed, trying again");
                }
            }
        }
    }
}

/// One that can't be read stays as it is.
fn to_go(object: Object<'_>) -> Option<PersistentVolume> {
    match object.item::<PersistentVolume>() {
        Ok(Item::Readable(volume)) => is_to_go(&volume).then_some(volume),
        Ok(Item::Unreadable { .. }) | Err(_) => None,
    }
}

/// Whether nobody uses the volume any more and it is to go.
fn is_to_go(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    volume.metadata.deletion_timestamp.is_some()
        && phase != Some("Bound")
        && volume.finalizers().iter().any(|known| known == FINALIZER)
}

async fn remove(agent: &Agent, volume: &PersistentVolume) -> Result<(), RemoveError> {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    // Who has changed the policy meanwhile wants to keep the data.
    if policy == Some("Delete")
        && let Some(path) = agent.local_volumes().folder_of(volume)?
    {
        let gone = path.clone();
        let removed = tokio::task::spawn_blocking(move || remove_folder(&gone)).await;
        removed.unwrap_or(Ok(())).map_err(|source| RemoveError::Folder { path, source })?;
    }
    let left: Vec<&String> = volume.finalizers().iter().filter(|known| *known != FINALIZER).collect();
    let patch = json!({"metadata": {
        "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version,
        "finalizers": if left.is_empty() { Value::Null } else { json!(left) },
    }});
    let api: Api<Item<PersistentVolume>> = Api::all(agent.client.clone());
    let name = volume.name_any();
    match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => Ok(()),
        // Gone, or changed: the watch tells what is there now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(source) => Err(RemoveError::Object { name, source: Box::new(source) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_to_go_and_is_used_by_nobody_is_removed() {
        let volume = |deleted: bool, phase: &str, finalizer: &str| -> PersistentVolume {
            let at = deleted.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(
                json!({"metadata": {"name": "v", "deletionTimestamp": at, "finalizers": [finalizer]},
                "status": {"phase": phase}}),
            )
            .unwrap()
        };
        assert!(is_to_go(&volume(true, "Released", FINALIZER)));
        assert!(!is_to_go(&volume(true, "Bound", FINALIZER)));
        assert!(!is_to_go(&volume(false, "Released", FINALIZER)));
        assert!(!is_to_go(&volume(true, "Released", "kubernetes.io/pv-protection")));
    }
}
