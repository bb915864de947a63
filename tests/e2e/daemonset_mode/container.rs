//! The DaemonSet's container on a node without a node agent: an OCI bundle that runc runs, as containerd
//! would have it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use skerry_lab::{Daemon, Node, paths};

use super::manifest::{Container, Mount};

/// Where pods find their service account's files.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

pub struct Bundle {
    node: Node,
    /// As the node sees it.
    inside: String,
}

impl Bundle {
    /// Lays the image out and writes the specification. `kubeconfig`: the content of a file that stands for
    /// the token.
    pub fn make(node: Node, container: &Container, kubeconfig: &str) -> Result<Bundle> {
        let inside = "/opt/agent".to_owned();
        let dir = node.dir().join("opt/agent");
        let root = dir.join("rootfs");
        image(&root)?;
        for at in container
            .mounts
            .iter()
            .map(|mount| mount.at.as_str())
            .chain(["/proc", "/sys", "/dev", "/etc", "/tmp", ACCOUNT])
        {
            let path = root.join(at.trim_start_matches('/'));
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        let account = dir.join("account");
        fs::create_dir_all(&account)?;
        fs::write(account.join("kubeconfig"), kubeconfig)?;
        for mount in container.mounts.iter().filter(|mount| mount.may_be_made) {
            node.sh(&format!("mkdir -p {}", mount.host))?;
        }
        let bundle = Bundle { node, inside };
        bundle.write(container, &container.capabilities)?;
        Ok(bundle)
    }

    /// (Re)writes the specification with these capabilities.
    pub fn write(&self, container: &Container, capabilities: &[String]) -> Result<()> {
        let spec = spec(&self.node, container, capabilities, &self.inside);
        let path = self.node.dir().join("opt/agent/config.json");
        fs::write(&path, spec.to_string()).with_context(|| format!("write {}", path.display()))
    }

    pub fn start(&self) -> Result<Daemon> {
        let id = format!("agent-{}", self.node.netns().name());
        self.node.sh(&format!("runc --root /run/runc delete --force {id} 2>/dev/null || true"))?;
        self.node.spawn("agent", "runc", &["--root", "/run/runc", "run", "--bundle", &self.inside, &id])
    }
}

/// A root file system with our two programs and the libraries they name: the image, for our purpose.
fn image(root: &Path) -> Result<()> {
    let mut files: BTreeSet<(PathBuf, PathBuf)> = BTreeSet::new();
    for program in ["skerry", "skerry-cni"] {
        let path = paths::binary(program)?;
        let listed = skerry_lab::output(Command::new("ldd").arg(&path))?;
        files.insert((path, Path::new("usr/local/bin").join(program)));
        for word in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            files.insert((word.into(), word.trim_start_matches('/').into()));
        }
    }
    for (from, to) in files {
        let to = root.join(to);
        fs::create_dir_all(to.parent().context("a folder")?)?;
        fs::copy(&from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

fn spec(node: &Node, container: &Container, capabilities: &[String], inside: &str) -> Value {
    let capabilities: Vec<String> = capabilities.iter().map(|name| format!("CAP_{name}")).collect();
    let env: Vec<String> = container
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .chain(["PATH=/usr/local/bin".to_owned(), "NO_COLOR=1".to_owned()])
        .collect();
    let mut args = vec!["/usr/local/bin/skerry".to_owned()];
    args.extend(container.args.iter().cloned());
    args.push(format!("--kubeconfig={ACCOUNT}/kubeconfig"));
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
        json!({"destination": ACCOUNT, "type": "bind", "source": format!("{inside}/account"), "options": ["rbind", "ro"]}),
    ];
    mounts.extend(container.mounts.iter().map(|mount| bind(node, mount)));
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs", "readonly": true},
        "process": {
            "terminal": false, "cwd": "/", "args": args, "env": env, "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "mounts": mounts,
        // The network is the node's, in which runc is started; all else is the container's own.
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}],
            "cgroupsPath": format!("/{}/agent", cgroup_of(node)),
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                            "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn bind(node: &Node, mount: &Mount) -> Value {
    // The node's part of the machine's cgroups stands for the whole machine's.
    let source = match mount.host.as_str() {
        "/sys/fs/cgroup" => node.cgroup().dir().display().to_string(),
        host => host.to_owned(),
    };
    let access = if mount.read_only { "ro" } else { "rw" };
    let propagation = if mount.follows_host { "rslave" } else { "rprivate" };
    json!({"destination": mount.at, "type": "bind", "source": source, "options": ["rbind", access, propagation]})
}

/// `LAB/NODE`.
fn cgroup_of(node: &Node) -> String {
    let dir = node.cgroup().dir();
    let parts: Vec<_> =
        dir.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy()).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join("/")
}
