//! `/metrics/resource` and `/metrics/cadvisor`, by upstream's names.

use super::{
    cgroup::Counters,
    exposition::{Exposition, Kind, Point, seconds},
    network::Interface,
    reading::Reading,
    sample::{ContainerSample, PodSample, Sample},
    storage::Storage,
};

type Read = fn(&Counters) -> Option<f64>;

fn cpu(counters: &Counters) -> Option<f64> {
    counters.cpu_ns.map(seconds)
}

fn working_set(counters: &Counters) -> Option<f64> {
    counters.memory.map(|memory| memory.working_set as f64)
}

/// What autoscaling goes by: processor time and working sets.
pub fn resource_metrics(reading: &Reading) -> String {
    let sample = &*reading.newest;
    let at_ms = Some(sample.at.as_millisecond());
    let mut out = Exposition::default();
    let gauges: [(&str, Kind, &str, Read); 2] = [
        (
            "cpu_usage_seconds_total",
            Kind::Counter,
            "Cumulative cpu time consumed by the {} in core-seconds",
            cpu,
        ),
        ("memory_working_set_bytes", Kind::Gauge, "Current working set of the {} in bytes", working_set),
    ];
    for (name, kind, help, read) in gauges {
        let points: Vec<_> = containers(sample)
            .filter_map(|(pod, container)| {
                Some((container_labels(pod, container), read(&container.counters)?))
            })
            .collect();
        let points = points.iter().map(|(labels, value)| Point { labels, value: *value, at_ms });
        out.family(&format!("container_{name}"), kind, &help.replace("{}", "container"), points);
    }
    let starts: Vec<_> = containers(sample)
        .map(|(pod, container)| (container_labels(pod, container), container.started.as_second() as f64))
        .collect();
    let starts = starts.iter().map(|(labels, value)| Point { labels, value: *value, at_ms: None });
    let help = "Start time of the container since unix epoch in seconds";
    out.family("container_start_time_seconds", Kind::Gauge, help, starts);
    for (name, kind, help, read) in gauges {
        let node = read(&sample.node).map(|value| Point { labels: &[], value, at_ms });
        out.family(&format!("node_{name}"), kind, &help.replace("{}", "node"), node);
    }
    for (name, kind, help, read) in gauges {
        let points: Vec<_> =
            sample.pods.iter().filter_map(|pod| Some((pod_labels(pod), read(&pod.whole)?))).collect();
        let points = points.iter().map(|(labels, value)| Point { labels, value: *value, at_ms });
        out.family(&format!("pod_{name}"), kind, &help.replace("{}", "pod"), points);
    }
    let failed = if sample.node.cpu_ns.is_none() || sample.node.memory.is_none() { 1.0 } else { 0.0 };
    for name in ["resource_scrape_error", "scrape_error"] {
        let help = "1 if there was an error while getting container metrics, 0 otherwise";
        out.family(name, Kind::Gauge, help, [Point { labels: &[], value: failed, at_ms: None }]);
    }
    out.text()
}

fn containers(sample: &Sample) -> impl Iterator<Item = (&PodSample, &ContainerSample)> {
    sample.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

fn container_labels<'a>(pod: &'a PodSample, container: &'a ContainerSample) -> [(&'a str, &'a str); 3] {
    [("container", &container.name), ("namespace", &pod.id.namespace), ("pod", &pod.id.name)]
}

fn pod_labels(pod: &PodSample) -> [(&str, &str); 2] {
    [("namespace", &pod.id.namespace), ("pod", &pod.id.name)]
}

/// One cgroup as cAdvisor names it: a container, a pod as a whole (no container, no image) or the machine
/// (`/`).
struct Scope<'a> {
    labels: Vec<(&'a str, &'a str)>,
    counters: &'a Counters,
}

fn scopes(sample: &Sample) -> Vec<Scope<'_>> {
    let mut found = vec![Scope { labels: labels("", "/", "", "", ""), counters: &sample.node }];
    for pod in &sample.pods {
        let (namespace, name) = (pod.id.namespace.as_str(), pod.id.name.as_str());
        found.push(Scope { labels: labels("", &pod.id.uid, "", namespace, name), counters: &pod.whole });
        for one in &pod.containers {
            let labels = labels(&one.name, &one.id, &one.image, namespace, name);
            found.push(Scope { labels, counters: &one.counters });
        }
    }
    found
}

