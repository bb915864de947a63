//! Clusters of both families, and of IPv6 alone: addresses, services from everywhere, the way out.

pub mod client;
mod scene;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skerry_lab::cluster::Families;
use skerry_tests::eventually;

use crate::{
    explains_itself::SKERRY,
    world::{SOON, World},
};
use client::Protocol;
use scene::{Outsider, Scene};

pub fn both_families() -> Result<()> {
    let scene = Scene::start(Families::Dual)?;
    addresses(&scene)?;
    a_pod_through_its_own_service(&scene)?;
    large_packets(&scene)?;
    services_from_everywhere(&scene)?;
    direct_return(&scene)?;
    host_network_backends(&scene)?;
    the_way_out(&scene)?;
    mapped_addresses(&scene)?;
    policy_changes(&scene)
}

pub fn ipv6_alone() -> Result<()> {
    let scene = Scene::start(Families::V6)?;
    addresses(&scene)?;
    a_pod_through_its_own_service(&scene)?;
    large_packets(&scene)?;
    services_from_everywhere(&scene)?;
    direct_return(&scene)?;
    host_network_backends(&scene)?;
    the_way_out(&scene)
}

/// In the cluster of IPv4 alone that the other cases share.
pub fn required_on_one_family_is_refused(world: &World) -> Result<()> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "both"},
        "spec": {"ipFamilyPolicy": "RequireDualStack", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let refused = world.kubectl().feed("create -f -", &service.to_string());
    let said = format!("{:#}", refused.err().context("a single-stack cluster takes RequireDualStack")?);
    let field = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for \
                 dual-stack services";
    ensure!(said.contains(field), "{said}");
    Ok(())
}

/// Nodes and pods have an address of each family, in the ranges that are theirs; the pods are told.
fn addresses(scene: &Scene) -> Result<()> {
    let count = scene.is_v4().len();
    for node in scene.json("get nodes")?["items"].as_array().into_iter().flatten() {
        let ranges = texts(&node["spec"]["podCIDRs"]);
        ensure!(ranges.len() == count && node["spec"]["podCIDR"] == ranges[0].as_str(), "{ranges:?}");
        let internal = node["status"]["addresses"].as_array().into_iter().flatten();
        let internal: Vec<&str> = internal
            .filter(|address| address["type"] == "InternalIP")
            .filter_map(|address| address["address"].as_str())
            .collect();
        let name = node["metadata"]["name"].as_str().context("a name")?;
        let own = scene.cluster().node(name)?;
        let own = scene.is_v4().into_iter().map(|is_v4| scene::address(own, is_v4).to_string());
        ensure!(internal == own.collect::<Vec<_>>(), "addresses of {name}: {internal:?}");
    }
    for pod in scene.pods("app=echo", 2)? {
        let node =
            scene.json(&format!("get node {}", pod["spec"]["nodeName"].as_str().unwrap_or_default()))?;
        let (ips, ranges) = (ips_of(&pod["status"]["podIPs"]), texts(&node["spec"]["podCIDRs"]));
        ensure!(ips.len() == count && pod["status"]["podIP"] == ips[0].as_str(), "{}", pod["status"]);
        for (ip, range) in ips.iter().zip(&ranges) {
            let range: ipnetwork::IpNetwork = range.parse()?;
            ensure!(range.contains(ip.parse()?), "{ip} is not in {range}");
        }
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        let told = scene.pod(name).bash("echo $POD_IPS $HOST_IPS")?;
        let wanted = format!("{} {}", ips.join(","), ips_of(&pod["status"]["hostIPs"]).join(","));
        ensure!(told.trim() == wanted, "{told} is not {wanted}");
    }
    let slices = scene.json("get endpointslices -l kubernetes.io/service-name=echo")?;
    let slices = slices["items"].as_array().context("slices")?;
    let families: BTreeSet<&str> = slices.iter().filter_map(|slice| slice["addressType"].as_str()).collect();
    ensure!(families.len() == count && slices.len() == count, "{slices:#?}");
    Ok(())
}

