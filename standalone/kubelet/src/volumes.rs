//! A pod's volumes on the node's disk, and a container's mounts out of them.
//!
//! Folders are named as upstream's node agent names them (`pods/UID/volumes/kubernetes.io~empty-dir/NAME`),
//! so that tools which look there find them.

mod claim;
mod host_path;
mod mounts;
mod payload;
mod projected;
mod tmpfs;
mod write;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use skerry_informer::volume::claim_name;
use skerry_vocabulary::Quantity;

use crate::spec::{
    env::References,
    fields::{Addresses, Allocatable},
};

pub use claim::{ClaimError, LocalVolumes, NODE_LABEL, bound, remove as remove_folder};
pub use host_path::HostPathError;
pub use mounts::{MountError, mounts};
pub use payload::PayloadError;
pub use tmpfs::unmount_below;

/// Why a volume could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    HostPath(#[from] HostPathError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(
        "volumes of kind {0} are not supported by this node agent: use emptyDir, hostPath, persistentVolumeClaim, ephemeral, configMap, secret, downwardAPI or projected"
    )]
    Unsupported(&'static str),
    #[error("sizeLimit {0:?} is no quantity")]
    SizeLimit(String),
}

/// A volume that failed, by its name in the pod. Upstream's words have a space before the colon that the
/// cause follows.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} ")]
pub struct SetUpError {
    pub volume: String,
    pub source: VolumeError,
}

/// What volumes are filled from.
pub struct Sources<'a> {
    pub pod: &'a Pod,
    pub references: &'a References,
    pub addresses: &'a Addresses,
    pub allocatable: Allocatable,
    pub local: &'a LocalVolumes,
}

/// Where claims' volumes lie, by the volume's name in the pod.
pub type ClaimPaths = BTreeMap<String, PathBuf>;

/// `ROOT/pods/UID`: everything of one pod on this node's disk.
pub fn pod_dir(root: &Path, pod: &Pod) -> PathBuf {
    root.join("pods").join(pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Makes every volume of the pod ready; doing it again is harmless and brings files up to date.
pub fn prepare(root: &Path, sources: &Sources) -> Result<ClaimPaths, SetUpError> {
    let spec = sources.pod.spec.as_ref();
    let mut paths = ClaimPaths::new();
    for volume in spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let failed = |source| SetUpError { volume: volume.name.clone(), source };
        let pod_name = sources.pod.metadata.name.as_deref().unwrap_or_default();
        if let Some(claim) = claim_name(pod_name, volume) {
            let path = claimed(&claim, sources).map_err(failed)?;
            paths.insert(volume.name.clone(), path);
        } else {
            set_up(root, volume, sources).map_err(failed)?;
        }
    }
    Ok(paths)
}

fn claimed(claim: &str, sources: &Sources) -> Result<PathBuf, VolumeError> {
    let full = format!("{}/{claim}", sources.pod.metadata.namespace.as_deref().unwrap_or_default());
    let failed = |why: &str| ClaimError::Claim(full.clone(), why.to_owned());
    let found = sources.references.claims.get(claim).ok_or_else(|| failed("it is not read yet"))?;
    let volume = found.as_ref().map_err(|why| failed(why))?;
    claim::prepare(volume, sources.local, group(sources.pod))
}

fn group(pod: &Pod) -> Option<i64> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group
}

/// Whether files of the pod's volumes tell of what has changed in its object: labels, annotations, resources.
pub fn tells_of_change(before: &Pod, after: &Pod) -> bool {
    let told = |pod: &Pod| {
        let resources = pod.spec.iter().flat_map(|spec| spec.containers.iter()).map(|c| c.resources.clone());
        let metadata = (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        (metadata, resources.collect::<Vec<_>>())
    };
    let volumes = after.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let downward = |volume: &Volume| {
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        volume.downward_api.is_some() || projected.into_iter().any(|source| source.downward_api.is_some())
    };
    volumes.into_iter().any(downward) && told(before) != told(after)
}

/// Where a volume lies on the node; `None` for kinds that are not supported, and for claims.
pub fn path(root: &Path, pod: &Pod, volume: &Volume) -> Option<PathBuf> {
    if let Some(host_path) = &volume.host_path {
        return Some(PathBuf::from(&host_path.path));
    }
    let kind = kind(volume).ok()?;
    Some(pod_dir(root, pod).join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name))
}

