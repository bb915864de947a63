//! P7: what a NodePort whose backend is elsewhere adds to bare forwarding, for each packet and for each
//! connection.
//!
//! A client, a backend and three nodes on one bridge. The first node routes between two addresses that lie
//! behind it and is all that "bare" means; our worker and a node with kube-proxy's nftables rules serve a
//! NodePort that leads to the same backend, which sees their address. Both ends are one thread, so that the
//! time is the path's.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result};
use proxy_abi::{Flow, PIN_ROOT, Tuple, map};
use skerry_kernel::Map;
use skerry_lab::{Netns, Node};

use crate::{
    Options,
    ends::{self, Client, Server},
    filled::{Filled, SYNC, until_works},
    peers::{NodePort, forget_tracked, load_nftables},
    row::Row,
};

const SERVICES: usize = 1_000;
const ROUNDS: usize = 30;
const TIME: Duration = Duration::from_millis(250);
const NODE_PORT: u16 = 30_080;
const BACKEND_PORT: u16 = 8080;
/// The two ends of what is only routed, in a range for benchmarks (RFC 2544).
const BEHIND_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 1);
const BEHIND_BACKEND: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 2);
const PEER: &str = "kube-proxy's nftables rules";

/// A way from the client to the backend.
struct Way<'a> {
    name: &'static str,
    dial: SocketAddrV4,
    to: Server<'a>,
    /// Nanoseconds of a packet, half of a round trip.
    packets: Vec<f64>,
    /// Nanoseconds of a connect.
    connects: Vec<f64>,
    rates: Vec<f64>,
}

/// # Errors
/// When a packet or a connection gets lost.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut filled = Filled::start()?;
    let backend_netns = filled.cluster.lab().client();
    let backend = SocketAddrV4::new(filled.backend_address(), BACKEND_PORT);
    let (client, bare, nft) =
        (filled.bystander("dialler")?, filled.bystander("bare")?, filled.bystander("nft")?);
    let services = if options.quick { 10 } else { SERVICES };
    filled.fill(services, backend)?;
    filled.expose("nodeport", NODE_PORT, backend)?;
    forward(&bare)?;
    forward(&nft)?;
    let node_ports = ["tcp", "udp"].map(|proto| NodePort { proto, port: NODE_PORT, backend });
    load_nftables(&nft, &filled.services, &node_ports).context("load nftables rules")?;
    lead_through(&bare, &client, &backend_netns, *backend.ip())?;

    let client = client.netns();
    let routed = SocketAddrV4::new(BEHIND_BACKEND, BACKEND_PORT);
    let way = |name, dial, address| Way {
        name,
        dial,
        to: Server { netns: &backend_netns, address },
        packets: Vec::new(),
        connects: Vec::new(),
        rates: Vec::new(),
    };
    let mut ways = [
        way("bare", routed, routed),
        way("ours", SocketAddrV4::new(filled.worker()?.ip(), NODE_PORT), backend),
        way("nftables", SocketAddrV4::new(nft.ip(), NODE_PORT), backend),
    ];
    for way in &ways {
        works(way, &client)?;
    }
    let (rounds, time) = if options.quick { (3, TIME / 5) } else { (ROUNDS, TIME) };
    for round in 0..rounds {
        for step in 0..ways.len() {
            let way = &mut ways[(round + step) % 3];
            forget_flows(filled.worker()?)?;
            forget_tracked(&nft)?;
            let from = Client::Netns(&client);
            way.packets.push(ends::datagrams(from, way.dial, way.to, time)? / 2.0);
            let connects = ends::connects(from, way.dial, way.to, time)?;
            way.connects.push(connects.p50_us * 1e3);
            way.rates.push(connects.rate);
        }
    }
    Ok(rows(&ways))
}

fn rows([bare, ours, nft]: &[Way<'_>; 3]) -> Vec<Row> {
    let added =
        |of: &[f64], bare: &[f64]| of.iter().zip(bare).map(|(of, bare)| of - bare).collect::<Vec<_>>();
    let mut rows = Vec::new();
    for (case, [bare, ours, nft]) in [
        ("added to a packet", [&bare.packets, &ours.packets, &nft.packets]),
        ("added to a connect", [&bare.connects, &ours.connects, &nft.connects]),
    ] {
        let (ours, theirs) = (added(ours, bare), added(nft, bare));
        rows.push(Row::of_pairs("P7", case, "ns", &ours, &theirs, PEER).lower_is_better());
    }
    rows.push(
        Row::of_pairs("P7", "a packet, all of the way", "ns", &ours.packets, &bare.packets, "bare")
            .lower_is_better(),
    );
    rows.push(
        Row::of_pairs("P7", "a connect, all of the way", "ns", &ours.connects, &bare.connects, "bare")
            .lower_is_better(),
    );
    rows.push(Row::of_pairs("P7", "connections", "1/s", &ours.rates, &nft.rates, PEER));
    rows.push(Row::of_pairs("P7", "connections", "1/s", &ours.rates, &bare.rates, "bare"));
    rows
}

/// The node routes, and tells nobody of a shorter way past it.
fn forward(node: &Node) -> Result<()> {
    node.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0")
        .with_context(|| format!("let {} route", node.name()))
        .map(drop)
}

/// Both ends get an address that lies behind `router`.
fn lead_through(router: &Node, client: &Node, backend: &Netns, backend_ip: Ipv4Addr) -> Result<()> {
    let (client_ip, client) = (client.ip(), client.netns());
    for (netns, own, other) in
        [(&client, BEHIND_CLIENT, BEHIND_BACKEND), (backend, BEHIND_BACKEND, BEHIND_CLIENT)]
    {
        netns.ip(&format!("address add {own}/32 dev lo"))?;
        netns.ip(&format!("route add {other}/32 via {} src {own}", router.ip()))?;
        netns.sh("sysctl -qw net.ipv4.tcp_max_tw_buckets=0 net.core.somaxconn=8192")?;
    }
    let router = router.netns();
    router.ip(&format!("route add {BEHIND_CLIENT}/32 via {client_ip}"))?;
    router.ip(&format!("route add {BEHIND_BACKEND}/32 via {backend_ip}"))?;
    Ok(())
}

/// Empties the worker's tables of flows, as [`forget_tracked`] those of the peer.
fn forget_flows(worker: &Node) -> Result<()> {
    let flows = Map::<Tuple, Flow>::open(&worker.outside(PIN_ROOT)?.join("maps").join(map::FLOWS))?;
    for (key, _) in flows.entries()? {
        flows.delete(&key)?;
    }
    Ok(())
}

/// A connection and a datagram get through, within the time that a sync may take.
fn works(way: &Way<'_>, client: &Netns) -> Result<()> {
    let (from, moment) = (Client::Netns(client), Duration::from_millis(1));
    until_works(SYNC, || {
        ends::connects(from, way.dial, way.to, moment)?;
        ends::datagrams(from, way.dial, way.to, moment)
    })
    .with_context(|| format!("{} does not work", way.name))
    .map(drop)
}