/// ClusterIP and NodePort, TCP and UDP, each family, from outside, from every node and from pods: both
/// backends answer.
fn services_from_everywhere(scene: &Scene) -> Result<()> {
    let pods = scene.pods("app=echo", 2)?;
    let backends: BTreeSet<String> = pods.iter().map(name_of).collect();
    for client in scene.clients(&backends) {
        for is_v4 in scene.is_v4() {
            for protocol in Protocol::BOTH {
                for to in scene.ways("echo", is_v4, protocol, &client)? {
                    let what = format!("{} {to} answers {}", protocol.name(), client.name());
                    eventually(&what, SOON, || client.ask(protocol, to))?;
                    let answers = client.ask_both(protocol, to).context(what.clone())?;
                    let hosts: BTreeSet<String> = answers.iter().map(|answer| answer.host.clone()).collect();
                    ensure!(hosts == backends, "{what}: only {answers:?}");
                    ensure!(answers.iter().all(|answer| answer.peer.is_ipv4() == is_v4), "{answers:?}");
                    let by_cluster_ip = to == scene.cluster_ip("echo", is_v4, protocol)?;
                    if let Some(own) = scene.own_address(&client, &pods, is_v4)?.filter(|_| by_cluster_ip) {
                        let other = answers.iter().find(|answer| !client.name().ends_with(&answer.host));
                        ensure!(
                            other.is_some_and(|other| other.peer == own),
                            "{what}: {answers:?} not {own}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// Clients outside are answered by the backends' nodes, which see them by their own address; clients inside
/// as ever.
fn direct_return(scene: &Scene) -> Result<()> {
    const BYTES: usize = 1_000_000;
    scene.kubectl().run("annotate service echo service.skerry.io/forwarding-mode=dsr")?;
    let pods = scene.pods("app=echo", 2)?;
    let backends: BTreeSet<String> = pods.iter().map(name_of).collect();
    let outside = scene.outside();
    for is_v4 in scene.is_v4() {
        let own = scene.outsiders_ip(is_v4);
        for protocol in Protocol::BOTH {
            for to in scene.ways("echo", is_v4, protocol, &outside)? {
                let what = format!("{} {to} answers outside directly", protocol.name());
                eventually(&what, SOON, || {
                    let answers = outside.ask_both(protocol, to)?;
                    let hosts: BTreeSet<String> = answers.iter().map(|answer| answer.host.clone()).collect();
                    ensure!(hosts == backends, "only {answers:?}");
                    ensure!(answers.iter().all(|answer| answer.peer == own), "{answers:?}: not {own}");
                    Ok(())
                })?;
            }
            let to = scene.ways("echo", is_v4, protocol, &scene.pod("alone"))?;
            for to in to {
                scene.pod("alone").ask_both(protocol, to)?;
            }
        }
        let port = scene.node_port("echo", Protocol::Tcp)?;
        // The server has no pods: every backend is elsewhere.
        let to = SocketAddr::new(scene.node_ip(0, is_v4)?, port);
        let server = scene.cluster().nodes().first().context("a node")?;
        let said = server.sh(&format!("{SKERRY} trace --from {own} --to {to}"))?;
        ensure!(said.contains("whose node answers the client itself"), "{said}");
        for number in 0..scene.cluster().nodes().len() {
            let to = SocketAddr::new(scene.node_ip(number, is_v4)?, port);
            let line = format!("curl -gsS --max-time 10 http://{to}/{BYTES} | wc -c");
            let count: usize = outside.bash(&line)?.trim().parse()?;
            ensure!(count > BYTES, "{count} bytes of {to} from outside");
        }
    }
    scene.kubectl().run("annotate service echo service.skerry.io/forwarding-mode-").map(drop)
}

/// Backends on the nodes' own network.
fn host_network_backends(scene: &Scene) -> Result<()> {
    scene.pods("app=host", 2)?;
    let pods: BTreeSet<String> = scene.pods("app=echo", 2)?.iter().map(name_of).collect();
    let workers: BTreeSet<String> =
        scene.cluster().workers().iter().map(|node| node.name().to_owned()).collect();
    for client in scene.clients(&pods) {
        for is_v4 in scene.is_v4() {
            for protocol in Protocol::BOTH {
                for to in scene.ways("host", is_v4, protocol, &client)? {
                    let what = format!("{} {to} answers {}", protocol.name(), client.name());
                    eventually(&what, SOON, || client.ask(protocol, to))?;
                    let answers = client.ask_both(protocol, to).context(what.clone())?;
                    let hosts: BTreeSet<String> = answers.into_iter().map(|answer| answer.host).collect();
                    ensure!(hosts == workers, "{what}: only {hosts:?}");
                }
            }
        }
    }
    Ok(())
}

fn a_pod_through_its_own_service(scene: &Scene) -> Result<()> {
    scene.pods("app=alone", 1)?;
    let alone = scene.pod("alone");
    for is_v4 in scene.is_v4() {
        for protocol in Protocol::BOTH {
            let to = scene.cluster_ip("alone", is_v4, protocol)?;
            let answer = eventually(&format!("{to} answers its own pod"), SOON, || alone.ask(protocol, to))?;
            ensure!(answer.host == "alone", "{answer:?}");
        }
    }
    Ok(())
}

/// What takes many packets, what fills the tunnel's MTU, and what does not fit it.
fn large_packets(scene: &Scene) -> Result<()> {
    const BYTES: usize = 1_000_000;
    let pods = scene.pods("app=echo", 2)?;
    let [one, two] = pods.as_slice() else { anyhow::bail!("two pods") };
    let (from, name) = (name_of(one), name_of(two));
    for is_v4 in scene.is_v4() {
        let ip = scene.ip_of(two, is_v4)?;
        for to in [SocketAddr::new(ip, 8080), scene.cluster_ip("echo", is_v4, Protocol::Tcp)?] {
            let line = format!("set -o pipefail; curl -gsS --max-time 10 http://{to}/{BYTES} | wc -c");
            let count: usize = scene.pod(&from).bash(&line)?.trim().parse()?;
            ensure!(count > BYTES, "{count} bytes of {to} came to {from}");
        }
        let node_port = SocketAddr::new(scene.node_ip(0, is_v4)?, scene.node_port("echo", Protocol::Tcp)?);
        let line = format!("curl -gsS --max-time 10 http://{node_port}/{BYTES} | wc -c");
        let count: usize = scene.outside().bash(&line)?.trim().parse()?;
        ensure!(count > BYTES, "{count} bytes of {node_port} from outside");
        let header = if is_v4 { 28 } else { 48 };
        for size in [56, scene.pod_mtu(&from)? - header, 4000] {
            scene
                .pod(&from)
                .bash(&format!("ping -c 2 -W 3 -s {size} {ip}"))
                .with_context(|| format!("{size} bytes to {name}"))?;
        }
    }
    Ok(())
}

/// The world outside sees the node, and answers find their pod.
fn the_way_out(scene: &Scene) -> Result<()> {
    let outsider = Outsider::start(scene)?;
    for pod in scene.pods("app=echo", 2)? {
        for is_v4 in scene.is_v4() {
            let node = scene.host_ip_of(&pod, is_v4)?;
            for protocol in Protocol::BOTH {
                let answer = scene.pod(&name_of(&pod)).ask(protocol, outsider.address(is_v4))?;
                ensure!(answer.peer == node, "{answer:?} is not of {node}");
            }
        }
    }
    Ok(())
}

/// Java and Go dial IPv4 services by IPv6 sockets.
fn mapped_addresses(scene: &Scene) -> Result<()> {
    let backends: BTreeSet<String> = scene.pods("app=echo", 2)?.iter().map(name_of).collect();
    for client in scene.clients(&backends).into_iter().skip(1) {
        for protocol in Protocol::BOTH {
            let service = scene.cluster_ip("echo", true, protocol)?;
            let node_port = SocketAddr::new(scene.node_ip(1, true)?, scene.node_port("echo", protocol)?);
            for to in [service, node_port] {
                let IpAddr::V4(v4) = to.ip() else { anyhow::bail!("{to} is no IPv4 address") };
                let mapped = SocketAddr::new(Ipv4Addr::to_ipv6_mapped(&v4).into(), to.port());
                let answers = client.ask_both(protocol, mapped)?;
                let hosts: BTreeSet<String> = answers.into_iter().map(|answer| answer.host).collect();
                ensure!(hosts == backends, "{mapped} from {}: only {hosts:?}", client.name());
            }
        }
    }
    Ok(())
}

/// A service gives up its second family and takes one up again: the way to it closes and opens.
fn policy_changes(scene: &Scene) -> Result<()> {
    let patch = |policy: &str| {
        let patch = format!("{{\"spec\":{{\"ipFamilyPolicy\":\"{policy}\"}}}}");
        scene.kubectl().run(&format!("patch service echo --type=merge -p {patch}"))
    };
    let node_port = SocketAddr::new(scene.node_ip(0, false)?, scene.node_port("echo", Protocol::Tcp)?);
    let before = scene.cluster_ip("echo", false, Protocol::Tcp)?;
    let client = scene.outside();
    client.ask(Protocol::Tcp, node_port)?;
    patch("SingleStack")?;
    let service = scene.json("get service echo")?;
    ensure!(texts(&service["spec"]["clusterIPs"]).len() == 1, "{}", service["spec"]);
    // curl's exit code 7: refused, as a port that nobody has.
    let refused =
        |line: String| move |client: &client::Client<'_>| client.bash(&format!("{line}; test $? = 7"));
    let at_node = refused(format!("curl -gsS --max-time 3 http://{node_port}"));
    eventually("the IPv6 NodePort is closed", SOON, || at_node(&client))?;
    let node = scene.cluster().workers().first().context("a worker")?;
    eventually("the IPv6 address is nobody's", SOON, || {
        client::Client::Node(node).bash(&format!("! curl -gsS --max-time 1 http://{before}"))
    })?;
    eventually("no slice of IPv6 is left", SOON, || {
        let slices = scene.json("get endpointslices -l kubernetes.io/service-name=echo")?;
        let slices = slices["items"].as_array().context("slices")?;
        ensure!(slices.len() == 1 && slices[0]["addressType"] == "IPv4", "{slices:?}");
        Ok(())
    })?;
    client.ask(Protocol::Tcp, SocketAddr::new(scene.node_ip(0, true)?, node_port.port()))?;
    patch("RequireDualStack")?;
    eventually("the IPv6 NodePort is open again", SOON, || client.ask(Protocol::Tcp, node_port))?;
    let again = scene.cluster_ip("echo", false, Protocol::Tcp)?;
    eventually("the new address answers", SOON, || client::Client::Node(node).ask(Protocol::Tcp, again))?;
    Ok(())
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `[{ip: …}, …]`
fn ips_of(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str()).map(str::to_owned).collect()
}

fn name_of(pod: &Value) -> String {
    crate::world::name_of(pod)
}
