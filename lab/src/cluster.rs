//! A cluster in a lab: one server node, `master`, and workers `node1`, `node2`, …, made of the real programs.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{Daemon, Image, Kubectl, Lab, Node, containerd, images, paths};

/// The server node's name.
pub const SERVER: &str = "master";
const API_PORT: u16 = 6443;
/// A cold machine with two cores starts four nodes at once.
const START: Duration = Duration::from_secs(60);
/// Between two looks at what gives no event to this process: the API server of another network namespace.
const LOOK: Duration = Duration::from_millis(20);
/// `skerry up` gives its children 20 s.
const GRACE: Duration = Duration::from_secs(25);
const TAIL: usize = 40;
/// Where a node has our programs.
pub(crate) const PROGRAMS: &str = "/opt/skerry/bin";

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Without workers the server node takes pods itself; with workers it is tainted.
    pub workers: usize,
    /// More arguments for `skerry up` on the server node.
    pub server_args: Vec<String>,
    /// More arguments for `skerry up` and `skerry node` on every node.
    pub node_args: Vec<String>,
    pub families: Families,
}

/// The address families of pods, services and nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Families {
    /// With the programs' default ranges.
    #[default]
    V4,
    V6,
    /// IPv4 first.
    Dual,
}

impl Families {
    /// What is said to every node: the ranges, where they are not the programs' own.
    fn ranges(self) -> Vec<String> {
        let (pods, services) = match self {
            Families::V4 => return Vec::new(),
            Families::V6 => ("fd00:10:244::/56", "fd00:10:96::/112"),
            Families::Dual => ("10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/12,fd00:10:96::/112"),
        };
        ["--pod-cidr", pods, "--service-cidr", services].map(str::to_owned).to_vec()
    }

    /// A node's addresses, the one that others reach it by first.
    fn addresses(self, node: &Node) -> Vec<IpAddr> {
        let (v4, v6) = (IpAddr::V4(node.ip()), IpAddr::V6(node.ip6()));
        match self {
            Families::V4 => vec![v4],
            Families::V6 => vec![v6],
            Families::Dual => vec![v4, v6],
        }
    }
}

/// Nodes with their daemons; it lives as long as its lab.
#[derive(Debug)]
pub struct Cluster {
    lab: Lab,
    nodes: Vec<Node>,
    kubectl: Kubectl,
    options: Options,
    images: Vec<Image>,
}

impl Cluster {
    /// Starts a cluster in `lab`, or takes up new programs in one that runs there already; ready when all
    /// nodes are.
    ///
    /// # Errors
    /// When something does not start: the text has the last lines of its log.
    pub fn start(lab: Lab, options: &Options) -> Result<Cluster> {
        Cluster::start_telling(lab, options, &|_, _| ())
    }

    /// As [`Cluster::start`]; `tell` hears of each part that is done, and of how many there are: nodes made, the
    /// API server, nodes Ready.
    ///
    /// # Errors
    /// As of [`Cluster::start`].
    pub fn start_telling(
        lab: Lab,
        options: &Options,
        tell: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Cluster> {
        let (parts, done) = (2 * (options.workers + 1) + 1, AtomicUsize::new(0));
        let told = || tell(done.fetch_add(1, Ordering::Relaxed) + 1, parts);
        let kubeconfig = Path::new(paths::STATE).join(lab.name()).join("kubeconfig");
        let images = images::walkthrough()?;
        let kubectl = Kubectl::new(kubeconfig)?;
        let mut cluster = Cluster { lab, nodes: Vec::new(), kubectl, options: options.clone(), images };
        let names: Vec<String> = [SERVER.to_owned()]
            .into_iter()
            .chain((1..=options.workers).map(|n| format!("node{n}")))
            .collect();
        cluster.nodes =
            cluster.side_by_side(&names, |cluster, name| cluster.prepare(name).inspect(|_| told()))?;
        cluster.run(&told).map_err(|error| cluster.explained(error))?;
        Ok(cluster)
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The server node first, then the workers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn workers(&self) -> &[Node] {
        self.nodes.get(1..).unwrap_or_default()
    }

    /// # Errors
    /// When there is no node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.with_context(|| format!("the cluster has no node {name}"))
    }

    /// The server node's address that others reach it by first.
    pub fn server_ip(&self) -> Option<IpAddr> {
        self.nodes.first().and_then(|node| self.options.families.addresses(node).first().copied())
    }

    /// `https://ADDRESS:6443` of the server node.
    pub fn server_url(&self) -> String {
        let url = |ip| format!("https://{}", SocketAddr::new(ip, API_PORT));
        self.server_ip().map(url).unwrap_or_default()
    }

    /// One more worker, once it is Ready. [`Cluster::nodes`] does not tell of it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn join(&self, name: &str) -> Result<Node> {
        let node = self.prepare(name)?;
        self.restart(&node)?;
        self.await_ready(&node)?;
        Ok(node)
    }

