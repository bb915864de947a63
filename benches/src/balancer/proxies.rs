//! TCP connections and requests through the balancer, and through HAProxy and nginx in its place.
//!
//! Three machines on one bridge, each with one of them, that lead to the same backend; "bare" is the client
//! that dials the backend itself. Both ends are one thread. A proxy works beside it, on the other core, and
//! is woken for each connection and each request, as it must be; the balancer's program works where the
//! packet is.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result};
use skerry_kernel::{Link, Program, XdpMode, ifindex, program_type};
use skerry_lab::{Daemon, Lab, Netns, Node, debian, paths};

use super::packets::{PASS, returns};
use crate::{
    Options,
    ends::{self, Client, Server},
    filled::until_works,
    row::Row,
};

const ROUNDS: usize = 15;
const TIME: Duration = Duration::from_millis(250);
const LIMIT: Duration = Duration::from_secs(20);
/// Last byte of the virtual address.
const VIP: u8 = 250;
const PORT: u16 = 80;
const BACKEND_PORT: u16 = 8080;
/// In each machine's own `/run`.
const CONFIG: &str = "/run/balancer.conf";
const QUIET: &str = "sysctl -qw net.ipv4.tcp_max_tw_buckets=0 net.core.somaxconn=8192 net.ipv4.ip_local_port_range='1024 60999'";

/// A way from the client to the backend.
struct Way {
    name: &'static str,
    dial: SocketAddrV4,
    rates: Vec<f64>,
    /// Nanoseconds of a request and its answer.
    requests: Vec<f64>,
}

/// # Errors
/// When a balancer does not start, or a connection fails.
pub fn run(options: &Options) -> Result<Vec<Row>> {
    let lab = Lab::for_test()?;
    let wire = Netns::existing(&format!("{}-net", lab.name()));
    let (client, backend) = (lab.node("dialler")?, lab.node("backend")?);
    let (ours, haproxy, nginx) = (lab.node("lb")?, lab.node("haproxy")?, lab.node("nginx")?);
    for node in [&client, &backend, &ours, &haproxy, &nginx] {
        node.netns().sh(QUIET)?;
    }
    let to = SocketAddrV4::new(backend.ip(), BACKEND_PORT);
    let vip = lab.subnet().host(VIP);
    let (_daemon, _wire_end) = start_ours(&ours, &wire, vip, to, &backend)?;
    let daemons = [start_haproxy(&haproxy, to)?, start_nginx(&nginx, to)?];

    let way = |name, ip, port| Way {
        name,
        dial: SocketAddrV4::new(ip, port),
        rates: Vec::new(),
        requests: Vec::new(),
    };
    let mut ways = [
        way("bare", *to.ip(), BACKEND_PORT),
        way("ours", vip, PORT),
        way("HAProxy", haproxy.ip(), PORT),
        way("nginx", nginx.ip(), PORT),
    ];
    let (client_netns, backend_netns) = (client.netns(), backend.netns());
    let from = Client::Netns(&client_netns);
    let server = Server { netns: &backend_netns, address: to };
    for way in &ways {
        until_works(LIMIT, || ends::connects(from, way.dial, server, Duration::from_millis(1)))
            .with_context(|| {
                format!("through {}: {}", way.name, daemons.each_ref().map(|d| d.tail(5)).join("\n"))
            })?;
    }
    let (rounds, time) = if options.quick { (2, TIME / 5) } else { (ROUNDS, TIME) };
    for round in 0..rounds {
        for step in 0..ways.len() {
            let way = &mut ways[(round + step) % 4];
            let failed = || format!("through {}", way.name);
            way.rates.push(ends::connects(from, way.dial, server, time).with_context(failed)?.rate);
            way.requests.push(ends::requests(from, way.dial, server, time).with_context(failed)?);
        }
    }
    ours.sh(&format!("{} lb --remove", paths::binary("skerry")?.display()))?;
    Ok(rows(&ways))
}

fn rows([bare, ours, haproxy, nginx]: &[Way; 4]) -> Vec<Row> {
    let peers = [bare, haproxy, nginx];
    let rates = peers.map(|peer| {
        Row::of_pairs("P15", "connections through it", "1/s", &ours.rates, &peer.rates, peer.name)
    });
    let requests = peers.map(|peer| {
        Row::of_pairs("P15", "a request through it", "ns", &ours.requests, &peer.requests, peer.name)
            .lower_is_better()
    });
    rates.into_iter().chain(requests).collect()
}

/// As a machine on a wire: the other end of its cable makes checksums whole, and takes what XDP sends.
fn start_ours(
    node: &Node,
    wire: &Netns,
    vip: Ipv4Addr,
    to: SocketAddrV4,
    backend: &Node,
) -> Result<(Daemon, Link)> {
    let name = node.name();
    wire.sh(&format!("ethtool -K {name} tx off"))?;
    let pass = Program::load("pass", program_type::XDP, 0, &returns(PASS))?;
    let link = wire.run(|| Link::attach_xdp(pass.fd(), ifindex(name)?, XdpMode::Native))??;
    let netns = node.netns();
    netns.ip(&format!("address add {vip}/32 dev lo"))?;
    let mac = backend.mac()?;
    netns.ip(&format!("neigh replace {} lladdr {mac} dev eth0 nud permanent", to.ip()))?;
    let text = format!(
        "vips:\n- {{address: {vip}, port: {PORT}, protocol: TCP, backends: [{{address: {}, port: {}}}]}}\n",
        to.ip(),
        to.port()
    );
    write(node, &text)?;
    let args = ["lb", "--config", CONFIG, "--device", "eth0", "--xdp-mode", "native"];
    Ok((node.spawn("lb", paths::binary("skerry")?, &args)?, link))
}

fn start_haproxy(node: &Node, to: SocketAddrV4) -> Result<Daemon> {
    write(
        node,
        &format!(
            "global\n  nbthread 1\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1m\n  \
             timeout server 1m\nlisten all\n  bind *:{PORT}\n  server one {to}\n"
        ),
    )?;
    let folder = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let libraries = ["liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"]
        .map(|package| Ok(debian::unpacked(package)?.join(&folder).display().to_string()));
    let libraries = libraries.into_iter().collect::<Result<Vec<_>>>()?.join(":");
    let program = debian::unpacked("haproxy")?.join("usr/sbin/haproxy");
    node.spawn_with("haproxy", program, &["-db", "-f", CONFIG], &[("LD_LIBRARY_PATH", &libraries)])
}

fn start_nginx(node: &Node, to: SocketAddrV4) -> Result<Daemon> {
    let program = debian::unpacked("nginx")?.join("usr/sbin/nginx");
    let module = debian::unpacked("libnginx-mod-stream")?.join("usr/lib/nginx/modules/ngx_stream_module.so");
    write(
        node,
        &format!(
            "load_module {};\ndaemon off;\nuser root;\nworker_processes 1;\npid /run/nginx.pid;\n\
             events {{ worker_connections 4000; }}\nstream {{ server {{ listen {PORT} backlog=8192; tcp_nodelay on; \
             proxy_pass {to}; }} }}\n",
            module.display()
        ),
    )?;
    node.spawn("nginx", program, &["-c", CONFIG, "-e", "stderr"])
}

fn write(node: &Node, text: &str) -> Result<()> {
    let path = node.outside(CONFIG)?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}
