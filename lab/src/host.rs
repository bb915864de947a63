//! A cluster of one node on the machine itself, with a containerd of ours beside one that may be there.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{Cgroup, Daemon, command, containerd, daemon::Home, images, node::remove_dir, paths};

/// What outlives a reboot: containerd's images, the CNI plugin.
const STATE: &str = "/var/lib/skerry-host";
const RUN: &str = "/run/skerry-host";
const GRACE: Duration = Duration::from_secs(10);

/// Which cgroups it uses. A test, whose "machine" is a node of a lab, says others than the machine's own.
#[derive(Clone, Debug)]
pub struct Options {
    /// Below the root of every tree: our daemons and the pods.
    pub cgroup: String,
    /// The folder of cgroup2 whose processes' connections are balanced; the whole machine's if none.
    pub cgroup_root: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options { cgroup: "skerry-host".to_owned(), cgroup_root: None }
    }
}

/// Starts containerd and `skerry up`, or takes up a new `skerry`; returns the program's path.
///
/// # Errors
/// When one of them does not start.
pub fn start(options: &Options) -> Result<PathBuf> {
    for dir in ["containerd", "cni/bin", "cni/net.d", "log", "bin"] {
        let dir = Path::new(STATE).join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("make {}: are you root?", dir.display()))?;
    }
    fs::create_dir_all(Path::new(RUN).join("containerd")).with_context(|| format!("make {RUN}"))?;
    if Daemon::find(&home(options, "containerd")?).is_none() {
        start_containerd(options)?;
    }
    import()?;
    let mut program = PathBuf::new();
    for name in ["skerry-cni", "skerry"] {
        program = Path::new(STATE).join("bin").join(name);
        let fresh = program.with_extension("fresh");
        fs::copy(paths::binary(name)?, &fresh)
            .with_context(|| format!("copy {name} to {}", fresh.display()))?;
        fs::rename(&fresh, &program).with_context(|| format!("keep {}", program.display()))?;
    }
    if let Some(mut daemon) = Daemon::find(&home(options, "skerry")?) {
        daemon.stop(GRACE)?;
    }
    let mut up = Command::new(&program);
    up.arg("up")
        .args(["--containerd-socket", &format!("{RUN}/containerd/containerd.sock")])
        .args(["--cni-conf-dir", &format!("{STATE}/cni/net.d"), "--cni-bin-dir", &format!("{STATE}/cni/bin")])
        .args(["--cgroup-parent", &format!("/{}", options.cgroup)]);
    if let Some(root) = &options.cgroup_root {
        up.arg("--cgroup-root").arg(root);
    }
    let home = home(options, "skerry")?;
    Cgroup::create(&format!("{}/system/skerry", options.cgroup))?;
    Daemon::spawn(&home, &up, &[])?;
    Ok(program)
}

/// The daemon `skerry up`, if it runs.
///
/// # Errors
/// Where no cgroup2 is mounted.
pub fn daemon(options: &Options) -> Result<Option<Daemon>> {
    Ok(Daemon::find(&home(options, "skerry")?))
}

/// Ends `skerry up`, its pods and our containerd; with `data`, their files are removed too.
///
/// # Errors
/// What could not be ended or removed.
pub fn stop(options: &Options, data: bool) -> Result<()> {
    if let Some(mut daemon) = Daemon::find(&home(options, "skerry")?) {
        daemon.stop(GRACE)?;
    }
    let cgroup = Cgroup::at(&options.cgroup)?;
    cgroup.kill()?;
    cgroup.remove()?;
    // What containerd had mounted is left: overlays, shared memory and network namespaces of its pods.
    for root in [RUN, STATE] {
        while let Some(point) = mounted_below(root)? {
            command::run("umount", &["--lazy", &point])?;
        }
    }
    remove_dir(Path::new(RUN))?;
    if data { remove_dir(Path::new(STATE)) } else { Ok(()) }
}

fn start_containerd(options: &Options) -> Result<()> {
    let places = containerd::Options {
        root: format!("{STATE}/containerd"),
        state: format!("{RUN}/containerd"),
        cni_bin_dir: format!("{STATE}/cni/bin"),
        cni_conf_dir: format!("{STATE}/cni/net.d"),
    };
    let config = Path::new(RUN).join("containerd.toml");
    fs::write(&config, containerd::config(&places)).with_context(|| format!("write {}", config.display()))?;
    let notify = Path::new(RUN).join("containerd.notify");
    let _ = fs::remove_file(&notify);
    let socket = UnixDatagram::bind(&notify).with_context(|| format!("bind {}", notify.display()))?;
    Cgroup::create(&format!("{}/system/containerd", options.cgroup))?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&config);
    let notify = notify.to_string_lossy();
    let mut daemon = Daemon::spawn(&home(options, "containerd")?, &command, &[("NOTIFY_SOCKET", &notify)])?;
    containerd::await_ready(&socket, &mut daemon)
}

fn import() -> Result<()> {
    let socket = format!("{RUN}/containerd/containerd.sock");
    let there = command::run("ctr", &["-a", &socket, "-n", "k8s.io", "images", "list", "-q"])?;
    for image in images::walkthrough()? {
        if !image.names.iter().all(|name| there.lines().any(|line| line == *name)) {
            let archive = image.archive.to_string_lossy();
            command::run("ctr", &["-a", &socket, "-n", "k8s.io", "images", "import", &archive])?;
        }
    }
    Ok(())
}

fn home(options: &Options, name: &str) -> Result<Home> {
    Ok(Home {
        name: name.to_owned(),
        cgroup: Cgroup::at(&format!("{}/system/{name}", options.cgroup))?,
        pid_file: Path::new(RUN).join(format!("{name}.pid")),
        log: Path::new(STATE).join("log").join(format!("{name}.log")),
    })
}

/// The last mount point below `root`: what was mounted later goes first.
fn mounted_below(root: &str) -> Result<Option<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let mut points = text.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.rfind(|point| Path::new(point).starts_with(root)).map(str::to_owned))
}
