//! What somebody on the link sees of load-balancer addresses and health checks: real ARP, neighbour discovery
//! and HTTP.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use crate::support::{Agent, Api, Case, TestNode, Underlay, eventually, named};
use proxy_agent::Config;
use serde_json::{Value, json};
use skerry_lab::Netns;

pub fn trials() -> Vec<Case> {
    named![
        one_node_answers_for_an_address_and_another_takes_over_unasked,
        nobody_answers_for_an_address_that_was_released_or_is_not_ours,
        health_checks_follow_services_endpoints_and_ports,
        a_node_that_is_to_go_is_alive_but_gets_no_traffic,
        the_node_port_for_health_can_be_elsewhere_or_nowhere,
    ]
}

const V4: &str = "172.31.0.150";
const V6: &str = "fd00:31::150";

fn node(api: &Api, node: &TestNode, extra: Value) {
    let mut object = json!({
        "metadata": {"name": node.name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"podCIDR": node.pod_cidr(), "podCIDRs": [node.pod_cidr()]},
        "status": {"addresses": [{"type": "InternalIP", "address": node.ip().to_string()}],
                   "conditions": [{"type": "Ready", "status": "True"}]},
    });
    for (field, value) in extra.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    api.apply("nodes", object);
}

fn service(api: &Api, policy: &str, health_port: u16, addresses: &[&str]) {
    let ingress: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    api.apply(
        "services",
        json!({"metadata": {"name": "web", "namespace": "default"},
               "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.10", "externalTrafficPolicy": policy,
                        "healthCheckNodePort": health_port, "ports": [{"port": 80}]},
               "status": {"loadBalancer": {"ingress": ingress},
                          "conditions": [{"type": "skerry.io/AddressAssigned", "status": "True"}]}}),
    );
}

fn start(api: &Api, node: &TestNode) -> Agent {
    crate::support::log();
    api.listen_in(&node.netns, &node.kubeconfig());
    let mut agent = Agent::start(node, node.config());
    agent.wait_ready();
    agent
}

/// The Ethernet address of a node's uplink.
fn mac(node: &TestNode) -> String {
    let shown = node.netns.ip("-o link show dev eth0").unwrap();
    shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned()
}

/// What the client's neighbour table says of an address: the Ethernet address, if it knows one.
fn neighbour(client: &Netns, ip: &str) -> Option<String> {
    let shown = client.ip(&format!("neigh show to {ip} dev eth0")).unwrap();
    shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned)
}

/// A datagram that makes the client ask for the address.
fn knock(client: &Netns, ip: &str) {
    let ip: IpAddr = ip.parse().unwrap();
    let any: SocketAddr = if ip.is_ipv4() { "0.0.0.0:0".parse() } else { "[::]:0".parse() }.unwrap();
    client.run(|| drop(UdpSocket::bind(any).unwrap().send_to(b"?", (ip, 9)))).unwrap();
}

fn two_nodes() -> (Underlay, Api, TestNode, TestNode) {
    let (underlay, api) = (Underlay::new(), Api::new());
    let (a, b) = (underlay.node("a", 1), underlay.node("b", 2));
    underlay.client.ip("addr add fd00:31::200/64 dev eth0 nodad").unwrap();
    (underlay, api, a, b)
}

