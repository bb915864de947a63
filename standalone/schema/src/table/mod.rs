//! What `kubectl get` prints.

use serde_json::{Value, json};

use crate::Kind;

/// A `TableColumnDefinition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean` ...
    pub r#type: &'static str,
    /// `name` for the first column, else `""`.
    pub format: &'static str,
    pub description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
}

const DEFAULT: &[Column] = &[
    Column { name: "Name", r#type: "string", format: "name", description: "Name of the object", priority: 0 },
    Column { name: "Age", r#type: "string", format: "", description: "Time since creation", priority: 0 },
];

/// The columns of `kind`, in order.
pub fn columns(kind: &Kind) -> &'static [Column] {
    let _ = kind;
    DEFAULT
}

/// One row's cells for `object`, as many as [`columns`] has.
pub fn cells(kind: &Kind, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let _ = (kind, now);
    vec![object["metadata"]["name"].clone(), json!("<unknown>")]
}
