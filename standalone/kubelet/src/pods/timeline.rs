//! When the steps of a pod's start happened on this node, to the microsecond: what the API keeps is cut to
//! seconds. In memory only, and only while the pod is on the node.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Value, json};
use skerry_vocabulary::time::micros;

use super::view::nanoseconds;
use crate::cri::PodRuntime;

/// What this agent has seen happen; a step that came before it started is not known to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The watch told of the pod.
    pub seen: Option<Timestamp>,
    /// The runtime was asked for the newest sandbox.
    pub sandbox_asked: Option<Timestamp>,
    /// It answered: sandbox and network are there.
    pub sandbox_ready: Option<Timestamp>,
    /// By name, the newest instance of each.
    pub containers: BTreeMap<String, ContainerTimes>,
    /// The node found the pod Ready; none while it is not.
    pub ready: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerTimes {
    /// Its image was found on the node.
    pub image: Option<Timestamp>,
    /// The runtime's own word, which outlives the agent.
    pub created: Option<Timestamp>,
    pub started: Option<Timestamp>,
}

impl Timeline {
    pub fn image(&mut self, container: &str, at: Timestamp) {
        self.containers.entry(container.to_owned()).or_default().image = Some(at);
    }

    /// Takes what the runtime's records say, and whether the pod has become Ready with this status.
    /// `before`: the status that was worked out, or read, before it.
    pub fn follow(&mut self, runtime: &PodRuntime, before: &PodStatus, status: &PodStatus, now: Timestamp) {
        let known = |ns: i64| (ns > 0).then(|| nanoseconds(ns));
        // Newest first: the first of a name is its latest.
        for record in runtime.containers.iter().rev() {
            let times = self.containers.entry(record.name.clone()).or_default();
            times.created = known(record.created_ns);
            times.started = known(record.started_ns);
        }
        match (is_ready(before), is_ready(status)) {
            (false, true) => self.ready = Some(now),
            (_, false) => self.ready = None,
            (true, true) => {}
        }
    }

    /// As `/timeline/pods/…` tells it: times in RFC 3339, `null` for what is not known.
    pub fn json(&self) -> Value {
        let time = |at: Option<Timestamp>| at.map(micros);
        let container = |(name, times): (&String, &ContainerTimes)| {
            json!({"name": name, "image": time(times.image), "created": time(times.created),
                "started": time(times.started)})
        };
        json!({
            "seen": time(self.seen), "sandboxAsked": time(self.sandbox_asked),
            "sandboxReady": time(self.sandbox_ready), "ready": time(self.ready),
            "containers": self.containers.iter().map(container).collect::<Vec<_>>(),
        })
    }
}

fn is_ready(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;
    use crate::cri::ContainerRecord;

    fn status(ready: &str) -> PodStatus {
        let ready = PodCondition { type_: "Ready".into(), status: ready.into(), ..Default::default() };
        PodStatus { conditions: Some(vec![ready]), ..Default::default() }
    }

    #[test]
    fn the_newest_instance_counts_and_ready_is_when_it_became_so() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let mut runtime = PodRuntime::default();
        for (attempt, second) in [(0, 10), (1, 20)] {
            let mut record = ContainerRecord::made(&format!("id{attempt}"), "a", attempt, "s");
            record.created_ns = second * 1_000_000_000;
            record.started_ns = if attempt == 1 { 0 } else { record.created_ns + 1_000 };
            runtime.put_container(record);
        }
        let mut times = Timeline::default();
        times.image("a", at(9));
        times.follow(&runtime, &status("False"), &status("True"), at(30));
        times.follow(&runtime, &status("True"), &status("True"), at(40));
        let told = times.json();
        assert_eq!(told["ready"], "1970-01-01T00:00:30.000000Z");
        assert_eq!(told["seen"], Value::Null);
        let first = &told["containers"][0];
        assert_eq!(
            (&first["image"], &first["created"], &first["started"]),
            (&json!("1970-01-01T00:00:09.000000Z"), &json!("1970-01-01T00:00:20.000000Z"), &Value::Null)
        );
        times.follow(&runtime, &status("True"), &status("False"), at(50));
        assert_eq!(times.ready, None);
    }
}