fn labels<'a>(
    container: &'a str,
    id: &'a str,
    image: &'a str,
    namespace: &'a str,
    pod: &'a str,
) -> Vec<(&'a str, &'a str)> {
    let name = if container.is_empty() { "" } else { id };
    vec![
        ("container", container),
        ("id", id),
        ("image", image),
        ("name", name),
        ("namespace", namespace),
        ("pod", pod),
    ]
}

/// What cAdvisor tells of containers, as far as it is known here.
pub fn container_metrics(reading: &Reading, storage: &Storage, cores: u64, memory_bytes: u64) -> String {
    let sample = &*reading.newest;
    let at_ms = Some(sample.at.as_millisecond());
    let mut out = Exposition::default();
    let scopes = scopes(sample);
    let mut family =
        |name: &str, kind: Kind, help: &str, more: &[(&'static str, &'static str)], read: Read| {
            let points: Vec<_> = scopes
                .iter()
                .filter_map(|scope| {
                    let labels = scope.labels.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>();
                    Some((labels, read(scope.counters)?))
                })
                .collect();
            out.family(
                name,
                kind,
                help,
                points.iter().map(|(labels, value)| Point { labels, value: *value, at_ms }),
            );
        };
    let total = [("cpu", "total")];
    let help = "Cumulative cpu time consumed in seconds.";
    family("container_cpu_usage_seconds_total", Kind::Counter, help, &total, cpu);
    let help = "Current working set in bytes.";
    family("container_memory_working_set_bytes", Kind::Gauge, help, &[], working_set);
    let gauges: [(&str, &str, Read); 4] = [
        (
            "usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |c| c.memory.map(|memory| memory.usage as f64),
        ),
        ("rss", "Size of RSS in bytes.", |c| c.memory.map(|memory| memory.rss as f64)),
        ("cache", "Number of bytes of page cache memory.", |c| c.memory.map(|memory| memory.cache as f64)),
        ("limit_bytes", "Memory limit for the container.", |c| c.memory?.limit.map(|limit| limit as f64)),
    ];
    for (name, help, read) in gauges {
        let prefix = if name == "limit_bytes" { "container_spec_memory" } else { "container_memory" };
        family(&format!("{prefix}_{name}"), Kind::Gauge, help, &[], read);
    }
    let faults: [(&'static str, Read); 2] = [
        ("pgfault", |c| c.memory.map(|memory| memory.faults as f64)),
        ("pgmajfault", |c| c.memory.map(|memory| memory.major_faults as f64)),
    ];
    let points: Vec<_> = faults
        .iter()
        .flat_map(|(kind, read)| {
            scopes.iter().filter_map(|scope| {
                let more = [("failure_type", *kind), ("scope", "container")];
                let labels = scope.labels.iter().copied().chain(more).collect::<Vec<_>>();
                Some((labels, read(scope.counters)?))
            })
        })
        .collect();
    let points = points.iter().map(|(labels, value)| Point { labels, value: *value, at_ms });
    out.family(
        "container_memory_failures_total",
        Kind::Counter,
        "Cumulative count of memory allocation failures.",
        points,
    );
    networks(&mut out, sample);
    file_systems(&mut out, sample, storage);
    let starts: Vec<_> = containers(sample)
        .map(|(pod, one)| {
            let labels = labels(&one.name, &one.id, &one.image, &pod.id.namespace, &pod.id.name);
            (labels, one.started.as_second() as f64)
        })
        .collect();
    let starts = starts.iter().map(|(labels, value)| Point { labels, value: *value, at_ms });
    let help = "Start time of the container since unix epoch in seconds.";
    out.family("container_start_time_seconds", Kind::Gauge, help, starts);
    let plain = |value: u64| Point { labels: &[], value: value as f64, at_ms: None };
    out.family("machine_cpu_cores", Kind::Gauge, "Number of logical CPU cores.", [plain(cores)]);
    let help = "Amount of memory installed on the machine.";
    out.family("machine_memory_bytes", Kind::Gauge, help, [plain(memory_bytes)]);
    out.text()
}

fn networks(out: &mut Exposition, sample: &Sample) {
    type Count = fn(&Interface) -> u64;
    let counts: [(&str, Count); 8] = [
        ("receive_bytes", |interface| interface.rx.bytes),
        ("receive_packets", |interface| interface.rx.packets),
        ("receive_errors", |interface| interface.rx.errors),
        ("receive_packets_dropped", |interface| interface.rx.dropped),
        ("transmit_bytes", |interface| interface.tx.bytes),
        ("transmit_packets", |interface| interface.tx.packets),
        ("transmit_errors", |interface| interface.tx.errors),
        ("transmit_packets_dropped", |interface| interface.tx.dropped),
    ];
    for (name, count) in counts {
        let points: Vec<_> = sample
            .pods
            .iter()
            .flat_map(|pod| pod.interfaces.iter().flatten().map(move |interface| (pod, interface)))
            .map(|(pod, interface)| {
                let labels = [
                    ("id", pod.id.uid.as_str()),
                    ("interface", &interface.name),
                    ("namespace", &pod.id.namespace),
                    ("pod", &pod.id.name),
                ];
                (labels, count(interface) as f64)
            })
            .collect();
        let at_ms = Some(sample.at.as_millisecond());
        let points = points.iter().map(|(labels, value)| Point { labels, value: *value, at_ms });
        let help = format!("Cumulative count of {}.", name.replace('_', " "));
        out.family(&format!("container_network_{name}_total"), Kind::Counter, &help, points);
    }
}

fn file_systems(out: &mut Exposition, sample: &Sample, storage: &Storage) {
    let points: Vec<_> = containers(sample)
        .filter_map(|(pod, one)| {
            let used = storage.layers.get(&one.id)?;
            let labels = labels(&one.name, &one.id, &one.image, &pod.id.namespace, &pod.id.name);
            Some((labels, used.bytes as f64))
        })
        .collect();
    let at_ms = Some(sample.at.as_millisecond());
    let points = points.iter().map(|(labels, value)| Point { labels, value: *value, at_ms });
    let help = "Number of bytes that are consumed by the container on this filesystem.";
    out.family("container_fs_usage_bytes", Kind::Gauge, help, points);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stats::fixture::sample;

    fn reading() -> Reading {
        Reading::of(&sample(0, &[]), Arc::new(sample(10, &[("c", 0, 3_500)])))
    }

    #[test]
    fn resources_have_upstreams_names_and_the_time_they_were_read() {
        let text = resource_metrics(&reading());
        for line in [
            "container_cpu_usage_seconds_total{container=\"c-c\",namespace=\"ns\",pod=\"c\"} 3.5 1700000010000",
            "container_memory_working_set_bytes{container=\"c-c\",namespace=\"ns\",pod=\"c\"} 157286400 1700000010000",
            "container_start_time_seconds{container=\"c-c\",namespace=\"ns\",pod=\"c\"} 1700000000",
            "node_cpu_usage_seconds_total 3.5 1700000010000",
            "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"c\"} 157286400 1700000010000",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn each_cgroup_has_its_row_and_each_interface_too() {
        let text = container_metrics(&reading(), &Storage::default(), 2, 1 << 30);
        let cpu = |labels: &str| {
            format!("container_cpu_usage_seconds_total{{{labels},cpu=\"total\"}} 3.5 1700000010000")
        };
        for line in [
            cpu("container=\"c-c\",id=\"c\",image=\"image\",name=\"c\",namespace=\"ns\",pod=\"c\""),
            cpu("container=\"\",id=\"uid-c\",image=\"\",name=\"\",namespace=\"ns\",pod=\"c\""),
            cpu("container=\"\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\""),
            "container_network_receive_bytes_total{id=\"uid-c\",interface=\"eth0\",namespace=\"ns\",pod=\"c\"} 10 1700000010000"
                .to_owned(),
            "machine_cpu_cores 2".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
