//! From a kubeconfig file to a client.

use std::path::{Path, PathBuf};

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
