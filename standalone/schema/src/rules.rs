//! Walks an object along its shape: sets defaults, then looks for faults. The table `rules.txt` says what
//! holds of one field; hooks by definition say what holds between fields.

mod access;
mod endpoints;
pub mod form;
mod hooks;
mod job;
pub mod label_keys;
mod network;
mod objects;
mod pod;
mod pod_defaults;
mod pod_parts;
mod pod_update;
mod protection;
mod service;
pub mod status;
pub mod storage;
pub mod syntax;
mod workload;

use serde_json::{Map, Value};

use crate::{
    FieldError,
    shape::{Rule, Shape, Ty},
};

pub use pod_defaults::{admit as admit_pod, tolerate};
pub use pod_update::{ephemeral_update, pod_update};
pub use service::keep_allocated;
pub use workload::job_selector;

/// How many faults one answer names.
const MAX_ERRORS: usize = 64;

/// The faults found so far, at most [`MAX_ERRORS`].
#[derive(Debug, Default)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    pub fn push(&mut self, error: FieldError) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(error);
        }
    }

    /// Drops complaints that a wider view has an answer to.
    pub fn forget(&mut self, answered: impl Fn(&FieldError) -> bool) {
        self.0.retain(|error| !answered(error));
    }

    pub fn into_result(self) -> Result<(), Vec<FieldError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

pub fn index(path: &str, at: usize) -> String {
    format!("{path}[{at}]")
}

pub fn key(path: &str, name: &str) -> String {
    format!("{path}[{name}]")
}

pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Sets the defaults of an object and of what is in it.
pub fn defaults(shape: Shape, map: &mut Map<String, Value>) {
    for field in shape.fields() {
        if let Some(rule) = field.rule()
            && let Some(default) = rule.default
            && map.get(field.name()).is_none_or(|value| rule.zero_is_absent && is_zero(value))
        {
            let value = serde_json::from_str(default).unwrap_or(Value::Null);
            map.insert(field.name().to_owned(), value);
        }
    }
    hooks::defaults(shape.name(), map);
    for field in shape.fields() {
        if let Some(value) = map.get_mut(field.name()) {
            default_value(field.ty(), value);
        }
    }
}

fn default_value(ty: Ty, value: &mut Value) {
    if let Some(shape) = ty.shape() {
        if let Some(map) = value.as_object_mut() {
            defaults(shape, map);
        }
    } else if let Some(inner) = ty.inner() {
        if inner.shape().is_none() && inner.inner().is_none() {
            return;
        }
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| default_value(inner, item)),
            Value::Object(map) => map.values_mut().for_each(|item| default_value(inner, item)),
            _ => {}
        }
    }
}

fn is_zero(value: &Value) -> bool {
    value.as_str().is_some_and(str::is_empty) || value.as_i64() == Some(0)
}

/// Looks for faults in an object and in what is in it. `old` is what it replaces.
pub fn validate(
    shape: Shape,
    map: &Map<String, Value>,
    old: Option<&Map<String, Value>>,
    path: &str,
    errors: &mut Errors,
) {
    for field in shape.fields() {
        // The status belongs to controllers; the metadata has its own checks.
        if path.is_empty() && matches!(field.name(), "status" | "metadata" | "apiVersion" | "kind") {
            continue;
        }
        let value = map.get(field.name());
        let before = old.and_then(|old| old.get(field.name()));
        if let Some(rule) = field.rule() {
            rule_of_field(rule, field.ty(), value, before, old.is_some(), &join(path, field.name()), errors);
        }
        if let Some(value) = value {
            validate_value(field.ty(), value, before, &join(path, field.name()), errors);
        }
    }
    hooks::validate(shape.name(), map, old, path, errors);
}

fn validate_value(ty: Ty, value: &Value, old: Option<&Value>, path: &str, errors: &mut Errors) {
    if let (Some(shape), Some(map)) = (ty.shape(), value.as_object()) {
        validate(shape, map, old.and_then(Value::as_object), path, errors);
    } else if let Some(inner) = ty.inner() {
        if inner.shape().is_none() {
            return;
        }
        match value {
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    validate_value(inner, item, None, &index(path, at), errors);
                }
            }
            Value::Object(map) => {
                for (name, item) in map {
                    validate_value(inner, item, None, &key(path, name), errors);
                }
            }
            _ => {}
        }
    }
}

fn rule_of_field(
    rule: &Rule,
    ty: Ty,
    value: Option<&Value>,
    before: Option<&Value>,
    update: bool,
    path: &str,
    errors: &mut Errors,
) {
    let empty = match value {
        None => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty() && matches!(ty, Ty::Map(_)),
        _ => false,
    };
    if rule.immutable && update && value != before {
        let shown = value.unwrap_or(&Value::Null);
        errors.push(FieldError::invalid(path, shown, "field is immutable"));
    }
    let Some(value) = value.filter(|_| !empty) else {
        if rule.required {
            errors.push(FieldError::required(path, ""));
        }
        return;
    };
    let count = value.as_array().map_or(0, Vec::len).max(value.as_object().map_or(0, Map::len));
    if let Some(most) = rule.items.filter(|most| count > *most) {
        errors.push(FieldError::too_many(path, count, most));
        return;
    }
    if !rule.values.is_empty() {
        let mut sorted = rule.values.to_vec();
        sorted.sort_unstable();
        let mut check = |value: &Value, path: &str| {
            if value.as_str().is_some_and(|text| !rule.values.contains(&text)) {
                errors.push(FieldError::unsupported(path, value, &sorted));
            }
        };
        match value {
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(at, item)| check(item, &index(path, at)))
            }
            scalar => check(scalar, path),
        }
    }
    if let Some(number) = value.as_i64() {
        match (rule.min, rule.max) {
            (Some(min), Some(max)) if min > 0 && !(min..=max).contains(&number) => {
                errors.push(FieldError::invalid(
                    path,
                    value,
                    &format!("must be between {min} and {max}, inclusive"),
                ));
            }
            (Some(min), _) if number < min => {
                let detail = if min == 1 {
                    "must be greater than zero".to_owned()
                } else {
                    format!("must be greater than or equal to {min}")
                };
                errors.push(FieldError::invalid(path, value, &detail));
            }
            (_, Some(max)) if number > max => {
                errors.push(FieldError::invalid(
                    path,
                    value,
                    &format!("must be less than or equal to {max}"),
                ));
            }
            _ => {}
        }
    }
    if let Some(form) = rule.form {
        form::check(form, value, path, errors);
    }
}

#[cfg(test)]
mod tests;
