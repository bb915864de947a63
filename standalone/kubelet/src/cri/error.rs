use std::time::Duration;

/// A CRI call that failed.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    #[error("{operation} {object}")]
    Call { operation: &'static str, object: String, source: Box<tonic::Status> },
    #[error("{operation} {object}: no answer within {} s", limit.as_secs())]
    Timeout { operation: &'static str, object: String, limit: Duration },
    #[error("{operation} {object}: the runtime's answer has no {field}")]
    Incomplete { operation: &'static str, object: String, field: &'static str },
    #[error("container runtime socket {socket}: not a path that can be dialled")]
    Socket { socket: String, source: tonic::transport::Error },
}

impl CriError {
    /// Whether the runtime says that the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, CriError::Call { source, .. } if source.code() == tonic::Code::NotFound)
    }

    /// Whether the runtime could not be reached at all (it is down, or restarts).
    pub fn is_unavailable(&self) -> bool {
        matches!(self, CriError::Call { source, .. } if source.code() == tonic::Code::Unavailable)
    }

    /// What the runtime itself said, without the words of the call that carried it.
    pub fn runtime_message(&self) -> String {
        match self {
            CriError::Call { source, .. } => source.message().to_owned(),
            other => other.to_string(),
        }
    }
}
