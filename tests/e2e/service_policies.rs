//! Who is served by which endpoints: session affinity, traffic policies, topology, source ranges, Maglev.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_lab::{Lab, images};
use skerry_tests::{eventually, manifest};

use crate::{
    dual_stack::client::{Answer, Client, Protocol},
    explains_itself::SKERRY,
    world::{SOON, World, name_of},
};

const NAMESPACE: &str = "policies";
/// Of the case that deletes a pod: the others ask from theirs meanwhile.
const AFFINITY: &str = "affinity";
/// Nobody has it: it is routed to a node by hand, as a load balancer would do.
const LOAD_BALANCER_IP: &str = "192.0.2.10";

/// The namespaces that the manifest is applied in.
static APPLIED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// The servers on the workers, by node.
fn servers(world: &World, namespace: &'static str) -> Result<Vec<Value>> {
    let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    if !applied.contains(namespace) {
        let echo = images::echo()?;
        for node in world.nodes()? {
            node.import(std::slice::from_ref(&echo))?;
        }
        world.type_in(&format!("create namespace {namespace}"))?;
        world.type_in(&format!("apply -n {namespace} -f {}", manifest("policies.yaml")))?;
        applied.insert(namespace);
    }
    world.ready_pods(namespace, "app=alone", 1)?;
    world.ready_pods(namespace, "app=echo", 3)
}

fn service(world: &World, name: &str) -> Result<Value> {
    world.json(&format!("get service {name} -n {NAMESPACE}"))
}

fn cluster_ip(service: &Value, port: u16) -> Result<SocketAddr> {
    let ip: IpAddr = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?.parse()?;
    Ok(SocketAddr::new(ip, port))
}

fn node_port(world: &World, service: &Value, node: &str, index: usize) -> Result<SocketAddr> {
    let port = service["spec"]["ports"][index]["nodePort"].as_u64().context("a nodePort")?;
    Ok(SocketAddr::new(world.node(node)?.ip().into(), u16::try_from(port)?))
}

fn hosts(answers: &BTreeSet<Answer>) -> BTreeSet<&str> {
    answers.iter().map(|answer| answer.host.as_str()).collect()
}

/// As `kubectl exec` names it.
fn in_pod(pod: &Value) -> String {
    format!("{} -n {NAMESPACE}", name_of(pod))
}

pub fn affinity_sticks_and_moves(world: &World) -> Result<()> {
    let pods = servers(world, AFFINITY)?;
    let sticky = world.json(&format!("get service sticky -n {AFFINITY}"))?;
    let (lab, node) = (world.lab()?, world.node("node2")?);
    let name = format!("{} -n {AFFINITY}", name_of(&pods[0]));
    let clients =
        [Client::Outside(&lab), Client::Node(&node), Client::Pod { kubectl: world.kubectl(), name: &name }];
    for (index, protocol) in Protocol::BOTH.into_iter().enumerate() {
        let by_cluster_ip = cluster_ip(&sticky, if protocol == Protocol::Tcp { 80 } else { 53 })?;
        let by_node_port = node_port(world, &sticky, "node1", index)?;
        for client in &clients {
            let to = if matches!(client, Client::Outside(_)) { by_node_port } else { by_cluster_ip };
            let first = eventually("it answers", SOON, || client.ask_both(protocol, to))?;
            let then = client.ask_both(protocol, to)?;
            let seen: BTreeSet<&str> = hosts(&first).union(&hosts(&then)).copied().collect();
            ensure!(seen.len() == 1, "{} met several by {protocol:?}: {seen:?}", client.name());
        }
    }
    // Its own endpoint goes: it gets another, and keeps that.
    let to = node_port(world, &sticky, "node1", 0)?;
    let outside = Client::Outside(&lab);
    let chosen = outside.ask(Protocol::Tcp, to)?.host;
    world.type_in(&format!("delete pod {chosen} -n {AFFINITY}"))?;
    let next = eventually("another one answers", SOON, || {
        let next = outside.ask(Protocol::Tcp, to)?.host;
        ensure!(next != chosen, "{chosen} still");
        Ok(next)
    })?;
    servers(world, AFFINITY)?;
    let after = outside.ask_both(Protocol::Tcp, to)?;
    ensure!(hosts(&after) == BTreeSet::from([next.as_str()]), "not kept: {after:?}");
    Ok(())
}

