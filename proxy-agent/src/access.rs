use std::{
    fs::{File, TryLockError},
    path::Path,
};

use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::{agent::AgentError, config::Config};

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

/// How the API server is reached.
pub(crate) async fn client(config: &Config) -> Result<kube::Client, AgentError> {
    let settings = match &config.kubeconfig {
        Some(path) => {
            let failed = |source| AgentError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => kube::Config::incluster().map_err(|source| AgentError::InCluster(Box::new(source)))?,
    };
    kube::Client::try_from(settings).map_err(|source| AgentError::Client(Box::new(source)))
}
