//! Strategic merge patch: lists merge by the keys of the shape's table; `$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList` and `$setElementOrder` direct it.
//!
//! Source: the API conventions' "Strategic Merge Patch" and kubectl's design notes on it.

use std::collections::{HashMap, HashSet};

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
    let (mut orders, mut deletions, mut fields) = (Vec::new(), Vec::new(), Vec::new());
    let mut removed: HashSet<String> = HashSet::new();
    for (name, value) in patch {
        if let Some(name) = name.strip_prefix(ORDER) {
            orders.push((name.to_owned(), list_of(ORDER, name, value)?));
        } else if let Some(name) = name.strip_prefix(DELETE_PRIMITIVE) {
            deletions.push((name.to_owned(), list_of(DELETE_PRIMITIVE, name, value)?));
        } else if value.is_null() {
            removed.insert(name);
        } else {
            fields.push((name, value));
        }
    }
    // Once for all: taking them out one by one costs the square of a big map.
    if !removed.is_empty() {
        current.retain(|name, _| !removed.contains(name));
    }
    for (name, items) in deletions {
        if let Some(list) = current.get_mut(&name).and_then(Value::as_array_mut) {
            let gone: HashSet<String> = items.iter().map(Value::to_string).collect();
            list.retain(|item| !gone.contains(&item.to_string()));
        }
    }
    for (name, value) in fields {
        let field = shape.and_then(|shape| shape.field(&name));
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
    let kept: HashSet<&str> = kept.iter().filter_map(Value::as_str).collect();
    let stray = patch
        .iter()
        .find(|(name, value)| !value.is_null() && !name.starts_with('$') && !kept.contains(name.as_str()));
    if let Some((name, _)) = stray {
        return Err(bad(format!("{RETAIN} does not name {name:?}, which the patch sets")));
    }
    current.retain(|name, _| kept.contains(name.as_str()));
    Ok(())
}

fn list_of(directive: &str, name: &str, value: Value) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(bad(format!("{directive}{name} must be a list"))),
    }
}

fn merge_list(
    name: &str,
    old: Vec<Value>,
    new: Vec<Value>,
    field: Option<&'static Field>,
) -> Result<Vec<Value>, PatchError> {
    let Some(key) = field.and_then(Field::merge_key) else {
        // A set of scalars.
        let mut have: HashSet<String> = old.iter().map(Value::to_string).collect();
        let added = new.into_iter().filter(|item| have.insert(item.to_string())).collect::<Vec<_>>();
        return Ok(old.into_iter().chain(added).collect());
    };
    let shape = field.and_then(|field| field.ty().inner()).and_then(Ty::shape);
    if new.iter().any(|item| item[PATCH] == "replace") {
        return Ok(new.into_iter().filter(|item| item[PATCH] != "replace").map(without_directives).collect());
    }
    let mut items = Vec::with_capacity(new.len());
    let mut deleted: HashSet<String> = HashSet::new();
    for item in new {
        let Value::Object(mut item) = item else {
            return Err(bad(format!("{name}: an item of the patch must be an object")));
        };
        let Some(value) = item.get(key).map(Value::to_string) else {
            let item = Value::Object(item);
            return Err(bad(format!("map: {item} does not contain declared merge key: {key}")));
        };
        match item.shift_remove(PATCH) {
            None => items.push((value, item)),
            Some(word) if word == "merge" => items.push((value, item)),
            Some(word) if word == "delete" => {
                deleted.insert(value);
            }
            Some(word) => {
                return Err(bad(format!(
                    "{name}: unknown patch type {word}: $patch is replace, delete or merge"
                )));
            }
        }
    }
    // A merge key need not be unique (a Service's ports 53/TCP and 53/UDP): a deletion takes all that have
    // it, before anything is merged into the first.
    let mut merged = old;
    merged.retain(|item| !deleted.contains(&item[key].to_string()));
    let mut places: HashMap<String, usize> = HashMap::new();
    for (at, item) in merged.iter().enumerate() {
        places.entry(item[key].to_string()).or_insert(at);
    }
    for (value, item) in items {
        match places.get(&value).and_then(|at| merged[*at].as_object_mut()) {
            Some(have) => *have = merge_map(std::mem::take(have), item, shape)?,
            None => {
                places.insert(value, merged.len());
                merged.push(without_directives(Value::Object(item)));
            }
        }
    }
    Ok(merged)
}

/// Items that `order` names come in its order; the others (added by someone else) keep their place among
/// themselves and before the first named item that stood behind them.
fn reorder(list: Vec<Value>, order: &[Value], key: Option<&str>) -> Vec<Value> {
    let identity = |item: &Value| key.map_or_else(|| item.to_string(), |key| item[key].to_string());
    let mut wanted: HashMap<String, usize> = HashMap::new();
    for (at, item) in order.iter().enumerate() {
        wanted.entry(identity(item)).or_insert(at);
    }
    let (mut named, mut others) = (Vec::new(), Vec::new());
    let total = list.len();
    for (at, item) in list.into_iter().enumerate() {
        match wanted.get(&identity(&item)) {
            Some(place) => named.push((*place, at, item)),
            None => others.push((at, item)),
        }
    }
    named.sort_by_key(|(place, at, _)| (*place, *at));
    let mut out = Vec::with_capacity(total);
    let mut others = others.into_iter().peekable();
    for (_, at, item) in named {
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
