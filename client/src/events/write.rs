use std::time::Duration;

use http::{Method, Request};
use kube::Client;
use serde_json::Value;
use tokio::time::timeout;

use super::{Note, Teller};

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// There is one by this name.
    As(String),
    /// The one that was to be counted on is gone.
    Gone,
}

/// For the server's answer.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("make a request for {path}")]
    Request { path: String, source: http::Error },
    #[error("write to {path}: no answer within {}s", PATIENCE.as_secs())]
    Silent { path: String },
    #[error("write to {path}")]
    Server { path: String, source: Box<kube::Error> },
}

impl WriteError {
    /// The server has refused it; another try would be refused, too.
    pub fn is_refusal(&self) -> bool {
        match self {
            WriteError::Request { .. } => true,
            WriteError::Silent { .. } => false,
            WriteError::Server { source, .. } => {
                // Too busy, or not itself: that passes.
                matches!(&**source, kube::Error::Api(status) if status.code != 429 && status.code < 500)
            }
        }
    }
}

/// Makes a new Event, or counts on the one of this `name`: `times` is how often it was seen, of all times.
///
/// # Errors
/// When the API server refuses it or does not answer.
pub async fn write(
    client: &Client,
    teller: &Teller,
    note: &Note,
    name: Option<&str>,
    times: u64,
) -> Result<Written, WriteError> {
    let mut path = teller.path(note.about.home());
    let request = match name {
        Some(name) => {
            path = format!("{path}/{name}");
            build(Method::PATCH, &path, "application/merge-patch+json", &teller.count(times, note.at))
        }
        None => {
            let event = teller.event(note, &teller.name(note), times);
            build(Method::POST, &path, "application/json", &event)
        }
    };
    let request = request.map_err(|source| WriteError::Request { path: path.clone(), source })?;
    match timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(Ok(written)) => {
            Ok(Written::As(written["metadata"]["name"].as_str().or(name).unwrap_or_default().to_owned()))
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 && name.is_some() => Ok(Written::Gone),
        Ok(Err(source)) => Err(WriteError::Server { path, source: Box::new(source) }),
        Err(_) => Err(WriteError::Silent { path }),
    }
}

fn build(method: Method, path: &str, kind: &str, body: &Value) -> Result<Request<Vec<u8>>, http::Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", kind)
        .header("accept", "application/json")
        .body(body.to_string().into_bytes())
}
