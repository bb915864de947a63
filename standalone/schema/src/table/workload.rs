//! Rows of what makes pods.

use serde_json::{Value, json};

use super::{objects::View, text};
use crate::time;

/// Names and images of the template's containers, joined by commas.
fn containers(template_spec: &Value) -> (Value, Value) {
    let join = |field: &str| {
        let list = template_spec["containers"].as_array();
        let words: Vec<&str> = list
            .into_iter()
            .flatten()
            .map(|container| container[field].as_str().unwrap_or_default())
            .collect();
        json!(words.join(","))
    };
    (join("name"), join("image"))
}

pub fn deployment(o: &View) -> Vec<Value> {
    let (names, images) = containers(o.at("/spec/template/spec"));
    vec![
        o.name(),
        json!(format!("{}/{}", o.int("/status/readyReplicas"), o.int("/spec/replicas"))),
        json!(o.int("/status/updatedReplicas").to_string()),
        json!(o.int("/status/availableReplicas").to_string()),
        json!(o.age()),
        names,
        images,
        json!(text::selector(o.at("/spec/selector"))),
    ]
}

pub fn replica_set(o: &View) -> Vec<Value> {
    let (names, images) = containers(o.at("/spec/template/spec"));
    let selector = o.at("/spec/selector");
    // A replication controller's selector is a plain map.
    let plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let selector = if plain { text::labels(selector.as_object()) } else { text::selector(selector) };
    vec![
        o.name(),
        json!(o.int("/spec/replicas")),
        json!(o.int("/status/replicas")),
        json!(o.int("/status/readyReplicas")),
        json!(o.age()),
        names,
        images,
        json!(selector),
    ]
}

pub fn stateful_set(o: &View) -> Vec<Value> {
    let (names, images) = containers(o.at("/spec/template/spec"));
    let ready = format!("{}/{}", o.int("/status/readyReplicas"), o.int("/spec/replicas"));
    vec![o.name(), json!(ready), json!(o.age()), names, images]
}

pub fn daemon_set(o: &View) -> Vec<Value> {
    let (names, images) = containers(o.at("/spec/template/spec"));
    vec![
        o.name(),
        json!(o.int("/status/desiredNumberScheduled")),
        json!(o.int("/status/currentNumberScheduled")),
        json!(o.int("/status/numberReady")),
        json!(o.int("/status/updatedNumberScheduled")),
        json!(o.int("/status/numberAvailable")),
        json!(text::labels(o.at("/spec/template/spec/nodeSelector").as_object())),
        json!(o.age()),
        names,
        images,
        json!(text::selector(o.at("/spec/selector"))),
    ]
}

pub fn job(o: &View) -> Vec<Value> {
    let (names, images) = containers(o.at("/spec/template/spec"));
    let succeeded = o.int("/status/succeeded");
    let parallelism = o.int("/spec/parallelism");
    let completions = match o.at("/spec/completions").as_i64() {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    };
    let started = time::parse(o.text("/status/startTime"));
    let ended = time::parse(o.text("/status/completionTime")).unwrap_or(o.now);
    let duration =
        started.map(|started| time::human(ended.as_second() - started.as_second())).unwrap_or_default();
    let is = |name: &str| o.condition(name) == Some("True");
    let status = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if o.at("/metadata/deletionTimestamp").is_string() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    vec![
        o.name(),
        json!(status),
        json!(completions),
        json!(duration),
        json!(o.age()),
        names,
        images,
        json!(text::selector(o.at("/spec/selector"))),
    ]
}

pub fn cron_job(o: &View) -> Vec<Value> {
    let (names, images) = containers(o.at("/spec/jobTemplate/spec/template/spec"));
    let last = match o.text("/status/lastScheduleTime") {
        "" => text::NONE.to_owned(),
        last => time::age(Some(last), o.now),
    };
    let suspend = match o.at("/spec/suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => text::UNSET,
    };
    vec![
        o.name(),
        json!(o.text("/spec/schedule")),
        json!(text::or_none(o.text("/spec/timeZone"))),
        json!(suspend),
        json!(o.count("/status/active")),
        json!(last),
        json!(o.age()),
        names,
        images,
        json!(text::selector(o.at("/spec/jobTemplate/spec/selector"))),
    ]
}

pub fn disruption_budget(o: &View) -> Vec<Value> {
    let shown = |pointer: &str| match o.at(pointer) {
        Value::String(text) => json!(text),
        Value::Number(number) => json!(number.to_string()),
        _ => json!("N/A"),
    };
    vec![
        o.name(),
        shown("/spec/minAvailable"),
        shown("/spec/maxUnavailable"),
        json!(o.int("/status/disruptionsAllowed")),
        json!(o.age()),
    ]
}

pub fn autoscaler(o: &View) -> Vec<Value> {
    let reference =
        format!("{}/{}", o.text("/spec/scaleTargetRef/kind"), o.text("/spec/scaleTargetRef/name"));
    let min = o.at("/spec/minReplicas").as_i64().map_or(text::UNSET.to_owned(), |min| min.to_string());
    vec![
        o.name(),
        json!(reference),
        json!(targets(o)),
        json!(min),
        json!(o.int("/spec/maxReplicas").to_string()),
        json!(o.int("/status/currentReplicas").to_string()),
        json!(o.age()),
    ]
}

fn targets(o: &View) -> String {
    if let Some(percent) = o.at("/spec/targetCPUUtilizationPercentage").as_i64() {
        let current = o.at("/status/currentCPUUtilizationPercentage").as_i64();
        return format!(
            "cpu: {}/{percent}%",
            current.map_or(text::UNKNOWN.to_owned(), |percent| format!("{percent}%"))
        );
    }
    let none = Vec::new();
    let wanted = o.at("/spec/metrics").as_array().unwrap_or(&none);
    let measured = o.at("/status/currentMetrics").as_array().unwrap_or(&none);
    let list: Vec<String> = wanted
        .iter()
        .enumerate()
        .map(|(at, metric)| {
            let source = match metric["type"].as_str().unwrap_or_default() {
                "Resource" => "resource",
                "ContainerResource" => "containerResource",
                "Pods" => "pods",
                "Object" => "object",
                _ => "external",
            };
            let target = &metric[source]["target"];
            let current = measured.get(at).map(|metric| &metric[source]["current"]);
            let name = metric[source]["name"].as_str().filter(|_| source.ends_with("esource"));
            let prefix = name.map(|name| format!("{name}: ")).unwrap_or_default();
            let amount = |value: &Value| match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => format!("{number}%"),
                _ => text::UNKNOWN.to_owned(),
            };
            let field = ["averageUtilization", "averageValue", "value"]
                .into_iter()
                .find(|field| target.get(field).is_some());
            let field = field.unwrap_or("value");
            let now = current.map_or(text::UNKNOWN.to_owned(), |current| amount(&current[field]));
            let average = if field == "averageValue" && source == "external" { " (avg)" } else { "" };
            format!("{prefix}{now}/{}{average}", amount(&target[field]))
        })
        .collect();
    match list.len() {
        0 => text::NONE.to_owned(),
        count if count > 2 => format!("{} + {} more...", list[..2].join(", "), count - 2),
        _ => list.join(", "),
    }
}
