//! What the API server makes `metrics.k8s.io` of: a node's usage and that of its pods' containers.

use std::time::Duration;

use serde_json::{Value, json};
use skerry_vocabulary::time;

use super::{
    cgroup::Counters,
    forms,
    reading::{Rate, Reading},
    sample::PodSample,
};

/// `node` as a `NodeMetrics` and `pods` as `PodMetrics` have them, less their metadata, for which pods name
/// themselves.
pub fn usage(reading: &Reading) -> Value {
    let pods: Vec<Value> = reading.newest.pods.iter().filter_map(|pod| of_pod(reading, pod)).collect();
    let time = time::seconds(reading.newest.at);
    let node = reading.node.and_then(|rate| {
        let usage = amounts(rate, &reading.newest.node)?;
        Some(json!({"timestamp": time, "window": forms::duration(rate.window), "usage": usage}))
    });
    json!({"node": node, "pods": pods})
}

/// `None` until each of its containers has been measured: sums of some would be taken for the whole.
fn of_pod(reading: &Reading, pod: &PodSample) -> Option<Value> {
    let mut window = Duration::ZERO;
    let mut containers = Vec::new();
    for container in &pod.containers {
        let rate = *reading.containers.get(&container.id)?;
        window = window.max(rate.window);
        let usage = amounts(rate, &container.counters)?;
        containers.push(json!({"name": container.name, "usage": usage}));
    }
    let id = &pod.id;
    Some(json!({
        "namespace": id.namespace, "name": id.name, "uid": id.uid,
        "timestamp": time::seconds(reading.newest.at), "window": forms::duration(window), "containers": containers,
    }))
}

fn amounts(rate: Rate, counters: &Counters) -> Option<Value> {
    let memory = counters.memory?.working_set;
    Some(json!({"cpu": forms::cores(rate.nano_cores), "memory": forms::bytes(memory)}))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stats::fixture::sample;

    #[test]
    fn usage_is_told_of_what_was_measured() {
        let before = sample(0, &[("c", 0, 1_000)]);
        // The second container has begun just now.
        let reading = Reading::of(&before, Arc::new(sample(10, &[("c", 0, 3_500), ("d", 10, 5)])));
        let told = usage(&reading);
        let amounts = json!({"cpu": "250m", "memory": "150Mi"});
        let expected = json!({"namespace": "ns", "name": "c", "uid": "uid-c", "timestamp": "2023-11-14T22:13:30Z",
            "window": "10s", "containers": [{"name": "c-c", "usage": amounts}]});
        assert_eq!(told["pods"], json!([expected]));
        assert_eq!(told["node"]["usage"]["memory"], "150Mi");
        assert_eq!(told["node"]["window"], "10s");
    }
}
