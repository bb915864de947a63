//! Requests and limits as cgroup numbers; quality of service.

use k8s_cri::v1::LinuxContainerResources;
use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

/// Length of the period that cpu limits are counted in, microseconds.
pub const CPU_PERIOD_US: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA_US: i64 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }

    /// The class of a pod by its own cpu and memory where it has any, else by those of all its containers.
    pub fn of(pod: &Pod) -> QosClass {
        let Some(spec) = &pod.spec else { return QosClass::BestEffort };
        if let Some(whole) = spec
            .resources
            .clone()
            .filter(|whole| whole.limits.iter().chain(&whole.requests).any(|list| !list.is_empty()))
        {
            let whole = Container { resources: Some(whole), ..Default::default() };
            return QosClass::of_all(|| std::iter::once(&whole));
        }
        QosClass::of_all(|| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
    }

    fn of_all<'a, I: Iterator<Item = &'a Container>>(containers: impl Fn() -> I) -> QosClass {
        let any = containers().any(|container| {
            ["cpu", "memory"].iter().any(|resource| {
                request_millis(container, resource).is_some_and(|value| value > 0)
                    || limit_millis(container, resource).is_some_and(|value| value > 0)
            })
        });
        if !any {
            return QosClass::BestEffort;
        }
        let guaranteed = containers().all(|container| {
            ["cpu", "memory"].iter().all(|resource| {
                let limit = limit_millis(container, resource).filter(|value| *value > 0);
                limit.is_some()
                    && request_millis(container, resource).is_none_or(|value| Some(value) == limit)
            })
        });
        if guaranteed { QosClass::Guaranteed } else { QosClass::Burstable }
    }
}

/// What all containers of a pod together may use (KEP-2837).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodLimits {
    pub memory_bytes: Option<i64>,
    /// Of each [`CPU_PERIOD_US`].
    pub cpu_quota_us: Option<i64>,
}

impl PodLimits {
    pub fn of(pod: &Pod) -> PodLimits {
        let limits = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.limits.as_ref());
        let limit = |resource| value(limits, resource).filter(|value| *value > 0);
        PodLimits {
            memory_bytes: limit("memory").map(|value| clamp(value / 1000)),
            cpu_quota_us: limit("cpu").map(quota_us),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == PodLimits::default()
    }
}

/// cgroup values of one container.
pub fn cgroup(container: &Container, qos: QosClass, node_memory_bytes: u64) -> LinuxContainerResources {
    let limit_cpu = limit_millis(container, "cpu").filter(|value| *value > 0);
    let request_cpu = request_millis(container, "cpu").filter(|value| *value > 0).or(limit_cpu);
    let limit_memory = limit_millis(container, "memory").filter(|value| *value > 0);
    LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: limit_cpu.map_or(0, quota_us),
        cpu_shares: shares(request_cpu.unwrap_or(0)),
        memory_limit_in_bytes: limit_memory.map_or(0, |value| clamp(value / 1000)),
        oom_score_adj: oom_score_adj(container, qos, node_memory_bytes),
        ..Default::default()
    }
}

/// cgroup v1 shares (1024 a core) of a cpu request in thousandths of a core.
fn shares(cpu_millis: i128) -> i64 {
    clamp(cpu_millis * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

fn quota_us(cpu_millis: i128) -> i64 {
    clamp(cpu_millis * i128::from(CPU_PERIOD_US) / 1000).max(MIN_QUOTA_US)
}

/// Who is killed first when the machine is out of memory: what asked for least of it.
fn oom_score_adj(container: &Container, qos: QosClass, node_memory_bytes: u64) -> i64 {
    match qos {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = request_millis(container, "memory").unwrap_or(0) / 1000;
            let node = i128::from(node_memory_bytes.max(1));
            clamp(1000 - 1000 * request / node).clamp(3, 999)
        }
    }
}

/// A container's request, or its limit where only that is given (as the API server defaults it).
pub fn request_millis(container: &Container, resource: &str) -> Option<i128> {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    value(requests, resource).or_else(|| limit_millis(container, resource))
}

pub fn limit_millis(container: &Container, resource: &str) -> Option<i128> {
    value(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()), resource)
}

fn value(list: Option<&BTreeMap<String, Quantity>>, resource: &str) -> Option<i128> {
    millis(&list?.get(resource)?.0)
}

/// A quantity in thousandths, rounded up; `None` for what is none.
pub fn millis(text: &str) -> Option<i128> {
    skerry_vocabulary::Quantity::parse(text).ok().map(skerry_vocabulary::Quantity::wide_milli)
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a", "resources": resources}]},
        }))
        .unwrap()
    }

    fn container(pod: &Pod) -> &Container {
        &pod.spec.as_ref().unwrap().containers[0]
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let cases = [
            (json!({}), QosClass::BestEffort),
            (json!({"limits": both}), QosClass::Guaranteed),
            (json!({"limits": both, "requests": both}), QosClass::Guaranteed),
            (json!({"limits": both, "requests": {"cpu": "500m"}}), QosClass::Burstable),
            (json!({"requests": {"memory": "1Gi"}}), QosClass::Burstable),
            (json!({"limits": {"memory": "1Gi"}}), QosClass::Burstable),
        ];
        for (resources, class) in cases {
            assert_eq!(QosClass::of(&pod(resources.clone())), class, "{resources}");
        }
    }

    #[test]
    fn limits_become_cgroup_numbers() {
        let pod = pod(json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "200Mi"}}));
        let cgroup = cgroup(container(&pod), QosClass::Burstable, 1 << 30);
        assert_eq!((cgroup.cpu_quota, cgroup.cpu_period, cgroup.cpu_shares), (50_000, 100_000, 102));
        assert_eq!(cgroup.memory_limit_in_bytes, 200 << 20);
        assert_eq!(cgroup.oom_score_adj, 805);
    }

    #[test]
    fn no_request_gets_the_least_shares_and_no_quota() {
        let pod = pod(json!({}));
        let cgroup = cgroup(container(&pod), QosClass::BestEffort, 1 << 30);
        assert_eq!((cgroup.cpu_quota, cgroup.cpu_shares, cgroup.memory_limit_in_bytes), (0, 2, 0));
        assert_eq!(cgroup.oom_score_adj, 1000);
    }
    #[test]
    fn a_pod_as_a_whole_has_limits_and_a_class_of_its_own() {
        let pod = |whole: serde_json::Value| -> Pod {
            let containers = json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]);
            serde_json::from_value(json!({"metadata": {"name": "p"},
                "spec": {"containers": containers, "resources": whole}}))
            .unwrap()
        };
        let both = pod(json!({"limits": {"cpu": "1500m", "memory": "64Mi"}}));
        let limits = PodLimits { memory_bytes: Some(64 << 20), cpu_quota_us: Some(150_000) };
        assert_eq!((PodLimits::of(&both), QosClass::of(&both)), (limits, QosClass::Guaranteed));
        let memory = pod(json!({"limits": {"memory": "64Mi"}}));
        assert_eq!((PodLimits::of(&memory).cpu_quota_us, QosClass::of(&memory)), (None, QosClass::Burstable));
        assert!(PodLimits::of(&pod(json!({}))).is_empty());
        assert_eq!(QosClass::of(&pod(json!({}))), QosClass::Burstable, "by its containers");
    }
}
