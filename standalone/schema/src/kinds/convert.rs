//! Two faces of one stored object: events of the core group and of events.k8s.io, autoscalers v1 and v2.

use serde_json::{Map, Value, json};

use super::Kind;

/// Turns an object of `kind` into the form it is stored in (core/v1 Event, autoscaling/v2). Other kinds stay.
pub fn to_storage(kind: &Kind, object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    match (kind.group, kind.version, kind.kind) {
        ("events.k8s.io", "v1", "Event") => {
            rename(map, EVENT_FIELDS.iter().map(|&(core, new)| (new, core)));
            map.insert("apiVersion".into(), json!("v1"));
        }
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler_to_v2(map),
        _ => {}
    }
}

/// The way back: a stored object as `kind` shows it.
pub fn from_storage(kind: &Kind, object: &mut Value) {
    let Some(map) = object.as_object_mut() else { return };
    match (kind.group, kind.version, kind.kind) {
        ("events.k8s.io", "v1", "Event") => {
            rename(map, EVENT_FIELDS.iter().copied());
            fill_series(map);
            map.insert("apiVersion".into(), json!("events.k8s.io/v1"));
        }
        ("autoscaling", "v1", "HorizontalPodAutoscaler") => autoscaler_to_v1(map),
        _ => {}
    }
}

/// Core name, events.k8s.io name.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// A core event's series may do without a time, one of events.k8s.io may not.
fn fill_series(map: &mut Map<String, Value>) {
    if let Some(series) = map.get_mut("series").and_then(Value::as_object_mut) {
        let last = series.entry("lastObservedTime").or_insert(Value::Null);
        if last.is_null() {
            *last = json!(crate::time::ZERO_MICROS);
        }
    }
}

fn rename<'a>(map: &mut Map<String, Value>, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in pairs {
        if let Some(value) = map.shift_remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

fn autoscaler_to_v2(map: &mut Map<String, Value>) {
    map.insert("apiVersion".into(), json!("autoscaling/v2"));
    if let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(percent) = spec.shift_remove("targetCPUUtilizationPercentage")
    {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        let metrics = spec.entry("metrics").or_insert_with(|| json!([]));
        if let Some(metrics) = metrics.as_array_mut() {
            metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
    }
    if let Some(status) = map.get_mut("status").and_then(Value::as_object_mut)
        && let Some(percent) = status.shift_remove("currentCPUUtilizationPercentage")
    {
        let current = json!({"averageUtilization": percent, "averageValue": "0"});
        status.insert(
            "currentMetrics".into(),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]),
        );
    }
}

fn autoscaler_to_v1(map: &mut Map<String, Value>) {
    map.insert("apiVersion".into(), json!("autoscaling/v1"));
    if let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) {
        let metrics = spec.shift_remove("metrics");
        spec.shift_remove("behavior");
        if let Some(percent) =
            metrics.as_ref().and_then(|metrics| cpu(metrics, "/resource/target/averageUtilization"))
        {
            spec.insert("targetCPUUtilizationPercentage".into(), percent);
        }
    }
    if let Some(status) = map.get_mut("status").and_then(Value::as_object_mut) {
        let metrics = status.shift_remove("currentMetrics");
        status.shift_remove("conditions");
        if let Some(percent) =
            metrics.as_ref().and_then(|metrics| cpu(metrics, "/resource/current/averageUtilization"))
        {
            status.insert("currentCPUUtilizationPercentage".into(), percent);
        }
    }
}

fn cpu(metrics: &Value, pointer: &str) -> Option<Value> {
    metrics
        .as_array()?
        .iter()
        .find(|metric| metric["type"] == "Resource" && metric["resource"]["name"] == "cpu")?
        .pointer(pointer)
        .cloned()
}
