//! Takes every pod that this agent ever started off the machine (`skerry uninstall`).

use std::{io::ErrorKind, path::Path, path::PathBuf, time::Duration};

use futures::StreamExt as _;

use crate::{
    Config, cgroups,
    cri::{Cri, CriError, ListedPod},
    spec::PodId,
    volumes::{self, VolumeError},
};

/// Pods that are ended side by side.
const AT_ONCE: usize = 16;
/// No container gets a longer grace than this here, seconds.
const GRACE_S: i64 = 10;
const LIST_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error(transparent)]
    Runtime(#[from] CriError),
    #[error("list pods: no answer from the container runtime within {} s", LIST_LIMIT.as_secs())]
    Silent,
    #[error(transparent)]
    Volumes(#[from] VolumeError),
    #[error("remove {}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
}

/// Ends the node's pods, removes their records, volumes, logs and cgroups, and the agent's own folder. Pods
/// of others on the same runtime are left alone. Doing it again is harmless; all that went wrong is returned.
pub async fn cleanup(config: &Config) -> Vec<CleanupError> {
    let mut errors = Vec::new();
    let listed = match Cri::new(&config.runtime_socket) {
        Ok(cri) => match tokio::time::timeout(LIST_LIMIT, cri.list(&config.node_name)).await {
            Ok(Ok(pods)) => Some((cri, pods)),
            Ok(Err(error)) => {
                errors.push(error.into());
                None
            }
            Err(_) => {
                errors.push(CleanupError::Silent);
                None
            }
        },
        Err(error) => {
            errors.push(error.into());
            None
        }
    };
    if let Some((cri, pods)) = listed {
        let ends = futures::stream::iter(pods.into_iter().map(|(uid, pod)| end(&cri, config, uid, pod)));
        let ended: Vec<Vec<CleanupError>> = ends.buffer_unordered(AT_ONCE).collect().await;
        errors.extend(ended.into_iter().flatten());
    }
    if let Err(error) = volumes::unmount_below(&config.root_dir) {
        // What is still mounted must not be emptied by removing the folder.
        errors.push(error.into());
        return errors;
    }
    errors.extend(remove_folder(&config.root_dir));
    // An empty folder only: another node agent's logs stay.
    let _ = std::fs::remove_dir(&config.pod_log_dir);
    cgroups::remove_parents(&config.cgroup_parent);
    errors
}

async fn end(cri: &Cri, config: &Config, uid: String, pod: ListedPod) -> Vec<CleanupError> {
    let mut errors = Vec::new();
    let stops = pod.runtime.running().map(|container| {
        cri.stop_container(&container.id, container.grace_s.unwrap_or(GRACE_S).clamp(1, GRACE_S))
    });
    let stopped = futures::future::join_all(stops).await;
    errors.extend(stopped.into_iter().filter_map(|stopped| stopped.err().map(CleanupError::from)));
    for sandbox in &pod.runtime.sandboxes {
        let removed = match cri.stop_sandbox(&sandbox.id).await {
            Ok(()) => cri.remove_sandbox(&sandbox.id).await,
            Err(error) => Err(error),
        };
        errors.extend(removed.err().map(CleanupError::from));
    }
    let id = PodId { namespace: pod.namespace, name: pod.name, uid };
    errors.extend(remove_folder(&config.pod_log_dir.join(id.log_folder())));
    cgroups::remove(&pod.cgroup);
    errors
}

fn remove_folder(path: &Path) -> Option<CleanupError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Some(CleanupError::Folder { path: path.to_owned(), source })
        }
        _ => None,
    }
}
