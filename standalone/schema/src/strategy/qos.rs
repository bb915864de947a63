//! A pod's quality-of-service class.

use serde_json::Value;
use skerry_vocabulary::Quantity;

/// What decides: other resources do not count.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// The quality-of-service class of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
///
/// Guaranteed: every container has limits for cpu and memory, and its requests equal them. BestEffort: no
/// container asks for cpu or memory. What the pod as a whole asks for (KEP-2837) stands in the containers'
/// place.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    if asks_as_a_whole(&spec["resources"]) {
        return class([&spec["resources"]]);
    }
    let containers = ["containers", "initContainers"].map(|list| spec[list].as_array().into_iter().flatten());
    class(containers.into_iter().flatten().map(|container| &container["resources"]))
}

/// Whether a resource that a pod can ask for as a whole is among its requests or limits.
fn asks_as_a_whole(resources: &Value) -> bool {
    let named = |side: &str| resources[side].as_object().into_iter().flat_map(|amounts| amounts.keys());
    named("requests")
        .chain(named("limits"))
        .any(|name| RESOURCES.contains(&name.as_str()) || name.starts_with("hugepages-"))
}

fn class<'a>(all: impl IntoIterator<Item = &'a Value>) -> &'static str {
    let (mut any, mut guaranteed, mut seen) = (false, true, false);
    for resources in all {
        seen = true;
        for name in RESOURCES {
            let (limit, request) = (amount(resources, "limits", name), amount(resources, "requests", name));
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| limit == Some(request));
        }
    }
    match (any, guaranteed && seen) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn amount(resources: &Value, side: &str, name: &str) -> Option<Quantity> {
    Quantity::parse(resources[side][name].as_str()?).ok().filter(|quantity| quantity.nano() > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_resources_of_the_whole_pod_stand_in_the_containers_place() {
        let class = |pod: Value, container: Value| {
            qos_class(&json!({"spec": {"resources": pod, "containers": [{"resources": container}]}}))
        };
        let both = || json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!({"limits": both()}), json!({}), "Guaranteed"),
            (
                json!({"limits": both(), "requests": both()}),
                json!({"requests": {"cpu": "100m"}}),
                "Guaranteed",
            ),
            (json!({"limits": both(), "requests": {"cpu": "500m"}}), json!({}), "Burstable"),
            (json!({"requests": {"memory": "1Gi"}}), json!({"limits": both()}), "Burstable"),
            (json!({"limits": {"hugepages-2Mi": "2Mi"}}), json!({"limits": both()}), "BestEffort"),
            (json!({}), json!({"limits": both()}), "Guaranteed"),
            (json!({"limits": {"example.com/gpu": "1"}}), json!({"requests": {"cpu": "1"}}), "Burstable"),
        ];
        for (pod, container, expected) in cases {
            assert_eq!(class(pod.clone(), container.clone()), expected, "{pod} {container}");
        }
    }
}
