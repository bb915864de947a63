//! Facts in, steps out: pure.

use jiff::Timestamp;
use serde_json::{Value, json};
use skerry_vocabulary::time::{micros, seconds};

use crate::cli::sheet::Sheet;

/// All that anybody has recorded, as it was answered; errors as they are to be read.
pub struct Facts {
    pub pod: Value,
    pub events: Result<Vec<Value>, String>,
    /// Of the pod's namespace.
    pub slices: Result<Vec<Value>, String>,
    /// What the pod's node has seen of it.
    pub node: Result<Value, String>,
    pub nodes: Result<Vec<NodeFacts>, String>,
}

pub struct NodeFacts {
    pub node: String,
    /// For each address of the pod.
    pub told: Result<Vec<Value>, String>,
}

/// One step, and by whom its time is known, or why it is not.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub step: String,
    pub at: Option<Moment>,
    pub from: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at: Timestamp,
    /// To the microsecond; else to the second, and not rounded up.
    pub is_exact: bool,
}

impl Moment {
    /// As the API writes times.
    fn read(value: &Value) -> Option<Moment> {
        let text = value.as_str()?;
        Some(Moment { at: text.parse().ok()?, is_exact: text.contains('.') })
    }

    /// Seconds since `before`; whole ones unless both are exact.
    fn since(self, before: Moment) -> Value {
        let micros = self.at.as_microsecond() - before.at.as_microsecond();
        match self.is_exact && before.is_exact {
            true => json!(micros as f64 / 1e6),
            false => json!(self.at.as_second() - before.at.as_second()),
        }
    }
}

/// Each step with the seconds since the last one before it whose time is known.
pub fn sheet(steps: &[Step]) -> Sheet {
    let mut sheet = Sheet::new(&["step", "time", "after-s", "known-from"]);
    let mut before: Option<Moment> = None;
    for Step { step, at, from } in steps {
        let time = at.map(|at| if at.is_exact { micros(at.at) } else { seconds(at.at) });
        let after = at.zip(before).map(|(at, before)| at.since(before));
        sheet.row(vec![json!(step), json!(time), json!(after), json!(from)]);
        before = at.or(before);
    }
    sheet
}

/// The whole chain, in the order in which it goes for a pod of one container.
pub fn steps(facts: &Facts) -> Vec<Step> {
    let (pod, status) = (&facts.pod, &facts.pod["status"]);
    let node = pod["spec"]["nodeName"].as_str();
    let mut steps = vec![known("created", &[(&pod["metadata"]["creationTimestamp"], "the API server")])];
    let placed = node.map_or_else(|| "scheduled".to_owned(), |node| format!("scheduled to {node}"));
    steps.push(match event(facts, "Scheduled").and_then(first_time) {
        Some(at) => Step { step: placed, at: Some(at), from: "the scheduler's Event".to_owned() },
        None => known(&placed, &[(condition(status, "PodScheduled"), "the pod's condition")]),
    });
    let Some(node) = node else { return steps };
    steps.extend(on_the_node(facts, node));
    steps.extend(in_the_tables(facts));
    steps
}

/// The first source that has a time.
fn known(step: &str, sources: &[(&Value, &str)]) -> Step {
    let found = sources.iter().find_map(|(value, from)| Some((Moment::read(value)?, *from)));
    Step {
        step: step.to_owned(),
        at: found.map(|(at, _)| at),
        from: found
            .map_or_else(|| "not known: nothing has recorded it".to_owned(), |(_, from)| from.to_owned()),
    }
}

/// As [`known`], of what the node itself would know best; `why` it does not.
fn known_to_node(step: &str, sources: &[(&Value, &str)], why: &str) -> Step {
    let step = known(step, sources);
    match step.at {
        Some(_) => step,
        None => Step { from: format!("not known: {why}"), ..step },
    }
}

