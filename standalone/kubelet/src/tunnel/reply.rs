//! Answers: streams, texts, and errors as Kubernetes' Status objects.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde_json::json;

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub type Reply = Response<Body>;

pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(full(text.into()));
    *reply.status_mut() = status;
    reply
}

/// Of another type than plain text.
pub fn typed(media: &'static str, bytes: impl Into<Bytes>) -> Reply {
    let mut reply = text(StatusCode::OK, bytes);
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media));
    reply
}

pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// What the client is told when something can't be done; kubectl prints the message.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    MethodNotAllowed(String),
    #[error("{0}")]
    Internal(String),
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    pub fn reply(&self) -> Reply {
        let (status, reason) = match self {
            Refusal::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequest"),
            Refusal::NotFound(_) => (StatusCode::NOT_FOUND, "NotFound"),
            Refusal::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Refusal::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            Refusal::Unavailable(_) => (StatusCode::BAD_GATEWAY, "ServiceUnavailable"),
        };
        let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": reason, "code": status.as_u16()});
        let mut reply = typed("application/json", body.to_string());
        *reply.status_mut() = status;
        reply
    }
}
