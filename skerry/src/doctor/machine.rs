//! What this machine is asked.

use std::{
    io,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use kube::config::Kubeconfig;

use super::{
    DoctorArgs,
    edges::{self, Edges, Role, Room},
    report::{Checked, Finding},
};
use crate::paths::Paths;

/// Upstream's hard limits of eviction; a large disk may be fuller.
const LEAST_FREE_PART: u64 = 10;
const ENOUGH_FREE: u64 = 5 << 30;
const LEAST_INODES_PART: u64 = 20;
/// Whoever renews a certificate has done so long before: the server those with less than 120 days left when it
/// starts, a node its own after two thirds of its life.
const LEAST_DAYS: i64 = 30;
const NOT_OURS: &str = "neither a server nor a node of Skerry is on this machine (another one may have other folders: --data-dir, --run-dir)";

fn is_ours(edges: &impl Edges) -> bool {
    Role::ALL.into_iter().any(|role| edges.was_here(role))
}

fn runs(edges: &impl Edges, role: Role) -> bool {
    matches!(edges.holder(role), Ok(Some(_)))
}

/// What was started here runs.
pub async fn programs(edges: &impl Edges) -> Checked {
    if !is_ours(edges) {
        return Checked::Left(NOT_OURS.to_owned());
    }
    let (mut findings, mut seen) = (Vec::new(), Vec::new());
    for role in Role::ALL.into_iter().filter(|role| edges.was_here(*role)) {
        match edges.holder(role) {
            Ok(Some(pid)) => seen.push(format!("{} (process {pid})", role.name())),
            Ok(None) => findings.push(Finding::new(
                format!("skerry {} was started here and does not run", role.name()),
                "look at its last log lines, then start it again; `skerry uninstall` if it is not wanted here",
            )),
            Err(error) => seen.push(format!("{} ({error})", role.name())),
        }
    }
    Checked::of(findings, format!("{} run", seen.join(", ")))
}

/// Certificates of this machine, and the one that we show the server.
pub async fn certificates(edges: &impl Edges, args: &DoctorArgs) -> Checked {
    let paths = Paths(&args.folders);
    let pki = paths.server_dir().join("pki");
    let server = "restart `skerry server` (or `skerry up`): at its start it signs anew what ends soon";
    let authority =
        "it can't be renewed: plan to install the cluster anew, or to join every node anew (docs/limits.md)";
    let node = "`skerry node` renews it by itself: its log says why it did not";
    let yours = "take a fresh one from the server: `skerry kubeconfig`";
    let mut kept: Vec<(PathBuf, &str)> = vec![
        (pki.join("ca.crt"), authority),
        (pki.join("serving.crt"), server),
        (paths.node_dir().join("pki/node.crt"), node),
    ];
    kept.extend(["admin", "controllers", "scheduler"].map(|name| (paths.kubeconfig(name), server)));
    kept.extend(args.api.kubeconfig.iter().map(|path| (path.clone(), yours)));
    let (mut findings, mut soonest) = (Vec::new(), None::<Timestamp>);
    for (path, next) in kept {
        let text = match edges.read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                findings.push(Finding::new(format!("{}: {error}", path.display()), "are you root?"));
                continue;
            }
        };
        let pem = if path.extension().is_some_and(|end| end == "crt") { Some(text) } else { shown(&text) };
        let Some(pem) = pem else { continue };
        match skerry_kubelet::validity(&pem) {
            None => findings.push(Finding::new(
                format!("{} holds no certificate that can be read", path.display()),
                next,
            )),
            Some((from, to)) => {
                soonest = Some(soonest.map_or(to, |before| before.min(to)));
                findings.extend(judge(&path, from, to, edges.now(), next));
            }
        }
    }
    match soonest {
        None if findings.is_empty() => Checked::Left("there are none on this machine".to_owned()),
        soonest => Checked::of(
            findings,
            soonest
                .map(|at| format!("the first one ends on {}", at.strftime("%Y-%m-%d")))
                .unwrap_or_default(),
        ),
    }
}

/// The client certificate of a kubeconfig, where it holds one.
fn shown(kubeconfig: &str) -> Option<String> {
    let file = Kubeconfig::from_yaml(kubeconfig).ok()?;
    let data =
        file.auth_infos.iter().find_map(|user| user.auth_info.as_ref()?.client_certificate_data.clone())?;
    let pem = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
    String::from_utf8(pem).ok()
}

