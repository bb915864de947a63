//! A message's bytes to a JSON object.

use serde_json::{Map, Value};

use crate::{
    MAX_DEPTH, ProtobufError,
    fields::{Cardinality, Field, Type, fields},
    special::{self, special},
    wire::{Payload, Reader},
};

/// Reads the fields of `message` into `object`. Fields that the table does not know are passed over, as a
/// server of an older version does.
pub fn read_into(
    object: &mut Map<String, Value>,
    message: &'static str,
    data: &[u8],
    depth: usize,
) -> Result<(), ProtobufError> {
    let mut reader = Reader::new(message, data);
    if depth > MAX_DEPTH {
        return Err(reader.error("messages are nested too deep"));
    }
    let known = fields(message).map(Vec::as_slice).unwrap_or_default();
    while let Some((number, payload)) = reader.next()? {
        let Ok(at) = known.binary_search_by_key(&number, |field| field.number) else { continue };
        let field = &known[at];
        match field.cardinality {
            Cardinality::One => {
                if field.inline
                    && let (Type::Message(of), Payload::Bytes(data)) = (field.of, payload)
                {
                    read_into(object, of, data, depth + 1)?;
                    continue;
                }
                let value = read(&reader, field, payload, depth)?;
                if keep(field, &value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Cardinality::Repeated => {
                let value = read(&reader, field, payload, depth)?;
                match object.entry(field.name).or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(items) => items.push(value),
                    _ => return Err(reader.error("a list and a single value share a name")),
                }
            }
            Cardinality::Map => {
                let Payload::Bytes(entry) = payload else {
                    return Err(reader.error("a map entry is no message"));
                };
                let (key, value) = read_entry(message, field, entry, depth)?;
                match object.entry(field.name).or_insert_with(|| Value::Object(Map::new())) {
                    Value::Object(entries) => entries.insert(key, value),
                    _ => return Err(reader.error("a map and a single value share a name")),
                };
            }
        }
    }
    Ok(())
}

/// A map's entry: field 1 the key, field 2 the value.
fn read_entry(
    message: &'static str,
    field: &Field,
    data: &[u8],
    depth: usize,
) -> Result<(String, Value), ProtobufError> {
    let mut reader = Reader::new(message, data);
    let (mut key, mut value) = (String::new(), None);
    while let Some((number, payload)) = reader.next()? {
        match (number, payload) {
            (1, Payload::Bytes(bytes)) => {
                key = std::str::from_utf8(bytes).map_err(|_| reader.error("a key is not UTF-8"))?.to_owned();
            }
            (2, payload) => value = Some(read(&reader, field, payload, depth)?),
            _ => {}
        }
    }
    let value = match value {
        Some(value) => value,
        // An absent value is the zero of its type.
        None => read(&reader, field, Payload::Bytes(&[]), depth)?,
    };
    Ok((key, value))
}

fn read(
    reader: &Reader<'_>,
    field: &Field,
    payload: Payload<'_>,
    depth: usize,
) -> Result<Value, ProtobufError> {
    Ok(match (field.of, payload) {
        (Type::String, Payload::Bytes(bytes)) => special::text(reader, bytes)?,
        (Type::Bytes, Payload::Bytes(bytes)) => special::base64(bytes),
        (Type::Bool, Payload::Varint(value)) => (value != 0).into(),
        (Type::Integer, Payload::Varint(value)) => (value as i64).into(),
        (Type::Double, Payload::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Type::Message(of), Payload::Bytes(data)) => match special(of) {
            Some(special) => special::read(special, of, data, depth + 1)?,
            None => {
                let mut object = Map::new();
                read_into(&mut object, of, data, depth + 1)?;
                object.into()
            }
        },
        _ => return Err(reader.error("a field has the wrong wire type")),
    })
}

/// What the reference encoder writes as zero and JSON would not show.
fn keep(field: &Field, value: &Value) -> bool {
    if value.is_null() {
        return false;
    }
    if field.nullable || !field.omit_empty {
        return true;
    }
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(_) => true,
    }
}
