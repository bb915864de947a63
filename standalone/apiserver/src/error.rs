//! What a request is refused with: one type that knows its HTTP code and its `Status` body.

use serde_json::{Map, Value, json};
use skerry_schema::{FieldError, Kind};
use skerry_vocabulary::chain;

/// A refusal, worded as upstream words it. Boxed: it travels in every `Result` of the crate.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Refusal>);

#[derive(Debug, Clone)]
struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
    details: Map<String, Value>,
    /// The inconsistent continue token that goes with 410 of a paged list.
    continue_token: Option<String>,
    /// The methods that are served where this one is not (`Allow`; RFC 9110, 15.5.6).
    allow: Option<String>,
}

/// The object a refusal is about, as `details` names it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub group: &'a str,
    pub resource: &'a str,
    pub name: &'a str,
}

impl<'a> Subject<'a> {
    pub fn new(kind: &Kind, name: &'a str) -> Self {
        Self { group: kind.group, resource: kind.plural, name }
    }

    /// `deployments.apps`, or `pods` in the core group.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        for (key, value) in [("name", self.name), ("group", self.group), ("kind", self.resource)] {
            if !value.is_empty() {
                details.insert(key.into(), value.into());
            }
        }
        details
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Refusal {
            code,
            reason,
            message: message.into(),
            details: Map::new(),
            continue_token: None,
            allow: None,
        }))
    }

    fn about(mut self, subject: Subject<'_>) -> Self {
        self.0.details = subject.details();
        self
    }

    fn with_detail(mut self, key: &str, value: Value) -> Self {
        self.0.details.insert(key.to_owned(), value);
        self
    }

    pub fn with_causes(self, causes: Value) -> Self {
        self.with_detail("causes", causes)
    }

    /// For clients that try again by themselves (`Retry-After`).
    pub fn retried_after(self, seconds: u64) -> Self {
        self.with_detail("retryAfterSeconds", seconds.into())
    }

    pub fn with_allow(mut self, methods: String) -> Self {
        self.0.allow = Some(methods);
        self
    }

    pub fn allow(&self) -> Option<&str> {
        self.0.allow.as_deref()
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// Seconds after which the client may try again, where the refusal is about load.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.0.details.get("retryAfterSeconds").and_then(Value::as_u64)
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let refusal = &*self.0;
        let mut metadata = Map::new();
        if let Some(token) = &refusal.continue_token {
            metadata.insert("continue".into(), token.as_str().into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata,
            "status": "Failure", "message": refusal.message, "reason": refusal.reason,
        });
        if !refusal.details.is_empty() {
            status["details"] = Value::Object(refusal.details.clone());
        }
        status["code"] = refusal.code.into();
        status
    }

    pub fn not_found(subject: Subject<'_>) -> Self {
        Self::new(404, "NotFound", format!("{} {:?} not found", subject.qualified(), subject.name))
            .about(subject)
    }

    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
            .with_detail("causes", json!([]))
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    pub fn already_exists(subject: Subject<'_>) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {:?} already exists", subject.qualified(), subject.name))
            .about(subject)
    }

    pub fn conflict(subject: Subject<'_>, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {:?}: {why}", subject.qualified(), subject.name);
        Self::new(409, "Conflict", message).about(subject)
    }

    pub fn modified(subject: Subject<'_>) -> Self {
        Self::conflict(
            subject,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn forbidden(subject: Subject<'_>, why: &str) -> Self {
        let named = if subject.name.is_empty() { String::new() } else { format!(" {:?}", subject.name) };
        Self::new(403, "Forbidden", format!("{}{named} is forbidden: {why}", subject.qualified()))
            .about(subject)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 422, naming every field.
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let status = skerry_schema::invalid_status(kind, name, errors);
        let mut error = Self::new(422, "Invalid", status["message"].as_str().unwrap_or_default());
        if let Some(details) = status["details"].as_object() {
            error.0.details = details.clone();
        }
        error
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    pub fn not_acceptable(accepted: &str) -> Self {
        Self::new(406, "NotAcceptable", format!("only the following media types are accepted: {accepted}"))
    }

    pub fn too_many_requests() -> Self {
        Self::new(429, "TooManyRequests", "too many requests are in flight, try again later").retried_after(1)
    }

    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    /// A resourceVersion that the store has not reached.
    pub fn version_too_large(asked: u64, current: u64) -> Self {
        Self::timeout(format!("Too large resource version: {asked}, current: {current}"))
            .with_detail(
                "causes",
                json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]),
            )
            .retried_after(1)
    }

    /// History before `oldest` is gone.
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// A page's snapshot is gone; `token` continues at the newest state instead.
    pub fn expired_continue(token: String) -> Self {
        let mut error = Self::new(
            410,
            "Expired",
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to go on with the rest of the \
             newest state: what was made, changed or deleted between the pages may then be missing or appear twice",
        );
        error.0.continue_token = Some(token);
        error
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The node could not be asked.
    pub fn bad_gateway(message: impl Into<String>) -> Self {
        Self::new(502, "ServiceUnavailable", message)
    }
}

impl From<skerry_store::StoreError> for ApiError {
    fn from(error: skerry_store::StoreError) -> Self {
        use skerry_store::StoreError;
        match error {
            StoreError::Compacted { asked, oldest } => Self::expired(asked, oldest),
            StoreError::Future { asked, newest } => Self::version_too_large(asked, newest),
            StoreError::Full { .. } => Self::new(507, "InsufficientStorage", error.to_string()),
            StoreError::Conflict { key, .. } => {
                Self::new(409, "Conflict", format!("{key} was changed by another request, try again"))
            }
            error => Self::internal(chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstream_words_them() {
        let subject = Subject { group: "apps", resource: "deployments", name: "web" };
        assert_eq!(ApiError::not_found(subject).to_string(), "deployments.apps \"web\" not found");
        let status = ApiError::modified(subject).status();
        assert_eq!(status["code"], 409);
        assert_eq!(status["reason"], "Conflict");
        assert_eq!(status["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
    }
}
