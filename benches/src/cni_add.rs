//! P8: what a container runtime waits for: a CNI call from the start of the process to its result.
//!
//! Ours, by both ways to attach its programs, against Debian's bridge + host-local + portmap as containerd's
//! own example configures them. In turn, each call for a fresh pod namespace, the two kinds of node in
//! namespaces of their own. Not counted: making the pod's namespace, and the JSON between two plugins of the
//! peer's chain (the runtime's part).

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use proxy_abi::{ABI_VERSION, Addr, Endpoint, Facts, Link, map, prog};
use serde_json::{Value, json};
use skerry_kernel::{
    Map, MapSpec, Program, Update, instruction, map_type, mount_bpffs, program_type, unmount,
};
use skerry_lab::{Netns, paths};

use crate::{Options, row::Row};

const PAIRS: usize = 25;
/// Pods of a crowd: what a node that was drained and comes back starts at once.
const CROWD: usize = 20;
const CROWDS: usize = 5;
const PEER: &str = "bridge + host-local + portmap";
const PEER_DIR: &str = "/usr/lib/cni";

/// # Errors
/// When a call fails or gives no address.
pub fn run(_: &Options) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let sides = [
        Side::ours(&folder.path().join("tcx"), "tcx", 1)?,
        Side::ours(&folder.path().join("clsact"), "clsact", 2)?,
        Side::peer(&folder.path().join("peer"))?,
    ];
    let (mut adds, mut dels) = ([vec![], vec![], vec![]], [vec![], vec![], vec![]]);
    for round in 0..PAIRS {
        for turn in 0..sides.len() {
            let which = (round + turn) % sides.len();
            let pod = Netns::unique("p8")?;
            let id = format!("p8-{round}-{which}");
            adds[which].push(sides[which].add(&id, &pod)?);
            dels[which].push(sides[which].del(&id, &pod)?);
        }
    }
    let mut crowds = [vec![], vec![], vec![]];
    for round in 0..CROWDS {
        for turn in 0..sides.len() {
            let which = (round + turn) % sides.len();
            crowds[which].push(sides[which].crowd(&format!("crowd-{round}-{which}"))?);
        }
    }
    let mut rows = Vec::new();
    for (what, runs) in [("ADD", &adds), ("DEL", &dels), ("20 ADDs at once, until the last", &crowds)] {
        for (which, way) in [(0, "TCX links"), (1, "clsact filters")] {
            let case = format!("{what} ({way})");
            rows.push(Row::of_pairs("P8", &case, "ms", &runs[which], &runs[2], PEER).lower_is_better());
        }
    }
    Ok(rows)
}

/// A node, and the plugins that serve it.
struct Side {
    node: Netns,
    /// The BPF file system to unmount at the end.
    pins: Option<PathBuf>,
    /// The plugins in the order of an ADD, with their configurations.
    chain: Vec<(PathBuf, Value)>,
}

impl Side {
    fn ours(folder: &Path, attach: &str, number: u8) -> Result<Side> {
        let node = Netns::unique("p8node")?;
        node.ip(&format!("addr add 10.77.{number}.1/32 dev lo"))?;
        let pins = folder.join("bpf");
        mount_bpffs(&pins)?;
        // From here on a failure unmounts, too.
        let conf = json!({
            "cniVersion": "1.0.0", "name": "p8", "type": "skerry-cni", "mtu": 1450, "pinRoot": pins,
            "ranges": [format!("10.77.{number}.0/24")], "stateDir": folder.join("state"), "attach": attach,
        });
        let side = Side { node, pins: Some(pins.clone()), chain: vec![(paths::binary("skerry-cni")?, conf)] };
        pin_tables(&pins)?;
        Ok(side)
    }

    fn peer(folder: &Path) -> Result<Side> {
        let dir = Path::new(PEER_DIR);
        ensure!(
            dir.join("bridge").is_file(),
            "no {PEER_DIR}/bridge: apt-get install containernetworking-plugins"
        );
        let bridge = json!({
            "cniVersion": "1.0.0", "name": "p8", "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipMasq": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": folder.join("ipam"),
                "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        let portmap = json!({
            "cniVersion": "1.0.0", "name": "p8", "type": "portmap", "runtimeConfig": {"portMappings": []},
        });
        let chain = vec![(dir.join("bridge"), bridge), (dir.join("portmap"), portmap)];
        Ok(Side { node: Netns::unique("p8peer")?, pins: None, chain })
    }