    /// Ends the cluster and its lab; with `data` its files, too.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn end(self, data: bool) -> Result<()> {
        self.lab.end(data)
    }

    /// The last lines of every daemon's log, for a failed test.
    pub fn logs(&self) -> String {
        let logs =
            self.nodes.iter().flat_map(|node| node.logs().into_iter().map(move |log| (node.name(), log)));
        let named = logs.filter(|(_, log)| !log.ends_with("containerd.log"));
        named
            .map(|(node, log)| format!("--- {node}: {}\n{}\n", log.display(), crate::tail(&log, TAIL)))
            .collect()
    }

    /// Starts a node's `skerry` processes; one that runs is ended first.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn restart(&self, node: &Node) -> Result<Daemon> {
        if let Some(mut daemon) = node.daemon("skerry") {
            daemon.stop(GRACE)?;
        }
        // The children of one that was killed.
        self.kill(node)?;
        let cgroup = node.cgroup().dir().to_string_lossy().into_owned();
        let ips: Vec<String> = self.options.families.addresses(node).iter().map(IpAddr::to_string).collect();
        let mut args: Vec<String> = Vec::new();
        if node.name() == SERVER {
            args.push("up".to_owned());
            if self.options.workers > 0 {
                args.push("--taint-server".to_owned());
            }
            args.extend(self.options.server_args.iter().cloned());
        } else {
            // Written into the worker's own folder: the token is a secret between the two.
            let token =
                self.nodes.first().context("a server node")?.outside("/var/lib/skerry/server/join-token")?;
            let token = fs::read(&token).with_context(|| format!("read {}", token.display()))?;
            let copy = node.dir().join("var-lib/join-token");
            fs::write(&copy, token).with_context(|| format!("write {}", copy.display()))?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o600))?;
            args.extend(["node".to_owned(), "--server".to_owned(), self.server_url()]);
            args.extend(["--token-file".to_owned(), "/var/lib/join-token".to_owned()]);
        }
        args.extend([
            "--node-name".to_owned(),
            node.name().to_owned(),
            "--node-ip".to_owned(),
            ips.join(","),
        ]);
        args.extend(self.options.families.ranges());
        args.extend(self.options.node_args.iter().cloned());
        args.extend(["--cgroup-root".to_owned(), cgroup]);
        args.extend(["--cgroup-parent".to_owned(), format!("/{}/{}", self.lab.name(), node.name())]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        node.spawn("skerry", format!("{PROGRAMS}/skerry"), &args)
    }

    /// `kill -9` for a node's `skerry` processes, all at once; containerd and pods go on.
    ///
    /// # Errors
    /// When they are not gone in time.
    pub fn kill(&self, node: &Node) -> Result<()> {
        node.cgroup().child("system").child("skerry").kill()
    }

    /// A node with its programs, its containerd and its images, but without our daemons.
    fn prepare(&self, name: &str) -> Result<Node> {
        let node = self.lab.node(name)?;
        install(&node)?;
        if node.daemon("containerd").is_none() {
            node.start_containerd(&containerd::Options::default())?;
        }
        node.import(&self.images)?;
        Ok(node)
    }

    fn run(&self, told: &dyn Fn()) -> Result<()> {
        let server = self.nodes.first().context("a server node")?;
        let mut daemon = self.restart(server)?;
        self.await_api(server, &mut daemon)?;
        told();
        let mut daemons = self.side_by_side(self.workers(), |cluster, node| cluster.restart(node))?;
        daemons.push(daemon);
        for node in &self.nodes {
            self.await_ready(node)?;
            told();
        }
        Ok(())
    }

    fn await_ready(&self, node: &Node) -> Result<()> {
        let what = format!("node/{}", node.name());
        self.kubectl.wait(&what, "create", START)?;
        self.kubectl.wait(&what, "condition=Ready", START)
    }

    /// Until the server answers `/readyz`; its kubeconfig is then there too.
    fn await_api(&self, server: &Node, daemon: &mut Daemon) -> Result<()> {
        let deadline = Instant::now() + START;
        let admin = server.outside("/var/lib/skerry/server/kubeconfig/admin.yaml")?;
        let mut last = String::from("no kubeconfig yet");
        loop {
            if !daemon.runs() {
                bail!("skerry up ended on {}:\n{}", server.name(), daemon.tail(TAIL));
            }
            if let Ok(text) = fs::read_to_string(&admin) {
                self.keep_kubeconfig(&text)?;
                match self.kubectl.run("get --raw=/readyz") {
                    Ok(_) => return Ok(()),
                    Err(error) => last = format!("{error:#}"),
                }
            }
            if Instant::now() > deadline {
                bail!("the API server is not ready after {START:?}: {last}");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The administrator's kubeconfig, with the server's address in place of its loopback address.
    fn keep_kubeconfig(&self, text: &str) -> Result<()> {
        let url = self.server_url();
        let path = self.kubectl.kubeconfig();
        fs::write(path, with_server(text, &url)).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    fn side_by_side<T: Sync, R: Send>(
        &self,
        items: &[T],
        work: impl Fn(&Cluster, &T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || work(self, item))).collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
        })
    }

    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let logs = self.logs();
        error.context(format!("start the cluster; its logs:\n{logs}"))
    }
}

