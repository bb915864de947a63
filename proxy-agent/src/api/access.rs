use std::{
    fs::{File, TryLockError},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::{agent::AgentError, config::Config};

/// For a name's addresses.
const PATIENCE: Duration = Duration::from_secs(5);

/// One agent a node: held until the file is closed, also by a kill.
pub(crate) fn lock(run_dir: &Path) -> Result<File, AgentError> {
    std::fs::create_dir_all(run_dir)
        .map_err(|source| AgentError::RunDir { path: run_dir.to_owned(), source })?;
    let path = run_dir.join(LOCK);
    let file = File::options().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(|source| AgentError::Lock { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AgentError::Running(path)),
        Err(TryLockError::Error(source)) => Err(AgentError::Lock { path, source }),
    }
}

/// Name of the lock file in the run folder.
pub(crate) const LOCK: &str = "proxy.lock";

/// How the API server is reached: a client for it, and where it is.
pub(crate) async fn client(config: &Config) -> Result<(kube::Client, http::Uri), AgentError> {
    let settings = match &config.kubeconfig {
        Some(path) => {
            let failed = |source| AgentError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => kube::Config::incluster().map_err(|source| AgentError::InCluster(Box::new(source)))?,
    };
    let server = settings.cluster_url.clone();
    let client = kube::Client::try_from(settings).map_err(|source| AgentError::Client(Box::new(source)))?;
    Ok((client, server))
}

/// The server's addresses, as far as they can be found out: its name may not be known before the network is there.
pub(crate) async fn addresses(server: &http::Uri) -> Vec<IpAddr> {
    let Some(host) = server.host() else { return Vec::new() };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = host.parse() {
        return vec![ip];
    }
    match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
        _ => {
            tracing::warn!(
                host,
                "the API server's addresses are not found by its name: no range is judged by them"
            );
            Vec::new()
        }
    }
}
