//! P1: new TCP connections per second through a ClusterIP, as a share of the same path without any rules.
//!
//! Five nodes of one lab, all on the same bridge, dial one backend in a sixth namespace: our proxy on one of them,
//! nothing on the second, nftables and iptables-legacy rules in kube-proxy's structure on the others. In turn, one
//! thread, client and backend on a core each.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::{Context, Result};
use skerry_lab::Node;

use crate::{
    Options,
    filled::{Filled, SYNC},
    peers::{load_iptables, load_nftables},
    probe,
    row::{Row, table},
};

const SIZES: &[usize] = &[10, 1_000, 10_000];
const ROUNDS: usize = 20;
const TIME: Duration = Duration::from_millis(150);
const BACKEND_PORT: u16 = 8080;

/// Who dials what, and what came of it.
struct Contender<'a> {
    name: &'static str,
    node: &'a Node,
    to: SocketAddrV4,
    rates: Vec<f64>,
}

/// # Errors
/// When a connection fails.
pub fn run(_: &Options) -> Result<Vec<Row>> {
    let mut filled = Filled::start()?;
    let outside = filled.cluster.lab().client();
    quick_close(&|line| outside.sh(line).map_err(anyhow::Error::from))?;
    let backend = SocketAddrV4::new(filled.backend_address(), BACKEND_PORT);
    let _server = probe::backend(&outside, BACKEND_PORT, "")?;
    let (bare, nft, ipt) = (filled.bystander("bare")?, filled.bystander("nft")?, filled.bystander("ipt")?);
    for node in [&bare, &nft, &ipt, filled.worker()?] {
        probe::install(node)?;
        quick_close(&|line| node.sh(line))?;
    }
    let mut rows = Vec::new();
    for size in SIZES {
        println!("bench: P1: {size} services");
        filled.fill(*size, backend)?;
        load_nftables(&nft, &filled.services, &[]).context("load nftables rules")?;
        load_iptables(&ipt, &filled.services).context("load iptables rules")?;
        let measured = measure(&filled, *size, [&bare, &nft, &ipt], backend)?;
        // Long before the last size is done.
        print!("{}", table(&measured));
        rows.extend(measured);
    }
    Ok(rows)
}

fn measure(filled: &Filled, size: usize, peers: [&Node; 3], backend: SocketAddrV4) -> Result<Vec<Row>> {
    let [bare, nft, ipt] = peers;
    let worker = filled.worker()?;
    let first = filled.services.first().context("a first service")?.address;
    let last = filled.services.last().context("a last service")?.address;
    let contender = |name, node, to| Contender { name, node, to, rates: Vec::with_capacity(ROUNDS) };
    let mut contenders = [
        contender("bare", bare, backend),
        contender("first", worker, first),
        contender("last", worker, last),
        contender("nftables first", nft, first),
        contender("nftables last", nft, last),
        contender("iptables-legacy first", ipt, first),
        contender("iptables-legacy last", ipt, last),
    ];
    for contender in &contenders {
        works(contender)?;
    }
    for round in 0..ROUNDS {
        // Each round begins with another one, so that none always comes after the same.
        let count = contenders.len();
        for step in 0..count {
            let contender = &mut contenders[(round + step) % count];
            contender.rates.push(probe::connects(contender.node, contender.to, TIME)?);
        }
    }
    let [bare, others @ ..] = &contenders;
    let row = |other: &Contender<'_>| {
        let case = format!("{size} services, {}", other.name);
        Row::of_pairs("P1", &case, "1/s", &other.rates, &bare.rates, "bare")
    };
    let [ours_first, ours_last, nft_first, nft_last, ipt_first, ipt_last] = others;
    let against = |ours: &Contender<'_>, peer: &Contender<'_>, name: &str| {
        let case = format!("{size} services, {}", ours.name);
        Row::of_pairs("P1", &case, "1/s", &ours.rates, &peer.rates, name)
    };
    let mut rows = vec![row(ours_first), row(ours_last)];
    rows.push(against(ours_first, nft_first, "kube-proxy's nftables rules"));
    rows.push(against(ours_last, nft_last, "kube-proxy's nftables rules"));
    rows.push(against(ours_first, ipt_first, "kube-proxy's iptables-legacy rules"));
    rows.push(against(ours_last, ipt_last, "kube-proxy's iptables-legacy rules"));
    // The peers over bare, so that the lab can be compared with what was recorded elsewhere.
    rows.extend([nft_first, nft_last, ipt_first, ipt_last].map(row));
    Ok(rows)
}

/// A connection gets through, within the time that a sync may take.
fn works(contender: &Contender<'_>) -> Result<()> {
    let deadline = std::time::Instant::now() + SYNC;
    loop {
        match probe::connects(contender.node, contender.to, Duration::from_millis(1)) {
            Ok(_) => return Ok(()),
            Err(error) if std::time::Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{} does not work", contender.name));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Closed connections don't pile up in TIME_WAIT until the ports are used up.
fn quick_close(sh: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    sh("sysctl -qw net.ipv4.tcp_max_tw_buckets=0 net.core.somaxconn=8192").context("set sysctls").map(drop)
}
