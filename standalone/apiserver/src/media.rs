//! Content negotiation: what the client sent, and what it wants back.
//!
//! Answers are JSON; bodies may be YAML or protobuf (`body.rs`) as well.

use http::{HeaderMap, header};
use skerry_schema::Format;

use crate::error::ApiError;

const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What an object or list is turned into before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata`.
    PartialMetadata,
    /// `meta.k8s.io/v1 PartialObjectMetadataList`, for lists.
    PartialMetadataList,
    /// `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`.
    Discovery,
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
    text.split(',').find_map(shape).ok_or_else(|| ApiError::not_acceptable(ACCEPTED))
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
    match (conversion, group, version) {
        ("", ..) => Some(Shape::Object),
        ("Table", "meta.k8s.io", "v1") => Some(Shape::Table),
        ("PartialObjectMetadata", "meta.k8s.io", "v1") => Some(Shape::PartialMetadata),
        ("PartialObjectMetadataList", "meta.k8s.io", "v1") => Some(Shape::PartialMetadataList),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Shape::Discovery),
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
        _ => Err(ApiError::unsupported_media_type(ACCEPTED)),
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
        assert_eq!(accepting(kubectl), Some(Shape::Table));
        assert_eq!(accepting("application/vnd.kubernetes.protobuf,application/json"), Some(Shape::Object));
        assert_eq!(accepting("application/vnd.kubernetes.protobuf, */*"), Some(Shape::Object));
        assert_eq!(
            accepting("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Some(Shape::PartialMetadataList)
        );
        assert_eq!(accepting("text/html"), None);
    }
}
