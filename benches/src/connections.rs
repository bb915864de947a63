//! P1: new TCP connections per second through a ClusterIP, as a share of the same path without any rules.
//!
//! Five nodes of one lab, all on the same bridge, dial one backend in a sixth namespace: our proxy on one of
//! them, nothing on the second, nftables and iptables-legacy rules in kube-proxy's structure on the others.
//! In turn, both ends in one thread (see [`ends`]). First by the number of services, then by the number of
//! backends of the one dialled.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result};
use skerry_lab::{Netns, Node};

use crate::{
    Options,
    ends::{self, Client, Dial, Server},
    filled::{Filled, SYNC, until_works},
    peers::{forget_tracked, load_iptables, load_nftables},
    probe,
    row::{Row, table},
};

const SIZES: &[usize] = &[10, 100, 1_000, 10_000];
const BACKENDS: &[usize] = &[1, 10, 100, 1_000];
const ROUNDS: usize = 21;
const BACKEND_PORT: u16 = 8080;
const TIME: Duration = Duration::from_millis(120);
/// Every address of it is a backend's, in a range for benchmarks (RFC 2544).
const MANY: &str = "198.19.0.0/16";
const FIRST_OF_MANY: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

/// Who dials what, and what came of it.
pub struct Contender<'a> {
    pub name: &'static str,
    pub node: &'a Node,
    pub to: Dial,
    pub runs: Vec<ends::Connects>,
}

impl<'a> Contender<'a> {
    pub fn new(name: &'static str, node: &'a Node, to: impl Into<Dial>) -> Contender<'a> {
        Contender { name, node, to: to.into(), runs: Vec::new() }
    }

    pub fn figures(&self, of: impl Fn(&ends::Connects) -> f64) -> Vec<f64> {
        self.runs.iter().map(of).collect()
    }

    fn rates(&self) -> Vec<f64> {
        self.figures(|run| run.rate)
    }
}

/// A cluster, the nodes beside it, and where they lead.
pub struct Scene {
    pub filled: Filled,
    pub bare: Node,
    pub nft: Node,
    ipt: Node,
    netns: Netns,
    backend: SocketAddrV4,
}

impl Scene {
    /// # Errors
    /// When the cluster does not start.
    pub fn start() -> Result<Scene> {
        let filled = Filled::start()?;
        let netns = filled.cluster.lab().client();
        quick_close(&|line| netns.sh(line).map_err(anyhow::Error::from))?;
        let backend = SocketAddrV4::new(filled.backend_address(), BACKEND_PORT);
        let (bare, nft, ipt) =
            (filled.bystander("bare")?, filled.bystander("nft")?, filled.bystander("ipt")?);
        for node in [&bare, &nft, &ipt, filled.worker()?] {
            probe::install(node)?;
            quick_close(&|line| node.sh(line))?;
        }
        Ok(Scene { filled, bare, nft, ipt, netns, backend })
    }

    /// Adds services until there are `count`; the first and the last lead to the backend.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn fill(&mut self, count: usize) -> Result<()> {
        self.filled.fill(count, self.backend)
    }

    /// The first service's and the last one's address.
    ///
    /// # Errors
    /// When there are none.
    pub fn first_and_last(&self) -> Result<(SocketAddrV4, SocketAddrV4)> {
        let first = self.filled.services.first().context("a first service")?.address;
        Ok((first, self.filled.services.last().context("a last service")?.address))
    }

    /// # Errors
    /// When the rules are refused.
    pub fn load_nftables(&self) -> Result<()> {
        load_nftables(&self.nft, &self.filled.services, &[]).context("load nftables rules")
    }

    /// Where all that is dialled leads, whichever address of its own that is.
    pub fn server(&self) -> Server<'_> {
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, self.backend.port());
        Server { netns: &self.netns, address }
    }

    /// The backend without anything between.
    pub fn bare(&self) -> Contender<'_> {
        Contender::new("bare", &self.bare, self.backend)
    }

    /// Lets them dial in turn; each round begins with another one, so that none always comes after the same.
    ///
    /// # Errors
    /// When a connection fails.
    pub fn measure(&self, contenders: &mut [Contender<'_>], rounds: usize, time: Duration) -> Result<()> {
        let server = self.server();
        let dial = |contender: &Contender<'_>, time| {
            ends::connects(Client::Node(contender.node), contender.to, server, time)
        };
        for contender in contenders.iter() {
            until_works(SYNC, || dial(contender, Duration::from_millis(1)))
                .with_context(|| format!("{} does not work", contender.name))?;
        }
        let count = contenders.len();
        for round in 0..rounds {
            for step in 0..count {
                let contender = &mut contenders[(round + step) % count];
                if [self.nft.name(), self.ipt.name()].contains(&contender.node.name()) {
                    forget_tracked(contender.node)?;
                }
                let run = dial(contender, time)?;
                contender.runs.push(run);
            }
        }
        Ok(())
    }
}

