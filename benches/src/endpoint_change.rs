//! P4: one endpoint change, at 10,000 services, until connections follow it.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    Options,
    filled::{Filled, SYNC},
    probe::{self, Watcher, now_ns},
    process::cpu_ns,
    row::Row,
};

const SERVICES: usize = 10_000;
const CHANGES: usize = 50;
const PORTS: [(u16, &str); 2] = [(8081, "A"), (8082, "B")];
const LIMIT: Duration = Duration::from_secs(10);
/// Kubernetes 1.36's kube-proxy in the same kind of lab: milliseconds, and CPU milliseconds.
const NFTABLES: (f64, f64) = (3000.0, 3100.0);
const IPTABLES: (f64, f64) = (770.0, 740.0);

/// # Errors
/// When connections do not follow a change within ten seconds.
pub fn run(_: &Options) -> Result<Vec<Row>> {
    let mut filled = Filled::start()?;
    let outside = filled.cluster.lab().client();
    let backends = PORTS.map(|(port, _)| SocketAddrV4::new(filled.backend_address(), port));
    let mut servers = Vec::new();
    for (port, word) in PORTS {
        servers.push(probe::backend(&outside, port, word)?);
    }
    filled.fill(SERVICES, backends[0])?;
    let worker = filled.worker()?;
    probe::install(worker)?;
    let service = filled.services.last().context("a last service")?;
    let watcher = Watcher::start(worker, service.address)?;
    watcher.until("A", SYNC).context("the last service works")?;

    let agent = agent_pid(worker)?;
    let (mut after_request, mut after_answer) = (Vec::new(), Vec::new());
    let cpu = cpu_ns(agent)?;
    for change in 1..=CHANGES {
        let (backend, (_, word)) = (backends[change % 2], PORTS[change % 2]);
        let sent = now_ns()?;
        filled.set_endpoints(&service.name, &[backend])?;
        let answered = now_ns()?;
        let followed = watcher.until(word, LIMIT)?;
        after_request.push(milliseconds(followed.saturating_sub(sent)));
        after_answer.push(milliseconds(followed.saturating_sub(answered)));
    }
    let cpu = milliseconds(cpu_ns(agent)?.saturating_sub(cpu)) / CHANGES as f64;
    drop(servers);

    let row = |case: &str, runs: &[f64], (nft, ipt): (f64, f64)| {
        [(nft, "kube-proxy nftables"), (ipt, "kube-proxy iptables")]
            .map(|(peer, name)| Row::against_recorded("P4", case, "ms", runs, peer, name).lower_is_better())
    };
    let times = (NFTABLES.0, IPTABLES.0);
    let mut rows: Vec<Row> = row("change sent until traffic follows", &after_request, times).into();
    rows.extend(row("change stored until traffic follows", &after_answer, times));
    rows.extend(row("CPU of the node process per change", &[cpu], (NFTABLES.1, IPTABLES.1)));
    Ok(rows)
}

/// The process that holds the proxy: `skerry node` on a worker.
fn agent_pid(worker: &skerry_lab::Node) -> Result<u32> {
    let daemon = worker.daemon("skerry").context("skerry node runs on the worker")?;
    ensure!(cpu_ns(daemon.pid())? > 0, "no scheduler statistics: CONFIG_SCHED_INFO");
    Ok(daemon.pid())
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}
