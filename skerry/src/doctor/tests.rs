//! A healthy world, and one fault at a time.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use serde_json::{Value, json};

use super::*;
use crate::args::{Cli, Command};
use edges::{Answer, Role, Room};

/// Everything that the checks are told; well as it is made.
struct World {
    answers: HashMap<&'static str, Result<Answer, String>>,
    resolve: Result<IpAddr, String>,
    room: io::Result<Room>,
    files: HashMap<PathBuf, Option<String>>,
    now: Timestamp,
    holders: HashMap<&'static str, Option<i32>>,
    kernel: Result<(), String>,
    cgroup2: Result<bool, String>,
    containerd: Result<(), String>,
    firewall: Vec<String>,
    maps: Result<(), String>,
    /// The API server never answers.
    hangs: bool,
}

const NOW: &str = "2026-12-01T10:00:00.5Z";
const NODES: &str = "/api/v1/nodes";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkube-dns";
const SERVICE: &str = "/api/v1/namespaces/kube-system/services/kube-dns";
const HEALTHZ: &str = "/api/v1/nodes/n1/proxy/healthz";

fn said(status: u16, body: impl ToString) -> Result<Answer, String> {
    Ok(Answer { status, body: body.to_string(), date: Some("2026-12-01T10:00:00Z".parse().unwrap()) })
}

fn node(ready: &str) -> Value {
    json!({"metadata": {"name": "n1"}, "status": {
        "nodeInfo": {"kubeletVersion": concat!("v1.36.0-skerry.", env!("CARGO_PKG_VERSION"))},
        "conditions": [{"type": "Ready", "status": ready, "reason": "KubeletNotReady", "message": "no way out"}]}})
}

fn list(objects: &[Value]) -> Value {
    json!({"items": objects})
}