fn one_node_answers_for_an_address_and_another_takes_over_unasked() {
    let (underlay, api, a, b) = two_nodes();
    node(&api, &a, json!({}));
    node(&api, &b, json!({}));
    let _agents = (start(&api, &a), start(&api, &b));
    let client = &underlay.client;
    service(&api, "Cluster", 0, &[V4, V6]);
    let macs = [mac(&a), mac(&b)];
    let known = |ip: &str| {
        eventually(&format!("an answer for {ip}"), || {
            knock(client, ip);
            neighbour(client, ip)
        })
    };
    for ip in [V4, V6] {
        let first = known(ip);
        let elected = macs.iter().position(|mac| *mac == first).unwrap_or_else(|| panic!("{ip} at {first}"));
        // Asked anew each time, the same one answers.
        for _ in 0..3 {
            client.ip("neigh flush dev eth0").unwrap();
            assert_eq!(known(ip), first, "{ip}");
        }
        let (loser, winner) = if elected == 0 { (&a, &macs[1]) } else { (&b, &macs[0]) };
        api.delete("nodes", &loser.name);
        let begun = Instant::now();
        // The client sends nothing meanwhile: what it knows changes by what it is told.
        eventually(&format!("{ip} is taken over"), || {
            (neighbour(client, ip).as_ref() == Some(winner)).then_some(())
        });
        println!("{ip} was taken over after {:?}", begun.elapsed());
        node(&api, loser, json!({}));
        eventually(&format!("{ip} is given back"), || {
            (neighbour(client, ip).as_ref() == Some(&first)).then_some(())
        });
    }
    // Who may not have traffic of load balancers gives the address up.
    for ip in [V4, V6] {
        let first = known(ip);
        let elected = if macs[0] == first { &a } else { &b };
        node(&api, elected, json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}));
        eventually(&format!("{ip} has left"), || neighbour(client, ip).filter(|mac| *mac != first));
        node(&api, elected, json!({}));
    }
}

fn nobody_answers_for_an_address_that_was_released_or_is_not_ours() {
    let (underlay, api, a, _b) = two_nodes();
    node(&api, &a, json!({}));
    let agent = start(&api, &a);
    let client = &underlay.client;
    let is_answered = |ip: &str| {
        client.ip("neigh flush dev eth0").unwrap();
        knock(client, ip);
        // The kernel asks three times, a second each, and then says that it failed.
        eventually("the client's kernel has made up its mind", || {
            let shown = client.ip(&format!("neigh show to {ip} dev eth0")).unwrap();
            match shown.contains("lladdr") {
                true => Some(true),
                false => shown.contains("FAILED").then_some(false),
            }
        })
    };
    service(&api, "Cluster", 0, &[V4, V6]);
    for ip in [V4, V6] {
        eventually(ip, || is_answered(ip).then_some(()));
        assert!(!is_answered(&ip.replace("150", "151")));
    }
    api.delete("services", "default/web");
    eventually("the addresses are let go", || (!is_answered(V4) && !is_answered(V6)).then_some(()));
    service(&api, "Cluster", 0, &[V4, V6]);
    eventually("and taken again", || (is_answered(V4) && is_answered(V6)).then_some(()));
    // Nothing is left behind by an agent that ends.
    agent.stop().unwrap();
    assert!(!is_answered(V4) && !is_answered(V6));
    // One that starts while the API server is away goes on where the last one was, until it is told
    // otherwise.
    api.set_away(true);
    let agent = Agent::start(&a, a.config());
    eventually("answered as before", || (is_answered(V4) && is_answered(V6)).then_some(()));
    api.delete("services", "default/web");
    api.set_away(false);
    eventually("let go", || (!is_answered(V4) && !is_answered(V6)).then_some(()));
    agent.stop().unwrap();
    for left in ["addr", "neigh show proxy", "route show table all", "-6 route show table all"] {
        let left = a.netns.ip(left).unwrap();
        assert!(!left.contains(V4) && !left.contains(V6), "{left}");
    }
}

