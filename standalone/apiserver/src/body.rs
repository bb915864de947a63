//! Request bodies of resources: from bytes to a checked value, with the warnings that go back to the client.

use serde_json::Value;
use skerry_schema::{DecodeError, Decoded, Format, check, decode, strict_message};

use crate::{api::Call, error::ApiError, media};

/// A checked body.
pub struct Checked {
    pub value: Value,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

fn field_validation(call: &Call) -> Result<FieldValidation, ApiError> {
    match call.query.get("fieldValidation") {
        None | Some("" | "Warn") => Ok(FieldValidation::Warn),
        Some("Ignore") => Ok(FieldValidation::Ignore),
        Some("Strict") => Ok(FieldValidation::Strict),
        Some(other) => Err(ApiError::bad_request(format!(
            "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
        ))),
    }
}

/// Reads the request's body as `kind`.
pub fn read(call: &Call, api_version: &str, kind: &str) -> Result<Checked, ApiError> {
    let decoded = decoded(call, api_version, kind)?;
    strictly(call, api_version, kind, decoded)
}

/// The same for an optional body: `None` where there is none.
pub fn read_if_given(call: &Call, api_version: &str, kind: &str) -> Result<Option<Value>, ApiError> {
    if call.body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    Ok(Some(decoded(call, api_version, kind)?.value))
}

fn decoded(call: &Call, api_version: &str, kind: &str) -> Result<Decoded, ApiError> {
    if media::media_type(&call.headers) == skerry_protobuf::MEDIA_TYPE {
        let value =
            skerry_protobuf::decode(&call.body).map_err(|error| ApiError::bad_request(error.to_string()))?;
        return check(api_version, kind, value).map_err(|error| unreadable(&error));
    }
    let format = media::content(&call.headers)?;
    decode(api_version, kind, &call.body, format).map_err(|error| unreadable(&error))
}

fn unreadable(error: &DecodeError) -> ApiError {
    match error.code() {
        413 => ApiError::new(413, "RequestEntityTooLarge", error.to_string()),
        _ => ApiError::bad_request(error.to_string()),
    }
}

/// Checks a value that a patch made.
pub fn recheck(call: &Call, api_version: &str, kind: &str, value: Value) -> Result<Checked, ApiError> {
    let decoded = check(api_version, kind, value).map_err(|error| unreadable(&error))?;
    strictly(call, api_version, kind, decoded)
}

fn strictly(call: &Call, api_version: &str, kind: &str, decoded: Decoded) -> Result<Checked, ApiError> {
    let warnings = match field_validation(call)? {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Strict if !decoded.strict.is_empty() => {
            return Err(ApiError::bad_request(strict_message(api_version, kind, &decoded.strict)));
        }
        FieldValidation::Warn | FieldValidation::Strict => decoded.strict,
    };
    Ok(Checked { value: decoded.value, warnings })
}

/// The body format of a patch: JSON in any of the patch types.
pub const PATCH_FORMAT: Format = Format::Json;
