//! Messages whose JSON form is not an object of their fields.

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    ProtobufError, envelope,
    wire::{Payload, Reader, put_bytes, put_integer},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// `meta.v1.Time`: RFC 3339, whole seconds.
    Time,
    /// `meta.v1.MicroTime`: RFC 3339 with six decimals.
    MicroTime,
    /// `resource.Quantity`: its text.
    Quantity,
    /// `intstr.IntOrString`: a number or a text.
    IntOrString,
    /// `runtime.RawExtension`: any JSON.
    Raw,
    /// `meta.v1.FieldsV1`: any JSON.
    Fields,
    /// A message with the single field `items` that stands for a list of texts.
    Texts,
}

pub fn special(message: &str) -> Option<Special> {
    match message {
        "meta.v1.Time" => Some(Special::Time),
        "meta.v1.MicroTime" => Some(Special::MicroTime),
        "resource.Quantity" => Some(Special::Quantity),
        "intstr.IntOrString" => Some(Special::IntOrString),
        "runtime.RawExtension" => Some(Special::Raw),
        "meta.v1.FieldsV1" => Some(Special::Fields),
        "meta.v1.Verbs" => Some(Special::Texts),
        name if name.ends_with(".ExtraValue") => Some(Special::Texts),
        _ => None,
    }
}

/// `Value::Null`: the zero value, which JSON leaves away.
pub fn read(special: Special, message: &str, data: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    let mut reader = Reader::new(message, data);
    let (mut numbers, mut bytes, mut items) = ([0i64; 2], None, Vec::new());
    while let Some((number, payload)) = reader.next()? {
        match (payload, number) {
            (Payload::Varint(value), 1 | 2) => numbers[number as usize - 1] = value as i64,
            (Payload::Bytes(value), _) if special == Special::Texts => items.push(text(&reader, value)?),
            (Payload::Bytes(value), _) => bytes = Some(value),
            _ => {}
        }
    }
    let [first, second] = numbers;
    Ok(match special {
        Special::Time | Special::MicroTime => {
            if data.is_empty() {
                return Ok(Value::Null);
            }
            let nanos = i32::try_from(second).map_err(|_| reader.error("nanoseconds out of range"))?;
            let time = Timestamp::new(first, nanos).map_err(|_| reader.error("a time out of range"))?;
            let decimals =
                if special == Special::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
            time.strftime(decimals).to_string().into()
        }
        Special::Quantity => text(&reader, bytes.unwrap_or_default())?,
        Special::IntOrString => match first {
            0 => second.into(),
            _ => text(&reader, bytes.unwrap_or_default())?,
        },
        Special::Raw | Special::Fields => match bytes {
            None | Some([]) => Value::Null,
            Some(data) if envelope::has_magic(data) => envelope::decode_at(data, depth)?,
            Some(data) => {
                serde_json::from_slice(data).map_err(|_| reader.error("the raw object is not JSON"))?
            }
        },
        Special::Texts => items.into(),
    })
}

/// Appends the message's fields.
pub fn write(special: Special, path: &str, value: &Value, out: &mut Vec<u8>) -> Result<(), ProtobufError> {
    let wrong = |problem: &str| ProtobufError::Value { path: path.to_owned(), problem: problem.to_owned() };
    match special {
        Special::Time | Special::MicroTime => {
            let time = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
            let time = time.ok_or_else(|| wrong("not an RFC 3339 time"))?;
            put_integer(out, 1, time.as_second());
            put_integer(out, 2, i64::from(time.subsec_nanosecond()));
        }
        Special::Quantity => {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return Err(wrong("a quantity is a text or a number")),
            };
            put_bytes(out, 1, text.as_bytes());
        }
        Special::IntOrString => {
            let (kind, number, text) = match value {
                Value::Number(number) => (0, number.as_i64().ok_or_else(|| wrong("not a whole number"))?, ""),
                Value::String(text) => (1, 0, text.as_str()),
                _ => return Err(wrong("neither a number nor a text")),
            };
            put_integer(out, 1, kind);
            put_integer(out, 2, number);
            put_bytes(out, 3, text.as_bytes());
        }
        Special::Raw | Special::Fields => {
            let bytes = serde_json::to_vec(value).map_err(|error| wrong(&error.to_string()))?;
            put_bytes(out, 1, &bytes);
        }
        Special::Texts => {
            for item in value.as_array().ok_or_else(|| wrong("not a list"))? {
                put_bytes(out, 1, item.as_str().ok_or_else(|| wrong("not a text"))?.as_bytes());
            }
        }
    }
    Ok(())
}

pub fn text(reader: &Reader<'_>, bytes: &[u8]) -> Result<Value, ProtobufError> {
    let text = std::str::from_utf8(bytes).map_err(|_| reader.error("a text is not UTF-8"))?;
    Ok(text.into())
}

pub fn base64(bytes: &[u8]) -> Value {
    BASE64_STANDARD.encode(bytes).into()
}

pub fn from_base64(path: &str, value: &Value) -> Result<Vec<u8>, ProtobufError> {
    let bytes = value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    bytes.ok_or_else(|| ProtobufError::Value { path: path.to_owned(), problem: "not base64".to_owned() })
}
