//! Rules as rows: an object that is accepted, one change to it, and upstream's complaint.

use serde_json::{Value, json};

use crate::{Format, decode, find_kind, prepare_create, prepare_update};

mod jobs;
mod network;
mod pods;
mod sets;

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn made(api_version: &str, kind: &str, object: Value) -> Result<Value, Vec<String>> {
    let mut object = decode(api_version, kind, object.to_string().as_bytes(), Format::Json).unwrap().value;
    for (name, value) in [("name", "x"), ("namespace", "default"), ("uid", "u-1")] {
        object["metadata"][name] = json!(value);
    }
    let told =
        |errors: Vec<crate::FieldError>| errors.iter().map(ToString::to_string).collect::<Vec<String>>();
    prepare_create(find_kind(api_version, kind).unwrap(), &mut object, now()).map_err(told)?;
    Ok(object)
}

fn updated(
    api_version: &str,
    kind: &str,
    old: &Value,
    mut new: Value,
    subresource: Option<&str>,
) -> Result<Value, Vec<String>> {
    let told =
        |errors: Vec<crate::FieldError>| errors.iter().map(ToString::to_string).collect::<Vec<String>>();
    prepare_update(find_kind(api_version, kind).unwrap(), old, &mut new, subresource, now()).map_err(told)?;
    Ok(new)
}

/// `object` with each value put at its JSON pointer, parents made.
fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        let mut place = &mut object;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/");
            place = match step.parse::<usize>() {
                Ok(at) if place.is_array() => &mut place[at],
                _ => &mut place[step],
            };
        }
        *place = value.clone();
    }
    object
}

fn hold(api_version: &str, kind: &str, base: &Value, rows: &[(Vec<(&str, Value)>, &str)]) {
    made(api_version, kind, base.clone()).unwrap();
    for (changes, complaint) in rows {
        match (made(api_version, kind, with(base.clone(), changes)), *complaint) {
            (Ok(_), "") => {}
            (Ok(_), complaint) => panic!("{changes:?} is accepted, not refused with {complaint:?}"),
            (Err(errors), "") => panic!("{changes:?}: {errors:?}"),
            (Err(errors), complaint) => {
                assert!(errors.iter().any(|error| error.starts_with(complaint)), "{changes:?}: {errors:?}");
            }
        }
    }
}

fn job() -> Value {
    json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "a"}]}}}})
}
