//! The protobuf form of Kubernetes objects (`application/vnd.kubernetes.protobuf`), to and from JSON values.
//!
//! Driven by one table, `fields.txt`: for every message its field numbers, JSON names, types and whether an
//! absent and a zero value differ. The numbers are facts of Kubernetes' `generated.proto` files (release
//! 1.36).
//!
//! On the wire an object is the four bytes `k8s\0` and a `runtime.Unknown` that names apiVersion and kind.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod decode;
mod encode;
mod envelope;
mod fields;
mod special;
mod wire;

pub use envelope::{decode, encode, encode_watch_event, is_supported};

/// The media type of one object, and of a list.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Nested messages that are read or written at most: as deep as an object may be in any form.
const MAX_DEPTH: usize = 128;

/// What can't be read from, or put into, protobuf. A path names a field of the JSON form, `spec.replicas`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtobufError {
    #[error(
        "the body does not start with the protobuf magic k8s\\0: send it with the media type of what it is"
    )]
    /// Not Kubernetes' envelope.
    Magic,
    /// The bytes are no message of their kind.
    #[error("{message} at byte {offset}: {problem}")]
    Wire {
        /// As `fields.txt` names it, `core.v1.PodSpec`; `runtime.Unknown` for the envelope.
        message: String,
        /// Within that message, not within the body.
        offset: usize,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A kind that `fields.txt` does not have: one that is served as JSON only.
    #[error("no protobuf form of {api_version} {kind} is known: use application/json")]
    UnknownKind {
        /// Group and version, as objects carry them; may be empty.
        api_version: String,
        /// May be empty.
        kind: String,
    },
    /// A JSON value that its field can't hold.
    #[error("{path}: {problem}")]
    Value {
        /// The field, `spec.replicas`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}