/// One that counts for the year 2026, in PEM.
static CERTIFICATE: LazyLock<String> = LazyLock::new(|| {
    let mut asked = CertificateParams::new(Vec::new()).unwrap();
    (asked.not_before, asked.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    asked.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
});

impl World {
    fn well() -> World {
        let answers = [
            ("/readyz?verbose", said(200, "ok")),
            ("/version", said(200, "{}")),
            (NODES, said(200, list(&[node("True")]))),
            (HEALTHZ, said(200, "ok")),
            (SERVICE, said(200, json!({"spec": {"clusterIPs": ["10.96.0.10"]}}))),
            (SLICES, said(200, list(&[json!({"endpoints": [{"conditions": {"ready": true}}]})]))),
        ];
        let files: [(&str, &str); 4] = [
            ("/proc/filesystems", "nodev\tbpf\n\text4\n"),
            ("/proc/sys/net/core/bpf_jit_enable", "1\n"),
            ("/d/server/pki/ca.crt", &CERTIFICATE),
            ("/d/node/pki/node.crt", &CERTIFICATE),
        ];
        World {
            answers: answers.into(),
            resolve: Ok("10.96.0.1".parse().unwrap()),
            room: Ok(Room { free_bytes: 9 << 30, bytes: 100 << 30, free_inodes: 50, inodes: 100, device: 1 }),
            files: files.map(|(path, text)| (PathBuf::from(path), Some(text.to_owned()))).into(),
            now: NOW.parse().unwrap(),
            holders: [("server", Some(2)), ("node", Some(3)), ("dns", Some(4))].into(),
            kernel: Ok(()),
            cgroup2: Ok(true),
            containerd: Ok(()),
            firewall: Vec::new(),
            maps: Ok(()),
            hangs: false,
        }
    }

    fn file(&mut self, path: &str, text: Option<&str>) {
        self.files.insert(path.into(), text.map(str::to_owned));
    }
}

impl Edges for World {
    async fn get(&self, path: &str) -> Result<Answer, String> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        self.answers.get(path).cloned().unwrap_or_else(|| said(404, "{}"))
    }

    async fn resolve(&self, _: IpAddr, _: &str) -> Result<IpAddr, String> {
        self.resolve.clone()
    }

    async fn room(&self, path: &Path) -> io::Result<Room> {
        match &self.room {
            _ if path.starts_with("/var") => Err(io::ErrorKind::NotFound.into()),
            Ok(room) => Ok(*room),
            Err(error) if path == Path::new("/d") => Err(error.kind().into()),
            Err(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        match self.files.get(path) {
            Some(Some(text)) => Ok(text.clone()),
            Some(None) => Err(io::ErrorKind::PermissionDenied.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn now(&self) -> Timestamp {
        self.now
    }

    fn holder(&self, role: Role) -> Result<Option<i32>, String> {
        Ok(self.holders.get(role.name()).copied().flatten())
    }

    fn was_here(&self, role: Role) -> bool {
        self.holders.contains_key(role.name())
    }

    fn kernel(&self) -> Result<(), String> {
        self.kernel.clone()
    }

    fn has_cgroup2(&self) -> Result<bool, String> {
        self.cgroup2.clone()
    }

    fn containerd(&self) -> Result<(), String> {
        self.containerd.clone()
    }

    async fn firewall(&self) -> Vec<String> {
        self.firewall.clone()
    }

    fn maps(&self) -> Result<(), String> {
        self.maps.clone()
    }
}

fn examined(world: &World) -> Report {
    let typed = ["skerry", "doctor", "--data-dir", "/d", "--run-dir", "/r"];
    let Command::Doctor(mut args) = Cli::parse_from(typed).command else { panic!("it is a doctor") };
    args.api.kubeconfig = None;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // What is at hand is found however short the limits are.
    runtime.block_on(examine(world, &args, Duration::from_millis(1)))
}

/// Which checks found something, and all that they say.
fn found(world: &World) -> (Vec<&'static str>, String) {
    let report = examined(world);
    let is_found = |outcome: &&Outcome| matches!(outcome.checked, Checked::Found(_));
    let checks = report.outcomes.iter().filter(is_found).map(|outcome| outcome.check).collect();
    (checks, report.text())
}

#[test]
fn a_healthy_cluster_is_well() {
    let report = examined(&World::well());
    assert!(report.is_well(), "{}", report.text());
    assert!(report.text().ends_with("All is well, as far as 11 checks can tell.\n"), "{}", report.text());
    let told = report.json();
    assert_eq!((&told["well"], told["checks"].as_array().unwrap().len()), (&json!(true), 11));
    assert!(told["checks"].as_array().unwrap().iter().all(|check| check["state"] == "fine"), "{told:#}");
}

#[test]
fn each_fault_is_found_by_its_check_alone_with_a_next_step() {
    type Break = fn(&mut World);
    let faults: [(&str, Break, &str); 24] = [
        ("programs", |w| _ = w.holders.insert("up", None), "skerry up was started here and does not run"),
        (
            "api server",
            |w| _ = w.answers.insert("/readyz?verbose", said(500, "[+]ping ok\n[-]store failed\n")),
            "[-]store failed",
        ),
        ("api server", |w| _ = w.answers.insert("/readyz?verbose", said(401, "")), "skerry kubeconfig"),
        ("clock", |w| w.now += SignedDuration::from_secs(60), "59 s or more ahead of"),
        ("clock", |w| w.now -= SignedDuration::from_secs(60), "s or more behind"),
        (
            "nodes",
            |w| _ = w.answers.insert(NODES, said(200, list(&[node("False")]))),
            "n1 is not Ready: KubeletNotReady: no way out",
        ),
        (
            "nodes",
            |w| _ = w.answers.insert(HEALTHZ, said(502, r#"{"message":"no tunnel"}"#)),
            "its agent does not answer: no tunnel",
        ),
        (
            "versions",
            |w| {
                let mut old = node("True");
                old["status"]["nodeInfo"]["kubeletVersion"] = "v1.36.0-skerry.0.0.1".into();
                w.answers.insert(NODES, said(200, list(&[old])));
            },
            "node n1 is of version 0.0.1",
        ),
        ("versions", |w| w.maps = Err("the maps are of ABI version 7".into()), "ABI version 7"),
        ("names", |w| _ = w.answers.remove(SERVICE), "no Service kube-system/kube-dns"),
        ("names", |w| _ = w.answers.insert(SLICES, said(200, list(&[]))), "no ready endpoint"),
        (
            "names",
            |w| w.resolve = Err("192.0.2.1:53 did not answer".into()),
            "skerry dns lookup kubernetes.default.svc.cluster.local.",
        ),
        ("certificates", |w| w.file("/d/node/pki/node.crt", Some("half")), "node.crt holds no certificate"),
        ("certificates", |w| w.file("/d/node/pki/node.crt", None), "are you root?"),
        (
            "disk",
            |w| {
                w.room =
                    Ok(Room { free_bytes: 1 << 30, bytes: 100 << 30, free_inodes: 9, inodes: 9, device: 1 })
            },
            "1024 of 102400 MiB free",
        ),
        (
            "disk",
            |w| {
                w.room = Ok(Room {
                    free_bytes: 50 << 30,
                    bytes: 100 << 30,
                    free_inodes: 1,
                    inodes: 100,
                    device: 1,
                })
            },
            "no inodes left: 1 of 100",
        ),
        ("disk", |w| w.room = Err(io::ErrorKind::TimedOut.into()), "can't be looked at"),
        ("kernel", |w| w.kernel = Err("kernel 5.15.0 is too old".into()), "5.15.0"),
        ("kernel", |w| w.cgroup2 = Ok(false), "no cgroup v2"),
        ("kernel", |w| w.file("/proc/filesystems", Some("nodev\tproc\n")), "no BPF file system"),
        ("kernel", |w| w.file("/proc/sys/net/core/bpf_jit_enable", Some("0\n")), "interpreted"),
        ("containerd", |w| w.containerd = Err("connect to containerd".into()), "systemctl status containerd"),
        ("firewall", |w| w.firewall = vec!["the FORWARD chain drops".into()], "the FORWARD chain drops"),
        ("nodes", |w| _ = w.answers.insert(NODES, said(200, list(&[]))), "the cluster has no node"),
    ];
    for (check, fault, words) in faults {
        let mut world = World::well();
        fault(&mut world);
        let (checks, text) = found(&world);
        assert_eq!(checks, [check], "{text}");
        assert!(text.contains(words) && text.contains("  next: ") && text.contains("1 finding."), "{text}");
    }
}

#[test]
fn certificates_are_told_of_a_month_before_their_end() {
    let certificates = |now: &str| {
        let mut world = World::well();
        world.now = now.parse().unwrap();
        let report = examined(&world);
        let outcome = report.outcomes.into_iter().find(|outcome| outcome.check == "certificates");
        outcome.map(|outcome| format!("{:?}", outcome.checked)).unwrap()
    };
    for (now, words) in [
        ("2025-12-31T23:00:00Z", "is this machine's clock right?"),
        ("2026-11-30T00:00:00Z", "Fine"),
        ("2026-12-12T00:00:00Z", "ends in 20 days"),
        ("2027-02-01T00:00:00Z", "has ended on"),
    ] {
        let said = certificates(now);
        assert!(said.contains(words), "{now}: {said}");
    }
}

#[test]
fn a_server_that_is_away_is_one_finding_and_one_that_hangs_holds_up_nobody() {
    let mut world = World::well();
    world.answers = ["/readyz?verbose", "/version", NODES, SERVICE, SLICES]
        .map(|path| (path, Err("connection refused".to_owned())))
        .into();
    let (checks, text) = found(&world);
    assert_eq!(checks, ["api server"], "{text}");
    assert!(text.contains("connection refused") && text.contains("not checked: the API server"), "{text}");

    world.hangs = true;
    let (checks, text) = found(&world);
    assert_eq!(checks, ["api server", "clock", "nodes", "versions", "names"], "{text}");
    assert!(text.contains("no answer within 6ms") && text.contains("kernel        fine"), "{text}");
}

#[test]
fn a_persons_own_machine_has_only_the_cluster_checked() {
    let mut world = World::well();
    world.holders.clear();
    world.files.retain(|path, _| path.starts_with("/proc"));
    world.containerd = Err("not here".into());
    world.room = Err(io::ErrorKind::NotFound.into());
    let report = examined(&world);
    assert!(report.is_well(), "{}", report.text());
    assert!(report.text().contains("neither a server nor a node"), "{}", report.text());
}

#[test]
fn agents_that_may_not_be_asked_are_not_said_to_answer() {
    let mut world = World::well();
    world.answers.insert(HEALTHZ, said(403, "{}"));
    let report = examined(&world);
    assert!(report.is_well() && report.text().contains("1 Ready; 1 agents not asked"), "{}", report.text());
}
