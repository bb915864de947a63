//! The Node object and its status, worked out from what was found: no IO but the free space of disk and
//! memory.

use std::{collections::BTreeMap, fs};

use jiff::Timestamp;
use k8s_cri::v1;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use serde_json::{Value, json};

use crate::{Config, machine::Machine, pods::status::time, stored::bare};

/// As `kubectl get nodes` shows it; upstream's number says which API the agent speaks.
const VERSION: &str = concat!("v1.36.0-skerry.", env!("CARGO_PKG_VERSION"));
/// Images in the status; upstream's own bound.
const MAX_IMAGES: usize = 50;
/// Below this much available memory the node is under pressure (upstream's eviction default).
const MEMORY_PRESSURE_BYTES: u64 = 100 << 20;
/// Below this share of free space the node is under disk pressure.
const DISK_PRESSURE_PERCENT: u64 = 5;

/// Annotation by which the built-in provisioner knows where the node's volumes are.
const VOLUMES_FOLDER: &str = "skerry.io/local-path";

/// What the machine itself has.
const RESOURCES: [&str; 4] = ["cpu", "ephemeral-storage", "memory", "pods"];

/// What the runtime said when it was last asked.
#[derive(Clone, Debug, Default)]
pub struct RuntimeFacts {
    /// `containerd://1.6.20`
    pub version: String,
    pub conditions: Vec<v1::RuntimeCondition>,
    pub images: Vec<v1::Image>,
    /// It could not be asked.
    pub error: Option<String>,
    /// What the node's network lacks, besides what the runtime knows of.
    pub network_fault: Option<String>,
}

/// The object that the node registers itself with.
pub fn node_object(config: &Config, machine: &Machine, facts: &RuntimeFacts, now: Timestamp) -> Node {
    let mut labels: BTreeMap<String, String> = config.labels.clone();
    let own = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine.architecture),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let folder = config.local_volumes_dir.display().to_string();
    let taints: Vec<Taint> = config
        .taints
        .iter()
        .map(|taint| Taint {
            key: taint.key.clone(),
            value: taint.value.clone(),
            effect: taint.effect.clone(),
            time_added: None,
        })
        .collect();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(VOLUMES_FOLDER.to_owned(), folder)])),
            ..Default::default()
        },
        spec: Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..Default::default() }),
        status: Some(node_status(config, machine, facts, &NodeStatus::default(), now)),
    }
}

