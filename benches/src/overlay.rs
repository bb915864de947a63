//! P6: pod to pod between two nodes over VXLAN, beside flannel's set-up (bridge, vxlan device, masquerade by
//! iptables) in the same lab.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;
use skerry_lab::{Cluster, Lab, Netns, Node, cluster};

use crate::{
    Options,
    ends::{self, Client, Server},
    filled::{SYNC, until_works},
    flannel, probe,
    row::Row,
};

const ROUNDS: usize = 25;
const TIME: Duration = Duration::from_millis(300);
const PORT: u16 = 9_000;
const START: Duration = Duration::from_secs(60);
const PEER: &str = "flannel's set-up (iptables-legacy)";

/// A pod on each of two nodes.
struct Pods {
    /// The node that the client is a process of; of flannel's, which has no socket hooks, it does not matter.
    node: Option<Node>,
    client: Netns,
    server: Netns,
    address: SocketAddrV4,
}

/// What came of one side, by kind of measurement.
#[derive(Default)]
struct Figures {
    bulk: Vec<f64>,
    requests: Vec<f64>,
    transaction: Vec<f64>,
    connects: Vec<f64>,
}

/// # Errors
/// When a pod does not start, or can't reach the other.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let cluster = Cluster::start(Lab::for_test()?, &cluster::Options { workers: 2, ..Default::default() })?;
    let ours = ours(&cluster)?;
    let (theirs, _pods) = flannel(cluster.lab())?;
    let sides = [ours, theirs];
    for side in &sides {
        for netns in [&side.client, &side.server] {
            netns.sh("sysctl -qw net.ipv4.tcp_max_tw_buckets=0")?;
        }
        until_works(SYNC, || side.connects(Duration::from_millis(1)))
            .with_context(|| format!("a pod reaches {}", side.address))?;
    }
    let (rounds, time) = if options.quick { (3, TIME / 5) } else { (ROUNDS, TIME) };
    let mut figures = [Figures::default(), Figures::default()];
    for round in 0..rounds {
        for step in 0..2 {
            let which = (round + step) % 2;
            sides[which].measure(&mut figures[which], time)?;
        }
    }
    let [ours, theirs] = figures;
    let row = |case: &str, unit: &str, ours: &[f64], theirs: &[f64]| {
        Row::of_pairs("P6", case, unit, ours, theirs, PEER)
    };
    Ok(vec![
        row("bulk, one connection", "Gbit/s", &ours.bulk, &theirs.bulk),
        row("requests on one connection, two cores", "1/s", &ours.requests, &theirs.requests),
        row("CPU time of a transaction", "ns", &ours.transaction, &theirs.transaction).lower_is_better(),
        row("connections", "1/s", &ours.connects, &theirs.connects),
    ])
}

impl Pods {
    fn ends(&self) -> (Client<'_>, Server<'_>) {
        let client = match &self.node {
            Some(node) => Client::Pod(node, &self.client),
            None => Client::Netns(&self.client),
        };
        (client, Server { netns: &self.server, address: self.address })
    }

    fn connects(&self, time: Duration) -> Result<ends::Connects> {
        let (client, server) = self.ends();
        ends::connects(client, self.address, server, time)
    }

    fn measure(&self, into: &mut Figures, time: Duration) -> Result<()> {
        let (client, server) = self.ends();
        into.bulk.push(ends::bulk(client, self.address, server, time)?);
        into.requests.push(ends::requests_apart(client, self.address, server, time)?);
        // With both ends in one thread a transaction's time is the CPU time that all of it takes.
        into.transaction.push(ends::requests(client, self.address, server, time)?);
        into.connects.push(self.connects(time)?.rate);
        Ok(())
    }
}

fn ours(cluster: &Cluster) -> Result<Pods> {
    let mut ips = Vec::new();
    for node in cluster.workers() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("on-{}", node.name())},
            "spec": {
                "nodeName": node.name(),
                "containers": [{"name": "c", "image": "nginx:1.14.2", "imagePullPolicy": "IfNotPresent"}],
            },
        });
        cluster.kubectl().feed("apply -f -", &pod.to_string())?;
    }
    for node in cluster.workers() {
        let pod = format!("pod/on-{}", node.name());
        cluster.kubectl().wait(&pod, "condition=Ready", START)?;
        let ip = cluster.kubectl().run(&format!("get {pod} -o jsonpath={{.status.podIP}}"))?;
        ips.push(ip.parse::<Ipv4Addr>().with_context(|| format!("the pod's address {ip:?}"))?);
    }
    let [first, second] = cluster.workers() else { anyhow::bail!("two workers") };
    probe::install(first)?;
    Ok(Pods {
        node: Some(cluster.lab().node(first.name())?),
        client: pod_netns(first)?,
        server: pod_netns(second)?,
        address: SocketAddrV4::new(*ips.get(1).context("a second pod")?, PORT),
    })
}

/// The namespace of the one pod on a node: that of a process there which is not the node's own.
fn pod_netns(node: &Node) -> Result<Netns> {
    let of = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = of(node.holder().context("the node is up")?);
    let pid = processes(&node.cgroup().dir())
        .into_iter()
        .find(|pid| of(*pid).is_some_and(|netns| Some(netns) != own));
    let pid = pid.with_context(|| format!("no process of a pod on {}", node.name()))?;
    Ok(Netns::existing(&format!("/proc/{pid}/ns/net")))
}

fn processes(folder: &Path) -> Vec<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    let children: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    pids.extend(children.iter().filter(|path| path.is_dir()).flat_map(|path| processes(path)));
    pids
}

/// Two nodes as flannel leaves them, with a pod's namespace each, which live as long as the second value.
fn flannel(lab: &Lab) -> Result<(Pods, [Netns; 2])> {
    let nodes = [lab.node("flannel1")?, lab.node("flannel2")?];
    let pods = [Netns::unique("pod1")?, Netns::unique("pod2")?];
    flannel::set_up(&nodes, &pods)?;
    let [client, server] = &pods;
    let side = Pods {
        node: None,
        client: Netns::existing(client.name()),
        server: Netns::existing(server.name()),
        address: SocketAddrV4::new(flannel::pod_address(2), PORT),
    };
    Ok((side, pods))
}
