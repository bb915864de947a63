//! A node: a network namespace on the lab's bridge, with mounts, cgroup, host name and containerd of its own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{Cgroup, Daemon, Image, Netns, command, containerd, daemon::Home, paths};

/// Sets a node's mounts up in its own mount namespace, then keeps the namespaces until it is killed.
const HOLDER: &str = include_str!("holder.sh");
/// The folders that a node has for itself; each lies below the node's folder in place of the machine's.
const FOLDERS: &[&str] =
    &["var-lib", "var-log", "opt", "etc-upper", "etc-work", "log", "aside/cgroup", "aside/bpf"];

/// One node of a lab. It lives until the lab ends ([`Lab::end`](crate::Lab::end)), also when the process that
/// made it is gone.
#[derive(Debug)]
pub struct Node {
    lab: String,
    name: String,
    ip: Ipv4Addr,
    ip6: Ipv6Addr,
    cgroup: Cgroup,
}

impl Node {
    pub(crate) fn new(lab: &str, name: &str, ip: Ipv4Addr, ip6: Ipv6Addr) -> Result<Node> {
        let cgroup = Cgroup::at(&format!("{lab}/{name}"))?;
        Ok(Node { lab: lab.to_owned(), name: name.to_owned(), ip, ip6, cgroup })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the underlay, on `eth0`.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Its IPv6 address there, where the machine has IPv6.
    pub fn ip6(&self) -> Ipv6Addr {
        self.ip6
    }

    /// Its Ethernet address there.
    ///
    /// # Errors
    /// When the node isn't up.
    pub fn mac(&self) -> Result<String> {
        let shown = self.netns().ip("-o link show dev eth0")?;
        let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        Ok(mac.with_context(|| format!("no Ethernet address in {shown}"))?.to_owned())
    }

    /// `/LAB/NODE` of every cgroup tree; daemons are in `system/NAME`, all else in `shell`.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The network namespace; a process that stands for one of the node is started by [`Node::command`]
    /// instead.
    pub fn netns(&self) -> Netns {
        Netns::existing(&self.netns_name())
    }

    /// The folder that holds all that is the node's: `var-lib`, `var-log`, `opt`, `etc-upper`, `log`.
    pub fn dir(&self) -> PathBuf {
        Path::new(paths::STATE).join(&self.lab).join(&self.name)
    }

    /// The node's `/run`, as seen from outside.
    pub fn run_dir(&self) -> PathBuf {
        Path::new(paths::RUN).join(&self.lab).join(&self.name)
    }

    /// containerd's socket as seen from outside; inside it is `/run/containerd/containerd.sock`.
    pub fn containerd_socket(&self) -> PathBuf {
        self.run_dir().join("containerd/containerd.sock")
    }

    /// A path of the node (below `/run`, `/var/lib`, `/var/log`, `/opt` or `/etc`) as it is reached from
    /// outside.
    ///
    /// # Errors
    /// When the node isn't up.
    pub fn outside(&self, inside: &str) -> Result<PathBuf> {
        let holder = self.holder().with_context(|| format!("node {} is not up", self.name))?;
        Ok(PathBuf::from(format!("/proc/{holder}/root")).join(inside.trim_start_matches('/')))
    }

    /// The process that keeps the namespaces.
    pub fn holder(&self) -> Option<u32> {
        self.cgroup.child("holder").processes().first().copied()
    }

    /// Starts the holder, where it doesn't run yet. Whether the node is new (a boot: `/run` is empty).
    pub(crate) fn boot(&self) -> Result<bool> {
        if self.holder().is_some() {
            return Ok(false);
        }
        let run = self.run_dir();
        let _ = fs::remove_dir_all(&run);
        for dir in FOLDERS.iter().map(|name| self.dir().join(name)).chain([run.clone()]) {
            fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        for child in ["holder", "shell"] {
            Cgroup::create(&format!("{}/{}/{child}", self.lab, self.name))?;
        }
        let mut child = Command::new("setsid")
            .arg("nsenter")
            .arg(format!("--net={}", self.netns().path().display()))
            .args(["--", "unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", HOLDER, "sh"])
            .arg(self.dir())
            .arg(&run)
            .arg(self.cgroup.child("holder").dir())
            .arg(&self.name)
            .arg(self.ip.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.log_file("holder")?)
            .spawn()
            .context("start the node's holder")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the holder's standard output")?;
        BufReader::new(stdout).read_line(&mut line).context("read from the node's holder")?;
        if line.trim() != "ready" {
            let status = child.wait().context("wait for the node's holder")?;
            let said = crate::daemon::tail(&self.log_path("holder"), 5);
            bail!("set up the mounts of node {}: {status}: {said}", self.name);
        }
        Ok(true)
    }

    /// A command that starts in the node: its namespaces, its host name, its cgroup (`shell`).
    ///
    /// # Errors
    /// When the node isn't up.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = self.command_in(&self.cgroup.child("shell"), program)?;
        // Our programs are found by their names, as on a machine where they are installed.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", crate::cluster::PROGRAMS));
        Ok(command)
    }

    fn command_in(&self, cgroup: &Cgroup, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let holder = self.holder().with_context(|| format!("node {} is not up", self.name))?;
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &holder.to_string(), "--mount", "--uts", "--net", "--"])
            .args(["sh", "-c", "echo 0 > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(cgroup.dir())
            .arg(program);
        Ok(command)
    }

    /// Runs a shell line in the node and returns its standard output.
    ///
    /// # Errors
    /// When the node isn't up or the line ends with another code than 0.
    pub fn sh(&self, line: &str) -> Result<String> {
        command::output(self.command("sh")?.args(["-c", line]))
    }

    /// Starts a daemon in a session of its own; its output is appended to `log/NAME.log`.
    ///
    /// # Errors
    /// When the node isn't up or the program can't be started.
    pub fn spawn(&self, name: &str, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Result<Daemon> {
        self.spawn_with(name, program, args, &[])
    }

    /// Like [`Node::spawn`], with environment variables.
    ///
    /// # Errors
    /// As [`Node::spawn`].
    pub fn spawn_with(
        &self,
        name: &str,
        program: impl AsRef<std::ffi::OsStr>,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Result<Daemon> {
        let home = self.home(name);
        Cgroup::create(&format!("{}/{}/system/{name}", self.lab, self.name))?;
        let mut inner = self.command_in(&home.cgroup, program)?;
        inner.args(args);
        Daemon::spawn(&home, &inner, env).with_context(|| format!("on node {}", self.name))
    }

    /// A daemon that this or an earlier command started, if it still runs.
    pub fn daemon(&self, name: &str) -> Option<Daemon> {
        Daemon::find(&self.home(name))
    }

    /// The logs of all daemons that were ever started here.
    pub fn logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir().join("log")).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        logs.sort();
        logs
    }

    /// Starts the node's containerd (again) and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready after 20 seconds; the last lines of its log are in the text.
    pub fn start_containerd(&self, options: &containerd::Options) -> Result<Daemon> {
        let config = self.run_dir().join("containerd.toml");
        fs::create_dir_all(self.run_dir().join("containerd")).context("make containerd's run folder")?;
        let text = containerd::config(options);
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let notify = self.run_dir().join("containerd.notify");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).with_context(|| format!("bind {}", notify.display()))?;
        let mut daemon = self.spawn_with(
            "containerd",
            "containerd",
            &["--config", "/run/containerd.toml"],
            &[("NOTIFY_SOCKET", "/run/containerd.notify")],
        )?;
        containerd::await_ready(&socket, &mut daemon).with_context(|| format!("on node {}", self.name))?;
        Ok(daemon)
    }

