//! The smallest JSON merge patch (RFC 7386) between two values.

use serde::Serialize;
use serde_json::{Map, Value};

/// The merge patch that turns `old` into `new`, or `None` when they are equal already. Members that `new`
/// lacks become `null`, arrays are replaced whole (RFC 7386 knows no other way).
///
/// Both sides are what the API server would send: a `null` member counts as absent.
pub fn merge_diff<T: Serialize>(old: &T, new: &T) -> Option<Value> {
    let old = serde_json::to_value(old).ok()?;
    let new = serde_json::to_value(new).ok()?;
    diff(&old, &new)
}

fn diff(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (name, was) in old {
        match new.get(name) {
            None | Some(Value::Null) if !was.is_null() => {
                patch.insert(name.clone(), Value::Null);
            }
            None | Some(Value::Null) => {}
            Some(is) => {
                if let Some(part) = diff(was, is) {
                    patch.insert(name.clone(), part);
                }
            }
        }
    }
    for (name, is) in new {
        if !old.contains_key(name) && !is.is_null() {
            patch.insert(name.clone(), is.clone());
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn merge(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut target = if let Value::Object(map) = target { map } else { Map::new() };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                let was = target.remove(name).unwrap_or(Value::Null);
                target.insert(name.clone(), merge(was, value));
            }
        }
        Value::Object(target)
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0i64..4).prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn a_field_that_went_is_nulled_and_equal_values_need_no_patch() {
        let old = json!({"replicas": 3, "unavailableReplicas": 1});
        let new = json!({"replicas": 3});
        assert_eq!(merge_diff(&old, &new), Some(json!({"unavailableReplicas": null})));
        assert_eq!(merge_diff(&new, &new), None);
    }

    proptest! {
        #[test]
        fn applying_the_diff_gives_the_new_value(
            old in prop::collection::btree_map("[a-c]", json_value(), 0..4),
            new in prop::collection::btree_map("[a-c]", json_value(), 0..4),
        ) {
            let old = Value::Object(old.into_iter().collect());
            let new = Value::Object(new.into_iter().collect());
            match merge_diff(&old, &new) {
                None => prop_assert_eq!(old, new),
                Some(patch) => prop_assert_eq!(merge(old, &patch), new),
            }
        }
    }
}
