//! A request body: bytes → tree → checked value.

mod fit;
mod tree;

use serde_json::Value;

use crate::{
    limits::{self, Excess},
    shape::Shape,
    split_api_version,
};

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 8259.
    Json,
    /// As Go's parser reads it: `0644` is octal.
    Yaml,
}

/// A body that fits its kind.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// Without the unknown fields; of duplicates the last one; `apiVersion` and `kind` filled in; nulls
    /// dropped; quantities and times in canonical form.
    pub value: Value,
    /// What `fieldValidation` is about: `unknown field "spec.foo"`, `duplicate field "spec.replicas"`. With
    /// `Warn` each is a Warning header, with `Strict` see [`strict_message`].
    pub strict: Vec<String>,
}

/// A body that cannot be read as its kind. [`DecodeError::code`] is the HTTP status.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No JSON or YAML, or no object.
    #[error(
        "the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; json parse \
         error: {detail}"
    )]
    Syntax {
        /// The kind that was to be read.
        expected: String,
        /// The parser's text.
        detail: String,
    },
    /// A value of the wrong type, or one that does not fit its field.
    #[error("{kind} in version {version:?} cannot be handled as a {kind}: {detail}")]
    Type {
        /// The kind that was to be read.
        kind: String,
        /// Its version, without the group.
        version: String,
        /// In Go's words, with the field's path.
        detail: String,
    },
    /// The body's `apiVersion` is not that of the address.
    #[error("the API version in the data ({given}) does not match the expected API version ({expected})")]
    Version {
        /// The body's.
        given: String,
        /// The address's.
        expected: String,
    },
    /// The body's `kind` is not that of the address.
    #[error(
        "{given} in version {version:?} cannot be handled as a {expected}: the kind in the data must be {expected}"
    )]
    Kind {
        /// The body's.
        given: String,
        /// The body's `apiVersion`; where it has none, the address's.
        version: String,
        /// The address's.
        expected: String,
    },
    /// There is no such kind here.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    Unknown {
        /// Group and version, as objects carry them.
        api_version: String,
        /// As objects carry it.
        kind: String,
    },
    /// Of what a patch made, or what came in another form than text.
    #[error("{0}")]
    TooLarge(Excess),
}

impl DecodeError {
    /// 413 (content too large) or 400 (bad request).
    pub fn code(&self) -> u16 {
        if matches!(self, DecodeError::TooLarge(_)) { 413 } else { 400 }
    }
}

/// Versions that a body may be of besides the one that is served: what older clients write means the same.
const OTHER_VERSIONS: &[(&str, &str)] = &[("Eviction", "policy/v1beta1")];

/// Reads `body` as an object of `kind` in `api_version` (also bodies that are no stored kind: `Scale`,
/// `Binding`, `Eviction`, `DeleteOptions`, `TokenRequest`, `Status`).
///
/// # Errors
/// See [`DecodeError`]; the caller has bounded the body's length.
pub fn decode(api_version: &str, kind: &str, body: &[u8], format: Format) -> Result<Decoded, DecodeError> {
    let parsed = match format {
        Format::Json => tree::json(body),
        Format::Yaml => tree::yaml(body),
    };
    let tree = parsed.map_err(|detail| DecodeError::Syntax { expected: kind.to_owned(), detail })?;
    let mut decoded = check(api_version, kind, tree.value)?;
    decoded.strict.extend(tree.duplicates.iter().map(|path| format!("duplicate field {path:?}")));
    Ok(decoded)
}

/// Parses any body, without a shape: duplicates are returned as paths (for patches).
///
/// # Errors
/// The parser's text.
pub(crate) fn parse(body: &[u8], format: Format) -> Result<Value, String> {
    let tree = match format {
        Format::Json => tree::json(body)?,
        Format::Yaml => tree::yaml(body)?,
    };
    Ok(tree.value)
}

/// Checks a value that is in memory already (the outcome of a patch), its size too.
///
/// # Errors
/// See [`DecodeError`].
pub fn check(api_version: &str, kind: &str, mut value: Value) -> Result<Decoded, DecodeError> {
    limits::check(&value).map_err(DecodeError::TooLarge)?;
    let (group, version) = split_api_version(api_version);
    let Some(shape) = Shape::of(group, version, kind) else {
        return Err(DecodeError::Unknown { api_version: api_version.to_owned(), kind: kind.to_owned() });
    };
    let Some(map) = value.as_object_mut() else {
        let detail =
            format!("json: cannot unmarshal {} into Go value of type {}", word(&value), shape.go_name());
        return Err(DecodeError::Syntax { expected: kind.to_owned(), detail });
    };
    // `kind` first: of a Pod posted to /deployments both differ, and the kind is what the user got wrong.
    if let Some(given) = map.get("kind").and_then(Value::as_str)
        && !given.is_empty()
        && given != kind
    {
        let version = map.get("apiVersion").and_then(Value::as_str).unwrap_or(api_version).to_owned();
        return Err(DecodeError::Kind { given: given.to_owned(), version, expected: kind.to_owned() });
    }
    if let Some(given) = map.get("apiVersion").and_then(Value::as_str)
        && !given.is_empty()
        && given != api_version
        && kind != "DeleteOptions"
        && !OTHER_VERSIONS.contains(&(kind, given))
    {
        return Err(DecodeError::Version { given: given.to_owned(), expected: api_version.to_owned() });
    }
    let fit = fit::Fit::object(shape, map).map_err(|detail| DecodeError::Type {
        kind: kind.to_owned(),
        version: version.to_owned(),
        detail,
    })?;
    map.insert("apiVersion".to_owned(), api_version.into());
    map.insert("kind".to_owned(), kind.into());
    let strict = fit.unknown.iter().map(|path| format!("unknown field {path:?}")).collect();
    Ok(Decoded { value, strict })
}

/// The 400 text under `fieldValidation=Strict`: `Deployment in version "v1" cannot be handled as a
/// Deployment: strict decoding error: unknown field "spec.foo"`.
pub fn strict_message(api_version: &str, kind: &str, strict: &[String]) -> String {
    let (_, version) = split_api_version(api_version);
    let list = strict.join(", ");
    format!("{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {list}")
}

fn word(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests;
