//! The downward API: `fieldRef` and `resourceFieldRef` of environment variables and volumes.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::resources;

/// Addresses that a pod's fields may name; they are known only once its sandbox runs.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
}

/// What limits fall back to where a container sets none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocatable {
    pub cpu_millis: u64,
    pub memory_bytes: u64,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported resource: {0}")]
    Resource(String),
    #[error("container {0:?} of resourceFieldRef is not in the pod")]
    Container(String),
    #[error("invalid divisor {0:?}: write 1, 1m, 1Ki, 1Mi …")]
    Divisor(String),
}

/// The value of a `fieldPath`, as text.
pub fn field(pod: &Pod, path: &str, addresses: &Addresses) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => metadata.labels.as_ref(),
            "metadata.annotations" => metadata.annotations.as_ref(),
            _ => return Err(FieldError::Path(path.to_owned())),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => Some(map_lines(metadata.labels.as_ref())),
        "metadata.annotations" => Some(map_lines(metadata.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.hostIP" => addresses.host_ips.first().cloned(),
        "status.hostIPs" => Some(addresses.host_ips.join(",")),
        "status.podIP" => addresses.pod_ips.first().cloned(),
        "status.podIPs" => Some(addresses.pod_ips.join(",")),
        _ => return Err(FieldError::Path(path.to_owned())),
    };
    Ok(text.unwrap_or_default())
}

/// The value of a `resourceFieldRef` in units of its divisor, rounded up.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    node: Allocatable,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match (named, own) {
        (Some(name), _) => {
            let spec = pod.spec.as_ref();
            let mut all = spec
                .iter()
                .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
            all.find(|container| container.name == name)
        }
        (None, own) => own,
    };
    let container = container.ok_or_else(|| FieldError::Container(named.unwrap_or_default().to_owned()))?;
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (kind, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let fallback = match name {
        "cpu" => i128::from(node.cpu_millis),
        "memory" => i128::from(node.memory_bytes) * 1000,
        "ephemeral-storage" => 0,
        _ => return Err(unsupported()),
    };
    let value = match kind {
        "limits" => resources::limit_millis(container, name).filter(|value| *value > 0).unwrap_or(fallback),
        "requests" => resources::request_millis(container, name).unwrap_or(0),
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().map_or("1", |divisor| divisor.0.as_str());
    let divisor_millis = match divisor {
        "0" | "" => 1000,
        text => resources::millis(text)
            .filter(|value| *value > 0)
            .ok_or_else(|| FieldError::Divisor(text.to_owned()))?,
    };
    Ok(((value + divisor_millis - 1) / divisor_millis).to_string())
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines, as the downward API volume writes maps.
fn map_lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "1", "b": "x\"y"}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "250m"}, "requests": {"memory": "3Mi"}}}]},
        }))
        .unwrap()
    }

    #[test]
    fn fields_of_the_pod_are_found() {
        let addresses = Addresses { pod_ips: vec!["10.0.0.1".into()], host_ips: vec!["192.0.2.1".into()] };
        let get = |path| field(&pod(), path, &addresses);
        assert_eq!(get("metadata.name").unwrap(), "p");
        assert_eq!(get("metadata.labels['a']").unwrap(), "1");
        assert_eq!(get("metadata.labels['none']").unwrap(), "");
        assert_eq!(get("metadata.labels").unwrap(), "a=\"1\"\nb=\"x\\\"y\"");
        assert_eq!(get("status.podIP").unwrap(), "10.0.0.1");
        assert_eq!(get("spec.nodeName").unwrap(), "n1");
        assert_eq!(get("spec.volumes"), Err(FieldError::Path("spec.volumes".into())));
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let pod = pod();
        let own = &pod.spec.as_ref().unwrap().containers[0];
        let node = Allocatable { cpu_millis: 2000, memory_bytes: 1 << 30 };
        let get = |resource: &str, divisor: &str| {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": resource, "divisor": divisor})).unwrap();
            super::resource(&pod, Some(own), &selector, node)
        };
        assert_eq!(get("limits.cpu", "0").unwrap(), "1");
        assert_eq!(get("limits.cpu", "1m").unwrap(), "250");
        assert_eq!(get("requests.memory", "1Mi").unwrap(), "3");
        assert_eq!(get("limits.memory", "1Mi").unwrap(), "1024");
        assert!(get("limits.gpu", "1").is_err());
        assert_eq!(get("limits.cpu", "x"), Err(FieldError::Divisor("x".into())));
    }
}