fn kind(volume: &Volume) -> Result<&'static str, VolumeError> {
    let kinds = [
        (volume.empty_dir.is_some(), "empty-dir"),
        (volume.config_map.is_some(), "configmap"),
        (volume.secret.is_some(), "secret"),
        (volume.downward_api.is_some(), "downward-api"),
        (volume.projected.is_some(), "projected"),
    ];
    let known = kinds.iter().find(|(present, _)| *present).map(|(_, kind)| *kind);
    known.ok_or_else(|| {
        VolumeError::Unsupported(if volume.csi.is_some() {
            "csi"
        } else if volume.nfs.is_some() {
            "nfs"
        } else if volume.image.is_some() {
            "image"
        } else {
            "this"
        })
    })
}

fn set_up(root: &Path, volume: &Volume, sources: &Sources) -> Result<(), VolumeError> {
    if let Some(host_path) = &volume.host_path {
        return Ok(host_path::prepare(host_path)?);
    }
    kind(volume)?;
    let Some(path) = path(root, sources.pod, volume) else { return Ok(()) };
    let group = group(sources.pod);
    if let Some(empty_dir) = &volume.empty_dir {
        let memory = empty_dir.medium.as_deref() == Some("Memory");
        if path.is_dir() && (!memory || tmpfs::is_mount_point(&path)) {
            return Ok(());
        }
        create_dir(&path)?;
        let size = empty_dir.size_limit.as_ref().map(|limit| {
            Quantity::parse(&limit.0)
                .ok()
                .and_then(|bytes| u64::try_from(bytes.value()).ok())
                .ok_or_else(|| VolumeError::SizeLimit(limit.0.clone()))
        });
        if memory {
            tmpfs::mount(&path, size.transpose()?, 0o777)?;
        }
        return own(&path, 0o777, group);
    }
    let files = payload::files(volume, sources)?;
    create_dir(&path)?;
    if volume.secret.is_some() && !tmpfs::is_mount_point(&path) {
        tmpfs::mount(&path, None, 0o755)?;
    }
    write::replace(&path, &files, group)
}

/// Makes the folder and those above it.
fn create_dir(path: &Path) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::Io { operation: "create folder", path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(failed)
}

/// Sets the mode whatever the umask is, and the pod's group with the set-group-id bit.
fn own(path: &Path, mode: u32, group: Option<i64>) -> Result<(), VolumeError> {
    let failed = |operation| move |source| VolumeError::Io { operation, path: path.to_owned(), source };
    let mut mode = mode;
    if let Some(group) = group.and_then(|group| u32::try_from(group).ok()) {
        chown(path, None, Some(group)).map_err(failed("give a group to"))?;
        mode |= 0o2070;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_volumes_that_tell_of_the_object_follow_its_labels_annotations_and_resources() {
        let pod = |volume: &Value, labels: Value, limit: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": {"volumes": [volume],
                "containers": [{"name": "c", "resources": {"limits": {"cpu": limit}}}]}}))
            .unwrap()
        };
        let files = json!({"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]});
        let downward = json!({"name": "v", "downwardAPI": files});
        let projected = json!({"name": "v", "projected": {"sources": [{"downwardAPI": files}]}});
        let map = json!({"name": "v", "configMap": {"name": "m"}});
        let changes = |volume: &Value| {
            let before = pod(volume, json!({"a": "1"}), "1");
            [pod(volume, json!({"a": "2"}), "1"), pod(volume, json!({"a": "1"}), "2"), before.clone()]
                .map(|after| tells_of_change(&before, &after))
        };
        assert_eq!(changes(&downward), [true, true, false]);
        assert_eq!(changes(&projected), [true, true, false]);
        assert_eq!(changes(&map), [false, false, false]);
    }

    #[test]
    fn a_volume_that_fails_is_told_in_upstreams_words() {
        let error = SetUpError { volume: "scratch".into(), source: VolumeError::SizeLimit("x".into()) };
        let expected = "MountVolume.SetUp failed for volume \"scratch\" : sizeLimit \"x\" is no quantity";
        assert_eq!(skerry_vocabulary::chain(&error), expected);
    }
}