pub fn external_local_binds_outsiders_only(world: &World) -> Result<()> {
    let pods = servers(world, NAMESPACE)?;
    let local = service(world, "outside-local")?;
    let (lab, here, there) = (world.lab()?, world.node("node1")?, world.node("node2")?);
    let outside = Client::Outside(&lab);
    let (with, without) = (node_port(world, &local, "node1", 0)?, node_port(world, &local, "node2", 0)?);
    let seen = eventually("the node with the pod answers", SOON, || outside.ask(Protocol::Tcp, with))?;
    let ip = client_ip(&lab)?;
    ensure!(seen.peer == ip, "the client's address {ip} is not kept: {seen:?}");
    is_silent(&outside, without)?;
    // Inside nothing of that holds: pods and nodes reach it by any node.
    let elsewhere = pods.iter().find(|pod| pod["spec"]["nodeName"] == "node2").context("a pod on node2")?;
    let name = in_pod(elsewhere);
    for client in
        [Client::Pod { kubectl: world.kubectl(), name: &name }, Client::Node(&there), Client::Node(&here)]
    {
        for to in [with, cluster_ip(&local, 80)?] {
            client.ask(Protocol::Tcp, to)?;
        }
    }
    Client::Node(&there).ask(Protocol::Tcp, without)?;
    Client::Pod { kubectl: world.kubectl(), name: &name }.ask(Protocol::Tcp, without)?;
    Ok(())
}

pub fn internal_local_is_silent_elsewhere(world: &World) -> Result<()> {
    let pods = servers(world, NAMESPACE)?;
    let to = cluster_ip(&service(world, "inside-local")?, 80)?;
    let on = |node: &str| pods.iter().find(|pod| pod["spec"]["nodeName"] == node).map(in_pod);
    let (here, there) = (on("node1").context("a pod on node1")?, on("node2").context("a pod on node2")?);
    let kubectl = world.kubectl();
    eventually("the pod's own node answers", SOON, || {
        Client::Pod { kubectl, name: &here }.ask(Protocol::Tcp, to)
    })?;
    Client::Node(&world.node("node1")?).ask(Protocol::Tcp, to)?;
    is_silent(&Client::Pod { kubectl, name: &there }, to)
}

pub fn another_service_cidr_serves(world: &World) -> Result<()> {
    let pods = servers(world, NAMESPACE)?;
    world.type_in(&format!("apply -n {NAMESPACE} -f {}", manifest("service-range.yaml")))?;
    world.type_in("wait --for=condition=Ready servicecidr/more --timeout=10s")?;
    let service = service(world, "of-another-range")?;
    let object = world.json("get ipaddress 10.50.0.7")?;
    ensure!(object["spec"]["parentRef"]["name"] == "of-another-range", "{object}");
    let (node, name) = (world.node("node2")?, in_pod(&pods[0]));
    for client in [Client::Node(&node), Client::Pod { kubectl: world.kubectl(), name: &name }] {
        eventually("the address of the other range answers", SOON, || {
            client.ask(Protocol::Tcp, cluster_ip(&service, 80)?)
        })?;
    }
    // All nodes know the range: nobody's addresses in it are not asked of the world outside.
    let ranges = || node.sh(&format!("{SKERRY} bpf config -o json"));
    eventually("the node knows both ranges", SOON, || {
        let facts = ranges()?;
        ensure!(facts.contains("10.96.0.0/12,10.50.0.0/24"), "{facts}");
        Ok(())
    })?;
    world.type_in(&format!("delete -n {NAMESPACE} -f {} --timeout=20s", manifest("service-range.yaml")))?;
    eventually("the node knows one range", SOON, || {
        let facts = ranges()?;
        ensure!(!facts.contains("10.50.0.0"), "{facts}");
        Ok(())
    })
}

