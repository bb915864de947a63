//! What one object may be, however it came about: a body, what a patch made of it, what defaults added. The
//! bounds hold before anything recurses over the value.

use serde_json::Value;

use crate::{FieldError, Reason};

/// How deep lists and objects may nest. Lists, watch events and tables put up to three more levels around an
/// object, and readers (serde_json among them) give up at 127.
pub const MAX_DEPTH: usize = 120;

/// Bytes of JSON, about.
pub const MAX_BYTES: usize = 3 << 20;

/// Scalars, lists and objects together: an EndpointSlice of 1,000 endpoints with 100 addresses each has
/// 110,000.
pub const MAX_VALUES: usize = 150_000;

/// Entries of any one list or map. Some have less by the table of rules.
pub const MAX_ITEMS: usize = 10_000;

/// Which bound does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    #[error("exceeded max depth {MAX_DEPTH}")]
    Depth,
    #[error("an object may not be more than {MAX_BYTES} bytes")]
    Bytes,
    #[error("an object must have at most {MAX_VALUES} values")]
    Values,
    #[error("a list or map must have at most {MAX_ITEMS} items, got {0}")]
    Items(usize),
}

impl From<Excess> for FieldError {
    fn from(excess: Excess) -> FieldError {
        let (reason, head) = match excess {
            Excess::Depth | Excess::Bytes => (Reason::TooLong, "Too long"),
            Excess::Values | Excess::Items(_) => (Reason::TooMany, "Too many"),
        };
        FieldError { reason, field: String::new(), message: format!("{head}: {excess}") }
    }
}

/// Holds `value` to all bounds.
///
/// # Errors
/// The first bound found broken.
pub fn check(value: &Value) -> Result<(), Excess> {
    let (mut bytes, mut values) = (0, 0);
    walk(value, |value, depth| {
        if depth > MAX_DEPTH {
            return Err(Excess::Depth);
        }
        let items = match value {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        };
        if items > MAX_ITEMS {
            return Err(Excess::Items(items));
        }
        values += 1;
        bytes += own_bytes(value);
        match (bytes > MAX_BYTES, values > MAX_VALUES) {
            (true, _) => Err(Excess::Bytes),
            (_, true) => Err(Excess::Values),
            _ => Ok(()),
        }
    })
}

/// How many levels are below `value`'s own: 0 for a scalar and for an empty list.
pub fn depth(value: &Value) -> usize {
    let mut deepest = 0;
    let outcome: Result<(), std::convert::Infallible> = walk(value, |_, depth| {
        deepest = deepest.max(depth);
        Ok(())
    });
    match outcome {
        Ok(()) => deepest,
    }
}

/// About how many bytes of JSON `value` is.
pub fn bytes(value: &Value) -> usize {
    let mut bytes = 0;
    let outcome: Result<(), std::convert::Infallible> = walk(value, |value, _| {
        bytes += own_bytes(value);
        Ok(())
    });
    match outcome {
        Ok(()) => bytes,
    }
}

/// Bytes of a scalar; of a list or map what stands around its items.
fn own_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.len(),
        Value::Object(map) => 2 + map.keys().map(|key| key.len() + 4).sum::<usize>(),
        _ => 5,
    }
}

/// Shows every value with its depth. With a stack of its own: it is what comes before recursion.
fn walk<E>(value: &Value, mut see: impl FnMut(&Value, usize) -> Result<(), E>) -> Result<(), E> {
    let mut waiting = vec![(value, 0)];
    while let Some((value, depth)) = waiting.pop() {
        see(value, depth)?;
        match value {
            Value::Array(items) => waiting.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => waiting.extend(map.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!({}), |inner, _| json!({"a": inner}))
    }

    #[test]
    fn every_bound_holds_to_the_last_value() {
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(check(&nested(MAX_DEPTH + 1)), Err(Excess::Depth));
        assert_eq!(check(&json!(vec![0; MAX_ITEMS])), Ok(()));
        assert_eq!(check(&json!(vec![0; MAX_ITEMS + 1])), Err(Excess::Items(MAX_ITEMS + 1)));
        let rows = MAX_VALUES / 1000;
        assert_eq!(check(&json!(vec![vec![0; 999]; rows - 1])), Ok(()));
        assert_eq!(check(&json!(vec![vec![0; 999]; rows])), Err(Excess::Values));
        assert_eq!(check(&json!("x".repeat(MAX_BYTES - 2))), Ok(()));
        assert_eq!(check(&json!({"a": "x".repeat(MAX_BYTES)})), Err(Excess::Bytes));
    }

    #[test]
    fn depth_and_bytes_are_those_of_the_text() {
        assert_eq!((depth(&json!(1)), depth(&json!({"a": [1]})), depth(&nested(50))), (0, 2, 50));
        assert_eq!(bytes(&json!({"ab": ["c"]})), r#"{"ab": ["c"]} "#.len());
    }
}