fn on_the_node(facts: &Facts, node: &str) -> Vec<Step> {
    let nothing = Value::Null;
    let status = &facts.pod["status"];
    let same = |told: &&Value| told["uid"] == facts.pod["metadata"]["uid"];
    let (told, why) = match &facts.node {
        Ok(told) if same(&told) => (told, "not yet, or before the node's agent started"),
        Ok(_) => (&nothing, "the node tells of another pod of this name"),
        Err(error) => (&nothing, error.as_str()),
    };
    let agent = format!("{node}'s node agent");
    let mine = |step: &str, value: &Value| known_to_node(step, &[(value, agent.as_str())], why);
    let mut steps = vec![
        known_to_node(
            "seen by the node agent",
            &[(&told["seen"], &agent), (&status["startTime"], "the pod's startTime")],
            why,
        ),
        mine("sandbox asked for", &told["sandboxAsked"]),
        address(facts, node),
        known_to_node(
            "sandbox and network ready",
            &[
                (&told["sandboxReady"], &agent),
                (condition(status, "PodReadyToStartContainers"), "the pod's condition"),
            ],
            why,
        ),
    ];
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in status[list].as_array().into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default();
            let times = told["containers"].as_array().into_iter().flatten();
            let times = times.into_iter().find(|times| times["name"] == name).unwrap_or(&nothing);
            let state = &container["state"];
            let started = [&state["running"]["startedAt"], &state["terminated"]["startedAt"]];
            let again = match container["restartCount"].as_u64() {
                None | Some(0) => String::new(),
                Some(count) => format!(", restart {count}"),
            };
            steps.push(mine(&format!("image of {name} there{again}"), &times["image"]));
            steps.push(mine(&format!("container {name} created{again}"), &times["created"]));
            steps.push(known_to_node(
                &format!("container {name} started{again}"),
                &[
                    (&times["started"], "containerd"),
                    (started[0], "the pod's status"),
                    (started[1], "the pod's status"),
                ],
                why,
            ));
        }
    }
    let is_ready = holds(status, "Ready");
    steps.push(match is_ready {
        true => known_to_node(
            "ready",
            &[(&told["ready"], &agent), (condition(status, "Ready"), "the pod's condition")],
            why,
        ),
        false => Step { step: "ready".into(), at: None, from: "not ready".into() },
    });
    steps
}

/// The network plugin's step, of the pod's first address.
fn address(facts: &Facts, node: &str) -> Step {
    let ip = facts.pod["status"]["podIP"].as_str();
    let step = ip.map_or_else(|| "address given (CNI)".to_owned(), |ip| format!("address {ip} given (CNI)"));
    let unknown = |why: String| Step { step: step.clone(), at: None, from: why };
    if facts.pod["spec"]["hostNetwork"] == true {
        return unknown("none is given: the pod has the node's network".to_owned());
    }
    if ip.is_none() {
        return unknown("not known: the pod has no address yet".to_owned());
    }
    match told_by(facts, node) {
        Ok(told) => {
            let given = told.first().map_or(&Value::Null, |told| &told["given"]);
            known(&step, &[(given, "the CNI plugin's record")])
        }
        Err(why) => unknown(format!("not known: {why}")),
    }
}

fn told_by<'a>(facts: &'a Facts, node: &str) -> Result<&'a [Value], String> {
    let nodes = facts.nodes.as_ref().map_err(Clone::clone)?;
    let found =
        nodes.iter().find(|told| told.node == node).ok_or_else(|| format!("there is no node {node}"))?;
    found.told.as_deref().map_err(Clone::clone)
}

