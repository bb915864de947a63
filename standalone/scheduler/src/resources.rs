//! Amounts of resources: what a pod asks for, what a node has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use skerry_informer::{Quantities, milli, whole};

/// For scoring, a container that asks for no CPU counts as this much, so that pods without requests spread.
pub(crate) const DEFAULT_MILLI_CPU: i64 = 100;
/// The same for memory: 200 MiB, in bytes.
pub(crate) const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts of each resource; arithmetic saturates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Extended resources and huge pages, in units.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// What can't be read counts as 0; `pods` is no amount of this kind.
    pub fn of(quantities: &Quantities) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in quantities {
            match name.as_str() {
                "cpu" => resources.milli_cpu = milli(quantity).unwrap_or(0),
                "memory" => resources.memory = whole(quantity).unwrap_or(0),
                "ephemeral-storage" => resources.ephemeral_storage = whole(quantity).unwrap_or(0),
                "pods" => {}
                _ => {
                    resources.others.insert(name.clone(), whole(quantity).unwrap_or(0));
                }
            }
        }
        resources
    }

    /// For each resource.
    pub fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    /// For each resource; the rest may be less than 0.
    pub fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
    }

    /// The greater of both, for each resource.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_insert(0);
            *mine = with(*mine, *amount);
        }
        self.others.retain(|_, amount| *amount != 0);
    }
}

/// What a pod asks for, by the rule of
/// <https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers>:
/// the greater of the sum over its containers and the needs while it starts, plus overhead. `value` reads one
/// container's.
fn over_containers(spec: &PodSpec, value: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&value(container));
    }
    // Sidecars (init containers that keep running) count with what starts after them.
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut needs = value(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&needs);
            needs = sidecars.clone();
        } else {
            needs.add(&sidecars);
        }
        starting.raise_to(&needs);
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    running
}

/// What the pod asks for.
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    let mut total = over_containers(spec, requested);
    if let Some(whole_pod) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        // Requests of the pod as a whole stand in for the sum over its containers (KEP-2837).
        let given = Resources::of(whole_pod);
        if whole_pod.contains_key("cpu") {
            total.milli_cpu = given.milli_cpu;
        }
        if whole_pod.contains_key("memory") {
            total.memory = given.memory;
        }
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::of(overhead));
    }
    total
}

/// CPU and memory for scoring: a container that asks for nothing counts as a small one.
pub(crate) fn for_scoring(spec: &PodSpec) -> (i64, i64) {
    let total = over_containers(spec, |container| {
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut resources = requested(container);
        if asked.is_none_or(|asked| !asked.contains_key("cpu")) {
            resources.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if asked.is_none_or(|asked| !asked.contains_key("memory")) {
            resources.memory = DEFAULT_MEMORY;
        }
        resources
    });
    let overhead = spec.overhead.as_ref().map(Resources::of).unwrap_or_default();
    (total.milli_cpu.saturating_add(overhead.milli_cpu), total.memory.saturating_add(overhead.memory))
}

fn requested(container: &Container) -> Resources {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.map(Resources::of).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ResourceRequirements;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn container(cpu: Option<&str>, sidecar: bool) -> Container {
        let requests = cpu.map(|cpu| [("cpu".to_owned(), Quantity(cpu.into()))].into());
        Container {
            resources: Some(ResourceRequirements { requests, ..Default::default() }),
            restart_policy: sidecar.then(|| "Always".to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn init_containers_count_by_their_greatest_and_sidecars_add_up() {
        let spec = PodSpec {
            containers: vec![container(Some("200m"), false), container(Some("300m"), false)],
            init_containers: Some(vec![
                container(Some("50m"), true),
                container(Some("900m"), false),
                container(Some("10m"), true),
            ]),
            overhead: Some([("cpu".to_owned(), Quantity("7m".into()))].into()),
            ..Default::default()
        };
        assert_eq!(requests(&spec).milli_cpu, 957, "900m beside the first sidecar, plus overhead");
        let spec = PodSpec { init_containers: None, overhead: None, ..spec };
        assert_eq!(requests(&spec).milli_cpu, 500);
    }

    #[test]
    fn containers_without_requests_count_as_small_ones_in_scoring_only() {
        let spec = PodSpec { containers: vec![container(None, false)], ..Default::default() };
        assert_eq!(requests(&spec), Resources::default());
        assert_eq!(for_scoring(&spec), (DEFAULT_MILLI_CPU, DEFAULT_MEMORY));
    }
}
