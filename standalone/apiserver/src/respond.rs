//! Responses: bodies, headers, and the shapes a client may ask for.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde_json::{Map, Value, json};
use skerry_schema::{Column, Kind, cells, columns};

use crate::{error::ApiError, media::MetaVersion, request::Query};

pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub type Reply = Response<Body>;

/// The most warnings one response carries, and the longest text of one in bytes: headers are bounded at the
/// client.
const MAX_WARNINGS: usize = 16;
const MAX_WARNING_BYTES: usize = 512;

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))).boxed_unsync()
}

pub fn json(code: StatusCode, bytes: impl Into<Bytes>) -> Reply {
    typed(code, "application/json", full(bytes))
}

/// One JSON value and a newline, as upstream's encoder ends them.
pub fn value(code: StatusCode, value: &Value) -> Reply {
    json(code, format!("{value}\n"))
}

pub fn typed(code: StatusCode, media: &'static str, body: Body) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    // Objects change: no cache between us and the client may keep them.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

pub fn error(error: &ApiError) -> Reply {
    let code = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = value(code, &error.status());
    if let Some(seconds) = error.retry_after_seconds() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(allow) = error.allow().and_then(|allow| HeaderValue::from_str(allow).ok()) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// `Status: Success` about an object.
pub fn success(code: StatusCode, kind: &Kind, name: &str, uid: &str) -> Reply {
    let mut details = json!({"name": name, "kind": kind.plural});
    if !kind.group.is_empty() {
        details["group"] = kind.group.into();
    }
    if !uid.is_empty() {
        details["uid"] = uid.into();
    }
    value(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
    )
}

/// Adds `Warning: 299 - "text"` headers (RFC 7234, 5.5), one a text.
pub fn warn(response: &mut Reply, warnings: &[String]) {
    for text in warnings.iter().take(MAX_WARNINGS) {
        let mut quoted = String::from("299 - \"");
        for character in text.chars().filter(|character| !character.is_control()) {
            if quoted.len() > MAX_WARNING_BYTES {
                break;
            }
            if matches!(character, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(character);
        }
        quoted.push('"');
        if let Ok(header) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(header::WARNING, header);
        }
    }
}

/// What a row of a Table carries besides its cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowObject {
    None,
    Metadata,
    Object,
}

impl RowObject {
    pub fn of(query: &Query) -> Result<Self, ApiError> {
        match query.get("includeObject") {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!(
                "includeObject must be one of None, Metadata, Object, not {other:?}"
            ))),
        }
    }
}

/// A `Table` of `objects`; `list_metadata` has resourceVersion, continue, remainingItemCount.
pub fn table(
    kind: &Kind,
    version: MetaVersion,
    objects: &[Value],
    list_metadata: Map<String, Value>,
    row_object: RowObject,
    with_columns: bool,
) -> Value {
    let now = jiff::Timestamp::now();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": cells(kind, object, now)});
            match row_object {
                RowObject::None => {}
                RowObject::Metadata => row["object"] = partial_metadata(version, object),
                RowObject::Object => row["object"] = object.clone(),
            }
            row
        })
        .collect();
    let definitions: Vec<Value> =
        if with_columns { columns(kind).iter().map(column_definition).collect() } else { Vec::new() };
    json!({
        "kind": "Table", "apiVersion": version.api_version(), "metadata": list_metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

fn column_definition(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.r#type, "format": column.format,
        "description": column.description, "priority": column.priority,
    })
}

/// The object's metadata alone.
pub fn partial_metadata(version: MetaVersion, object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": version.api_version(), "metadata": object["metadata"]})
}
