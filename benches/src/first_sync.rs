//! P3: the first sync: from the start of the proxy until the last of 10,000 services with 2 to 10 endpoints
//! each works.
//!
//! kube-proxy can't run here. Beside its recorded figures stands what loading rules in its structure takes,
//! one endpoint a service (see [`crate::peers`]): less than it loads, and without its own work before.

use std::time::Instant;

use anyhow::{Context, Result};
use skerry_lab::Lab;

use crate::{
    Options,
    peers::{load_iptables, load_nftables},
    row::Row,
    synced::{Synced, answer_for_all, services},
};

const SERVICES: usize = 10_000;
const QUICK_SERVICES: usize = 500;
const RUNS: usize = 7;
/// Seconds, of Kubernetes 1.36's kube-proxy in the same kind of lab.
const RECORDED: [(f64, &str); 3] =
    [(10.3, "kube-proxy nftables"), (2.5, "kube-proxy iptables-legacy"), (227.0, "kube-proxy iptables-nft")];

/// # Errors
/// When a service does not work within a minute.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let lab = Lab::for_test()?;
    let (count, runs) = if options.quick { (QUICK_SERVICES, 2) } else { (SERVICES, RUNS) };
    let services = services(count);
    let _server = answer_for_all(&lab)?;
    let (mut start, mut lists, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let (mut nft, mut ipt) = (Vec::new(), Vec::new());
    let (nft_node, ipt_node) = (lab.node("nft")?, lab.node("ipt")?);
    for run in 0..runs {
        let mut synced = Synced::start(&lab, &format!("n{run}"), &services)?;
        start.push(synced.start_s);
        lists.push(synced.lists_s);
        cpu.push(synced.cpu_s);
        synced.daemon.kill()?;
        nft.push(seconds(|| load_nftables(&nft_node, &services, &[]))?);
        ipt.push(seconds(|| load_iptables(&ipt_node, &services))?);
    }
    // What a start costs whatever the API holds: programs, devices, attachments.
    let mut bare = Synced::start(&lab, "bare", services.get(..1).context("a service")?)?;
    bare.daemon.kill()?;

    let mut rows = Vec::new();
    for (case, ours) in
        [("from the start of the process", &start), ("from the last byte of the lists", &lists)]
    {
        let case = format!("{count} services, {case}");
        rows.push(
            Row::of_pairs("P3", &case, "s", ours, &nft, "nftables, the rules' loading alone")
                .lower_is_better(),
        );
        rows.push(
            Row::of_pairs("P3", &case, "s", ours, &ipt, "iptables-legacy, the rules' loading alone")
                .lower_is_better(),
        );
        for (peer, name) in RECORDED.iter().filter(|_| !options.quick) {
            rows.push(Row::against_recorded("P3", &case, "s", ours, *peer, name).lower_is_better());
        }
    }
    let case = format!("{count} services, CPU time of the process");
    rows.push(
        Row::of_runs("P3", &case, "s", &cpu, &[bare.cpu_s], "a start with one service").lower_is_better(),
    );
    rows.push(
        Row::of_runs("P3", "one service, from the start", "s", &[bare.start_s], &[], "").lower_is_better(),
    );
    Ok(rows)
}

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}
