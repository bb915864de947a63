//! A request's body: read within a bound, and what a refusal leaves of it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Version, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

use crate::{containers::relay, error::ApiError, respond};

/// What is read and thrown away of a body that is too long, so that an HTTP/1.1 client gets to read the
/// answer.
const MAX_DRAINED: usize = 16 << 20;
/// What is read and thrown away of a body that nobody wanted, so that the connection can serve the next
/// request.
const MAX_LEFT_OVER: usize = 256 << 10;
/// How long that may take.
const LEFT_OVER_PATIENCE: Duration = Duration::from_secs(1);

pub struct Inbound {
    /// `None`: handed on.
    incoming: Option<Incoming>,
    is_http1: bool,
    length: Option<u64>,
    /// The client sends nothing before it is told to (RFC 9110, 10.1.1), which the first read does.
    waits: bool,
}

impl Inbound {
    pub fn new(version: Version, headers: &HeaderMap, incoming: Incoming) -> Self {
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let waits = text(header::EXPECT).is_some_and(|text| text.eq_ignore_ascii_case("100-continue"));
        let length = text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        Self { incoming: Some(incoming), is_http1: version <= Version::HTTP_11, length, waits }
    }

    /// # Errors
    /// 413 for more than `limit` bytes, 400 where it breaks off.
    pub async fn read(&mut self, limit: usize) -> Result<Bytes, ApiError> {
        if self.incoming.is_some() && self.length.is_some_and(|length| length > limit as u64) {
            self.drain_refused().await;
            return Err(ApiError::too_large(limit));
        }
        self.waits = false;
        let Some(incoming) = &mut self.incoming else { return Ok(Bytes::new()) };
        let outcome = Limited::new(incoming, limit).collect().await;
        match outcome {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                self.drain_refused().await;
                Err(ApiError::too_large(limit))
            }
            Err(error) => Err(ApiError::bad_request(format!("read the body: {error}"))),
        }
    }

    /// The body itself, to be passed on while it comes; `None` where there is none.
    pub fn hand_on(&mut self) -> Option<respond::Body> {
        self.incoming.take_if(|incoming| !incoming.is_end_stream()).map(relay)
    }

    /// Whether the connection can't go on behind the answer: more is to come than is worth reading.
    pub async fn is_left_unread(&mut self) -> bool {
        if !self.is_http1 || self.incoming.as_ref().is_none_or(Body::is_end_stream) {
            return false;
        }
        let is_long = self.length.is_some_and(|length| length > MAX_LEFT_OVER as u64);
        if self.waits || is_long {
            return true;
        }
        let drained = tokio::time::timeout(LEFT_OVER_PATIENCE, self.drain(MAX_LEFT_OVER)).await;
        !drained.unwrap_or(false)
    }

    async fn drain_refused(&mut self) {
        if self.is_http1 && !self.waits {
            self.drain(MAX_DRAINED).await;
        }
    }

    /// Reads up to `limit` bytes; whether that was all there is.
    async fn drain(&mut self, limit: usize) -> bool {
        let mut drained = 0;
        let Some(incoming) = &mut self.incoming else { return true };
        loop {
            match incoming.frame().await {
                None => return true,
                Some(Ok(frame)) => drained += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return false,
            }
            if drained > limit {
                return false;
            }
        }
    }
}
