//! From the status that is stored to the one that is wanted: a strategic merge patch of what the node owns,
//! or nothing.

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::PodStatus, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::{Map, Value, json};

use super::{conditions::RESIZE, status::time};
use crate::stored::bare;

/// Fields of the status that only a pod's node writes; others in it are left alone.
const OWNED: [&str; 13] = [
    "containerStatuses",
    "ephemeralContainerStatuses",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "observedGeneration",
    "phase",
    "podIP",
    "podIPs",
    "qosClass",
    "reason",
    "startTime",
];

/// A patch that makes the `stored` status the `wanted` one; `None` when they agree in all that the node owns.
/// Of a condition the time of its last transition is not compared: the stored one stays while the state
/// stays.
pub fn status_patch(uid: &str, stored: &PodStatus, wanted: &PodStatus, now: Timestamp) -> Option<Value> {
    let (from, to) = (object(stored), object(wanted));
    let mut changes = Map::new();
    for key in OWNED {
        let (old, new) = (from.get(key), to.get(key));
        if old.and_then(bare) == new.and_then(bare) {
            continue;
        }
        let change = match (key, new) {
            // Merged by address on the server: only a replacement makes old ones go.
            ("podIPs" | "hostIPs", Some(Value::Array(list))) if old.is_some() => {
                std::iter::once(json!({"$patch": "replace"})).chain(list.iter().cloned()).collect()
            }
            (_, new) => new.cloned().unwrap_or(Value::Null),
        };
        changes.insert(key.to_owned(), change);
    }
    // Merged by type on the server: others' conditions stay.
    let conditions = conditions(&from, &to, now);
    if !conditions.is_empty() {
        changes.insert("conditions".to_owned(), Value::Array(conditions));
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

fn conditions(from: &Map<String, Value>, to: &Map<String, Value>, now: Timestamp) -> Vec<Value> {
    let list = |status: &Map<String, Value>| {
        status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let stored = list(from);
    let mut changes = Vec::new();
    for wanted in list(to) {
        let old = stored.iter().find(|old| old["type"] == wanted["type"]);
        if old.is_some_and(|old| without_times(old) == without_times(&wanted) && !transition(old).is_null()) {
            continue;
        }
        let mut change = wanted;
        if let Some(old) = old {
            settle_transition(&mut change, old, now);
            fill_with_nulls(&mut change, old);
        }
        changes.push(change);
    }
    let wanted = list(to);
    let over = stored.iter().filter(|old| RESIZE.iter().any(|kind| old["type"] == *kind));
    for old in over.filter(|old| wanted.iter().all(|wanted| wanted["type"] != old["type"])) {
        changes.push(json!({"$patch": "delete", "type": old["type"]}));
    }
    changes
}

/// The time of the last transition: the stored one while the state is the same; later than the stored one
/// otherwise, also where the wanted state is older than what somebody else wrote in between.
fn settle_transition(change: &mut Value, old: &Value, now: Timestamp) {
    let at = |condition: &Value| serde_json::from_value::<Time>(transition(condition)).ok();
    if old["status"] == change["status"] {
        if let Some(kept) = at(old) {
            change["lastTransitionTime"] = json!(kept);
        }
    } else if at(old).is_some_and(|old| at(change).is_none_or(|new| new <= old)) {
        change["lastTransitionTime"] = json!(time(now));
    }
}

fn transition(condition: &Value) -> Value {
    condition.get("lastTransitionTime").cloned().unwrap_or(Value::Null)
}

fn without_times(condition: &Value) -> Option<Value> {
    let mut condition = condition.clone();
    if let Some(condition) = condition.as_object_mut() {
        condition.retain(|key, _| key != "lastTransitionTime" && key != "lastProbeTime");
    }
    bare(&condition)
}

/// `null` for what the older condition had and the new one has not: merged by fields, it would stay.
fn fill_with_nulls(change: &mut Value, old: &Value) {
    if let (Some(old), Some(change)) = (old.as_object(), change.as_object_mut()) {
        for key in old.keys() {
            change.entry(key.clone()).or_insert(Value::Null);
        }
    }
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    fn patch(from: Value, to: Value) -> Option<Value> {
        status_patch("u", &status(from), &status(to), at(60)).map(|patch| patch["status"].clone())
    }

    #[test]
    fn only_changes_are_sent_and_conditions_of_others_are_left_alone() {
        let from = json!({"phase": "Pending", "startTime": "2026-01-01T00:00:00Z", "message": "m",
            "nominatedNodeName": "n",
            "conditions": [{"type": "A", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Other", "status": "True"}, {"type": "B", "status": "False", "reason": "Why"}]});
        let to = json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "A", "status": "True"}, {"type": "B", "status": "True"}]});
        let expected = json!({"phase": "Running", "message": null,
            "conditions": [{"type": "B", "status": "True", "reason": null}]});
        assert_eq!(patch(from, to), Some(expected));
    }

    #[test]
    fn a_status_that_others_emptied_is_written_whole() {
        let wanted = json!({"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        assert_eq!(patch(json!({}), wanted.clone()), Some(wanted));
    }

    #[test]
    fn what_a_server_adds_or_leaves_out_without_meaning_is_no_difference() {
        let container = json!({"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0});
        let mut filled = container.clone();
        filled["lastState"] = json!({});
        filled["resources"] = json!({"limits": {}});
        let status = |container: &Value| json!({"containerStatuses": [container]});
        assert_eq!(patch(status(&filled), status(&container)), None);
    }

    #[test]
    fn a_condition_of_a_resize_goes_when_it_is_over() {
        let from = json!({"conditions": [{"type": "PodResizePending", "status": "True"}]});
        let over = json!({"conditions": [{"$patch": "delete", "type": "PodResizePending"}]});
        assert_eq!(patch(from, json!({})), Some(over));
    }

    #[test]
    fn a_new_address_takes_the_old_ones_place() {
        let change = patch(json!({"podIPs": [{"ip": "10.0.0.1"}]}), json!({"podIPs": [{"ip": "10.0.0.2"}]}));
        assert_eq!(change.unwrap()["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.0.0.2"}]));
    }

    #[test]
    fn a_condition_that_others_turned_turns_back_later_than_they_wrote_and_keeps_its_time_otherwise() {
        let ready = |status: &str, at_s: i64| json!({"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": time(at(at_s))}]});
        assert_eq!(patch(ready("True", 50), ready("True", 0)), None);
        let back = patch(ready("False", 50), ready("True", 0)).unwrap();
        assert_eq!(back["conditions"][0]["lastTransitionTime"], json!(time(at(60))));
        let on = patch(ready("False", 0), ready("True", 30)).unwrap();
        assert_eq!(on["conditions"][0]["lastTransitionTime"], json!(time(at(30))));
    }
}