/// # Errors
/// When a connection fails.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let mut scene = Scene::start()?;
    let mut rows = Vec::new();
    let rounds = if options.quick { 3 } else { ROUNDS };
    let sizes = if options.quick { &SIZES[..2] } else { SIZES };
    for size in sizes {
        println!("bench: P1: {size} services");
        scene.fill(*size)?;
        scene.load_nftables()?;
        load_iptables(&scene.ipt, &scene.filled.services).context("load iptables rules")?;
        let measured = by_services(&scene, *size, rounds)?;
        // Long before the last size is done.
        print!("{}", table(&measured));
        rows.extend(measured);
    }
    rows.extend(by_backends(&scene, rounds)?);
    Ok(rows)
}

fn by_services(scene: &Scene, size: usize, rounds: usize) -> Result<Vec<Row>> {
    let worker = scene.filled.worker()?;
    let (first, last) = scene.first_and_last()?;
    let mut contenders = [
        scene.bare(),
        Contender::new("first", worker, first),
        Contender::new("last", worker, last),
        Contender::new("nftables first", &scene.nft, first),
        Contender::new("nftables last", &scene.nft, last),
        Contender::new("iptables-legacy first", &scene.ipt, first),
        Contender::new("iptables-legacy last", &scene.ipt, last),
    ];
    scene.measure(&mut contenders, rounds, TIME)?;
    let [bare, others @ ..] = &contenders;
    let against = |ours: &Contender<'_>, peer: &Contender<'_>, name: &str| {
        let case = format!("{size} services, {}", ours.name);
        Row::of_pairs("P1", &case, "1/s", &ours.rates(), &peer.rates(), name)
    };
    let [ours_first, ours_last, nft_first, nft_last, ipt_first, ipt_last] = others;
    let mut rows = vec![against(ours_first, bare, "bare"), against(ours_last, bare, "bare")];
    rows.push(against(ours_first, nft_first, "kube-proxy's nftables rules"));
    rows.push(against(ours_last, nft_last, "kube-proxy's nftables rules"));
    rows.push(against(ours_first, ipt_first, "kube-proxy's iptables-legacy rules"));
    rows.push(against(ours_last, ipt_last, "kube-proxy's iptables-legacy rules"));
    // The peers over bare, so that the lab can be compared with what was recorded elsewhere.
    rows.extend([nft_first, nft_last, ipt_first, ipt_last].map(|peer| against(peer, bare, "bare")));
    Ok(rows)
}

/// One service, ever more backends, all of them addresses of one namespace.
fn by_backends(scene: &Scene, rounds: usize) -> Result<Vec<Row>> {
    let worker = scene.filled.worker()?;
    scene.netns.ip(&format!("route add local {MANY} dev lo"))?;
    for node in [&scene.bare, worker] {
        node.netns().ip(&format!("route add {MANY} via {}", scene.backend.ip()))?;
    }
    let service = scene.filled.services.first().context("a first service")?;
    let mut rows = Vec::new();
    for count in BACKENDS {
        println!("bench: P1: {count} backends");
        let address = |number| Ipv4Addr::from(u32::from(FIRST_OF_MANY) + number);
        let backends: Vec<SocketAddrV4> = (0..u32::try_from(*count)?)
            .map(|number| SocketAddrV4::new(address(number), scene.backend.port()))
            .collect();
        scene.filled.set_endpoints(&service.name, &backends)?;
        // The same backends, drawn by the client: to dial many addresses is not for nothing.
        let first = SocketAddrV4::new(FIRST_OF_MANY, scene.backend.port());
        let direct = Dial { first, count: *count as u32 };
        let mut contenders =
            [Contender::new("bare", &scene.bare, direct), Contender::new("ours", worker, service.address)];
        scene.measure(&mut contenders, rounds, TIME)?;
        let [bare, ours] = &contenders;
        rows.push(Row::of_pairs(
            "P1",
            &format!("{count} backends"),
            "1/s",
            &ours.rates(),
            &bare.rates(),
            "bare",
        ));
    }
    Ok(rows)
}

/// Closed connections don't pile up in TIME_WAIT until the ports are used up.
fn quick_close(sh: &dyn Fn(&str) -> Result<String>) -> Result<()> {
    sh("sysctl -qw net.ipv4.tcp_max_tw_buckets=0 net.core.somaxconn=8192").context("set sysctls").map(drop)
}