/// Status, weight header and body of `GET path`.
fn ask(client: &Netns, address: SocketAddr, path: &str) -> Option<(u16, String, Value)> {
    let text = client
        .run(|| {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
        .unwrap()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    let weight = head.lines().find_map(|line| line.strip_prefix("x-load-balancing-endpoint-weight: "));
    Some((status, weight.unwrap_or_default().to_owned(), serde_json::from_str(body).unwrap_or_default()))
}

fn health_checks_follow_services_endpoints_and_ports() {
    let (underlay, api, a, _b) = two_nodes();
    a.netns.ip("addr add fd00:31::1/64 dev eth0 nodad").unwrap();
    node(&api, &a, json!({}));
    let _agent = start(&api, &a);
    let at = |port: u16| SocketAddr::from((a.ip(), port));
    let service_health = |port| ask(&underlay.client, at(port), "/");
    let until = |what: &str, port: u16, status: u16, count: usize| {
        let expected = json!({"service": {"namespace": "default", "name": "web"}, "localEndpoints": count,
                              "serviceProxyHealthy": true});
        eventually(what, || {
            service_health(port).filter(|said| *said == (status, count.to_string(), expected.clone()))
        });
    };
    service(&api, "Local", 31999, &[]);
    until("no endpoint", 31999, 503, 0);
    api.endpoints("web", "TCP", 8080, &[("10.244.1.5", "a"), ("10.244.1.6", "a"), ("10.244.2.5", "b")]);
    until("two endpoints", 31999, 200, 2);
    let v6: SocketAddr = "[fd00:31::1]:31999".parse().unwrap();
    assert_eq!(ask(&underlay.client, v6, "/any/path").unwrap().0, 200, "all addresses, both families");
    api.endpoints("web", "TCP", 8080, &[("10.244.2.5", "b")]);
    until("none here", 31999, 503, 0);

    // A port that somebody else holds is had as soon as he lets go.
    let holder = a.netns.run(|| TcpListener::bind("0.0.0.0:31998").unwrap()).unwrap();
    service(&api, "Local", 31998, &[]);
    eventually("the old port is closed", || service_health(31999).is_none().then_some(()));
    drop(holder);
    until("the port is free", 31998, 503, 0);
    service(&api, "Cluster", 0, &[]);
    eventually("no port is left", || service_health(31998).is_none().then_some(()));
}

fn a_node_that_is_to_go_is_alive_but_gets_no_traffic() {
    let (underlay, api, a, _b) = two_nodes();
    node(&api, &a, json!({}));
    let _agent = start(&api, &a);
    let status =
        |path: &str| ask(&underlay.client, (a.ip(), 10256).into(), path).map(|said| (said.0, said.2));
    let eligible = || {
        let (status, body) = status("/healthz")?;
        Some((status, body["nodeEligible"].as_bool()?))
    };
    eventually("eligible", || eligible().filter(|said| *said == (200, true)));
    assert_eq!(status("/livez").unwrap().0, 200);
    node(&api, &a, json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}));
    eventually("not eligible", || eligible().filter(|said| *said == (503, false)));
    assert_eq!(status("/livez").unwrap().0, 200);
    assert!(status("/livez").unwrap().1["lastUpdated"].as_str().unwrap().starts_with("20"));
}

fn the_node_port_for_health_can_be_elsewhere_or_nowhere() {
    let (underlay, api, a, _b) = two_nodes();
    node(&api, &a, json!({}));
    crate::support::log();
    api.listen_in(&a.netns, &a.kubeconfig());
    a.netns.ip("addr add 172.31.0.99/24 dev eth0").unwrap();
    let config = Config {
        healthz_bind: Some(([0, 0, 0, 0], 10300).into()),
        announce: false,
        node_port_addresses: vec!["172.31.0.99/32".parse().unwrap()],
        ..a.config()
    };
    let mut agent = Agent::start(&a, config);
    agent.wait_ready();
    let at = |port: u16| ask(&underlay.client, (a.ip(), port).into(), "/healthz");
    eventually("10300", || at(10300).filter(|said| said.0 == 200));
    assert!(at(10256).is_none());
    // Where NodePorts are served on chosen addresses, services' health is told on these.
    service(&api, "Local", 31997, &[V4]);
    eventually("31997", || ask(&underlay.client, "172.31.0.99:31997".parse().unwrap(), "/"));
    assert!(at(31997).is_none());
    service(&api, "Cluster", 0, &[V4]);
    agent.wait("told", |progress| progress.services == 1);
    knock(&underlay.client, V4);
    eventually("nobody answers", || {
        let shown = underlay.client.ip(&format!("neigh show to {V4} dev eth0")).unwrap();
        assert!(!shown.contains("lladdr"), "{shown}");
        shown.contains("FAILED").then_some(())
    });
}
