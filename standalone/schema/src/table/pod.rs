//! The row of a pod: the one word that says how it is.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{objects::View, text};
use crate::time;

/// Restarts, and when the last one was.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status["restartCount"].as_i64().unwrap_or_default();
        let ended =
            status.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str).and_then(time::parse);
        self.last = self.last.max(ended);
    }
}

pub fn cells(pod: &View) -> Vec<Value> {
    let object = pod.object;
    let (ready, total, reason, restarts) = summary(object);
    let restarts = match restarts.last {
        Some(last) if restarts.count != 0 => {
            format!("{} ({} ago)", restarts.count, time::human(pod.now.as_second() - last.as_second()))
        }
        _ => restarts.count.to_string(),
    };
    let ip = pod.text("/status/podIPs/0/ip");
    let ip = if ip.is_empty() { pod.text("/status/podIP") } else { ip };
    vec![
        pod.name(),
        json!(format!("{ready}/{total}")),
        json!(reason),
        json!(restarts),
        json!(pod.age()),
        json!(text::or_none(ip)),
        json!(text::or_none(pod.text("/spec/nodeName"))),
        json!(text::or_none(pod.text("/status/nominatedNodeName"))),
        json!(readiness_gates(object)),
    ]
}

fn readiness_gates(object: &Value) -> String {
    let gates = object["spec"]["readinessGates"].as_array().map_or(&[][..], Vec::as_slice);
    if gates.is_empty() {
        return text::NONE.to_owned();
    }
    let met = gates
        .iter()
        .filter(|gate| condition(object, gate["conditionType"].as_str().unwrap_or_default()))
        .count();
    format!("{met}/{}", gates.len())
}

fn condition(object: &Value, name: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == name && condition["status"] == "True")
}

/// Ready containers, all containers, the word, restarts.
fn summary(object: &Value) -> (usize, usize, String, Restarts) {
    let (spec, status) = (&object["spec"], &object["status"]);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let init = list(&spec["initContainers"]);
    let sidecar = |name: &Value| {
        init.iter().any(|container| container["name"] == *name && container["restartPolicy"] == "Always")
    };
    let total =
        list(&spec["containers"]).len() + init.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let phase = status["phase"].as_str().unwrap_or_default();
    let own = status["reason"].as_str().unwrap_or_default();
    let mut reason = if own.is_empty() { phase.to_owned() } else { own.to_owned() };
    let gated = list(&status["conditions"])
        .iter()
        .any(|condition| condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated");
    if gated {
        reason = "SchedulingGated".to_owned();
    }
    let mut ready = 0;
    let (mut restarts, mut sidecar_restarts) = (Restarts::default(), Restarts::default());
    let mut initializing = false;
    for (at, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
        restarts.add(container);
        let is_sidecar = sidecar(&container["name"]);
        if is_sidecar {
            sidecar_restarts.add(container);
        }
        let terminated = container.pointer("/state/terminated");
        if terminated.is_some_and(|state| state["exitCode"] == 0) {
            continue;
        }
        if is_sidecar && container["started"] == true {
            ready += usize::from(container["ready"] == true);
            continue;
        }
        let waiting = container.pointer("/state/waiting/reason").and_then(Value::as_str).unwrap_or_default();
        reason = match terminated {
            Some(state) => format!("Init:{}", end_of(state)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{at}/{}", init.len()),
        };
        initializing = true;
        break;
    }
    if !initializing || condition(object, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        for container in list(&status["containerStatuses"]).iter().rev() {
            restarts.add(container);
            let state = &container["state"];
            let waiting = state["waiting"]["reason"].as_str().unwrap_or_default();
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(ended) = state.get("terminated") {
                reason = end_of(ended);
            } else if container["ready"] == true && state.get("running").is_some() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            reason = if condition(object, "Ready") { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if object["metadata"]["deletionTimestamp"].is_string() {
        if own == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    (ready, total, reason, restarts)
}

/// Why a container ended.
fn end_of(state: &Value) -> String {
    match state["reason"].as_str().unwrap_or_default() {
        "" => match state["signal"].as_i64().unwrap_or_default() {
            0 => format!("ExitCode:{}", state["exitCode"].as_i64().unwrap_or_default()),
            signal => format!("Signal:{signal}"),
        },
        reason => reason.to_owned(),
    }
}
