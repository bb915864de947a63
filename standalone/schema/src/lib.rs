//! What the API server must know about the kinds of Kubernetes 1.36: tables, and pure functions over JSON
//! values.
//!
//! - [`kinds`], [`find`], [`groups`]: which kinds there are, their paths, verbs and subresources.
//! - [`decode`], [`check`]: a request body to a checked value; unknown and duplicate fields, wrong types.
//! - [`prepare_create`], [`prepare_update`]: defaults, what users may not set, generation, validation.
//! - [`apply_patch`]: JSON patch, merge patch, strategic merge patch.
//! - [`columns`], [`cells`]: what `kubectl get` prints.
//! - [`selectable_fields`], [`field_label_supported`]: field selectors.
//! - [`Shape`]: the field tree, with list types and keys (for apply).
//! - [`warnings`]: what is accepted and nobody carries out.
//! - [`openapi_v3_index`], [`openapi_v3`], [`openapi_v2`]: the documents behind `kubectl explain` and
//!   `apply`.
//!
//! Nothing here reads a clock, a file or a lock: `now` is an argument.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod body;
mod error;
mod kinds;
mod limits;
mod openapi;
mod patch;
mod rules;
mod selectable;
mod shape;
mod strategy;
mod table;
mod time;
mod unheeded;

pub use body::{DecodeError, Decoded, Format, check, decode, strict_message};
pub use error::{FieldError, Reason, invalid_status};
pub use kinds::{
    Deleted, GROUP_ORDER, Group, KINDS, Kind, METRICS_GROUP, Subresource, find, find_kind, from_storage,
    groups, kinds, split_api_version, to_storage,
};
pub use openapi::{Document, FormV2, openapi_v2, openapi_v3, openapi_v3_index};
pub use patch::{PatchError, PatchType, apply_patch};
pub use selectable::{field_label_supported, selectable_fields};
pub use shape::{Field, Form, ListType, Rule, Shape, Ty};
pub use strategy::{prepare_create, prepare_update, qos_class};
pub use table::{Column, cells, columns};
pub use unheeded::warnings;
