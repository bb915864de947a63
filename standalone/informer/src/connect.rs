//! From a kubeconfig file to a client.

use std::path::{Path, PathBuf};

use k8s_openapi::ByteString;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("read kubeconfig {path}: check that the file exists and is a kubeconfig")]
    Read {
        path: PathBuf,
        #[source]
        source: KubeconfigError,
    },
    #[error("make a client from kubeconfig {path}: check its server address and certificates")]
    Client {
        path: PathBuf,
        #[source]
        source: Box<kube::Error>,
    },
}

/// The certificate authority, in PEM, that the kubeconfig at `path` trusts; `None` when it names none.
///
/// # Errors
/// When the kubeconfig, or the file it names, cannot be read.
pub async fn certificate_authority(path: &Path) -> Result<Option<String>, ConnectError> {
    let read = |source| ConnectError::Read { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(read)?;
    let certificates = config.root_cert.unwrap_or_default();
    let pem: String = certificates.iter().map(|der| to_pem(der)).collect();
    Ok((!pem.is_empty()).then_some(pem))
}

/// RFC 7468.
fn to_pem(der: &[u8]) -> String {
    let base64 = ByteString(der.to_vec());
    let base64 = serde_json::to_value(&base64).ok();
    let text = base64.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line));
    let body: Vec<_> = lines.collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", body.join("\n"))
}

/// A client for the API server that the kubeconfig at `path` names (its current context). No connection is made yet.
///
/// # Errors
/// When the file is missing or malformed, or holds certificates that do not parse.
pub async fn connect(path: &Path) -> Result<kube::Client, ConnectError> {
    let read = |source| ConnectError::Read { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(read)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(read)?;
    kube::Client::try_from(config)
        .map_err(|source| ConnectError::Client { path: path.to_owned(), source: Box::new(source) })
}
