use k8s_openapi::api::core::v1::{ConfigMapVolumeSource, ProjectedVolumeSource, SecretVolumeSource};

use super::{
    Sources,
    payload::{self, Files, PayloadError},
};

/// The files of all sources together; a later one wins a path.
pub fn files(
    source: &ProjectedVolumeSource,
    sources: &Sources,
    files: &mut Files,
) -> Result<(), PayloadError> {
    let default_mode = source.default_mode;
    for part in source.sources.iter().flatten() {
        if let Some(map) = &part.config_map {
            let map = ConfigMapVolumeSource {
                name: map.name.clone(),
                items: map.items.clone(),
                optional: map.optional,
                default_mode,
            };
            payload::config_map(&map, sources, files)?;
        } else if let Some(secret) = &part.secret {
            let secret = SecretVolumeSource {
                secret_name: Some(secret.name.clone()),
                items: secret.items.clone(),
                optional: secret.optional,
                default_mode,
            };
            payload::secret(&secret, sources, files)?;
        } else if let Some(downward) = &part.downward_api {
            payload::downward(downward.items.as_deref(), default_mode, sources, files)?;
        } else if part.service_account_token.is_some() {
            return Err(PayloadError::Token);
        } else {
            return Err(PayloadError::Source("clusterTrustBundle"));
        }
    }
    Ok(())
}
