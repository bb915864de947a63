//! Strategic merge patch: lists merge by the keys of the shape's table; `$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList` and `$setElementOrder` direct it.
//!
//! Source: the API conventions' "Strategic Merge Patch" and kubectl's design notes on it.

use serde_json::{Map, Value};

use super::PatchError;
use crate::shape::{Field, Shape, Ty};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_PRIMITIVE: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

pub fn apply(shape: Shape, current: &Value, patch: Value) -> Result<Value, PatchError> {
    let (Value::Object(current), Value::Object(patch)) = (current.clone(), patch) else {
        return Err(PatchError::Malformed("the patch must be a JSON object".to_owned()));
    };
    merge_map(current, patch, Some(shape)).map(Value::Object)
}

fn bad(text: String) -> PatchError {
    PatchError::Malformed(text)
}

fn merge_map(
    mut current: Map<String, Value>,
    mut patch: Map<String, Value>,
    shape: Option<Shape>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.shift_remove(PATCH) {
        None => {}
        Some(Value::String(word)) => match word.as_str() {
            "replace" => return Ok(without_directives_map(patch)),
            "delete" => return Ok(Map::new()),
            "merge" => {}
            other => {
                return Err(bad(format!("unknown patch type {other:?}: $patch is replace, delete or merge")));
            }
        },
        Some(other) => {
            return Err(bad(format!("unknown patch type {other}: $patch is replace, delete or merge")));
        }
    }
    retain_keys(&mut current, &mut patch)?;
    let orders = take_prefixed(&mut patch, ORDER)?;
    for (name, items) in take_prefixed(&mut patch, DELETE_PRIMITIVE)? {
        if let Some(list) = current.get_mut(&name).and_then(Value::as_array_mut) {
            list.retain(|item| !items.contains(item));
        }
    }
    for (name, value) in patch {
        let field = shape.and_then(|shape| shape.field(&name));
        if value.is_null() {
            current.shift_remove(&name);
            continue;
        }
        let merged = match (current.get_mut(&name).map(Value::take), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                Value::Object(merge_map(old, new, field.and_then(|field| field.ty().shape()))?)
            }
            (Some(Value::Array(old)), Value::Array(new)) if field.is_some_and(Field::merges) => {
                Value::Array(merge_list(&name, old, new, field)?)
            }
            (_, new) => without_directives(new),
        };
        current.insert(name, merged);
    }
    for (name, order) in orders {
        let key = shape.and_then(|shape| shape.field(&name)).and_then(Field::merge_key);
        if let Some(list) = current.get_mut(&name).and_then(Value::as_array_mut) {
            *list = reorder(std::mem::take(list), &order, key);
        }
    }
    Ok(current)
}

fn retain_keys(current: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(kept) = patch.shift_remove(RETAIN) else { return Ok(()) };
    let Value::Array(kept) = kept else {
        return Err(bad(format!("{RETAIN} must be a list of field names")));
    };
    if let Some(name) =
        patch.iter().find(|(name, value)| !value.is_null() && !name.starts_with('$') && !names(&kept, name))
    {
        return Err(bad(format!("{RETAIN} does not name {:?}, which the patch sets", name.0)));
    }
    current.retain(|name, _| names(&kept, name));
    Ok(())
}

fn names(list: &[Value], name: &str) -> bool {
    list.iter().any(|item| item == name)
}

fn take_prefixed(
    patch: &mut Map<String, Value>,
    prefix: &str,
) -> Result<Vec<(String, Vec<Value>)>, PatchError> {
    let keys: Vec<String> = patch.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
    keys.into_iter()
        .map(|key| match patch.shift_remove(&key) {
            Some(Value::Array(items)) => Ok((key[prefix.len()..].to_owned(), items)),
            _ => Err(bad(format!("{key} must be a list"))),
        })
        .collect()
}

fn merge_list(
    name: &str,
    mut old: Vec<Value>,
    new: Vec<Value>,
    field: Option<&'static Field>,
) -> Result<Vec<Value>, PatchError> {
    let Some(key) = field.and_then(Field::merge_key) else {
        // A set of scalars.
        for item in new {
            if !old.contains(&item) {
                old.push(item);
            }
        }
        return Ok(old);
    };
    let shape = field.and_then(|field| field.ty().inner()).and_then(Ty::shape);
    if new.iter().any(|item| item[PATCH] == "replace") {
        return Ok(new.into_iter().filter(|item| item[PATCH] != "replace").map(without_directives).collect());
    }
    for item in new {
        let Value::Object(mut item) = item else {
            return Err(bad(format!("{name}: an item of the patch must be an object")));
        };
        let Some(value) = item.get(key).cloned() else {
            return Err(bad(format!(
                "map: {} does not contain declared merge key: {key}",
                Value::Object(item)
            )));
        };
        match item.get(PATCH).and_then(Value::as_str) {
            Some("delete") => {
                old.retain(|have| have[key] != value);
                continue;
            }
            Some("merge") => {
                item.shift_remove(PATCH);
            }
            None if !item.contains_key(PATCH) => {}
            _ => {
                return Err(bad(format!(
                    "{name}: unknown patch type {}: $patch is replace, delete or merge",
                    item[PATCH]
                )));
            }
        }
        match old.iter_mut().find(|have| have[key] == value) {
            Some(Value::Object(have)) => *have = merge_map(std::mem::take(have), item, shape)?,
            _ => old.push(without_directives(Value::Object(item))),
        }
    }
    Ok(old)
}

/// Items that `order` names come in its order; the others (added by someone else) keep their place among themselves and
/// before the first named item that stood behind them.
fn reorder(list: Vec<Value>, order: &[Value], key: Option<&str>) -> Vec<Value> {
    let identity = |item: &Value| key.map_or_else(|| item.clone(), |key| item[key].clone());
    let wanted: Vec<Value> = order.iter().map(identity).collect();
    let (mut named, others): (Vec<_>, Vec<_>) =
        list.into_iter().enumerate().partition(|(_, item)| wanted.contains(&identity(item)));
    named.sort_by_key(|(_, item)| wanted.iter().position(|want| *want == identity(item)));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (at, item) in named {
        while let Some((_, other)) = others.next_if(|(place, _)| *place < at) {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others.map(|(_, item)| item));
    out
}

/// What is set where nothing was: the patch without its directives, nulls and deleted items.
fn without_directives(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_directives_map(map)),
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .filter(|item| item[PATCH] != "delete" && item[PATCH] != "replace")
                .map(without_directives)
                .collect(),
        ),
        other => other,
    }
}

fn without_directives_map(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .filter(|(name, value)| {
            !value.is_null()
                && name != PATCH
                && name != RETAIN
                && !name.starts_with(ORDER)
                && !name.starts_with(DELETE_PRIMITIVE)
        })
        .map(|(name, value)| (name, without_directives(value)))
        .collect()
}