    /// Milliseconds that the chain takes. The result of each plugin goes to the next.
    fn add(&self, id: &str, pod: &Netns) -> Result<f64> {
        let (mut took, mut result) = (0.0, Value::Null);
        for (plugin, conf) in &self.chain {
            let mut conf = conf.clone();
            conf["prevResult"] = result;
            let text = conf.to_string();
            let begin = Instant::now();
            let child = self.start(plugin, "ADD", id, pod, &text)?;
            let output = finish(child)?;
            took += begin.elapsed().as_secs_f64() * 1e3;
            result = serde_json::from_slice(&output).context("read the result")?;
        }
        ensure!(result["ips"][0]["address"].is_string(), "no address in {result}");
        Ok(took)
    }

    fn del(&self, id: &str, pod: &Netns) -> Result<f64> {
        let mut took = 0.0;
        for (plugin, conf) in self.chain.iter().rev() {
            let text = conf.to_string();
            let begin = Instant::now();
            finish(self.start(plugin, "DEL", id, pod, &text)?)?;
            took += begin.elapsed().as_secs_f64() * 1e3;
        }
        Ok(took)
    }

    /// Many pods at once, a thread each: milliseconds until the last has its result.
    fn crowd(&self, name: &str) -> Result<f64> {
        let pods = (0..CROWD).map(|_| Netns::unique("p8c")).collect::<Result<Vec<_>, _>>()?;
        let of_all = |call: &(dyn Fn(&str, &Netns) -> Result<f64> + Sync)| {
            std::thread::scope(|scope| {
                let threads: Vec<_> = pods
                    .iter()
                    .enumerate()
                    .map(|(n, pod)| scope.spawn(move || call(&format!("{name}-{n}"), pod)))
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                    .collect::<Result<Vec<f64>>>()
            })
        };
        let begin = Instant::now();
        of_all(&|id, pod| self.add(id, pod))?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        of_all(&|id, pod| self.del(id, pod))?;
        Ok(took)
    }

    /// Straight into the node's namespace, without a program that enters it first.
    fn start(&self, plugin: &Path, command: &str, id: &str, pod: &Netns, conf: &str) -> Result<Child> {
        let mut process = Command::new(plugin);
        process
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PEER_DIR)
            .env("CNI_NETNS", pod.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child =
            self.node.run(|| process.spawn())?.with_context(|| format!("start {}", plugin.display()))?;
        child.stdin.take().context("its standard input")?.write_all(conf.as_bytes())?;
        Ok(child)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.pins.as_deref().map(unmount) {
            eprintln!("{error}");
        }
    }
}

fn finish(child: Child) -> Result<Vec<u8>> {
    let output = child.wait_with_output().context("wait for the plugin")?;
    ensure!(output.status.success(), "the plugin failed: {}", String::from_utf8_lossy(&output.stdout));
    Ok(output.stdout)
}

/// What an agent pins, with programs that hand on: attaching costs the same whatever they do.
fn pin_tables(root: &Path) -> Result<()> {
    for folder in ["maps", "progs", "links"] {
        std::fs::create_dir(root.join(folder)).with_context(|| format!("make {folder}"))?;
    }
    let spec = |name, map_type, max_entries| MapSpec { name, map_type, max_entries, flags: 0 };
    let pin = |name: &str| root.join("maps").join(name);
    let facts = Map::<u32, Facts>::create(&spec(map::CONFIG, map_type::ARRAY, 1))?;
    facts.update(&0, &Facts { abi_version: ABI_VERSION, ..Facts::default() }, Update::Any)?;
    facts.pin(&pin(map::CONFIG))?;
    Map::<Addr, Endpoint>::create(&spec(map::ENDPOINTS, map_type::HASH, 4_096))?.pin(&pin(map::ENDPOINTS))?;
    Map::<u32, Link>::create(&spec(map::LINKS, map_type::HASH, 2_048))?.pin(&pin(map::LINKS))?;
    // TCX_NEXT (-1).
    let next = [instruction(0xb7, 0, 0, 0, -1), instruction(0x95, 0, 0, 0, 0)];
    for name in [prog::FROM_POD, prog::TO_POD] {
        Program::load(name, program_type::SCHED_CLS, 0, &next)?.pin(&root.join("progs").join(name))?;
    }
    Ok(())
}
