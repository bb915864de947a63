//! Devices and addresses of the machine that come, go and change.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::support::{Agent, Api, Case, TestNode, Underlay, eventually, named, roles::Role};
use proxy_abi::{Addr, Endpoint, Facts, Uplink, endpoint_flag, map};
use skerry_kernel::Map;
use skerry_lab::Netns;

pub fn trials() -> Vec<Case> {
    named![
        a_device_without_a_default_route_masquerades_and_serves_node_ports,
        an_address_that_was_found_is_found_again,
    ]
}

fn flags(node: &TestNode, ip: &str) -> Option<u16> {
    let endpoints = Map::<Addr, Endpoint>::open(&node.pin("maps", map::ENDPOINTS)).unwrap();
    endpoints.lookup(&ip.parse::<IpAddr>().unwrap().into()).unwrap().map(|endpoint| endpoint.flags)
}

/// A network beside the cluster's own, which the node has an address in and no default route to.
fn a_device_without_a_default_route_masquerades_and_serves_node_ports() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("side", 1);
    let branch = Netns::unique("branch").unwrap();
    node.netns.ip(&format!("link add eth1 type veth peer name eth0 netns {}", branch.name())).unwrap();
    for (netns, device, address) in [(&node.netns, "eth1", "10.77.0.1/24"), (&branch, "eth0", "10.77.0.9/24")]
    {
        netns.ip(&format!("addr add {address} dev {device}")).unwrap();
        netns.ip(&format!("link set {device} up")).unwrap();
    }
    api.service("web", "10.96.0.10", "TCP", 80, 30080);
    api.endpoints("web", "TCP", 8080, &[("10.244.1.5", "side")]);
    let agent = crate::node::ready(&node, &api);
    let uplinks = Map::<u32, Uplink>::open(&node.pin("maps", map::UPLINKS)).unwrap();
    eventually("the second way out", || (uplinks.entries().unwrap().len() == 2).then_some(()));
    let both = endpoint_flag::NODE | endpoint_flag::NODE_PORT;
    eventually("its address serves", || (flags(&node, "10.77.0.1") == Some(both)).then_some(()));

    let pod = node.pod(5);
    let _server = Role::start("serve", &["pod", "8080"], |line| pod.command(&node, line));
    let answer = branch.run(|| ask("10.77.0.1:30080".parse().unwrap()).unwrap()).unwrap();
    assert_eq!(answer, "pod");
    // Whom the branch sees: it has no route to pods.
    let listener = branch.run(|| TcpListener::bind("10.77.0.9:7000").unwrap()).unwrap();
    let seen = std::thread::spawn(move || listener.accept().unwrap().1.ip());
    pod.netns
        .run(|| TcpStream::connect_timeout(&"10.77.0.9:7000".parse().unwrap(), Duration::from_secs(5)))
        .unwrap()
        .unwrap();
    assert_eq!(seen.join().unwrap().to_string(), "10.77.0.1");
    agent.stop().unwrap();

    // Not to be a way out: then its address is no NodePort's either.
    let config = proxy_agent::Config { other_uplinks: Some(Vec::new()), ..node.config() };
    let mut agent = Agent::start(&node, config);
    agent.wait_ready();
    eventually("its address serves no more", || {
        (flags(&node, "10.77.0.1") == Some(endpoint_flag::NODE)).then_some(())
    });
    assert_eq!((uplinks.entries().unwrap().len(), flags(&node, "172.31.0.1")), (1, Some(both)));
    agent.stop().unwrap();
    // Known from the start where an agent has been before.
    let mut agent = Agent::start(&node, node.config());
    agent.wait_ready();
    assert_eq!(uplinks.entries().unwrap().len(), 2);
    agent.stop().unwrap();
}

fn ask(to: SocketAddr) -> std::io::Result<String> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// The machine gets another address, as by DHCP: without the old one and its routes for a moment.
fn an_address_that_was_found_is_found_again() {
    let (underlay, api) = (Underlay::new(), Api::new());
    let node = underlay.node("moves", 1);
    let mut agent = crate::node::ready(&node, &api);
    let facts = Map::<u32, Facts>::open(&node.pin("maps", map::CONFIG)).unwrap();
    let found = || facts.lookup(&0).unwrap().unwrap().node_v4.to_ip().to_string();
    assert_eq!(found(), "172.31.0.1");
    node.netns.ip("addr del 172.31.0.1/24 dev eth0").unwrap();
    agent.wait("without a way out", |progress| !progress.is_ready);
    node.netns.ip("addr add 172.31.0.77/24 dev eth0").unwrap();
    node.netns.ip("route add default via 172.31.0.200").unwrap();
    agent.wait("ready again", |progress| progress.is_ready);
    assert_eq!(found(), "172.31.0.77");
    let both = endpoint_flag::NODE | endpoint_flag::NODE_PORT;
    eventually("the new address serves, and not the old one", || {
        (flags(&node, "172.31.0.77") == Some(both) && flags(&node, "172.31.0.1").is_none()).then_some(())
    });
    // A second address beside it changes nothing: the kernel speaks from the first.
    node.netns.ip("addr add 172.31.0.5/24 dev eth0").unwrap();
    eventually("the second", || flags(&node, "172.31.0.5"));
    assert_eq!(found(), "172.31.0.77");
    agent.stop().unwrap();
}
