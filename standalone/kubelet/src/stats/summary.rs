//! `/stats/summary`, in the shape of upstream's `stats/v1alpha1`.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use skerry_vocabulary::time;

use super::{
    cgroup::{Counters, Memory},
    disk::{FileSystem, Used},
    network::Interface,
    reading::{Rate, Reading},
    sample::{ContainerSample, PodSample},
    storage::{PodStorage, Storage},
};

/// The whole document; without `storage` (`only_cpu_and_memory`) what that query promises.
pub fn summary(
    node_name: &str,
    booted: Option<Timestamp>,
    reading: &Reading,
    storage: Option<&Storage>,
) -> Value {
    let newest = &reading.newest;
    let mut node = object(json!({"nodeName": node_name}));
    put(&mut node, "startTime", booted.map(|at| json!(time::seconds(at))));
    usage(&mut node, newest.at, &newest.node, reading.node);
    let now = time::seconds(newest.at);
    if let Some(storage) = storage {
        let interfaces = newest.interfaces.as_deref();
        put(&mut node, "network", interfaces.and_then(|interfaces| network(&now, interfaces)));
        put(&mut node, "fs", storage.node.map(|whole| file_system(&now, whole, None)));
        let images = storage.images.map(|(whole, used)| file_system(&now, whole, Some(used)));
        put(&mut node, "runtime", images.map(|images| json!({"imageFs": images, "containerFs": images})));
    }
    let pods: Vec<Value> = newest.pods.iter().map(|sample| pod(reading, sample, storage)).collect();
    json!({"node": node, "pods": pods})
}

fn pod(reading: &Reading, pod: &PodSample, storage: Option<&Storage>) -> Value {
    let at = reading.newest.at;
    let now = time::seconds(at);
    let own = storage.and_then(|storage| storage.pods.get(&pod.id.uid));
    let containers: Vec<Value> =
        pod.containers.iter().map(|one| container(reading, one, storage, own)).collect();
    let reference = json!({"name": pod.id.name, "namespace": pod.id.namespace, "uid": pod.id.uid});
    let mut told = object(json!({"podRef": reference, "containers": containers}));
    put(&mut told, "startTime", pod.started.map(|at| json!(time::seconds(at))));
    usage(&mut told, at, &pod.whole, reading.pods.get(&pod.id.uid).copied());
    if let Some(storage) = storage {
        put(&mut told, "network", pod.interfaces.as_deref().and_then(|list| network(&now, list)));
        let volumes: Vec<Value> = own
            .iter()
            .flat_map(|own| &own.volumes)
            .map(|volume| {
                let mut told = file_system(&now, volume.file_system, Some(volume.used));
                told["name"] = volume.name.as_str().into();
                if let Some(claim) = &volume.claim {
                    told["pvcRef"] = json!({"name": claim, "namespace": pod.id.namespace});
                }
                told
            })
            .collect();
        put(&mut told, "volume", (!volumes.is_empty()).then(|| json!(volumes)));
        let layers = pod.containers.iter().filter_map(|container| storage.layers.get(&container.id));
        let used = layers.copied().fold(own.map(PodStorage::ephemeral).unwrap_or_default(), Used::and);
        put(&mut told, "ephemeral-storage", storage.node.map(|whole| file_system(&now, whole, Some(used))));
        put(&mut told, "process_stats", pod.processes.map(|count| json!({"process_count": count})));
    }
    Value::Object(told)
}

fn container(
    reading: &Reading,
    container: &ContainerSample,
    storage: Option<&Storage>,
    own: Option<&PodStorage>,
) -> Value {
    let now = time::seconds(reading.newest.at);
    let mut told = object(json!({"name": container.name, "startTime": time::seconds(container.started)}));
    let rate = reading.containers.get(&container.id).copied();
    usage(&mut told, reading.newest.at, &container.counters, rate);
    if let Some(storage) = storage {
        let layer = storage.layers.get(&container.id);
        let layer = layer.zip(storage.images.map(|(whole, _)| whole));
        put(&mut told, "rootfs", layer.map(|(used, whole)| file_system(&now, whole, Some(*used))));
        let logs = own.and_then(|own| own.logs.get(&container.name)).zip(storage.node);
        put(&mut told, "logs", logs.map(|(used, whole)| file_system(&now, whole, Some(*used))));
    }
    Value::Object(told)
}

fn usage(into: &mut Map<String, Value>, at: Timestamp, counters: &Counters, rate: Option<Rate>) {
    let now = time::seconds(at);
    put(
        into,
        "cpu",
        counters.cpu_ns.map(|total| {
            let mut cpu = object(json!({"time": now, "usageCoreNanoSeconds": total}));
            put(&mut cpu, "usageNanoCores", rate.map(|rate| json!(rate.nano_cores)));
            Value::Object(cpu)
        }),
    );
    put(into, "memory", counters.memory.map(|memory| told_memory(&now, &memory)));
}

