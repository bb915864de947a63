use std::{io, time::Duration};

/// What interrupts a list or a watch.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("ask the API server for {path}")]
    Request { path: String, source: Box<kube::Error> },
    #[error("read from the API server's answer for {path}")]
    Read { path: String, source: io::Error },
    #[error("the API server's answer for {path} is no text in UTF-8")]
    Text { path: String, source: std::string::FromUtf8Error },
    #[error("the API server's list of {path} is no list")]
    List { path: String, source: serde_json::Error },
    #[error("an event of {path} is not understood")]
    Event { path: String, source: serde_json::Error },
    #[error("an event of {path} holds no object")]
    NoObject { path: String },
    #[error("an event of {path} is larger than {limit} bytes")]
    Oversized { path: String, limit: u64 },
    #[error("the API server was silent for {}s about {path}", after.as_secs())]
    Silent { path: String, after: Duration },
    #[error("the API server ended the watch of {path}: {code} {message}")]
    Ended { path: String, code: u16, message: String },
}

impl FollowError {
    /// HTTP status of the API server's answer, if it answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            FollowError::Request { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            FollowError::Ended { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The kind is not there, or not shown.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, FollowError::Request { .. }) && matches!(self.code(), Some(403 | 404))
    }

    /// The revision that we know is too old. Not a failure.
    pub(super) fn is_expiry(&self) -> bool {
        self.code() == Some(410)
    }

    /// The same would come again from the same revision: only a list leads past it.
    pub(super) fn is_past(&self) -> bool {
        self.is_expiry()
            || matches!(
                self,
                FollowError::Text { .. }
                    | FollowError::Event { .. }
                    | FollowError::NoObject { .. }
                    | FollowError::Oversized { .. }
            )
    }
}
