use std::{
    fs::{File, TryLockError},
    net::IpAddr,
    path::Path,
};

use skerry_client::Connection;

use crate::agent::AgentError;

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

/// The server's addresses, as far as they can be found out: its name may not be known before the network is
/// there.
pub(crate) async fn addresses(server: &Connection) -> Vec<IpAddr> {
    let found = server.addresses().await;
    if found.is_empty() {
        let host = server.server.host();
        tracing::warn!(
            host,
            "the API server's addresses are not found by its name: no range is judged by them"
        );
    }
    found
}
