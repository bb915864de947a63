//! A claim's volume: a path of this node, by the volume that the claim is bound to.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{VolumeError, host_path, own};

/// Who made a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Label of the volumes that are folders of a node: its name.
pub const NODE_LABEL: &str = "skerry.io/local-path-node";

/// Where this node has the volumes that are folders of its own.
#[derive(Clone, Debug)]
pub struct LocalVolumes {
    pub node: String,
    pub folder: PathBuf,
}

/// Why a claim's volume can't be used here.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("error processing PVC {0}: {1}")]
    Claim(String, String),
    #[error("volume {0:?} is of a kind that this node agent does not mount: use local or hostPath")]
    Kind(String),
    #[error("volume {volume:?} is a folder of node {node:?}")]
    Elsewhere { volume: String, node: String },
    #[error("volume {volume:?} is at {}, and this node's are in {}", path.display(), folder.display())]
    Outside { volume: String, path: PathBuf, folder: PathBuf },
    #[error("path {} of volume {volume:?} does not exist: make it, or correct spec.local.path", path.display())]
    Missing { volume: String, path: PathBuf },
    #[error("make folder {}", path.display())]
    Create { path: PathBuf, source: std::io::Error },
}

impl LocalVolumes {
    /// The folder of a volume that is one of this node's; `None` for a volume of another kind.
    ///
    /// # Errors
    /// When it is another node's, or not where this node's are: nothing is made or removed there.
    pub fn folder_of(&self, volume: &PersistentVolume) -> Result<Option<PathBuf>, ClaimError> {
        let meta = &volume.metadata;
        let by = meta.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY));
        let local = volume.spec.as_ref().and_then(|spec| spec.local.as_ref());
        let (Some("skerry.io/local-path"), Some(local)) = (by.map(String::as_str), local) else {
            return Ok(None);
        };
        let name = meta.name.clone().unwrap_or_default();
        let node = meta.labels.as_ref().and_then(|all| all.get(NODE_LABEL)).cloned().unwrap_or_default();
        if node != self.node {
            return Err(ClaimError::Elsewhere { volume: name, node });
        }
        let path = PathBuf::from(&local.path);
        if path != self.folder.join(&name) || name.contains('/') || matches!(name.as_str(), "" | "." | "..") {
            return Err(ClaimError::Outside { volume: name, path, folder: self.folder.clone() });
        }
        Ok(Some(path))
    }
}

/// The volume that is the claim's, once both say so.
///
/// # Errors
/// What is still to come, or wrong, in upstream's words.
pub fn bound(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Result<(), &'static str> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted");
    }
    if !skerry_informer::volume::is_bound(claim) {
        return Err("PVC is not bound");
    }
    let Some(volume) = volume else { return Err("its volume is not read yet") };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    match reference.is_some_and(|it| it.uid.is_some() && it.uid == claim.metadata.uid) {
        true => Ok(()),
        false => Err("PVC is bound to a volume that is another claim's"),
    }
}

/// Makes the volume ready; where it lies.
pub fn prepare(
    volume: &PersistentVolume,
    local: &LocalVolumes,
    group: Option<i64>,
) -> Result<PathBuf, VolumeError> {
    let name = volume.metadata.name.clone().unwrap_or_default();
    if let Some(path) = local.folder_of(volume)? {
        make(&local.folder, 0o700)?;
        if make(&path, 0o777)? {
            own(&path, 0o777, group)?;
        }
        return Ok(path);
    }
    let spec = volume.spec.as_ref();
    if let Some(source) = spec.and_then(|spec| spec.host_path.as_ref()) {
        host_path::prepare(source)?;
        return Ok(PathBuf::from(&source.path));
    }
    let Some(source) = spec.and_then(|spec| spec.local.as_ref()) else {
        return Err(ClaimError::Kind(name).into());
    };
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() || !path.exists() {
        return Err(ClaimError::Missing { volume: name, path }.into());
    }
    Ok(path)
}

