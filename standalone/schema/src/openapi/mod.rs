//! The OpenAPI v3 documents, made at build time.

use serde_json::{Map, Value, json};

/// One group-version's document.
#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// The path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
    pub path: &'static str,
    /// gzip of the JSON.
    pub gz: &'static [u8],
    /// Upper-case hex of a hash of the JSON: the ETag and the `hash` of the index's address.
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

#[cfg(test)]
mod tests;
