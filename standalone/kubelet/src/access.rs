//! The API server as this node reaches it.

use skerry_client::{ConnectError, Connection, Source, connect};

use crate::{
    config::ServerAccess,
    join::{self, JoinError},
};

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// A client of the API server, and what the tunnel dials. A certificate that is renewed in its file is shown
/// from the next connection on.
pub async fn reach(access: &ServerAccess) -> Result<Connection, AccessError> {
    let source = match access {
        ServerAccess::Joined { server, dir } => {
            // What can't be read is named as what it is: part of a membership.
            join::read(dir)?;
            join::source(server, dir)
        }
        ServerAccess::Kubeconfig { path } => Source::Kubeconfig(path.clone()),
    };
    Ok(connect(&source).await?)
}
