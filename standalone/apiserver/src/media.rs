//! Content negotiation: what the client sent, and what it wants back.
//!
//! Answers are JSON; bodies may be YAML or protobuf (`body.rs`) as well, and each refusal names what it would
//! take.

use http::{HeaderMap, header};
use skerry_schema::Format;

use crate::error::ApiError;

/// What bodies are read from …
const READ: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
/// … and what answers are written as.
pub const WRITTEN: &str = "application/json, application/json;as=Table;g=meta.k8s.io;v=v1, \
    application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, \
    application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// What an object or list is turned into before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Object,
    /// `Table` of this version of `meta.k8s.io`.
    Table(MetaVersion),
    /// `PartialObjectMetadata`.
    PartialMetadata(MetaVersion),
    /// `PartialObjectMetadataList`, for lists.
    PartialMetadataList(MetaVersion),
    /// `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`.
    Discovery,
}

/// Both say the same; a client reads the one that it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// Chooses the first acceptable entry of `Accept`.
///
/// # Errors
/// 406 where none is.
pub fn accept(headers: &HeaderMap) -> Result<Shape, ApiError> {
    let Some(text) = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()) else {
        return Ok(Shape::Object);
    };
    if text.trim().is_empty() {
        return Ok(Shape::Object);
    }
    text.split(',').find_map(shape).ok_or_else(|| ApiError::not_acceptable(WRITTEN))
}

fn shape(entry: &str) -> Option<Shape> {
    let mut parts = entry.split(';').map(str::trim);
    let media = parts.next()?;
    if !matches!(media, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let (mut conversion, mut version, mut group) = ("", "", "");
    for part in parts {
        match part.split_once('=') {
            Some(("as", value)) => conversion = value,
            Some(("v", value)) => version = value,
            Some(("g", value)) => group = value,
            _ => {}
        }
    }
    let meta = match (group, version) {
        ("meta.k8s.io", "v1") => Some(MetaVersion::V1),
        ("meta.k8s.io", "v1beta1") => Some(MetaVersion::V1Beta1),
        _ => None,
    };
    match conversion {
        "" => Some(Shape::Object),
        "Table" => meta.map(Shape::Table),
        "PartialObjectMetadata" => meta.map(Shape::PartialMetadata),
        "PartialObjectMetadataList" => meta.map(Shape::PartialMetadataList),
        "APIGroupDiscoveryList" if (group, version) == ("apidiscovery.k8s.io", "v2") => {
            Some(Shape::Discovery)
        }
        _ => None,
    }
}

/// How the body of a request is written.
///
/// # Errors
/// 415 for a type we do not read.
pub fn content(headers: &HeaderMap) -> Result<Format, ApiError> {
    match media_type(headers) {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        _ => Err(ApiError::unsupported_media_type(READ)),
    }
}

/// The `Content-Type` without its parameters; `""` where there is none.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(text: &str) -> Option<Shape> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        accept(&headers).ok()
    }

    #[test]
    fn the_first_type_we_speak_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                       application/json";
        assert_eq!(accepting(kubectl), Some(Shape::Table(MetaVersion::V1)));
        assert_eq!(
            accepting("application/json;as=Table;v=v1beta1;g=meta.k8s.io"),
            Some(Shape::Table(MetaVersion::V1Beta1))
        );
        assert_eq!(accepting("application/json;as=Table;v=v2;g=meta.k8s.io"), None);
        assert_eq!(accepting("application/vnd.kubernetes.protobuf,application/json"), Some(Shape::Object));
        assert_eq!(accepting("application/vnd.kubernetes.protobuf, */*"), Some(Shape::Object));
        assert_eq!(
            accepting("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Some(Shape::PartialMetadataList(MetaVersion::V1))
        );
        assert_eq!(accepting("text/html"), None);
    }

    #[test]
    fn a_refusal_names_only_what_is_then_taken() {
        for entry in WRITTEN.split(", ") {
            assert!(accepting(entry).is_some(), "{entry}");
        }
        assert!(!WRITTEN.contains("yaml") && accepting("application/yaml").is_none());
    }
}