/// The status at `now`; transition times are kept from `before` where nothing changed.
pub fn node_status(
    config: &Config,
    machine: &Machine,
    facts: &RuntimeFacts,
    before: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let mut addresses: Vec<NodeAddress> = config
        .host_ips()
        .into_iter()
        .map(|address| NodeAddress { type_: "InternalIP".to_owned(), address })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".to_owned(), address: config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(resources(config, machine, before, false)),
        allocatable: Some(resources(config, machine, before, true)),
        conditions: Some(conditions(config, facts, before, now)),
        images: Some(images(facts)),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: facts.version.clone(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.machine_id.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A strategic merge patch from the status that is stored to this one. Addresses are replaced as a whole:
/// their merge key is the type, so that of two internal ones, as nodes of both families have them, one would
/// be lost.
pub fn status_patch(before: &NodeStatus, status: &NodeStatus) -> Value {
    let mut patch = json!({"status": status});
    // What others put into the capacity is theirs: said here it would come back after they took it away.
    if let Some(capacity) = patch.pointer_mut("/status/capacity").and_then(Value::as_object_mut) {
        capacity.retain(|name, _| RESOURCES.contains(&name.as_str()));
    }
    // Merged by key: what is not allocatable any more goes only if it is said.
    for gone in before.allocatable.iter().flatten().map(|(name, _)| name) {
        if status.allocatable.as_ref().is_none_or(|all| !all.contains_key(gone)) {
            patch["status"]["allocatable"][gone.as_str()] = Value::Null;
        }
    }
    if let Some(addresses) = patch.pointer_mut("/status/addresses").and_then(Value::as_array_mut) {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    patch
}

/// Whether more than the heartbeat times has changed.
pub fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let own = |status: &NodeStatus| {
        let mut own = NodeStatus {
            addresses: status.addresses.clone(),
            capacity: amounts(&status.capacity),
            allocatable: amounts(&status.allocatable),
            conditions: status.conditions.clone(),
            images: status.images.clone(),
            node_info: status.node_info.clone(),
            ..Default::default()
        };
        // Others add conditions of their own (the network's): they are no difference of ours.
        let kinds = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
        for conditions in own.conditions.iter_mut() {
            conditions.retain(|condition| kinds.contains(&condition.type_.as_str()));
            for condition in conditions.iter_mut() {
                condition.last_heartbeat_time = None;
            }
            // They are merged by type: their order is the server's.
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        own
    };
    let value = |status: &NodeStatus| serde_json::to_value(own(status)).ok().as_ref().and_then(bare);
    value(a) != value(b)
}

/// By value: servers write `1048576Ki` as `1Gi`.
fn amounts(resources: &Option<BTreeMap<String, Quantity>>) -> Option<BTreeMap<String, Quantity>> {
    let resources = resources.as_ref()?.iter().map(|(name, Quantity(text))| {
        let value = skerry_vocabulary::Quantity::parse(text);
        (name.clone(), Quantity(value.map_or_else(|_| text.clone(), |value| value.nano().to_string())))
    });
    Some(resources.collect())
}

pub fn ready(status: &NodeStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The machine's own, and what others have put into the capacity (extended resources): all of that is
/// allocatable.
fn resources(
    config: &Config,
    machine: &Machine,
    before: &NodeStatus,
    allocatable: bool,
) -> BTreeMap<String, Quantity> {
    let reserved = if allocatable { config.reserved.clone() } else { Default::default() };
    let cpu = machine.cpu_millis.saturating_sub(reserved.cpu_millis);
    let cpu = if cpu.is_multiple_of(1000) { (cpu / 1000).to_string() } else { format!("{cpu}m") };
    let memory = machine.memory_bytes.saturating_sub(reserved.memory_bytes) / 1024;
    let storage = machine.storage_bytes.saturating_sub(reserved.storage_bytes) / 1024;
    let mut all = before.capacity.clone().unwrap_or_default();
    all.extend([
        ("cpu".to_owned(), Quantity(cpu)),
        ("memory".to_owned(), Quantity(format!("{memory}Ki"))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{storage}Ki"))),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ]);
    all
}

fn images(facts: &RuntimeFacts) -> Vec<ContainerImage> {
    let mut images: Vec<&v1::Image> = facts.images.iter().collect();
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let listed = images.into_iter().take(MAX_IMAGES).map(|image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    listed.collect()
}

fn conditions(
    config: &Config,
    facts: &RuntimeFacts,
    before: &NodeStatus,
    now: Timestamp,
) -> Vec<NodeCondition> {
    let memory = memory_available().is_some_and(|bytes| bytes < MEMORY_PRESSURE_BYTES);
    let disk = disk_free_percent(&config.root_dir).is_some_and(|percent| percent < DISK_PRESSURE_PERCENT);
    let choose = |pressure, yes: (&'static str, &'static str), no: (&'static str, &'static str)| {
        let (reason, message) = if pressure { yes } else { no };
        (pressure, reason, message.to_owned())
    };
    let set = [
        (
            "MemoryPressure",
            choose(
                memory,
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            choose(
                disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            (false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned()),
        ),
        ("Ready", ready_condition(facts)),
    ];
    set.into_iter()
        .map(|(kind, (holds, reason, message))| {
            let state = if holds { "True" } else { "False" };
            let old = before.conditions.iter().flatten().find(|old| old.type_ == kind && old.status == state);
            NodeCondition {
                type_: kind.to_owned(),
                status: state.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(time(now)),
                last_transition_time: old
                    .and_then(|old| old.last_transition_time.clone())
                    .or(Some(time(now))),
            }
        })
        .collect()
}

/// Ready once the runtime says that it and its network are.
fn ready_condition(facts: &RuntimeFacts) -> (bool, &'static str, String) {
    if let Some(error) = &facts.error {
        return (false, "KubeletNotReady", format!("container runtime is down: {error}"));
    }
    let mut faults = Vec::new();
    for (kind, what) in [("RuntimeReady", "container runtime"), ("NetworkReady", "container runtime network")]
    {
        match facts.conditions.iter().find(|condition| condition.r#type == kind) {
            Some(condition) if condition.status => {}
            Some(condition) => faults.push(format!(
                "{what} not ready: {kind}=false reason:{} message:{}",
                condition.reason, condition.message
            )),
            None => faults.push(format!("{what} status: {kind} is missing")),
        }
    }
    faults.extend(facts.network_fault.iter().map(|fault| format!("network not ready: {fault}")));
    if faults.is_empty() {
        return (true, "KubeletReady", "kubelet is posting ready status".to_owned());
    }
    (false, "KubeletNotReady", faults.join(", "))
}

fn memory_available() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn disk_free_percent(dir: &std::path::Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    (stat.blocks_available() * 100).checked_div(stat.blocks())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerAccess;

    fn config() -> Config {
        let server = ServerAccess::Kubeconfig { path: "/none".into() };
        let mut config = Config::new("n1", vec!["192.0.2.1".parse().unwrap()], server);
        config.reserved.cpu_millis = 500;
        config.reserved.memory_bytes = 1 << 20;
        config
    }

    fn machine() -> Machine {
        Machine { cpu_millis: 2000, memory_bytes: 1 << 30, architecture: "amd64", ..Default::default() }
    }

    fn facts(network: bool) -> RuntimeFacts {
        let condition = |kind: &str, status: bool| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            reason: if status { String::new() } else { "NetworkPluginNotReady".to_owned() },
            message: if status { String::new() } else { "cni plugin not initialized".to_owned() },
        };
        RuntimeFacts {
            conditions: vec![condition("RuntimeReady", true), condition("NetworkReady", network)],
            ..Default::default()
        }
    }

    #[test]
    fn a_patch_of_the_status_replaces_both_addresses() {
        let ips = vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let config = Config { node_ips: tokio::sync::watch::channel(ips).1, ..config() };
        let now = Timestamp::now();
        let status = node_status(&config, &machine(), &facts(true), &NodeStatus::default(), now);
        let patch = status_patch(&NodeStatus::default(), &status);
        let addresses = patch["status"]["addresses"].as_array().unwrap();
        assert_eq!(addresses[0], json!({"$patch": "replace"}));
        let found: Vec<_> =
            addresses[1..].iter().map(|address| address["address"].as_str().unwrap()).collect();
        assert_eq!(found, ["192.0.2.1", "fd00::1", "n1"]);
    }

    #[test]
    fn an_address_that_was_found_anew_is_the_nodes_from_then_on() {
        let (found, node_ips) = tokio::sync::watch::channel(vec!["192.0.2.1".parse().unwrap()]);
        let config = Config { node_ips, ..config() };
        let now = Timestamp::now();
        let status = || node_status(&config, &machine(), &facts(true), &NodeStatus::default(), now);
        let before = status();
        found.send(vec!["192.0.2.9".parse().unwrap()]).unwrap();
        let after = status();
        assert_eq!(after.addresses.as_ref().unwrap()[0].address, "192.0.2.9");
        assert!(differs(&before, &after));
        assert_eq!(config.host_ips(), ["192.0.2.9"]);
    }

    #[test]
    fn the_node_is_ready_only_with_its_network() {
        let now = Timestamp::now();
        let status =
            |network| node_status(&config(), &machine(), &facts(network), &NodeStatus::default(), now);
        assert!(ready(&status(true)) && !ready(&status(false)));
        let conditions = status(false).conditions.unwrap();
        let message = conditions.iter().find(|c| c.type_ == "Ready").unwrap().message.clone().unwrap();
        assert!(message.contains("NetworkReady=false reason:NetworkPluginNotReady"), "{message}");
        let broken = RuntimeFacts { network_fault: Some("no way out".to_owned()), ..facts(true) };
        let status = node_status(&config(), &machine(), &broken, &NodeStatus::default(), now);
        let conditions = status.conditions.unwrap();
        let said = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(
            (said.status.as_str(), said.message.as_deref()),
            ("False", Some("network not ready: no way out"))
        );
    }

    #[test]
    fn a_resource_patched_into_the_capacity_becomes_allocatable_and_goes_with_it() {
        let status =
            |before: &NodeStatus| node_status(&config(), &machine(), &facts(true), before, Timestamp::now());
        let mut stored = status(&NodeStatus::default());
        stored.capacity.as_mut().unwrap().insert("example.com/dongle".to_owned(), Quantity("4".to_owned()));
        let with = status(&stored);
        assert!(differs(&with, &stored));
        assert_eq!(with.allocatable.as_ref().unwrap()["example.com/dongle"].0, "4");
        let patch = status_patch(&stored, &with);
        assert_eq!(patch["status"]["allocatable"]["example.com/dongle"], "4");
        assert_eq!(patch["status"]["capacity"].get("example.com/dongle"), None, "it is theirs to take away");
        let mut taken_away = with.clone();
        taken_away.capacity.as_mut().unwrap().remove("example.com/dongle");
        let without = status(&taken_away);
        assert!(differs(&without, &taken_away));
        let patch = status_patch(&taken_away, &without);
        assert_eq!(patch["status"]["allocatable"].get("example.com/dongle"), Some(&Value::Null));
    }

    #[test]
    fn a_node_that_others_called_unknown_differs_and_turns_later_than_they_wrote() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let before = node_status(&config(), &machine(), &facts(true), &NodeStatus::default(), at(1_000));
        let mut stored = before.clone();
        for condition in stored.conditions.iter_mut().flatten() {
            condition.status = "Unknown".to_owned();
            condition.last_transition_time = Some(time(at(2_000)));
        }
        let after = node_status(&config(), &machine(), &facts(true), &stored, at(2_056));
        assert!(differs(&after, &stored));
        assert_eq!(after.conditions.unwrap()[3].last_transition_time, Some(time(at(2_056))));
        let emptied = NodeStatus::default();
        assert!(differs(&before, &emptied));
    }

    #[test]
    fn reservations_are_taken_off_what_pods_may_use() {
        let status =
            node_status(&config(), &machine(), &facts(true), &NodeStatus::default(), Timestamp::now());
        assert_eq!(status.capacity.unwrap()["cpu"].0, "2");
        let allocatable = status.allocatable.unwrap();
        assert_eq!((allocatable["cpu"].0.as_str(), allocatable["memory"].0.as_str()), ("1500m", "1047552Ki"));
    }

    #[test]
    fn a_heartbeat_is_no_change_and_transition_times_stay() {
        let first = Timestamp::from_second(1_000).unwrap();
        let then = Timestamp::from_second(2_000).unwrap();
        let before = node_status(&config(), &machine(), &facts(true), &NodeStatus::default(), first);
        let after = node_status(&config(), &machine(), &facts(true), &before, then);
        assert!(!differs(&before, &after));
        assert_eq!(after.conditions.as_ref().unwrap()[0].last_transition_time, Some(time(first)));
        let mut spelt_otherwise = after.clone();
        spelt_otherwise.capacity.as_mut().unwrap().insert("memory".to_owned(), Quantity("1Gi".to_owned()));
        assert!(!differs(&spelt_otherwise, &after));
        let unready = node_status(&config(), &machine(), &facts(false), &after, then);
        assert!(differs(&after, &unready));
    }
}
