//! The files of configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, SecretVolumeSource, Volume,
};

use super::{Sources, VolumeError, projected};
use crate::spec::fields::{self, FieldError};

const DEFAULT_MODE: i32 = 0o644;

/// One file of such a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadFile {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// By path inside the volume.
pub type Files = BTreeMap<String, PayloadFile>;

/// Texts as upstream's events have them.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("configmap {0:?} not found")]
    NoConfigMap(String),
    #[error("secret {0:?} not found")]
    NoSecret(String),
    #[error("{kind} references non-existent {kind_key}: {key}")]
    NoKey { kind: &'static str, kind_key: &'static str, key: String },
    #[error("path {0:?} leaves the volume: write a relative path without \"..\"")]
    Path(String),
    #[error("downward API file {path}")]
    Field { path: String, source: FieldError },
    #[error("projected source serviceAccountToken: this cluster issues no service account tokens yet")]
    Token,
    #[error("projected source {0} is not supported")]
    Source(&'static str),
}

/// Works out every file of one volume.
pub fn files(volume: &Volume, sources: &Sources) -> Result<Files, VolumeError> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        config_map(source, sources, &mut files)?;
    } else if let Some(source) = &volume.secret {
        secret(source, sources, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        downward(source.items.as_deref(), source.default_mode, sources, &mut files)?;
    } else if let Some(source) = &volume.projected {
        projected::files(source, sources, &mut files)?;
    }
    for path in files.keys() {
        let plain =
            std::path::Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if path.is_empty() || !plain || path.starts_with("..") {
            return Err(PayloadError::Path(path.clone()).into());
        }
    }
    Ok(files)
}

pub fn config_map(
    source: &ConfigMapVolumeSource,
    sources: &Sources,
    files: &mut Files,
) -> Result<(), PayloadError> {
    let optional = source.optional == Some(true);
    let Some(map) = sources.references.config_maps.get(&source.name) else {
        return if optional { Ok(()) } else { Err(PayloadError::NoConfigMap(source.name.clone())) };
    };
    let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
    data.extend(map.data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes())));
    data.extend(map.binary_data.iter().flatten().map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())));
    select(&data, source.items.as_deref(), source.default_mode, optional, ("configmap", "config key"), files)
}

pub fn secret(source: &SecretVolumeSource, sources: &Sources, files: &mut Files) -> Result<(), PayloadError> {
    let name = source.secret_name.clone().unwrap_or_default();
    let optional = source.optional == Some(true);
    let Some(secret) = sources.references.secrets.get(&name) else {
        return if optional { Ok(()) } else { Err(PayloadError::NoSecret(name)) };
    };
    let data: BTreeMap<&str, &[u8]> =
        secret.data.iter().flatten().map(|(key, bytes)| (key.as_str(), bytes.0.as_slice())).collect();
    select(&data, source.items.as_deref(), source.default_mode, optional, ("secret", "secret key"), files)
}

/// All keys, or those that `items` name at the paths given there.
fn select(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    default_mode: Option<i32>,
    optional: bool,
    (kind, kind_key): (&'static str, &'static str),
    files: &mut Files,
) -> Result<(), PayloadError> {
    let mode = default_mode.unwrap_or(DEFAULT_MODE);
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(data.iter().map(|(key, bytes)| ((*key).to_owned(), file(bytes.to_vec(), mode))));
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                files.insert(item.path.clone(), file(bytes.to_vec(), item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(PayloadError::NoKey { kind, kind_key, key: item.key.clone() }),
        }
    }
    Ok(())
}

pub fn downward(
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: Option<i32>,
    sources: &Sources,
    files: &mut Files,
) -> Result<(), PayloadError> {
    let mode = default_mode.unwrap_or(DEFAULT_MODE);
    for item in items.into_iter().flatten() {
        let named = |source| PayloadError::Field { path: item.path.clone(), source };
        let text = if let Some(reference) = &item.field_ref {
            fields::field(sources.pod, &reference.field_path, sources.addresses).map_err(named)?
        } else if let Some(reference) = &item.resource_field_ref {
            fields::resource(sources.pod, None, reference, sources.allocatable).map_err(named)?
        } else {
            String::new()
        };
        files.insert(item.path.clone(), file(text.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(())
}

fn file(data: Vec<u8>, mode: i32) -> PayloadFile {
    PayloadFile { data, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::spec::{
        env::References,
        fields::{Addresses, Allocatable},
    };
    use crate::volumes::LocalVolumes;

    fn resolve(volume: serde_json::Value) -> Result<Files, VolumeError> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "1"}}})).unwrap();
        let map = serde_json::from_value(json!({"data": {"k": "v"}, "binaryData": {"b": "AAE="}})).unwrap();
        let references = References {
            config_maps: BTreeMap::from([("cm".to_owned(), Arc::new(map))]),
            ..Default::default()
        };
        let addresses = Addresses::default();
        let sources = Sources {
            pod: &pod,
            references: &references,
            addresses: &addresses,
            allocatable: Allocatable::default(),
            local: &LocalVolumes { node: String::new(), folder: "/nowhere".into() },
        };
        files(&serde_json::from_value(volume).unwrap(), &sources)
    }

    #[test]
    fn a_config_map_gives_a_file_a_key_with_the_mode_asked_for() {
        let files = resolve(json!({"name": "v", "configMap": {"name": "cm", "defaultMode": 256}})).unwrap();
        assert_eq!(files["k"], PayloadFile { data: b"v".to_vec(), mode: 0o400 });
        assert_eq!(files["b"].data, [0, 1]);
    }

    #[test]
    fn items_choose_keys_and_paths_and_a_missing_key_is_named() {
        let volume = |key: &str, optional: bool| {
            json!({"name": "v", "configMap": {"name": "cm", "optional": optional,
                "items": [{"key": key, "path": "d/f", "mode": 384}]}})
        };
        assert_eq!(resolve(volume("k", false)).unwrap()["d/f"].mode, 0o600);
        let error = resolve(volume("z", false)).unwrap_err().to_string();
        assert_eq!(error, "configmap references non-existent config key: z");
        assert!(resolve(volume("z", true)).unwrap().is_empty());
    }

    #[test]
    fn a_path_that_climbs_out_of_the_volume_is_refused() {
        for path in ["../x", "/x", "a/../../x", ""] {
            let volume =
                json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "k", "path": path}]}});
            assert!(resolve(volume).is_err(), "{path}");
        }
    }

    #[test]
    fn a_projected_volume_joins_its_sources() {
        let files = resolve(json!({"name": "v", "projected": {"sources": [
            {"configMap": {"name": "cm"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}))
        .unwrap();
        assert_eq!(files["labels"].data, b"a=\"1\"");
        assert!(files.contains_key("k"));
    }
}