fn judge(path: &Path, from: Timestamp, to: Timestamp, now: Timestamp, next: &str) -> Option<Finding> {
    let left = to.duration_since(now);
    let what = match () {
        () if now < from => format!("counts from {from} only: is this machine's clock right?"),
        () if left.is_negative() => format!("has ended on {to}"),
        () if left < SignedDuration::from_hours(24 * LEAST_DAYS) => {
            format!("ends in {} days, on {to}", left.as_hours() / 24)
        }
        () => return None,
    };
    Some(Finding::new(format!("the certificate in {} {what}", path.display()), next))
}

/// Room and inodes where we, containerd and the pods write.
pub async fn disk(edges: &impl Edges, args: &DoctorArgs) -> Checked {
    if !is_ours(edges) {
        return Checked::Left(NOT_OURS.to_owned());
    }
    let (mut findings, mut devices, mut least) = (Vec::new(), Vec::new(), None::<u64>);
    for path in edges::folders(args) {
        let room = match edges.room(&path).await {
            Ok(room) => room,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                findings.push(Finding::new(
                    format!("the disk of {} can't be looked at: {error}", path.display()),
                    "`dmesg` says whether the disk fails",
                ));
                continue;
            }
        };
        if devices.contains(&room.device) {
            continue;
        }
        devices.push(room.device);
        least = Some(least.map_or(room.free_bytes, |before| before.min(room.free_bytes)));
        findings.extend(full(&path, room));
    }
    Checked::of(findings, format!("{} GiB free where there is least", least.unwrap_or_default() >> 30))
}

fn full(path: &Path, room: Room) -> Vec<Finding> {
    let mut findings = Vec::new();
    let next = format!(
        "`du -xh {0} | sort -h | tail` shows what fills it; unused images go by `ctr -n k8s.io images rm`",
        path.display()
    );
    if room.free_bytes < ENOUGH_FREE && room.free_bytes < room.bytes / LEAST_FREE_PART {
        let (free, all) = (room.free_bytes >> 20, room.bytes >> 20);
        findings.push(Finding::new(
            format!("the disk of {} is nearly full: {free} of {all} MiB free", path.display()),
            &*next,
        ));
    }
    if room.free_inodes < room.inodes / LEAST_INODES_PART {
        let (free, all) = (room.free_inodes, room.inodes);
        findings.push(Finding::new(
            format!("the disk of {} has nearly no inodes left: {free} of {all}", path.display()),
            format!("`du -x --inodes {} | sort -n | tail` shows where many small files are", path.display()),
        ));
    }
    findings
}

/// What the programs need of the kernel.
pub async fn kernel(edges: &impl Edges) -> Checked {
    let mut findings = Vec::new();
    if let Err(error) = edges.kernel() {
        findings.push(Finding::new(error, "install a newer kernel and reboot"));
    }
    match edges.has_cgroup2() {
        Ok(true) => {}
        Ok(false) => findings.push(Finding::new(
            "no cgroup v2 hierarchy is mounted: connections can't be balanced at the socket",
            "`mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with systemd.unified_cgroup_hierarchy=1",
        )),
        Err(error) => findings.push(Finding::new(format!("mounts can't be read: {error}"), "are you root?")),
    }
    let has = |kind: &str, text: &str| text.lines().any(|line| line.split_whitespace().last() == Some(kind));
    match edges.read(Path::new("/proc/filesystems")) {
        Ok(text) if has("bpf", &text) => {}
        _ => findings.push(Finding::new(
            "the kernel knows no BPF file system: programs and maps can't be pinned",
            "use a kernel with CONFIG_BPF_SYSCALL (each of the distributions has it)",
        )),
    }
    // Absent in a container or a namespace of its own, and where it is compiled to be always on.
    if edges.read(Path::new("/proc/sys/net/core/bpf_jit_enable")).is_ok_and(|text| text.trim() == "0") {
        findings.push(Finding::new(
            "programs are interpreted, not compiled: every packet takes several times as long",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        ));
    }
    Checked::of(findings, "has what the programs need")
}

/// Where a node runs.
pub async fn containerd(edges: &impl Edges) -> Checked {
    if !runs(edges, Role::Node) {
        return Checked::Left("no node runs here".to_owned());
    }
    match edges.containerd() {
        Ok(()) => Checked::Fine("takes connections".to_owned()),
        Err(error) => Checked::found(error, "`systemctl status containerd`; running pods go on without it"),
    }
}

/// What others have set that gets in the way.
pub async fn firewall(edges: &impl Edges) -> Checked {
    if !runs(edges, Role::Node) {
        return Checked::Left("no node runs here".to_owned());
    }
    let warnings = edges.firewall().await.into_iter();
    let findings =
        warnings.map(|text| Finding::new(text, "lift it, if this machine is to forward for its pods"));
    Checked::of(findings.collect(), "nothing drops what this machine forwards")
}
