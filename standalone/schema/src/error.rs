//! What is wrong with a field, in the words and the shape Kubernetes says it.

use std::fmt;

use serde_json::{Value, json};

use crate::Kind;

/// The kind of complaint, as `Status.details.causes[].reason` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A field that must be there is absent or empty.
    Required,
    /// The value is wrong in itself, or beside the others.
    Invalid,
    /// The value is none of those that are allowed.
    NotSupported,
    /// The value stands in a list that may hold it once.
    Duplicate,
    /// It may not be set here, or not any more.
    Forbidden,
    /// A text has more bytes than it may have.
    TooLong,
    /// A list or map has more entries than it may have.
    TooMany,
    /// What the value names is not there.
    NotFound,
}

impl Reason {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::NotFound => "FieldValueNotFound",
        }
    }
}

/// One complaint about one field; printed as `spec.replicas: Invalid value: -1: must be ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What sort of fault it is.
    pub reason: Reason,
    /// The path, `spec.containers[0].name`.
    pub field: String,
    /// The complaint without the path.
    pub message: String,
}

impl FieldError {
    /// `detail` says when it is required; empty: always.
    pub fn required(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError::new(Reason::Required, field, with_detail("Required value".to_owned(), detail))
    }

    /// `value` is printed as Kubernetes prints it: strings quoted, structures as JSON.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> FieldError {
        FieldError::new(
            Reason::Invalid,
            field,
            with_detail(format!("Invalid value: {}", shown(value)), detail),
        )
    }

    /// `supported` is printed in the order given.
    pub fn unsupported(field: impl Into<String>, value: &Value, supported: &[&str]) -> FieldError {
        let list: Vec<String> = supported.iter().map(|word| format!("{word:?}")).collect();
        let message = format!("Unsupported value: {}: supported values: {}", shown(value), list.join(", "));
        FieldError::new(Reason::NotSupported, field, message)
    }

    /// `value` is printed as by [`FieldError::invalid`].
    pub fn duplicate(field: impl Into<String>, value: &Value) -> FieldError {
        FieldError::new(Reason::Duplicate, field, format!("Duplicate value: {}", shown(value)))
    }

    /// `detail` says why; empty: nothing more is to be said.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError::new(Reason::Forbidden, field, with_detail("Forbidden".to_owned(), detail))
    }

    /// `value` is printed as by [`FieldError::invalid`].
    pub fn not_found(field: impl Into<String>, value: &Value) -> FieldError {
        FieldError::new(Reason::NotFound, field, format!("Not found: {}", shown(value)))
    }

    /// `max` in bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> FieldError {
        FieldError::new(Reason::TooLong, field, format!("Too long: may not be more than {max} bytes"))
    }

    /// `have` and `max` count entries.
    pub fn too_many(field: impl Into<String>, have: usize, max: usize) -> FieldError {
        FieldError::new(Reason::TooMany, field, format!("Too many: {have}: must have at most {max} items"))
    }

    fn new(reason: Reason, field: impl Into<String>, message: String) -> FieldError {
        FieldError { reason, field: field.into(), message }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The `Status` body (422, reason `Invalid`) for an object of `kind` called `name` that has these faults.
pub fn invalid_status(kind: &Kind, name: &str, errors: &[FieldError]) -> Value {
    let causes: Vec<Value> = errors
        .iter()
        .map(|e| json!({"reason": e.reason.as_str(), "message": e.message, "field": e.field}))
        .collect();
    let listed = match errors {
        [one] => one.to_string(),
        many => format!("[{}]", many.iter().map(FieldError::to_string).collect::<Vec<_>>().join(", ")),
    };
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": format!("{} {name:?} is invalid: {listed}", kind.qualified()),
        "reason": "Invalid",
        "details": {"name": name, "group": kind.group, "kind": kind.kind, "causes": causes},
        "code": 422,
    })
}

fn with_detail(head: String, detail: &str) -> String {
    if detail.is_empty() { head } else { format!("{head}: {detail}") }
}

/// The longest value that is repeated in a message, in bytes: a 3 MiB string must not come back in its own
/// complaint.
const SHOWN_BYTES: usize = 1024;

fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > SHOWN_BYTES {
        let end = (0..=SHOWN_BYTES).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}
