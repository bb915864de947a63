//! A container's mounts.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};

use super::{ClaimPaths, path};
use crate::spec::env;

/// Texts as upstream shows them in CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("missing value for {0}")]
    Missing(String),
    #[error("volume {0:?} of volumeMounts is not in the pod")]
    NoVolume(String),
    #[error(
        "failed to prepare subPath for volumeMount {mount:?}: {sub_path:?} must be a relative path without \"..\""
    )]
    SubPath { mount: String, sub_path: String },
    #[error("failed to prepare subPath for volumeMount {mount:?}: {} leads out of the volume", path.display())]
    Escapes { mount: String, path: PathBuf },
    #[error("failed to prepare subPath for volumeMount {mount:?}")]
    Io { mount: String, source: std::io::Error },
}

/// Mounts of the container's volumes; `lookup` gives its environment for `subPathExpr`.
pub fn mounts(
    root: &Path,
    pod: &Pod,
    claims: &ClaimPaths,
    container: &Container,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<v1::Mount>, MountError> {
    container.volume_mounts.iter().flatten().map(|mount| one(root, pod, claims, mount, lookup)).collect()
}

fn one(
    root: &Path,
    pod: &Pod,
    claims: &ClaimPaths,
    mount: &VolumeMount,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<v1::Mount, MountError> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let missing = || MountError::NoVolume(mount.name.clone());
    let volume = volumes.iter().find(|volume| volume.name == mount.name).ok_or_else(missing)?;
    let base = claims.get(&volume.name).cloned().or_else(|| path(root, pod, volume)).ok_or_else(missing)?;
    let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(sub_path), _) if !sub_path.is_empty() => sub_path.clone(),
        (_, Some(expression)) if !expression.is_empty() => expand(expression, lookup)?,
        _ => String::new(),
    };
    let host_path = if sub_path.is_empty() { base } else { inside(&base, &sub_path, &mount.name)? };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    Ok(v1::Mount {
        container_path: absolute(&mount.mount_path),
        host_path: host_path.display().to_string(),
        readonly: mount.read_only == Some(true) || always_read_only(volume),
        propagation: propagation as i32,
        ..Default::default()
    })
}

/// The expression with its variables replaced: each must have a value, or another folder would be mounted
/// than was meant.
fn expand(expression: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, MountError> {
    let missing = RefCell::new(BTreeSet::new());
    let expanded = env::expand(expression, &|name| {
        let value = lookup(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    if missing.is_empty() { Ok(expanded) } else { Err(MountError::Missing(missing.join(", "))) }
}

/// Files that the agent writes are not for the container to change, nor a claim's that the pod says it only
/// reads.
fn always_read_only(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
        || volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The sub-path with its links resolved, made as a folder if it is not there; it must stay inside the volume.
fn inside(base: &Path, sub_path: &str, mount: &str) -> Result<PathBuf, MountError> {
    let plain =
        Path::new(sub_path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(MountError::SubPath { mount: mount.to_owned(), sub_path: sub_path.to_owned() });
    }
    let failed = |source| MountError::Io { mount: mount.to_owned(), source };
    let base = base.canonicalize().map_err(failed)?;
    let mut resolved = base.clone();
    for part in Path::new(sub_path).components() {
        let next = resolved.join(part);
        if fs::symlink_metadata(&next).is_err() {
            fs::create_dir(&next).map_err(failed)?;
        }
        resolved = next.canonicalize().map_err(failed)?;
        if !resolved.starts_with(&base) {
            return Err(MountError::Escapes { mount: mount.to_owned(), path: next });
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn case(root: &Path, sub_path: &str) -> Result<Vec<v1::Mount>, MountError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "c", "volumeMounts": [
                {"name": "v", "mountPath": "data", "subPathExpr": sub_path, "readOnly": true}]}],
                "volumes": [{"name": "v", "emptyDir": {}}]},
        }))
        .unwrap();
        let volume = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
        fs::create_dir_all(path(root, &pod, volume).unwrap()).unwrap();
        mounts(root, &pod, &ClaimPaths::new(), &pod.spec.as_ref().unwrap().containers[0], &|name| {
            BTreeMap::from([("A", "x"), ("EMPTY", "")]).get(name).map(|value| (*value).to_owned())
        })
    }

    #[test]
    fn a_sub_path_is_made_inside_its_volume() {
        let root = tempfile::tempdir().unwrap();
        let mounts = case(root.path(), "a/$(A)").unwrap();
        assert_eq!(mounts[0].container_path, "/data");
        assert!(mounts[0].readonly && mounts[0].host_path.ends_with("kubernetes.io~empty-dir/v/a/x"));
        assert!(Path::new(&mounts[0].host_path).is_dir());
    }

    #[test]
    fn a_claims_volume_is_mounted_from_where_it_lies() {
        let volume = tempfile::tempdir().unwrap();
        let pod = |read_only: bool| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
                "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/data", "subPath": "a"}]}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "d", "readOnly": read_only}}]}}))
            .unwrap()
        };
        let claims = ClaimPaths::from([("v".to_owned(), volume.path().to_owned())]);
        for read_only in [false, true] {
            let pod = pod(read_only);
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let made = mounts(Path::new("/r"), &pod, &claims, container, &|_| None).unwrap();
            assert_eq!(Path::new(&made[0].host_path), volume.path().canonicalize().unwrap().join("a"));
            assert_eq!(made[0].readonly, read_only);
            assert!(mounts(Path::new("/r"), &pod, &ClaimPaths::new(), container, &|_| None).is_err());
        }
    }

    #[test]
    fn an_expression_whose_variable_is_unset_or_empty_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let refused = |expression| case(root.path(), expression).unwrap_err().to_string();
        assert_eq!(refused("$(NOPE)"), "missing value for NOPE");
        assert_eq!(refused("a/$(EMPTY)/$(NOPE)/$(A)"), "missing value for EMPTY, NOPE");
        let literal = case(root.path(), "$$(NOPE)").unwrap();
        assert!(literal[0].host_path.ends_with("/v/$(NOPE)"), "{}", literal[0].host_path);
    }

    #[test]
    fn a_sub_path_that_leads_out_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(case(root.path(), "../x"), Err(MountError::SubPath { .. })));
        let volume = root.path().join("pods/u/volumes/kubernetes.io~empty-dir/v");
        std::os::unix::fs::symlink("/etc", volume.join("link")).unwrap();
        assert!(matches!(case(root.path(), "link"), Err(MountError::Escapes { .. })));
    }
}
