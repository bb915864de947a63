//! `skerry proxy` on a node of its own, beside an API server that holds many services, from its start until
//! the last of them works.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use skerry_lab::{Daemon, Lab, Node, output, paths};

use crate::{
    api::{FakeApi, Lists},
    peers::{Service, idle_endpoints},
    probe,
    process::cpu_ns,
};

/// Every endpoint of [`idle_endpoints`].
const ENDPOINTS: &str = "198.18.0.0/15";
const SERVICE_RANGE: &str = "10.96.0.0/12";
const FIRST_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 0);
/// As many services are waited for, spread over all; afterwards each is dialled once.
const WATCHED: usize = 32;
const LIMIT: Duration = Duration::from_secs(60);

/// Services with 2 to 10 endpoints each.
pub fn services(count: usize) -> Vec<Service> {
    let service = |number: usize| Service {
        name: format!("s{number:05}"),
        address: SocketAddrV4::new(Ipv4Addr::from(u32::from(FIRST_SERVICE) + number as u32), 80),
        endpoints: idle_endpoints(number),
    };
    (0..count).map(service).collect()
}

/// A proxy that has all services, and how it came there. Times in seconds.
pub struct Synced {
    pub node: Node,
    pub daemon: Daemon,
    /// From the start of the process.
    pub start_s: f64,
    /// From the moment that the last byte of the last list was sent.
    pub lists_s: f64,
    /// CPU time of the process from its start.
    pub cpu_s: f64,
}

/// Lets every endpoint be an address of the lab's client, where one server answers for all.
///
/// # Errors
/// When it can't listen.
pub fn answer_for_all(lab: &Lab) -> Result<probe::Running> {
    let outside = lab.client();
    outside.ip(&format!("route replace local {ENDPOINTS} dev lo"))?;
    probe::backend(&outside, 8080, "")
}

impl Synced {
    /// Starts the proxy on a fresh node; every service is dialled once in the end.
    ///
    /// # Errors
    /// When the services do not work within a minute.
    pub fn start(lab: &Lab, name: &str, services: &[Service]) -> Result<Synced> {
        let node = lab.node(name)?;
        probe::install(&node)?;
        let inside = "/run/kubeconfig";
        let kubeconfig = node.outside(inside)?;
        node.netns().ip(&format!("route add {ENDPOINTS} via {}", lab.subnet().host(2)))?;
        // Until a socket hook knows the address, a connect fails at once.
        node.netns().ip(&format!("route add unreachable {SERVICE_RANGE}"))?;
        let told = FakeApi::serve(Lists::of(services, &node), &node.netns(), &kubeconfig)?;
        let step = services.len().div_ceil(WATCHED).max(1);
        let last = services.last().context("a service")?;
        let watched: Vec<SocketAddrV4> =
            services.iter().step_by(step).chain([last]).map(|service| service.address).collect();
        let waiting = probe::Waiter::start(&node, &watched)?;

        let (ip, cgroup) = (node.ip().to_string(), node.cgroup().dir().to_string_lossy().into_owned());
        let args = [
            "proxy",
            "--kubeconfig",
            inside,
            "--node-name",
            name,
            "--node-ip",
            &ip,
            "--cgroup-root",
            &cgroup,
        ];
        let begun = probe::now_ns()?;
        let daemon = node.spawn("skerry", paths::binary("skerry")?, &args)?;
        let done = waiting
            .done(LIMIT)
            .with_context(|| format!("the services work; its log: {}", daemon.tail(20)))?;
        let cpu_s = cpu_ns(daemon.pid())? as f64 / 1e9;
        let listed = told.recv_timeout(Duration::ZERO).context("the proxy has not listed everything")?;
        let dialled = dial_all(&node, services)?;
        ensure!(dialled == services.len(), "{dialled} of {} services work", services.len());
        let seconds = |from: u64| done.saturating_sub(from) as f64 / 1e9;
        Ok(Synced { node, daemon, start_s: seconds(begun), lists_s: seconds(listed), cpu_s })
    }
}

/// How many services answer, dialled once each.
fn dial_all(node: &Node, services: &[Service]) -> Result<usize> {
    let list: String = services.iter().map(|service| format!("{}\n", service.address)).collect();
    let path = node.dir().join("opt/services");
    std::fs::write(&path, list).with_context(|| format!("write {}", path.display()))?;
    let said = output(node.command(probe::PROGRAM)?.args(["dials", "/opt/services"]))?;
    said.trim().parse().with_context(|| format!("read {said:?}"))
}