/// From the EndpointSlices to the maps of each node, for each Service.
fn in_the_tables(facts: &Facts) -> Vec<Step> {
    let unknown = |step: String, from: String| Step { step, at: None, from };
    let slices = match &facts.slices {
        Ok(slices) => slices,
        Err(error) => return vec![unknown("endpoint of a Service".into(), format!("not known: {error}"))],
    };
    let services = services(slices, &facts.pod);
    if services.is_empty() {
        return vec![unknown("endpoint of a Service".into(), "no EndpointSlice has the pod".into())];
    }
    let mut steps = Vec::new();
    for (service, is_ready) in services {
        let nodes = facts.nodes.as_deref().unwrap_or_default();
        let times = |key: &str, node: &NodeFacts| {
            let told = node.told.as_ref().ok()?.iter();
            let mut known = told.flat_map(|told| told["services"].as_array().into_iter().flatten());
            Moment::read(&known.find(|known| known["service"] == *service)?[key])
        };
        let first = nodes.iter().filter_map(|node| Some((times("heard", node)?, node)));
        let first = first.min_by_key(|(heard, _)| heard.at);
        let step = format!("endpoint of {service} in an EndpointSlice");
        steps.push(match first {
            _ if !is_ready => unknown(step, "it is there, but not ready".into()),
            Some((heard, node)) => {
                Step { step, at: Some(heard), from: format!("first heard by {}", node.node) }
            }
            None => unknown(step, "it is there; no node has recorded since when".into()),
        });
        for node in nodes.iter().filter(|_| is_ready) {
            let step = format!("{service} programmed on {}", node.node);
            let at = times("programmed", node);
            let from = match (&node.told, at) {
                (_, Some(_)) => format!("{}'s proxy", node.node),
                (Err(error), None) => format!("not known: {error}"),
                (Ok(told), None) => not_recorded(told),
            };
            steps.push(Step { step, at, from });
        }
        if let Err(error) = &facts.nodes {
            steps.push(unknown(format!("{service} programmed"), format!("not known: {error}")));
        }
    }
    steps
}

fn not_recorded(told: &[Value]) -> String {
    match told.iter().find_map(|told| told["since"].as_str()) {
        Some(since) => format!(
            "not recorded: before its record begins ({since}), long ago, or the node has no table for it (headless, meant \
             for other nodes)"
        ),
        None => "not yet: the proxy has not filled its tables".to_owned(),
    }
}

/// The Services whose slices have the pod, by name, and whether one has it as ready.
fn services(slices: &[Value], pod: &Value) -> Vec<(String, bool)> {
    let mut found = std::collections::BTreeMap::new();
    for slice in slices {
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let mine = endpoints.filter(|endpoint| endpoint["targetRef"]["uid"] == pod["metadata"]["uid"]);
        let name = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
        let namespace = &slice["metadata"]["namespace"];
        let (Some(name), Some(namespace)) = (name.as_str(), namespace.as_str()) else { continue };
        for endpoint in mine {
            // Absent means ready.
            *found.entry(format!("{namespace}/{name}")).or_insert(false) |=
                endpoint["conditions"]["ready"] != false;
        }
    }
    found.into_iter().collect()
}

fn event<'a>(facts: &'a Facts, reason: &str) -> Option<&'a Value> {
    facts.events.as_ref().ok()?.iter().rfind(|event| event["reason"] == reason)
}

/// When an Event was noted first. One of core/v1 has that to the second; its name ends, by convention, in the
/// nanoseconds of that time, which are believed where they are within that second.
fn first_time(event: &Value) -> Option<Moment> {
    if let Some(at) = Moment::read(&event["eventTime"]) {
        return Some(at);
    }
    let first = Moment::read(&event["firstTimestamp"])?;
    let suffix = event["metadata"]["name"].as_str().and_then(|name| name.rsplit_once('.')?.1.get(..16));
    let named = suffix.and_then(|digits| i128::from_str_radix(digits, 16).ok());
    let named = named.and_then(|nanos| Timestamp::from_nanosecond(nanos).ok());
    let named = named.filter(|at| at.as_second() == first.at.as_second());
    Some(named.map_or(first, |at| Moment { at, is_exact: true }))
}

fn find<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn holds(status: &Value, kind: &str) -> bool {
    find(status, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Since when it holds.
fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    match find(status, kind) {
        Some(condition) if condition["status"] == "True" => &condition["lastTransitionTime"],
        _ => &Value::Null,
    }
}

#[cfg(test)]
mod tests;
