//! What a pod is when nobody says; also what built-in admission adds.

use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// Set on pods only (not on templates).
pub fn pod(map: &mut Object) {
    let Some(spec) = map.get_mut("spec").and_then(Value::as_object_mut) else { return };
    spec.entry("enableServiceLinks").or_insert(json!(true));
    let host_network = spec.get("hostNetwork") == Some(&json!(true));
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
}

/// A limit without a request is the request.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
        return;
    };
    let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    if let Some(requests) = requests.as_object_mut() {
        for (name, amount) in limits {
            requests.entry(name).or_insert(amount);
        }
    }
}

fn host_ports(container: &mut Value) {
    for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(number) = port.get("containerPort").cloned()
            && port.get("hostPort").is_none_or(|port| port == 0)
        {
            port["hostPort"] = number;
        }
    }
}

pub fn container(map: &mut Object) {
    if map.get("imagePullPolicy").and_then(Value::as_str).is_none_or(str::is_empty)
        && let Some(image) = map.get("image").and_then(Value::as_str)
    {
        let policy = if tag(image) == "latest" { "Always" } else { "IfNotPresent" };
        map.insert("imagePullPolicy".into(), json!(policy));
    }
}

/// `latest` where neither tag nor digest is given.
fn tag(image: &str) -> &str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag,
        None if digest.is_none() => "latest",
        None => "",
    }
}

/// A volume that names no source is an emptyDir.
pub fn volume(map: &mut Object) {
    if !map.keys().any(|key| key != "name") {
        map.insert("emptyDir".into(), json!({}));
    }
}

/// What the admission plugins ServiceAccount, Priority and DefaultTolerationSeconds do to a new pod. Their
/// objects are not looked at: no token is mounted, and a priority class is resolved by the caller.
pub fn admit(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let account = spec
        .get("serviceAccountName")
        .or_else(|| spec.get("serviceAccount"))
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        .unwrap_or("default")
        .to_owned();
    spec.insert("serviceAccountName".into(), json!(account));
    spec.insert("serviceAccount".into(), json!(account));
    if spec.get("priorityClassName").and_then(Value::as_str).is_none_or(str::is_empty) {
        spec.entry("priority").or_insert(json!(0));
    }
    spec.entry("preemptionPolicy").or_insert(json!("PreemptLowerPriority"));
    tolerate(pod);
}

/// DefaultTolerationSeconds: a pod outlives a node's silence for five minutes. Also at an update: `kubectl
/// apply` sends the list without what was added here.
pub fn tolerate(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|have| {
            let same_key = have["key"] == key || have["key"].as_str().is_none_or(str::is_empty);
            same_key && matches!(have["effect"].as_str(), None | Some("" | "NoExecute"))
        });
        if !tolerated {
            tolerations.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        let cases = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
        ];
        for (image, policy) in cases {
            let mut map = json!({"image": image}).as_object().unwrap().clone();
            container(&mut map);
            assert_eq!(map["imagePullPolicy"], policy, "{image}");
        }
    }
}
