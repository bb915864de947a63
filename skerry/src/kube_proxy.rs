//! Takes away what kube-proxy leaves on a machine, in any of its modes: iptables of both flavours, nftables,
//! ipvs.
//!
//! Only kube-proxy's own things go (`names`). `rules` and `ipvs` decide over what the machine's programs
//! list; here they are run. Meant for the moment when our programs serve already: a new connection then never
//! misses a rule. Connections that were made through a rule live on: the kernel's connection table translates
//! them, and `hold` sees to it that it goes on.

mod hold;
mod ipvs;
mod names;
mod rules;
mod run;
mod tracked;

use std::{ops::RangeInclusive, process::ExitCode, time::Duration};

use anyhow::Context;
use proxy_agent::Progress;
use tokio::sync::watch;

use crate::{args::port_range, preflight};

/// Before another try, and between looks at whether connections still need [`hold`]'s table.
const AGAIN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, clap::Args)]
pub struct CleanArgs {
    /// Ports of NodePort services, first-last: in the mode ipvs they tell kube-proxy's virtual servers from
    /// others
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    pub nodeport_range: (u16, u16),
}

/// What was done, and what could not be.
#[derive(Debug, Default)]
pub struct Report {
    pub done: Vec<String>,
    pub problems: Vec<String>,
}

impl Report {
    fn note(&mut self, what: &str, result: anyhow::Result<Option<String>>) {
        match result {
            Ok(Some(done)) => self.done.push(done),
            Ok(None) => {}
            Err(error) => self.problems.push(format!("{what}: {error:#}")),
        }
    }
}

/// Cleans and goes on after failures. May be called again at any time: what is gone costs a look.
pub fn clean(node_ports: &RangeInclusive<u16>) -> Report {
    let mut report = Report::default();
    for family in run::FAMILIES {
        for flavour in run::FLAVOURS {
            report.note(&format!("{}{}", family.prefix, flavour.name), clean_iptables(family, flavour));
        }
    }
    report.note("nftables", hold::replace_tables());
    report.note("ipvs", clean_ipvs(node_ports));
    // Last: a set can't go while a rule uses it.
    report.note("ipset", clean_sets());
    report.note("nftables", hold::release());
    report
}

/// Beside the running proxy: cleans once its programs are in their places and the maps are written, and ends
/// when nothing is left. A kube-proxy that still runs would write its rules again: it has to be gone before.
pub async fn clean_when_ready(mut progress: watch::Receiver<Progress>, node_ports: RangeInclusive<u16>) {
    if progress.wait_for(|progress| progress.is_ready && progress.syncs > 0).await.is_err() {
        return;
    }
    loop {
        let ports = node_ports.clone();
        let report = match tokio::task::spawn_blocking(move || clean(&ports)).await {
            Ok(report) => report,
            Err(error) => Report { problems: vec![error.to_string()], ..Report::default() },
        };
        report.done.iter().for_each(|done| tracing::info!("kube-proxy's leftovers: {done}"));
        report.problems.iter().for_each(|problem| tracing::error!("kube-proxy's leftovers: {problem}"));
        if report.problems.is_empty() && !hold::is_held() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// `skerry cleanup-kube-proxy`.
pub fn run_command(args: CleanArgs) -> anyhow::Result<ExitCode> {
    preflight::root()?;
    let (first, last) = args.nodeport_range;
    let report = clean(&(first..=last));
    if report.done.is_empty() && report.problems.is_empty() {
        println!("nothing of kube-proxy's is on this machine");
    }
    report.done.iter().for_each(|line| println!("{line}"));
    if report.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    anyhow::bail!("{}", report.problems.join("; "))
}

fn clean_iptables(family: &run::Family, flavour: &run::Flavour) -> anyhow::Result<Option<String>> {
    let Some(saved) = run::save(family, flavour)? else { return Ok(None) };
    let removal = rules::removal(&saved);
    for kept in &removal.kept {
        let rules::Kept { table, chain, used_by } = kept;
        tracing::warn!(
            table,
            chain,
            used_by,
            "chain of kube-proxy's stays: somebody else's rule leads to it"
        );
    }
    if removal.restore.is_empty() {
        return Ok(None);
    }
    run::restore(family, flavour, &removal.restore)?;
    let (chains, jumps) = (removal.chains, removal.jumps);
    Ok(Some(format!("{}{}: {chains} chains and {jumps} jumps removed", family.prefix, flavour.name)))
}

fn clean_ipvs(node_ports: &RangeInclusive<u16>) -> anyhow::Result<Option<String>> {
    let device = names::IPVS_DEVICE;
    let Some(shown) = run::output("ip", &["-o", "address", "show"])? else {
        tracing::warn!("no program `ip`: not known whether {device} is there; install iproute2");
        return Ok(None);
    };
    let is_there = std::path::Path::new("/sys/class/net").join(device).exists();
    let held = ipvs::addresses(&shown, |name| name == device);
    if !is_there && held.is_empty() {
        return Ok(None);
    }
    let own = ipvs::addresses(&shown, |name| name != device);
    let saved = run::output("ipvsadm", &["-S", "-n"])?.with_context(|| {
        format!("{device} is there but no program `ipvsadm`: install it and run this again")
    })?;
    let servers = ipvs::virtual_servers(&saved, &held, &own, node_ports);
    for [protocol, address] in &servers {
        run::output("ipvsadm", &["-D", protocol, address])?;
    }
    run::output("ip", &["link", "delete", device])?;
    Ok(Some(format!("ipvs: {} virtual servers and {device} removed", servers.len())))
}

fn clean_sets() -> anyhow::Result<Option<String>> {
    let Some(listed) = run::output("ipset", &["list", "-n"])? else { return Ok(None) };
    let sets: Vec<&str> = listed.lines().map(str::trim).filter(|name| names::is_set(name)).collect();
    for set in &sets {
        run::output("ipset", &["destroy", set])?;
    }
    Ok((!sets.is_empty()).then(|| format!("ipset: {} sets removed", sets.len())))
}
