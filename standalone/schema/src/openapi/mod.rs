//! The OpenAPI v3 documents, made at build time.

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

/// The body of `/openapi/v3`: `{"paths": {"api/v1": {"serverRelativeURL": "/openapi/v3/api/v1?hash=..."}}}`.
pub fn openapi_v3_index() -> String {
    String::from("{\"paths\":{}}")
}

/// The document behind `/openapi/v3/PATH` (`api/v1`, `apis/apps/v1`).
pub fn openapi_v3(path: &str) -> Option<Document> {
    let _ = path;
    None
}
