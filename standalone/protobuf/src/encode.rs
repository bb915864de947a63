//! A JSON object to a message's bytes: fields in the order of their numbers, map entries in the order of
//! their keys.

use serde_json::{Map, Value};

use crate::{
    MAX_DEPTH, ProtobufError,
    fields::{Cardinality, Field, Type, fields},
    special::{self, special},
    wire::{put_bytes, put_fixed64, put_integer},
};

/// Appends the fields of `message` found in `object`. Keys that the table does not know are passed over.
pub fn write_fields(
    out: &mut Vec<u8>,
    message: &'static str,
    object: &Map<String, Value>,
    path: &str,
    depth: usize,
) -> Result<(), ProtobufError> {
    if depth > MAX_DEPTH {
        return Err(wrong(path, "objects are nested too deep"));
    }
    for field in fields(message).map(Vec::as_slice).unwrap_or_default() {
        if field.inline
            && let Type::Message(of) = field.of
        {
            let mut nested = Vec::new();
            write_fields(&mut nested, of, object, path, depth + 1)?;
            if !field.nullable || !nested.is_empty() {
                put_bytes(out, field.number, &nested);
            }
            continue;
        }
        let Some(value) = object.get(field.name).filter(|value| !value.is_null()) else { continue };
        let path = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
        match field.cardinality {
            Cardinality::One => write(out, field, field.number, value, &path, depth)?,
            Cardinality::Repeated => {
                for item in value.as_array().ok_or_else(|| wrong(&path, "not a list"))? {
                    write(out, field, field.number, item, &path, depth)?;
                }
            }
            Cardinality::Map => {
                let entries = value.as_object().ok_or_else(|| wrong(&path, "not a map"))?;
                let mut keys: Vec<&String> = entries.keys().collect();
                keys.sort_unstable();
                for key in keys {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    write(&mut entry, field, 2, &entries[key], &path, depth)?;
                    put_bytes(out, field.number, &entry);
                }
            }
        }
    }
    Ok(())
}

fn write(
    out: &mut Vec<u8>,
    field: &Field,
    number: u32,
    value: &Value,
    path: &str,
    depth: usize,
) -> Result<(), ProtobufError> {
    if value.is_null() {
        // In a list or a map: the zero value.
        put_bytes(out, number, &[]);
        return Ok(());
    }
    match field.of {
        Type::String => {
            let text = value.as_str().ok_or_else(|| wrong(path, "not a text"))?;
            put_bytes(out, number, text.as_bytes());
        }
        Type::Bytes => put_bytes(out, number, &special::from_base64(path, value)?),
        Type::Bool => {
            put_integer(out, number, value.as_bool().ok_or_else(|| wrong(path, "not a boolean"))?.into());
        }
        Type::Integer => {
            put_integer(out, number, value.as_i64().ok_or_else(|| wrong(path, "not a whole number"))?);
        }
        Type::Double => {
            let value = value.as_f64().ok_or_else(|| wrong(path, "not a number"))?;
            put_fixed64(out, number, value.to_bits());
        }
        Type::Message(of) => {
            let mut nested = Vec::new();
            match special(of) {
                Some(special) => special::write(special, path, value, &mut nested)?,
                None => {
                    let object = value.as_object().ok_or_else(|| wrong(path, "not an object"))?;
                    write_fields(&mut nested, of, object, path, depth + 1)?;
                }
            }
            put_bytes(out, number, &nested);
        }
    }
    Ok(())
}

fn wrong(path: &str, problem: &str) -> ProtobufError {
    ProtobufError::Value { path: path.to_owned(), problem: problem.to_owned() }
}