pub fn same_node_is_preferred(world: &World) -> Result<()> {
    let pods = servers(world, NAMESPACE)?;
    let to = cluster_ip(&service(world, "near")?, 80)?;
    for pod in &pods {
        let name = in_pod(pod);
        let client = Client::Pod { kubectl: world.kubectl(), name: &name };
        eventually("only the pod on the client's node answers", SOON, || {
            let answers = client.ask_both(Protocol::Tcp, to)?;
            ensure!(hosts(&answers) == BTreeSet::from([name_of(pod).as_str()]), "{answers:?}");
            Ok(())
        })?;
    }
    Ok(())
}

pub fn source_ranges_restrict(world: &World) -> Result<()> {
    servers(world, NAMESPACE)?;
    let status = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{LOAD_BALANCER_IP}"}}]}}}}}}"#);
    let patch = |what: &str, body: &str| {
        let mut command = world.kubectl().command(&format!("patch service ranged -n {NAMESPACE} {what} -p"));
        skerry_lab::output(command.arg(body)).map(drop)
    };
    patch("--subresource=status --type=merge", &status)?;
    let (lab, node) = (world.lab()?, world.node("node2")?);
    lab.client().ip(&format!("route replace {LOAD_BALANCER_IP}/32 via {}", node.ip()))?;
    let (outside, to) = (Client::Outside(&lab), SocketAddr::new(LOAD_BALANCER_IP.parse()?, 80));
    let range = |range: &str| {
        patch("--type=merge", &format!(r#"{{"spec":{{"loadBalancerSourceRanges":["{range}"]}}}}"#))
    };
    range(&format!("{}/32", client_ip(&lab)?))?;
    eventually("a client in the range is served", SOON, || outside.ask(Protocol::Tcp, to))?;
    range("198.51.100.0/24")?;
    eventually("a client outside of it meets silence", SOON, || is_silent(&outside, to))?;
    // The ClusterIP and the node port have no such limit.
    let ranged = service(world, "ranged")?;
    outside.ask(Protocol::Tcp, node_port(world, &ranged, "node2", 0)?)?;
    Client::Node(&node).ask(Protocol::Tcp, cluster_ip(&ranged, 80)?)?;
    lab.client().ip(&format!("route del {LOAD_BALANCER_IP}/32"))?;
    Ok(())
}

/// The same client, from the same port, meets the same backend through any node.
pub fn maglev_agrees_on_all_nodes(world: &World) -> Result<()> {
    servers(world, NAMESPACE)?;
    let spread = service(world, "spread")?;
    let mut nodes = Vec::new();
    for node in ["node1", "node2", "node3", "master"] {
        nodes.push(node_port(world, &spread, node, 0)?);
    }
    let (lab, mut met) = (world.lab()?, BTreeSet::new());
    for port in 41_000..41_012 {
        let ask = || lab.client().run(|| ask_from(port, &nodes)).context("enter the client's namespace")?;
        let answers = eventually("all nodes answer", SOON, ask)?;
        ensure!(answers.len() == 1, "port {port} meets {answers:?}");
        met.extend(answers);
    }
    ensure!(met.len() > 1, "all clients meet {met:?}");
    Ok(())
}

/// The names of who answers to one socket on each of the addresses.
fn ask_from(port: u16, to: &[SocketAddr]) -> Result<BTreeSet<String>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut hosts = BTreeSet::new();
    for to in to {
        socket.send_to(b"hello", to)?;
        let mut said = [0; 256];
        let (length, from) = socket.recv_from(&mut said).with_context(|| format!("ask {to}"))?;
        ensure!(from == *to, "{to} answered as {from}");
        let line = String::from_utf8_lossy(&said[..length]).into_owned();
        hosts.insert(line.split(' ').next().unwrap_or_default().to_owned());
    }
    Ok(hosts)
}

/// The IPv4 address of the client on the lab's bridge.
fn client_ip(lab: &Lab) -> Result<IpAddr> {
    let shown = lab.client().ip("-4 -o addr show scope global")?;
    let address = shown.split_whitespace().find_map(|word| word.split_once('/')).context("an address")?;
    Ok(address.0.parse()?)
}

/// No answer at all, not even a refusal: curl's exit code for a time-out.
fn is_silent(client: &Client<'_>, to: SocketAddr) -> Result<()> {
    client.bash(&format!("curl -gsS --max-time 1 http://{to}/; test $? = 28")).map(drop)
}