/// Makes a folder and those above it, unless it is there; whether it was made.
fn make(path: &Path, mode: u32) -> Result<bool, ClaimError> {
    if path.is_dir() {
        return Ok(false);
    }
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|source| ClaimError::Create { path: path.to_owned(), source })?;
    Ok(true)
}

/// Removes a folder with all in it; not there is well. Links in it are removed, not followed.
pub fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::{Value, json};

    use super::*;

    fn local(folder: &Path) -> LocalVolumes {
        LocalVolumes { node: "n1".to_owned(), folder: folder.to_owned() }
    }

    fn volume(path: &Path, node: &str, by: &str) -> PersistentVolume {
        serde_json::from_value(json!({
            "metadata": {"name": "pvc-1", "labels": {NODE_LABEL: node}, "annotations": {PROVISIONED_BY: by}},
            "spec": {"local": {"path": path}, "claimRef": {"uid": "c"}},
        }))
        .unwrap()
    }

    #[test]
    fn a_folder_of_this_node_is_made_open_to_its_pods_and_keeps_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(&dir.path().join("volumes"));
        let path = local.folder.join("pvc-1");
        let volume = volume(&path, "n1", "skerry.io/local-path");
        assert_eq!(prepare(&volume, &local, None).unwrap(), path);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&local.folder), mode(&path)), (0o700, 0o777));
        fs::write(path.join("data"), "kept").unwrap();
        prepare(&volume, &local, None).unwrap();
        assert_eq!(fs::read_to_string(path.join("data")).unwrap(), "kept");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn nothing_is_made_or_removed_outside_of_this_nodes_folder() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(dir.path());
        for (path, node) in [
            (dir.path().join("pvc-1"), "n2"),
            (dir.path().join("pvc-2"), "n1"),
            (dir.path().join("../pvc-1"), "n1"),
            (PathBuf::from("/etc"), "n1"),
        ] {
            assert!(
                local.folder_of(&volume(&path, node, "skerry.io/local-path")).is_err(),
                "{}",
                path.display()
            );
        }
        let theirs = volume(Path::new("/etc"), "n1", "example.com/disks");
        assert!(matches!(local.folder_of(&theirs), Ok(None)));
    }

    #[test]
    fn a_path_that_somebody_else_makes_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let local = local(Path::new("/nowhere"));
        let at = |path: &Path| prepare(&volume(path, "", "by hand"), &local, None);
        assert_eq!(at(dir.path()).unwrap(), dir.path());
        let error = at(&dir.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        let nfs = json!({"metadata": {"name": "v"}, "spec": {"nfs": {"server": "s", "path": "/"}}});
        let nfs: PersistentVolume = serde_json::from_value(nfs).unwrap();
        assert!(prepare(&nfs, &local, None).is_err());
    }

    #[test]
    fn a_claim_is_used_once_both_sides_say_that_it_is_bound() {
        let claim = |extra: Value| -> PersistentVolumeClaim {
            let mut claim = json!({"metadata": {"name": "data", "uid": "c",
                "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "pvc-1"}});
            for (name, value) in extra.as_object().unwrap() {
                claim["metadata"][name] = value.clone();
            }
            serde_json::from_value(claim).unwrap()
        };
        let volume = volume(Path::new("/a"), "n1", "x");
        assert_eq!(bound(&claim(json!({})), Some(&volume)), Ok(()));
        assert_eq!(bound(&claim(json!({})), None), Err("its volume is not read yet"));
        assert_eq!(bound(&claim(json!({"annotations": {}})), Some(&volume)), Err("PVC is not bound"));
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(bound(&claim(going), Some(&volume)), Err("PVC is being deleted"));
        let other = claim(json!({"uid": "d"}));
        assert_eq!(bound(&other, Some(&volume)), Err("PVC is bound to a volume that is another claim's"));
    }
}
