//! The OpenAPI documents, made at build time.

use serde_json::{Map, Value, json};

/// One group-version's document, or the one of version 2.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// The path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`. Version 2 has none.
    pub path: &'static str,
    /// gzip of the document.
    pub gz: &'static [u8],
    /// Upper-case hex of a hash of the document: the ETag and the `hash` of the index's address.
    pub hash: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/openapi.rs"));

/// The body of `/openapi/v3`: `{"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=..."}}}`.
pub fn openapi_v3_index() -> String {
    let paths: Map<String, Value> = DOCUMENTS
        .iter()
        .map(|document| {
            let url = format!("/openapi/v3/{}?hash={}", document.path, document.hash);
            (document.path.to_owned(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths}).to_string()
}

/// The document behind `/openapi/v3/PATH` (`api/v1`, `apis/apps/v1`).
pub fn openapi_v3(path: &str) -> Option<Document> {
    DOCUMENTS.iter().find(|document| document.path == path).copied()
}

/// The form that the v2 document is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormV2 {
    /// `application/json`, the default.
    Json,
    /// gnostic's `openapi.v2.Document`.
    Protobuf,
}

/// The document behind `/openapi/v2`: all kinds in one.
pub fn openapi_v2(form: FormV2) -> Document {
    match form {
        FormV2::Json => JSON_V2,
        FormV2::Protobuf => PROTOBUF_V2,
    }
}

#[cfg(test)]
mod tests;
