//! The envelope around an object: magic, apiVersion, kind, bytes.

use serde_json::{Map, Value};

use crate::{
    MAX_DEPTH, ProtobufError,
    decode::read_into,
    encode::write_fields,
    fields::name,
    wire::{Payload, Reader, put_bytes},
};

const MAGIC: &[u8] = b"k8s\0";
const UNKNOWN: &str = "runtime.Unknown";

/// An enveloped object to a JSON object with `apiVersion` and `kind`.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    decode_at(body, 0)
}

/// A JSON object with `apiVersion` and `kind` to its envelope.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let message = message(api_version, kind)?;
    let empty = Map::new();
    let mut raw = Vec::new();
    write_fields(&mut raw, message, object.as_object().unwrap_or(&empty), "", 0)?;
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, 1, &type_meta);
    put_bytes(&mut out, 2, &raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    Ok(out)
}

/// A frame of a watch: four bytes of length in network byte order, then a `meta.v1.WatchEvent` whose object
/// is an envelope (`application/vnd.kubernetes.protobuf;stream=watch`).
pub fn encode_watch_event(event: &str, object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let mut raw = Vec::new();
    put_bytes(&mut raw, 1, &encode(object)?);
    let mut frame = vec![0; 4];
    put_bytes(&mut frame, 1, event.as_bytes());
    put_bytes(&mut frame, 2, &raw);
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// Whether the kind has a protobuf form.
pub fn is_supported(api_version: &str, kind: &str) -> bool {
    message(api_version, kind).is_ok()
}

pub(crate) fn has_magic(data: &[u8]) -> bool {
    data.starts_with(MAGIC)
}

pub(crate) fn decode_at(body: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let data = body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
    let mut reader = Reader::new(UNKNOWN, data);
    if depth > MAX_DEPTH {
        return Err(reader.error("envelopes are nested too deep"));
    }
    let (mut type_meta, mut raw): (Map<String, Value>, &[u8]) = (Map::new(), &[]);
    while let Some((number, payload)) = reader.next()? {
        match (number, payload) {
            (1, Payload::Bytes(data)) => read_into(&mut type_meta, "runtime.TypeMeta", data, depth + 1)?,
            (2, Payload::Bytes(data)) => raw = data,
            _ => {}
        }
    }
    let text = |key: &str| type_meta.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let mut object = Map::new();
    let message = message(&api_version, &kind)?;
    object.insert("kind".to_owned(), kind.into());
    object.insert("apiVersion".to_owned(), api_version.into());
    read_into(&mut object, message, raw, depth + 1)?;
    Ok(object.into())
}

/// The message of a kind. Options, Status and the like belong to meta/v1 under whatever version they are
/// sent.
fn message(api_version: &str, kind: &str) -> Result<&'static str, ProtobufError> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("core", api_version));
    let package = match group {
        "internal.apiserver.k8s.io" => "apiserverinternal",
        _ => group.split('.').next().unwrap_or(group),
    };
    let own = name(&format!("{package}.{version}.{kind}"));
    let found = own.or_else(|| name(&format!("meta.v1.{kind}")));
    let unknown =
        || ProtobufError::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    found.ok_or_else(unknown)
}
