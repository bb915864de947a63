//! `/metrics`: the node agent about itself, by upstream's names.

use std::fs;

use k8s_openapi::api::core::v1::PodStatus;

use super::exposition::{Exposition, Kind, Point};

/// Clock ticks in which the kernel counts processor time (`USER_HZ`, the same on all architectures that we
/// run on).
const TICKS_PER_SECOND: f64 = 100.0;

/// `statuses`: of all pods of the node.
pub fn text<'a>(node_name: &str, statuses: impl Iterator<Item = Option<&'a PodStatus>>) -> String {
    let mut out = Exposition::default();
    let counts = Counts::of(statuses);
    let point = |labels, value: f64| Point { labels, value, at_ms: None };
    let name = [("node", node_name)];
    out.family(
        "kubelet_node_name",
        Kind::Gauge,
        "The node's name. The count is always 1.",
        [point(&name, 1.0)],
    );
    let help = "Number of pods that have a running pod sandbox";
    out.family("kubelet_running_pods", Kind::Gauge, help, [point(&[], counts.running_pods as f64)]);
    let states = [("running", counts.running), ("waiting", counts.waiting), ("exited", counts.exited)];
    let labels = states.map(|(state, _)| [("container_state", state)]);
    let states = labels.iter().zip(states).map(|(labels, (_, count))| point(labels, count as f64));
    out.family("kubelet_running_containers", Kind::Gauge, "Number of containers by their state", states);
    let desired = point(&[], counts.pods as f64);
    out.family(
        "kubelet_desired_pods",
        Kind::Gauge,
        "The number of pods the kubelet is being instructed to run.",
        [desired],
    );
    process(&mut out);
    out.text()
}

#[derive(Default)]
struct Counts {
    pods: usize,
    running_pods: usize,
    running: usize,
    waiting: usize,
    exited: usize,
}

impl Counts {
    fn of<'a>(statuses: impl Iterator<Item = Option<&'a PodStatus>>) -> Counts {
        let mut counts = Counts::default();
        for status in statuses {
            counts.pods += 1;
            let Some(status) = status else { continue };
            counts.running_pods += usize::from(status.phase.as_deref() == Some("Running"));
            let all = [
                &status.container_statuses,
                &status.init_container_statuses,
                &status.ephemeral_container_statuses,
            ];
            for state in all.into_iter().flatten().flatten().filter_map(|status| status.state.as_ref()) {
                counts.running += usize::from(state.running.is_some());
                counts.waiting += usize::from(state.waiting.is_some());
                counts.exited += usize::from(state.terminated.is_some());
            }
        }
        counts
    }
}

fn process(out: &mut Exposition) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields behind the program's name, which may hold anything: the first is the third of proc_pid_stat(5).
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let plain = |value: f64| Point { labels: &[], value, at_ms: None };
    let cpu = field(14).zip(field(15)).map(|(user, system)| plain((user + system) as f64 / TICKS_PER_SECOND));
    out.family(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Total user and system CPU time spent in seconds.",
        cpu,
    );
    let rss = field(24).map(|pages| plain((pages * page_size()) as f64));
    out.family("process_resident_memory_bytes", Kind::Gauge, "Resident memory size in bytes.", rss);
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| plain(entries.count() as f64));
    out.family("process_open_fds", Kind::Gauge, "Number of open file descriptors.", open);
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_containers_are_counted_by_state() {
        let status: PodStatus = serde_json::from_value(serde_json::json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
            {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 1}}},
        ]}))
        .unwrap();
        let text = text("n1", [Some(&status), None].into_iter());
        for line in [
            "kubelet_node_name{node=\"n1\"} 1",
            "kubelet_running_pods 1",
            "kubelet_desired_pods 2",
            "kubelet_running_containers{container_state=\"running\"} 1",
            "kubelet_running_containers{container_state=\"exited\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    }
}
