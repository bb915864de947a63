//! The three patches that need no field ownership.

mod strategic;

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use crate::{Format, body, limits, shape::Shape, split_api_version};

/// How a patch is to be read, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`, RFC 6902.
    Json,
    /// `application/merge-patch+json`, RFC 7386.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
}

/// Why a patch was not applied. [`PatchError::code`] is the HTTP status.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch itself cannot be read: BadRequest.
    #[error("error decoding patch: {0}")]
    Malformed(String),
    /// It can be read but does not fit the object: Invalid.
    #[error("the server rejected our request due to an error in our request: {0}")]
    Unprocessable(String),
    /// More than is allowed: RequestEntityTooLarge.
    #[error("{0}")]
    TooLarge(String),
    /// Strategic merge needs a built-in kind: UnsupportedMediaType.
    #[error("strategic merge patch is not supported for {0}: send application/merge-patch+json")]
    Unsupported(String),
}

impl PatchError {
    /// 400 (bad request), 413 (content too large), 415 (unsupported media type) or 422 (unprocessable
    /// entity).
    pub fn code(&self) -> u16 {
        match self {
            PatchError::Malformed(_) => 400,
            PatchError::Unprocessable(_) => 422,
            PatchError::TooLarge(_) => 413,
            PatchError::Unsupported(_) => 415,
        }
    }
}

/// As upstream.
const MAX_OPERATIONS: usize = 10_000;

/// What the `copy` operations of one patch may add up to, in bytes of JSON: a short patch must not double a
/// document thirty times. Moves to deeper places count too, since their depth has to be measured.
const MAX_CARRIED_BYTES: usize = 3 << 20;

/// `current` with `patch` applied. The outcome is no deeper than a body may be; it still has to pass
/// [`crate::check`], which holds it to the other bounds, and [`crate::prepare_update`].
///
/// `api_version` and `kind` say which merge keys hold (also for `Scale`).
///
/// # Errors
/// [`PatchError`]; `current` is as it was.
pub fn apply_patch(
    patch_type: PatchType,
    api_version: &str,
    kind: &str,
    current: &Value,
    patch: &[u8],
    format: Format,
) -> Result<Value, PatchError> {
    let patch = body::parse(patch, format).map_err(PatchError::Malformed)?;
    match patch_type {
        PatchType::Json => json(current, patch),
        PatchType::Merge => {
            object(&patch)?;
            let mut value = current.clone();
            json_patch::merge(&mut value, &patch);
            Ok(value)
        }
        PatchType::Strategic => {
            object(&patch)?;
            let (group, version) = split_api_version(api_version);
            let shape = Shape::of(group, version, kind)
                .ok_or_else(|| PatchError::Unsupported(format!("{api_version} {kind}")))?;
            strategic::apply(shape, current, patch)
        }
    }
}

fn object(patch: &Value) -> Result<(), PatchError> {
    if patch.is_object() {
        Ok(())
    } else {
        Err(PatchError::Malformed("the patch must be a JSON object".to_owned()))
    }
}

fn json(current: &Value, patch: Value) -> Result<Value, PatchError> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let Patch(operations) =
        serde_json::from_value(patch).map_err(|error| PatchError::Malformed(error.to_string()))?;
    let mut value = current.clone();
    let mut carried = 0;
    for operation in operations {
        carried += carries(&value, &operation);
        if carried > MAX_CARRIED_BYTES {
            return Err(PatchError::TooLarge(format!(
                "the copy operations of a JSON patch, and the moves to deeper places, may add up to \
                 {MAX_CARRIED_BYTES} bytes: send the object whole"
            )));
        }
        stays_shallow(&value, &operation)?;
        json_patch::patch(&mut value, std::slice::from_ref(&operation))
            .map_err(|error| PatchError::Unprocessable(error.to_string()))?;
    }
    Ok(value)
}

/// Bytes that an operation carries to another place, where that costs something.
fn carries(value: &Value, operation: &PatchOperation) -> usize {
    let from = match operation {
        PatchOperation::Copy(copy) => &copy.from,
        PatchOperation::Move(step) if levels(step.path.as_str()) > levels(step.from.as_str()) => &step.from,
        _ => return 0,
    };
    value.pointer(from.as_str()).map_or(0, limits::bytes)
}

fn levels(pointer: &str) -> usize {
    pointer.matches('/').count()
}

/// Refuses an operation that would put a value too deep, before it is carried out: cloning, comparing and
/// dropping recurse, and a copy of a copy doubles its depth.
fn stays_shallow(value: &Value, operation: &PatchOperation) -> Result<(), PatchError> {
    let (path, put) = match operation {
        PatchOperation::Add(add) => (&add.path, Some(&add.value)),
        PatchOperation::Replace(replace) => (&replace.path, Some(&replace.value)),
        PatchOperation::Copy(copy) => (&copy.path, value.pointer(copy.from.as_str())),
        PatchOperation::Move(step) if levels(step.path.as_str()) > levels(step.from.as_str()) => {
            (&step.path, value.pointer(step.from.as_str()))
        }
        // Nothing gets deeper.
        PatchOperation::Move(_) | PatchOperation::Remove(_) | PatchOperation::Test(_) => return Ok(()),
    };
    if levels(path.as_str()) + put.map_or(0, limits::depth) > limits::MAX_DEPTH {
        return Err(PatchError::TooLarge(limits::Excess::Depth.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