/// Puts our programs where the node looks for them.
pub fn install(node: &Node) -> Result<()> {
    // The node's own folder `opt` is its `/opt`.
    let dir = node.dir().join(PROGRAMS.trim_start_matches('/'));
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    // `skerry` itself puts the plugin that it finds beside it to where the runtime looks.
    for program in ["skerry-cni", "skerry"] {
        let from = paths::binary(program)?;
        let (fresh, to) = (dir.join(format!(".{program}")), dir.join(program));
        let _ = fs::remove_file(&fresh);
        // A linker makes a new file each time, so that a link to the old one keeps it as it was.
        if fs::hard_link(&from, &fresh).is_err() {
            fs::copy(&from, &fresh)
                .with_context(|| format!("copy {} to {}", from.display(), fresh.display()))?;
        }
        fs::rename(&fresh, &to).with_context(|| format!("keep {}", to.display()))?;
        // Of two names of one file, rename(2) leaves both.
        let _ = fs::remove_file(&fresh);
    }
    Ok(())
}

fn with_server(kubeconfig: &str, url: &str) -> String {
    let line = |line: &str| match line.split_once("server:") {
        Some((indent, _)) if indent.trim().is_empty() || indent.trim() == "-" => {
            format!("{indent}server: {url}\n")
        }
        _ => format!("{line}\n"),
    };
    kubeconfig.lines().map(line).collect()
}

/// The kubeconfig of the cluster in the lab of this name.
pub fn kubeconfig(lab: &str) -> PathBuf {
    Path::new(paths::STATE).join(lab).join("kubeconfig")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_gets_another_server() {
        let text = "clusters:\n- cluster:\n    certificate-authority-data: eA==\n    server: https://127.0.0.1:6443\n";
        let changed = with_server(text, "https://172.30.0.10:6443");
        assert!(changed.contains("    server: https://172.30.0.10:6443\n") && !changed.contains("127.0.0.1"));
    }
}
