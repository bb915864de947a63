//! `skerry lb` in front of a cluster of both families: by its own address, then directly (packets inside packets, which the
//! nodes unwrap).

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use skerry_lab::{
    Cluster, Lab, Node,
    cluster::{Families, Options},
    images, paths,
};
use skerry_tests::eventually;

use crate::{
    dual_stack::client::{Client, Protocol},
    world::SOON,
    xdp_balancer::{METRICS_BIND, beside_the_nodes, holds, write_to},
};

/// The virtual addresses' number in the lab's subnets.
const VIP: u8 = 252;
const PORT: u16 = 8000;
const KUBECONFIG: &str = "/var/log/lb-kubeconfig.yaml";

pub fn serves_both_families_in_both_modes() -> Result<()> {
    let lab = Lab::for_test()?;
    let (balancer, _wire) = beside_the_nodes(&lab, "lb")?;
    let unwrap_from = format!("{}/32,{}/128", balancer.ip(), balancer.ip6());
    let node_args = ["--uplink-xdp", "generic", "--unwrap-from", &unwrap_from];
    let options = Options {
        workers: 2,
        families: Families::Dual,
        node_args: node_args.map(str::to_owned).into(),
        ..Options::default()
    };
    let cluster = Cluster::start(lab, &options)?;
    let done = serves(&cluster, &balancer);
    if done.is_err() {
        eprintln!("{}", cluster.logs());
    }
    done
}

fn serves(cluster: &Cluster, balancer: &Node) -> Result<()> {
    let (kubectl, lab) = (cluster.kubectl(), cluster.lab());
    let echo = images::echo()?;
    for node in cluster.nodes() {
        node.import(std::slice::from_ref(&echo))?;
    }
    let port = |name: &str, protocol: &str| json!({"name": name, "port": PORT, "targetPort": 8080, "protocol": protocol});
    let objects = [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "example.com/lb", "selector": {"app": "web"},
                "ipFamilyPolicy": "RequireDualStack", "ports": [port("tcp", "TCP"), port("udp", "UDP")]}}),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "web"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "echo", "imagePullPolicy": "IfNotPresent"}]}}}}),
    ];
    for object in objects {
        kubectl.feed("apply -f -", &object.to_string())?;
    }
    kubectl.run("rollout status daemonset web --timeout=40s")?;
    let vips = [IpAddr::from(lab.subnet().host(VIP)), IpAddr::from(lab.subnet().host6(VIP))];
    let ingress: Vec<_> = vips.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    kubectl.run(&format!("patch service web --subresource=status --type=merge -p {status}"))?;

    write_to(balancer, KUBECONFIG, &std::fs::read_to_string(kubectl.kubeconfig())?)?;
    let args =
        ["lb", "--kubeconfig", KUBECONFIG, "--load-balancer-class", "example.com/lb", "--device", "eth0"];
    let more = ["--xdp-mode", "native", "--announce", "--metrics-bind", METRICS_BIND];
    let mut daemon = balancer.spawn("lb", paths::binary("skerry")?, &[&args[..], &more[..]].concat())?;
    eventually("the cluster is known", SOON, || holds(balancer, "skerry_lb_cluster_known 1"))
        .with_context(|| daemon.tail(20))?;
    let done = both_modes(cluster, balancer, vips).with_context(|| daemon.tail(20));
    daemon.stop(Duration::from_secs(5))?;
    done
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
