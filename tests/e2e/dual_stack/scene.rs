//! A cluster with echo servers in it, and who is where.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_lab::{
    Cluster, Kubectl, Lab, Node,
    cluster::{Families, Options},
    images,
};
use skerry_tests::{eventually, manifest};

use super::{
    client::{Client, Protocol},
    ips_of, texts,
};
use crate::world::{SOON, is_ready};

const OUTSIDER_PORT: u16 = 7070;

pub struct Scene {
    cluster: Cluster,
    families: Families,
    alone: String,
}

impl Scene {
    pub fn start(families: Families) -> Result<Scene> {
        let options = Options { workers: 2, families, ..Options::default() };
        let cluster = Cluster::start(Lab::for_test()?, &options)?;
        let echo = images::echo()?;
        for node in cluster.workers() {
            node.import(std::slice::from_ref(&echo))?;
        }
        let scene = Scene { cluster, families, alone: "alone".to_owned() };
        let applied = scene.kubectl().run(&format!("apply -f {}", manifest("both-families.yaml")));
        applied.map_err(|error| scene.explained(error))?;
        Ok(scene)
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn kubectl(&self) -> &Kubectl {
        self.cluster.kubectl()
    }

    /// The cluster's families, as "is it IPv4", in their order.
    pub fn is_v4(&self) -> Vec<bool> {
        match self.families {
            Families::V4 => vec![true],
            Families::V6 => vec![false],
            Families::Dual => vec![true, false],
        }
    }

    pub fn json(&self, line: &str) -> Result<Value> {
        let text = self.kubectl().run(&format!("{line} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {line} -o json"))
    }

    /// The pods of a selector, once as many are ready.
    pub fn pods(&self, selector: &str, count: usize) -> Result<Vec<Value>> {
        let ready = eventually(&format!("{count} pods {selector} run"), SOON, || {
            let list = self.json(&format!("get pods -l {selector}"))?;
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!(pods.len() == count && ready == count, "{} pods, {ready} of them ready", pods.len());
            Ok(pods)
        });
        ready.map_err(|error| self.explained(error))
    }

    pub fn pod<'a>(&'a self, name: &'a str) -> Client<'a> {
        Client::Pod { kubectl: self.kubectl(), name }
    }

    pub fn outside(&self) -> Client<'_> {
        Client::Outside(self.cluster.lab())
    }

    /// Outside first, then every node, then pods: these and one that is no backend.
    pub fn clients<'a>(&'a self, pods: &'a BTreeSet<String>) -> Vec<Client<'a>> {
        let nodes = self.cluster.nodes().iter().map(Client::Node);
        let pods = pods.iter().chain([&self.alone]).map(|name| self.pod(name));
        [self.outside()].into_iter().chain(nodes).chain(pods).collect()
    }

    /// The addresses that a client may reach a service by: the ClusterIP from inside, and the NodePort of
    /// every node.
    pub fn ways(
        &self,
        service: &str,
        is_v4: bool,
        protocol: Protocol,
        client: &Client<'_>,
    ) -> Result<Vec<SocketAddr>> {
        let port = self.node_port(service, protocol)?;
        let mut ways: Vec<SocketAddr> =
            self.cluster.nodes().iter().map(|node| SocketAddr::new(address(node, is_v4), port)).collect();
        if !matches!(client, Client::Outside(_)) {
            ways.push(self.cluster_ip(service, is_v4, protocol)?);
        }
        Ok(ways)
    }

    pub fn cluster_ip(&self, service: &str, is_v4: bool, protocol: Protocol) -> Result<SocketAddr> {
        let spec = self.json(&format!("get service {service}"))?["spec"].clone();
        let ips: Vec<IpAddr> = texts(&spec["clusterIPs"]).iter().flat_map(|ip| ip.parse()).collect();
        let ip = ips.iter().find(|ip| ip.is_ipv4() == is_v4);
        let ip = ip.with_context(|| format!("service {service} has {ips:?} only"))?;
        Ok(SocketAddr::new(*ip, if protocol == Protocol::Tcp { 80 } else { 53 }))
    }

    pub fn node_port(&self, service: &str, protocol: Protocol) -> Result<u16> {
        let service = self.json(&format!("get service {service}"))?;
        let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port["name"] == protocol.name()).context("the port")?;
        u16::try_from(port["nodePort"].as_u64().context("a node port")?).context("a port")
    }

    pub fn node_ip(&self, number: usize, is_v4: bool) -> Result<IpAddr> {
        Ok(address(self.cluster.nodes().get(number).context("a node")?, is_v4))
    }

    pub fn ip_of(&self, pod: &Value, is_v4: bool) -> Result<IpAddr> {
        of_family(&ips_of(&pod["status"]["podIPs"]), is_v4)
    }

    pub fn host_ip_of(&self, pod: &Value, is_v4: bool) -> Result<IpAddr> {
        of_family(&ips_of(&pod["status"]["hostIPs"]), is_v4)
    }

    /// The address that other pods must see of a client that is one of these pods.
    pub fn own_address(&self, client: &Client<'_>, pods: &[Value], is_v4: bool) -> Result<Option<IpAddr>> {
        let Client::Pod { name, .. } = client else { return Ok(None) };
        let pod = pods.iter().find(|pod| pod["metadata"]["name"] == *name);
        pod.map(|pod| self.ip_of(pod, is_v4)).transpose()
    }

    /// The outside client's address.
    pub fn outsiders_ip(&self, is_v4: bool) -> IpAddr {
        let subnet = self.cluster.lab().subnet();
        if is_v4 { subnet.host(CLIENT).into() } else { subnet.host6(CLIENT).into() }
    }

    pub fn pod_mtu(&self, pod: &str) -> Result<usize> {
        let text = self.pod(pod).bash("cat /sys/class/net/eth0/mtu")?;
        text.trim().parse().with_context(|| format!("the MTU {text}"))
    }

    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let pods = self.kubectl().run("get pods,events -A -o wide").unwrap_or_default();
        let logs = self.cluster.logs();
        error.context(format!("{pods}\n{logs}"))
    }
}

pub fn address(node: &Node, is_v4: bool) -> IpAddr {
    if is_v4 { node.ip().into() } else { node.ip6().into() }
}

fn of_family(ips: &[String], is_v4: bool) -> Result<IpAddr> {
    let mut ips = ips.iter().flat_map(|ip| ip.parse::<IpAddr>());
    ips.find(|ip| ip.is_ipv4() == is_v4).context("an address of the family")
}

/// An echo server beyond the cluster, for as long as this value lives.
pub struct Outsider<'a> {
    scene: &'a Scene,
    server: Child,
}

impl<'a> Outsider<'a> {
    pub fn start(scene: &'a Scene) -> Result<Outsider<'a>> {
        let lab = scene.cluster.lab();
        let program = images::echo_server()?;
        let server = lab
            .client()
            .command(&program.to_string_lossy())
            .arg(OUTSIDER_PORT.to_string())
            .stdin(Stdio::null())
            .spawn()
            .context("start the outside server")?;
        let outsider = Outsider { scene, server };
        for is_v4 in scene.is_v4() {
            let to = outsider.address(is_v4);
            eventually("the outside server answers", SOON, || scene.outside().ask(Protocol::Tcp, to))?;
        }
        Ok(outsider)
    }

    pub fn address(&self, is_v4: bool) -> SocketAddr {
        SocketAddr::new(self.scene.outsiders_ip(is_v4), OUTSIDER_PORT)
    }
}

/// The lab's outside client's number in its subnet.
const CLIENT: u8 = 2;

impl Drop for Outsider<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
