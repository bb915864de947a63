//! Applies a [`Form`] to a field's value.

use serde_json::{Map, Value};
use skerry_vocabulary::Quantity;

use super::{Errors, index, key, syntax};
use crate::{FieldError, shape::Form};

/// Complains about what in `value` (a scalar, or a list or map of them) has not the form.
pub fn check(form: Form, value: &Value, path: &str, errors: &mut Errors) {
    match (form, value) {
        (Form::Labels, Value::Object(map)) => labels(map, path, errors),
        (Form::Resources, Value::Object(map)) => resources(map, path, errors),
        (Form::Selector, Value::Object(map)) => selector(map, path, errors),
        (_, Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                check(form, item, &index(path, at), errors);
            }
        }
        (_, Value::String(text)) if text.is_empty() => {}
        _ => {
            if let Some(complaint) = scalar(form, value) {
                errors.push(FieldError::invalid(path, value, &complaint));
            }
        }
    }
}

fn scalar(form: Form, value: &Value) -> Option<String> {
    let text = value.as_str();
    let number = value.as_i64();
    match form {
        Form::Label => text.and_then(syntax::label),
        Form::Subdomain => text.and_then(syntax::subdomain),
        Form::Label1035 => text.and_then(syntax::label_1035),
        Form::QualifiedName => text.and_then(syntax::qualified_name),
        Form::LabelValue => text.and_then(syntax::label_value),
        Form::PortName => text.and_then(syntax::port_name),
        Form::PortOrName => number.map_or_else(|| text.and_then(syntax::port_name), syntax::port),
        Form::PortNumber => number.and_then(syntax::port),
        Form::Port => number.filter(|number| *number != 0).and_then(syntax::port),
        Form::Ip => text.and_then(syntax::ip),
        Form::Cidr => text.and_then(syntax::cidr),
        Form::AbsolutePath => {
            text.filter(|text| !text.starts_with('/')).map(|_| "must be an absolute path".to_owned())
        }
        Form::LocalPath => text.and_then(syntax::local_path),
        Form::EnvName => text.and_then(syntax::env_name),
        Form::ConfigKey => text.and_then(syntax::config_key),
        Form::Cron => text.and_then(syntax::cron),
        Form::TimeZone => text.and_then(syntax::time_zone),
        Form::NotNegative => text.and_then(not_negative),
        Form::CountOrPercent => count_or_percent(value),
        Form::Labels | Form::Resources | Form::Selector => None,
    }
}

fn not_negative(text: &str) -> Option<String> {
    let quantity = Quantity::parse(text).ok()?;
    (quantity.nano() < 0).then(|| "must be greater than or equal to 0".to_owned())
}

fn count_or_percent(value: &Value) -> Option<String> {
    if let Some(number) = value.as_i64() {
        return (number < 0).then(|| "must be greater than or equal to 0".to_owned());
    }
    let text = value.as_str()?;
    let digits = text.strip_suffix('%');
    let good =
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    let complaint = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
         regex used for validation is '[0-9]+%')";
    (!good).then(|| complaint.to_owned())
}

/// Labels of one object, or of one selector.
const MAX_LABELS: usize = 1000;

/// A map of labels: both sides.
pub fn labels(map: &Map<String, Value>, path: &str, errors: &mut Errors) {
    if map.len() > MAX_LABELS {
        errors.push(FieldError::too_many(path, map.len(), MAX_LABELS));
        return;
    }
    for (name, value) in map {
        let shown = Value::from(name.as_str());
        if let Some(complaint) = syntax::qualified_name(name) {
            errors.push(FieldError::invalid(path, &shown, &complaint));
        }
        if let Some(complaint) = value.as_str().and_then(syntax::label_value) {
            errors.push(FieldError::invalid(path, value, &complaint));
        }
    }
}

fn resources(map: &Map<String, Value>, path: &str, errors: &mut Errors) {
    for (name, value) in map {
        let at = key(path, name);
        if let Some(complaint) = syntax::qualified_name(name) {
            errors.push(FieldError::invalid(&at, &Value::from(name.as_str()), &complaint));
        }
        if let Some(complaint) = value.as_str().and_then(not_negative) {
            errors.push(FieldError::invalid(&at, value, &complaint));
        }
    }
}

/// A `LabelSelector`.
pub fn selector(map: &Map<String, Value>, path: &str, errors: &mut Errors) {
    if let Some(Value::Object(wanted)) = map.get("matchLabels") {
        labels(wanted, &format!("{path}.matchLabels"), errors);
    }
    let Some(Value::Array(expressions)) = map.get("matchExpressions") else { return };
    for (at, expression) in expressions.iter().enumerate() {
        let path = index(&format!("{path}.matchExpressions"), at);
        let values = expression["values"].as_array().map_or(0, Vec::len);
        match expression["operator"].as_str() {
            Some("In" | "NotIn") if values == 0 => errors.push(FieldError::required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            Some("Exists" | "DoesNotExist") if values > 0 => errors.push(FieldError::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            Some("In" | "NotIn" | "Exists" | "DoesNotExist") => {}
            _ => {
                let given = &expression["operator"];
                let given = if given.is_null() { &Value::from("") } else { given };
                errors.push(FieldError::invalid(
                    format!("{path}.operator"),
                    given,
                    "not a valid selector operator",
                ));
            }
        }
        let name = expression["key"].as_str().unwrap_or_default();
        if let Some(complaint) = syntax::qualified_name(name) {
            errors.push(FieldError::invalid(format!("{path}.key"), &Value::from(name), &complaint));
        }
        for (at, value) in expression["values"].as_array().into_iter().flatten().enumerate() {
            if let Some(complaint) = value.as_str().and_then(syntax::label_value) {
                errors.push(FieldError::invalid(index(&format!("{path}.values"), at), value, &complaint));
            }
        }
    }
}
