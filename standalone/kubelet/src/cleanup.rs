//! Takes every pod that this node agent started off the machine, with all that it left on the disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{cgroups, config::Config, cri::Cri, cri::CriError, volumes};

/// A part of the node agent's work that could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error(transparent)]
    Runtime(#[from] CriError),
    #[error(transparent)]
    Volumes(#[from] volumes::VolumeError),
    #[error("remove {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
}

/// Ends and removes the pods whose folders stand below `root_dir`: those of another node agent on the same runtime are
/// left alone. Then volumes, logs, cgroups. May be called again; goes on after errors and returns them all. The node
/// agent must not run, the CNI plugin must still be there.
pub async fn cleanup(config: &Config) -> Vec<CleanupError> {
    let mut errors = Vec::new();
    let pods_dir = config.root_dir.join("pods");
    let uids = match names_in(&pods_dir) {
        Ok(uids) => uids,
        Err(source) => return vec![CleanupError::Folder { path: pods_dir, source }],
    };
    if !uids.is_empty() {
        errors.extend(remove_pods(config, &uids).await.err().map(CleanupError::from));
    }
    errors.extend(volumes::unmount_below(&config.root_dir).err().map(CleanupError::from));
    for uid in &uids {
        errors.extend(remove_logs(&config.pod_log_dir, uid).err());
    }
    // An empty folder only: another node agent's logs stay.
    std::fs::remove_dir(&config.pod_log_dir).ok();
    errors.extend(remove_tree(&config.root_dir).err());
    cgroups::remove(&format!("{}/kubepods", config.cgroup_parent.trim_end_matches('/')));
    errors
}

async fn remove_pods(config: &Config, uids: &[String]) -> Result<(), CriError> {
    let cri = Cri::new(&config.runtime_socket)?;
    for (uid, pod) in cri.list().await? {
        if !uids.contains(&uid) {
            continue;
        }
        for sandbox in &pod.sandboxes {
            cri.stop_sandbox(&sandbox.id).await?;
        }
        for container in &pod.containers {
            cri.remove_container(&container.id).await?;
        }
        for sandbox in &pod.sandboxes {
            cri.remove_sandbox(&sandbox.id).await?;
        }
    }
    Ok(())
}

/// Log folders are named `NAMESPACE_NAME_UID`.
fn remove_logs(pod_log_dir: &Path, uid: &str) -> Result<(), CleanupError> {
    let folder = |source| CleanupError::Folder { path: pod_log_dir.to_owned(), source };
    for name in names_in(pod_log_dir).map_err(folder)? {
        if name.rsplit_once('_').is_some_and(|(_, of)| of == uid) {
            remove_tree(&pod_log_dir.join(name))?;
        }
    }
    Ok(())
}

fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn remove_tree(path: &Path) -> Result<(), CleanupError> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CleanupError::Folder { path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
