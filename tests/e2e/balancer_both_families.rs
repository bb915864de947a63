//! `skerry lb` in front of a cluster of both families: by its own address, then directly (packets inside
//! packets, which the nodes unwrap).

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skerry_lab::{
    Cluster, Daemon, Lab, Node,
    cluster::{Families, Options},
    paths,
};
use skerry_tests::eventually;

use crate::{
    dual_stack::client::{Client, Protocol},
    load_balancer::web_on_each_node,
    world::SOON,
    xdp_balancer::{METRICS_BIND, beside_the_nodes, holds, write_to},
};

/// The virtual addresses' number in the lab's subnets.
const VIP: u8 = 252;
const PORT: u16 = 8000;
const LIMIT: Duration = Duration::from_secs(3);
const KUBECONFIG: &str = "/var/log/lb-kubeconfig.yaml";

pub fn serves_both_families_in_both_modes() -> Result<()> {
    let lab = Lab::for_test()?;
    let ((balancer, _wire), (second, _second_wire)) =
        (beside_the_nodes(&lab, "lb")?, beside_the_nodes(&lab, "lb2")?);
    let addresses = |node: &Node| format!("{}/32,{}/128", node.ip(), node.ip6());
    let unwrap_from = [&balancer, &second].map(addresses).join(",");
    let node_args = ["--uplink-xdp", "generic", "--unwrap-from", &unwrap_from];
    let options = Options {
        workers: 2,
        families: Families::Dual,
        node_args: node_args.map(str::to_owned).into(),
        ..Options::default()
    };
    let cluster = Cluster::start(lab, &options)?;
    let done = serves(&cluster, &balancer, &second);
    if done.is_err() {
        eprintln!("{}", cluster.logs());
    }
    done
}

fn serves(cluster: &Cluster, balancer: &Node, second: &Node) -> Result<()> {
    let (kubectl, lab) = (cluster.kubectl(), cluster.lab());
    let port = |name: &str, protocol: &str| json!({"name": name, "port": PORT, "targetPort": 8080, "protocol": protocol});
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "annotations": {"service.skerry.io/balancing": "maglev"}},
        "spec": {"type": "LoadBalancer", "loadBalancerClass": "example.com/lb", "selector": {"app": "web"},
            "ipFamilyPolicy": "RequireDualStack", "ports": [port("tcp", "TCP"), port("udp", "UDP")]}});
    kubectl.feed("apply -f -", &service.to_string())?;
    web_on_each_node(cluster)?;
    let vips = [IpAddr::from(lab.subnet().host(VIP)), IpAddr::from(lab.subnet().host6(VIP))];
    let ingress: Vec<_> = vips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    kubectl.run(&format!("patch service web --subresource=status --type=merge -p {status}"))?;

    let mut daemon = start(cluster, balancer, &["--announce"])?;
    let done = both_modes(cluster, balancer, vips).with_context(|| daemon.tail(20));
    let mut other = start(cluster, second, &[])?;
    let done = done.and_then(|()| {
        connections_move_to_another_balancer(cluster, second, vips).with_context(|| other.tail(20))
    });
    daemon.stop(Duration::from_secs(5))?;
    other.stop(Duration::from_secs(5))?;
    done
}

fn start(cluster: &Cluster, node: &Node, more: &[&str]) -> Result<Daemon> {
    write_to(node, KUBECONFIG, &std::fs::read_to_string(cluster.kubectl().kubeconfig())?)?;
    let args = ["lb", "--kubeconfig", KUBECONFIG, "--load-balancer-class", "example.com/lb"];
    let device = ["--device", "eth0", "--xdp-mode", "native", "--metrics-bind", METRICS_BIND];
    let daemon = node.spawn("lb", paths::binary("skerry")?, &[&args[..], &device[..], more].concat())?;
    eventually("the cluster is known", SOON, || holds(node, "skerry_lb_cluster_known 1"))
        .with_context(|| daemon.tail(20))?;
    Ok(daemon)
}

/// Two balancers with the same addresses draw the same node for a connection: a router may send it by either.
fn connections_move_to_another_balancer(cluster: &Cluster, second: &Node, vips: [IpAddr; 2]) -> Result<()> {
    const AT_ONCE: usize = 20;
    eventually("the second balancer knows its backends", SOON, || holds(second, "skerry_lb_backend_up"))?;
    let client = cluster.lab().client();
    let mac = second.mac()?;
    for vip in vips {
        let to = SocketAddr::new(vip, PORT);
        let dial = || -> std::io::Result<TcpStream> {
            let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(b"GET / HTTP/1.0\r\n")?;
            Ok(stream)
        };
        let dialled: std::io::Result<Vec<TcpStream>> =
            client.run(|| (0..AT_ONCE).map(|_| dial()).collect())?;
        let streams = dialled.with_context(|| format!("{to} by the first"))?;
        client.ip(&format!("neigh replace {vip} lladdr {mac} dev eth0 nud permanent"))?;
        for mut stream in streams {
            let mut answer = String::new();
            stream.write_all(b"Host: web\r\n\r\n")?;
            stream.read_to_string(&mut answer).with_context(|| format!("{to} by the second"))?;
            ensure!(answer.contains("host="), "{answer}");
        }
        client.ip(&format!("neigh del {vip} dev eth0"))?;
    }
    Ok(())
}

fn both_modes(cluster: &Cluster, balancer: &Node, vips: [IpAddr; 2]) -> Result<()> {
    let outside = Client::Outside(cluster.lab());
    let own = cluster.lab().client().ip("-o address show dev eth0")?;
    let is_client = |peer: IpAddr| own.contains(&format!(" {peer}/"));
    let each = |what: &str, wanted: &dyn Fn(IpAddr) -> bool| {
        for vip in vips {
            for protocol in Protocol::BOTH {
                let to = SocketAddr::new(vip, PORT);
                eventually(&format!("{what}: {} {to}", protocol.name()), SOON, || {
                    let answers = outside.ask_both(protocol, to)?;
                    let hosts: BTreeSet<&str> = answers.iter().map(|answer| answer.host.as_str()).collect();
                    ensure!(hosts.len() == 2, "only {hosts:?} answered");
                    ensure!(answers.iter().all(|answer| wanted(answer.peer)), "{answers:?}");
                    Ok(())
                })?;
            }
        }
        Ok(())
    };
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    let kubectl = cluster.kubectl();
    each("by the balancer's address", &|peer| !is_client(peer))?;
    kubectl.run(&format!("patch service web --type=merge -p {local}"))?;
    let (v4, v6) = (IpAddr::from(balancer.ip()), IpAddr::from(balancer.ip6()));
    each("policy Local, by the balancer's address", &|peer| peer == v4 || peer == v6)?;
    // The nodes get what the client sent, and answer it themselves.
    kubectl.run("annotate service web skerry.io/balancer-mode=dsr")?;
    each("policy Local, directly", &is_client)?;
    let anywhere = json!({"spec": {"externalTrafficPolicy": "Cluster"}});
    kubectl.run(&format!("patch service web --type=merge -p {anywhere}"))?;
    each("directly", &|_| true)
}
