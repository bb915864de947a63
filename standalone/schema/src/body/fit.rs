//! Whether a tree fits a shape: unknown fields go (and are named), wrong types are an error in Go's words,
//! quantities, times and base64 get their canonical form, and times that no reader can do without are there.
//!
//! What passes here can be read by every client with typed objects: Go's zero time, which it writes as null
//! and reads as null, is written out for those that don't.

use base64::{
    Engine, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use serde_json::{Map, Value};
use skerry_vocabulary::{Quantity, time as written};

use super::tree::MAX_REPORTED;
use crate::{
    shape::{Shape, Ty},
    time,
};

pub struct Fit {
    /// Paths of fields that the shape does not have.
    pub unknown: Vec<String>,
    path: Vec<Step>,
}

enum Step {
    Field(&'static str),
    Key(String),
    Index(usize),
}

impl Fit {
    /// Fits the fields of one object in place.
    ///
    /// # Errors
    /// The text behind `cannot be handled as a KIND: `.
    pub fn object(shape: Shape, map: &mut Map<String, Value>) -> Result<Fit, String> {
        let mut fit = Fit { unknown: Vec::new(), path: Vec::new() };
        fit.fields(shape, map)?;
        Ok(fit)
    }

    fn fields(&mut self, shape: Shape, map: &mut Map<String, Value>) -> Result<(), String> {
        let mut outcome = Ok(());
        map.retain(|name, value| {
            if outcome.is_err() {
                return true;
            }
            let Some(field) = shape.field(name) else {
                if self.unknown.len() < MAX_REPORTED {
                    self.unknown.push(self.shown(name));
                }
                return false;
            };
            if value.is_null() {
                return false;
            }
            self.path.push(Step::Field(field.name()));
            outcome = self.value(field.ty(), value, shape);
            self.path.pop();
            true
        });
        for field in shape.fields().iter().filter(|field| field.needs_time()) {
            map.entry(field.name()).or_insert_with(|| zero(field.ty()));
        }
        outcome
    }

    fn value(&mut self, ty: Ty, value: &mut Value, within: Shape) -> Result<(), String> {
        let fits = match (ty, &*value) {
            (Ty::Any, _) => return Ok(()),
            // The object, unless it is the other thing.
            (Ty::Either(..), other) if !other.is_object() => {
                return match ty.alternative() {
                    Some(alternative) => self.value(alternative, value, within),
                    None => Ok(()),
                };
            }
            (Ty::String, Value::String(_)) | (Ty::Bool, Value::Bool(_)) | (Ty::Number, Value::Number(_)) => {
                true
            }
            (Ty::Int32, Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Ty::Int64, Value::Number(number)) => number.as_i64().is_some(),
            (Ty::IntOrString, Value::Number(number)) => {
                number.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
            }
            (Ty::IntOrString, Value::String(_)) => true,
            (Ty::Bytes, Value::String(text)) => {
                *value = Value::String(canonical_base64(text)?);
                return Ok(());
            }
            (Ty::Time | Ty::MicroTime, Value::String(text)) => {
                let parsed = time::parse(text).ok_or_else(|| {
                    format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\"")
                })?;
                let shown = if ty == Ty::Time { written::seconds(parsed) } else { written::micros(parsed) };
                *value = Value::String(shown);
                return Ok(());
            }
            (Ty::Quantity, Value::String(_) | Value::Number(_)) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let quantity = Quantity::parse(&text).map_err(|error| error.to_string())?;
                *value = Value::String(quantity.canonical());
                return Ok(());
            }
            (Ty::List(_), Value::Array(_))
            | (Ty::Map(_) | Ty::Object(_) | Ty::Either(..), Value::Object(_)) => true,
            _ => false,
        };
        if !fits {
            return Err(self.mismatch(ty, value, within));
        }
        match value {
            Value::Array(items) => {
                let Some(inner) = ty.inner() else { return Ok(()) };
                for (index, item) in items.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = zero(inner);
                    }
                    self.path.push(Step::Index(index));
                    self.value(inner, item, within)?;
                    self.path.pop();
                }
            }
            Value::Object(map) => {
                if let Some(shape) = ty.shape() {
                    return self.fields(shape, map);
                }
                let Some(inner) = ty.inner() else { return Ok(()) };
                for (key, item) in map.iter_mut() {
                    if item.is_null() {
                        *item = zero(inner);
                    }
                    self.path.push(Step::Key(key.clone()));
                    self.value(inner, item, within)?;
                    self.path.pop();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn mismatch(&self, ty: Ty, value: &Value, within: Shape) -> String {
        let what = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if matches!(ty, Ty::Int32 | Ty::Int64) => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let names: Vec<&str> = self
            .path
            .iter()
            .filter_map(|step| if let Step::Field(name) = step { Some(*name) } else { None })
            .collect();
        format!(
            "json: cannot unmarshal {what} into Go struct field {}.{} of type {}",
            within.short_name(),
            names.join("."),
            ty.go_name()
        )
    }

    fn shown(&self, last: &str) -> String {
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => out.push_str(&format!("[{index}]")),
                Step::Field(name) => push(&mut out, name),
                Step::Key(key) => push(&mut out, key),
            }
        }
        push(&mut out, last);
        out
    }
}

fn push(out: &mut String, name: &str) {
    if !out.is_empty() {
        out.push('.');
    }
    out.push_str(name);
}

/// What Go leaves where a list or map says `null`.
fn zero(ty: Ty) -> Value {
    match ty {
        Ty::String | Ty::Bytes => Value::from(""),
        Ty::Int32 | Ty::Int64 | Ty::Number | Ty::IntOrString | Ty::Quantity => Value::from(0),
        Ty::Bool => Value::from(false),
        Ty::List(_) => Value::Array(Vec::new()),
        Ty::Map(_) | Ty::Object(_) => Value::Object(Map::new()),
        Ty::Time => Value::from(time::ZERO_SECONDS),
        Ty::MicroTime => Value::from(time::ZERO_MICROS),
        Ty::Either(..) => ty.alternative().map_or(Value::Null, zero),
        Ty::Any => Value::Null,
    }
}

/// As an encoder would have written it: Go passes over line ends and the last digit's spare bits, other
/// readers don't.
fn canonical_base64(text: &str) -> Result<String, String> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    let fault = |at: usize| format!("illegal base64 data at input byte {at}");
    if let Some(at) = base64_fault(text) {
        return Err(fault(at));
    }
    let joined: String = text.chars().filter(|digit| !matches!(digit, '\r' | '\n')).collect();
    match LENIENT.decode(&joined) {
        Ok(bytes) => Ok(STANDARD.encode(bytes)),
        Err(_) => Err(fault(text.len())),
    }
}

/// The first byte at which `text` is not padded standard base64 (RFC 4648, section 4).
pub fn base64_fault(text: &str) -> Option<usize> {
    let bytes: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, byte)| !matches!(byte, b'\r' | b'\n')).collect();
    let data = bytes
        .iter()
        .take_while(|(_, byte)| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
        .count();
    let padding = &bytes[data..];
    if let Some((at, _)) = padding.iter().find(|(_, byte)| *byte != b'=') {
        return Some(*at);
    }
    let whole = bytes.len().is_multiple_of(4) && padding.len() <= 2;
    (!whole).then(|| padding.get(2).map_or(text.len(), |(at, _)| *at))
}