fn told_memory(now: &str, memory: &Memory) -> Value {
    let mut told = object(json!({
        "time": now, "usageBytes": memory.usage, "workingSetBytes": memory.working_set, "rssBytes": memory.rss,
        "pageFaults": memory.faults, "majorPageFaults": memory.major_faults,
    }));
    let available = memory.limit.map(|limit| json!(limit.saturating_sub(memory.working_set)));
    put(&mut told, "availableBytes", available);
    Value::Object(told)
}

/// The first interface stands for all in the fields beside the list, as upstream has it for `eth0`.
fn network(now: &str, interfaces: &[Interface]) -> Option<Value> {
    let one = |interface: &Interface| {
        json!({
            "name": interface.name,
            "rxBytes": interface.rx.bytes, "rxErrors": interface.rx.errors,
            "txBytes": interface.tx.bytes, "txErrors": interface.tx.errors,
        })
    };
    let all: Vec<Value> = interfaces.iter().map(one).collect();
    let first =
        interfaces.iter().find(|interface| interface.name == "eth0").or_else(|| interfaces.first())?;
    let mut told = one(first);
    told["time"] = now.into();
    told["interfaces"] = all.into();
    Some(told)
}

/// `used`: of what is told of alone, where that is not the file system as a whole.
fn file_system(now: &str, whole: FileSystem, used: Option<Used>) -> Value {
    let all = Used { bytes: whole.used, inodes: whole.inodes.saturating_sub(whole.inodes_free) };
    let used = used.unwrap_or(all);
    json!({
        "time": now, "availableBytes": whole.available, "capacityBytes": whole.capacity, "usedBytes": used.bytes,
        "inodesFree": whole.inodes_free, "inodes": whole.inodes, "inodesUsed": used.inodes,
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What is not known is not there.
fn put(into: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    if let Some(value) = value {
        into.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stats::{fixture::sample, storage::VolumeStorage};

    fn reading() -> Reading {
        Reading::of(&sample(0, &[("c", 0, 1_000)]), Arc::new(sample(10, &[("c", 0, 3_500)])))
    }

    #[test]
    fn cpu_and_memory_alone_are_told_where_that_is_asked_for() {
        let told = summary("n", None, &reading(), None);
        let pod = &told["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "c", "namespace": "ns", "uid": "uid-c"}));
        let cpu = json!({"time": "2023-11-14T22:13:30Z", "usageCoreNanoSeconds": 3_500_000_000u64,
            "usageNanoCores": 250_000_000});
        assert_eq!((&pod["cpu"], &pod["containers"][0]["cpu"], &told["node"]["cpu"]), (&cpu, &cpu, &cpu));
        let memory = &pod["containers"][0]["memory"];
        assert_eq!(memory["workingSetBytes"], 150 << 20);
        assert_eq!(memory["availableBytes"], 106 << 20, "the limit less the working set");
        assert!(pod.get("network").is_none() && told["node"].get("fs").is_none());
    }

    #[test]
    fn a_pods_ephemeral_storage_is_its_layers_logs_and_own_volumes() {
        let whole = FileSystem { capacity: 1000, available: 500, used: 500, inodes: 10, inodes_free: 4 };
        let volume = |name: &str, claim: Option<&str>| VolumeStorage {
            name: name.to_owned(),
            claim: claim.map(str::to_owned),
            file_system: whole,
            used: Used { bytes: 7, inodes: 1 },
            ephemeral: claim.is_none(),
        };
        let own = PodStorage {
            logs: [("c-c".to_owned(), Used { bytes: 20, inodes: 2 })].into(),
            volumes: vec![volume("scratch", None), volume("data", Some("claim"))],
        };
        let storage = Storage {
            node: Some(whole),
            images: Some((whole, Used { bytes: 300, inodes: 3 })),
            pods: [("uid-c".to_owned(), own)].into(),
            layers: [("c".to_owned(), Used { bytes: 100, inodes: 1 })].into(),
        };
        let told = summary("n", None, &reading(), Some(&storage));
        let pod = &told["pods"][0];
        assert_eq!(pod["ephemeral-storage"]["usedBytes"], 127);
        assert_eq!(pod["containers"][0]["logs"]["usedBytes"], 20);
        assert_eq!(pod["containers"][0]["rootfs"]["usedBytes"], 100);
        assert_eq!(pod["volume"][1]["pvcRef"], json!({"name": "claim", "namespace": "ns"}));
        assert_eq!(pod["network"]["rxBytes"], 10);
        assert_eq!(told["node"]["fs"]["inodesUsed"], 6);
        assert_eq!(told["node"]["runtime"]["imageFs"]["usedBytes"], 300);
    }
}
