//! Row 16: `skerry lb` in front of the workers' NodePorts, by native XDP on the lab's bridge. Requests
//! spread; a worker whose cable is pulled gets none within the health check's time, and no request fails
//! after that.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use skerry_kernel::{Instruction, Link, Program, XdpMode, instruction};
use skerry_lab::{Daemon, Lab, Netns, Node, images, paths};
use skerry_tests::{eventually, get, get_within, manifest};

use crate::{
    node_port_service::node_port,
    world::{Namespace, SOON, World},
};

/// Three backends are all hit: one is left out by this many requests once in 10^10 runs.
const REQUESTS: usize = 60;
/// The virtual address's number in the lab's subnet.
const VIP: u8 = 250;
/// Two failures (`fall`) of `interval` + `timeout` at most, and as much again for a busy machine.
const NOTICED: Duration = Duration::from_millis(2 * 2 * (200 + 200));
pub const METRICS_BIND: &str = "127.0.0.1:9600";
const CONFIG: &str = "/var/log/lb.yaml";

pub fn spreads_and_leaves_a_killed_node_out(world: &World) -> Result<()> {
    let (_ns, addresses, port) = workers_with_a_pod(world, "front")?;
    let lab = world.lab()?;
    let vip = lab.subnet().host(VIP);
    let (node, _wire) = beside_the_nodes(&lab, "lb")?;
    node.netns().ip(&format!("address add {vip}/32 dev lo"))?;
    let mut daemon = start(&node, vip, &addresses, port)?;
    let client = lab.client();
    let to = SocketAddr::new(vip.into(), 80);
    let first = eventually("the balancer answers", SOON, || client.run(|| get(to))?);
    first.with_context(|| daemon.tail(20))?;
    ensure!(answers(&client, to)?.len() == 3, "not all three workers were asked");

    // A bad file changes nothing, and says what is wrong in it.
    write(&node, "vips: [{address: 10.0.0.1}]")?;
    node.sh(&format!("kill -HUP {}", daemon.pid()))?;
    eventually("the bad file is refused", SOON, || {
        let said = daemon.tail(20);
        ensure!(said.contains("vips[0].port: is missing"), "{said}");
        Ok(())
    })?;
    ensure!(answers(&client, to)?.len() == 3, "a bad file changed something");

    lab.cable(&world.node("node1")?, false)?;
    let pulled = Instant::now();
    let gone = format!("backend=\"{}:{port}\"}} 0", addresses[0]);
    let noticed = eventually("the worker is left out", SOON, || holds(&node, &gone));
    let took = pulled.elapsed();
    let after = noticed.and_then(|()| answers(&client, to));
    lab.cable(&world.node("node1")?, true)?;
    let after = after.with_context(|| daemon.tail(20))?;
    ensure!(after.len() == 2, "{} workers answer, one of three is gone", after.len());
    ensure!(took < NOTICED, "noticed after {took:?}, not within {NOTICED:?}");
    eventually("the worker comes back", SOON, || holds(&node, &gone.replace("} 0", "} 1")))?;

    // Killed and started again: its program goes on meanwhile.
    daemon.kill()?;
    answers(&client, to).context("while the balancer's process is gone")?;
    let mut daemon = start(&node, vip, &addresses, port)?;
    answers(&client, to).with_context(|| daemon.tail(20))?;
    daemon.stop(Duration::from_secs(5))?;
    node.sh(&format!("{} lb --remove", paths::binary("skerry")?.display()))?;
    let left = client.run(|| get_within(to, Duration::from_millis(300)))?;
    ensure!(left.is_err(), "something balances after --remove");
    Ok(())
}

/// A pod on each worker behind a NodePort that leads to a worker's own only: the workers' addresses and the
/// port.
pub fn workers_with_a_pod<'a>(
    world: &'a World,
    namespace: &str,
) -> Result<(Namespace<'a>, Vec<Ipv4Addr>, u16)> {
    let echo = images::echo()?;
    let workers = ["node1", "node2", "node3"];
    for name in workers {
        world.node(name)?.import(std::slice::from_ref(&echo))?;
    }
    let ns = world.namespace(namespace)?;
    world.type_in(&format!("apply -n {namespace} -f {}", manifest("front.yaml")))?;
    world.ready_pods(namespace, "app=front", workers.len())?;
    let port = node_port(&world.json(&format!("get service front -n {namespace}"))?)?;
    let addresses = workers.map(|name| world.node(name).map(|node| node.ip()));
    Ok((ns, addresses.into_iter().collect::<Result<_>>()?, port))
}

/// A node of the lab that is no cluster node. Its cable's other end makes checksums whole, as a
/// wire's packets have them, and takes what XDP sends: on a veth that needs a program there.
pub fn beside_the_nodes(lab: &Lab, name: &str) -> Result<(Node, Link)> {
    let node = lab.node(name)?;
    let bridge = Netns::existing(&format!("{}-net", lab.name()));
    bridge.sh(&format!("ethtool -K {name} tx off"))?;
    /// `BPF_PROG_TYPE_XDP`.
    const XDP: u32 = 6;
    /// `r0 = XDP_PASS; exit`.
    const PASS: [Instruction; 2] = [instruction(0xb7, 0, 0, 0, 2), instruction(0x95, 0, 0, 0, 0)];
    let pass = Program::load("pass", XDP, 0, &PASS)?;
    let link =
        bridge.run(|| Link::attach_xdp(pass.fd(), skerry_kernel::ifindex(name)?, XdpMode::Native))??;
    Ok((node, link))
}

fn start(node: &Node, vip: Ipv4Addr, backends: &[Ipv4Addr], port: u16) -> Result<Daemon> {
    let list: Vec<String> = backends.iter().map(|ip| format!("{{address: {ip}, port: {port}}}")).collect();
    write(
        node,
        &format!(
            "vips:\n- address: {vip}\n  port: 80\n  balancing: maglev\n  backends: [{}]\n  \
             healthCheck: {{type: http, path: /, interval: 200ms, timeout: 200ms, rise: 2, fall: 2}}\n",
            list.join(", ")
        ),
    )?;
    let program = paths::binary("skerry")?;
    let args = [
        "lb",
        "--config",
        CONFIG,
        "--device",
        "eth0",
        "--xdp-mode",
        "native",
        "--metrics-bind",
        METRICS_BIND,
    ];
    let daemon = node.spawn("lb", program, &args)?;
    eventually("the balancer runs", SOON, || holds(node, "skerry_lb_backend_up"))
        .with_context(|| daemon.tail(20))?;
    Ok(daemon)
}

fn write(node: &Node, text: &str) -> Result<()> {
    write_to(node, CONFIG, text)
}

/// A file as the node sees it.
pub fn write_to(node: &Node, path: &str, text: &str) -> Result<()> {
    let path = node.outside(path)?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

pub fn holds(node: &Node, line: &str) -> Result<()> {
    let metrics = node.sh(&format!("curl -sS --max-time 2 http://{METRICS_BIND}/metrics"))?;
    ensure!(metrics.contains(line), "no {line} in\n{metrics}");
    Ok(())
}

/// Who answered [`REQUESTS`] requests, all of which work.
pub fn answers(client: &Netns, to: SocketAddr) -> Result<HashSet<String>> {
    let ask = |number: usize| {
        let said = get(to).with_context(|| format!("request {number}"))?;
        let host = said.split_whitespace().find(|word| word.starts_with("host="));
        host.map(str::to_owned).with_context(|| format!("request {number}: {said}"))
    };
    client.run(|| (0..REQUESTS).map(ask).collect())?
}
