//! P17: a machine alone: from `skerry up` on nothing until its node is Ready, and what it costs while nothing
//! happens.

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::Api;
use skerry_client::{Client, Source};
use skerry_lab::{Cluster, Lab, Node, cluster};

use crate::{
    Options,
    process::{cpu_ns, pss_mb, written_bytes},
    row::Row,
};

const STARTS: usize = 7;
const LIMIT: Duration = Duration::from_secs(60);
/// Between two questions: what is waited for would need a watch of an API server that is not there yet.
const LOOK: Duration = Duration::from_millis(5);
/// After a start the first images are listed, caches filled, leases taken.
const SETTLE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);
const ADMIN: &str = "/var/lib/skerry/server/kubeconfig/admin.yaml";
/// All that a start leaves behind.
const TRACES: &[&str] = &["/var/lib/skerry", "/run/skerry", "/sys/fs/bpf/skerry", "/etc/cni/net.d"];
/// Of k3s, whose start takes tens of seconds: the least of it.
const K3S: (f64, f64, &str) = (10.0, 500.0, "k3s, at least");

/// # Errors
/// When the node does not get Ready within a minute.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let cluster = Cluster::start(Lab::for_test()?, &cluster::Options::default())?;
    let node = cluster.nodes().first().context("a node")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (starts, settle, idle) =
        if options.quick { (1, SETTLE / 5, IDLE / 10) } else { (STARTS, SETTLE, IDLE) };
    let mut ready = Vec::new();
    for _ in 0..starts {
        wipe(&cluster, node)?;
        let begun = Instant::now();
        let daemon = cluster.restart(node)?;
        let done = runtime.block_on(until_ready(&cluster, node, begun + LIMIT));
        done.with_context(|| format!("the node is Ready; its log: {}", daemon.tail(20)))?;
        ready.push(begun.elapsed().as_secs_f64());
    }
    std::thread::sleep(settle);
    let before = Use::of(node)?;
    let begun = Instant::now();
    std::thread::sleep(idle);
    let (after, took_s) = (Use::of(node)?, begun.elapsed().as_secs_f64());

    let (k3s_s, k3s_mb, k3s) = K3S;
    let cpu = (after.cpu_ns - before.cpu_ns) as f64 / 1e9 / took_s * 100.0;
    let written = (after.written - before.written) as f64 / 1024.0 / took_s;
    let alone = |case: &str, unit: &str, value: f64| {
        Row::of_runs("P17", case, unit, &[value], &[], "").lower_is_better()
    };
    Ok(vec![
        Row::against_recorded("P17", "start to node Ready", "s", &ready, k3s_s, k3s).lower_is_better(),
        Row::against_recorded(
            "P17",
            "idle memory of all our processes (PSS)",
            "MB",
            &[after.pss_mb],
            k3s_mb,
            k3s,
        )
        .lower_is_better(),
        alone("idle CPU, of one core", "%", cpu),
        alone("idle disk writes", "KB/s", written),
    ])
}

/// What our processes on the node have used up to now; containerd and pods are none of them.
struct Use {
    pss_mb: f64,
    cpu_ns: u64,
    written: u64,
}

impl Use {
    fn of(node: &Node) -> Result<Use> {
        let pids = node.cgroup().child("system").child("skerry").processes();
        ensure!(!pids.is_empty(), "no process of ours on {}", node.name());
        let mut sum = Use { pss_mb: 0.0, cpu_ns: 0, written: 0 };
        for pid in pids {
            sum.pss_mb += pss_mb(pid)?;
            sum.cpu_ns += cpu_ns(pid)?;
            sum.written += written_bytes(pid)?;
        }
        Ok(sum)
    }
}

/// Ends our processes and removes what they kept: the next start is a first one.
fn wipe(cluster: &Cluster, node: &Node) -> Result<()> {
    if let Some(mut daemon) = node.daemon("skerry") {
        daemon.stop(LIMIT)?;
    }
    cluster.kill(node)?;
    for trace in TRACES {
        empty(&node.outside(trace)?).with_context(|| format!("empty {trace} of {}", node.name()))?;
    }
    node.sh("! ip link show skerry0 2> /dev/null || ip link del skerry0").map(drop)
}

fn empty(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            empty(&entry.path())?;
            fs::remove_dir(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

async fn until_ready(cluster: &Cluster, node: &Node, deadline: Instant) -> Result<()> {
    let admin = node.outside(ADMIN)?;
    let mut client = None;
    loop {
        let done = match &client {
            None => match connect(&admin, &cluster.server_url()).await {
                Ok(made) => {
                    client = Some(made);
                    continue;
                }
                Err(error) => Err(error),
            },
            Some(client) => is_ready(client, node.name()).await,
        };
        match done {
            Ok(true) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Ok(false) if Instant::now() > deadline => anyhow::bail!("not Ready after {LIMIT:?}"),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// The administrator's client, by the server's own address in place of the loopback's.
async fn connect(admin: &Path, url: &str) -> Result<Client> {
    let source = Source::At { kubeconfig: admin.to_owned(), servers: vec![url.to_owned()] };
    Ok(skerry_client::connect(&source).await?.client)
}

async fn is_ready(client: &Client, name: &str) -> Result<bool> {
    let nodes: Api<ApiNode> = Api::all(client.clone());
    let node = nodes.get(name).await.context("ask for the node")?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}