    /// Loads images into containerd's `k8s.io` namespace.
    ///
    /// # Errors
    /// When `ctr` fails.
    pub fn import(&self, images: &[Image]) -> Result<()> {
        let socket = self.containerd_socket();
        let (there, socket) = (self.image_names()?, socket.to_string_lossy());
        for image in images {
            if image.names.iter().all(|name| there.iter().any(|t| t == name)) {
                continue;
            }
            let archive = image.archive.to_string_lossy();
            command::run("ctr", &["-a", &socket, "-n", "k8s.io", "images", "import", &archive])?;
        }
        Ok(())
    }

    /// The names of the images in containerd's `k8s.io` namespace.
    ///
    /// # Errors
    /// When `ctr` fails.
    pub fn image_names(&self) -> Result<Vec<String>> {
        let socket = self.containerd_socket();
        let names =
            command::run("ctr", &["-a", &socket.to_string_lossy(), "-n", "k8s.io", "images", "list", "-q"])?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Kills all that runs on the node and removes its namespaces and cgroups; with `data`, its files too.
    ///
    /// # Errors
    /// All that went wrong, in one text; what could be removed is removed.
    pub(crate) fn remove(&self, data: bool) -> Result<()> {
        let mut errors = Vec::new();
        let mut note = |result: Result<()>| errors.extend(result.err().map(|error| format!("{error:#}")));
        note(self.cgroup.kill());
        note(self.cgroup.remove());
        if self.netns().path().exists() {
            note(command::run("ip", &["netns", "del", &self.netns_name()]).map(drop));
        }
        note(remove_dir(&self.run_dir()));
        if data {
            note(remove_dir(&self.dir()));
        }
        if errors.is_empty() { Ok(()) } else { bail!("remove node {}: {}", self.name, errors.join("; ")) }
    }

    pub(crate) fn netns_name(&self) -> String {
        format!("{}-{}", self.lab, self.name)
    }

    fn home(&self, name: &str) -> Home {
        Home {
            name: name.to_owned(),
            cgroup: self.cgroup.child("system").child(name),
            pid_file: self.run_dir().join(format!("{name}.pid")),
            log: self.log_path(name),
        }
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.dir().join("log").join(format!("{name}.log"))
    }

    fn log_file(&self, name: &str) -> Result<fs::File> {
        let path = self.log_path(name);
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        file.with_context(|| format!("open {}", path.display()))
    }
}

pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
