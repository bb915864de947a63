//! `skerry lb` with a cluster's Services as its source: a Service appears, changes its policy, its nodes
//! change, the API server is away, the Service goes.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use skerry_lab::{Daemon, Netns, Node, paths};
use skerry_tests::{eventually, get_within, manifest};

use crate::{
    world::{SOON, World, name_of},
    xdp_balancer::{METRICS_BIND, answers, beside_the_nodes, holds, workers_with_a_pod, write_to},
};

const WORKERS: [&str; 3] = ["node1", "node2", "node3"];
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The virtual address's number in the lab's subnet.
const VIP: u8 = 251;
const KUBECONFIG: &str = "/var/log/lb-kubeconfig.yaml";
/// Nobody listens there.
const NOWHERE: &str = "/var/log/lb-nowhere.yaml";

pub fn serves_what_it_asks_for(world: &World) -> Result<()> {
    let (_ns, ..) = workers_with_a_pod(world, "front-lb")?;
    world.type_in(&format!("apply -n front-lb -f {}", manifest("front-lb.yaml")))?;

    let lab = world.lab()?;
    let vip = lab.subnet().host(VIP);
    let (node, _wire) = beside_the_nodes(&lab, "lb2")?;
    let kubeconfig = fs::read_to_string(world.kubectl().kubeconfig())?;
    write_to(&node, KUBECONFIG, &kubeconfig)?;
    write_to(&node, NOWHERE, &kubeconfig.replace(":6443", ":9"))?;
    let mut daemon = start(&node, KUBECONFIG)?;
    eventually("the cluster is known", SOON, || holds(&node, "skerry_lb_cluster_known 1"))
        .with_context(|| daemon.tail(20))?;
    let client = lab.client();
    let to = SocketAddr::new(vip.into(), 8000);
    ensure!(is_silent(&client, to)?, "something answers before the Service has an address");

    let give = |ip: Ipv4Addr| {
        format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{ip}","ipMode":"VIP"}}]}}}}}}"#)
    };
    world.type_in(&format!(
        "patch service front-lb -n front-lb --subresource=status --type=merge -p {}",
        give(vip)
    ))?;
    let spreads_over = |nodes: &[&str]| {
        let wanted: HashSet<String> = nodes.iter().map(|name| (*name).to_owned()).collect();
        eventually(&format!("{nodes:?} answer"), SOON, || {
            let who = nodes_of_answers(world, &client, to)?;
            ensure!(who == wanted, "{who:?} answer");
            Ok(())
        })
    };
    spreads_over(&WORKERS).with_context(|| daemon.tail(20))?;

    // The policy Local: nodes are asked at the Service's own port, and one without endpoints is none of the
    // backends.
    let local = r#"{"spec":{"externalTrafficPolicy":"Local"}}"#;
    world.type_in(&format!("patch service front-lb -n front-lb --type=merge -p {local}"))?;
    let only = r#"{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"node2"}}}}}"#;
    world.type_in(&format!("patch daemonset front -n front-lb --type=merge -p {only}"))?;
    spreads_over(&["node2"]).with_context(|| daemon.tail(20))?;
    let all = r#"{"spec":{"template":{"spec":{"nodeSelector":null}}}}"#;
    world.type_in(&format!("patch daemonset front -n front-lb --type=merge -p {all}"))?;
    spreads_over(&WORKERS).with_context(|| daemon.tail(20))?;

    world.type_in(&format!("label node node1 {EXCLUDED}=true"))?;
    let left = spreads_over(&["node2", "node3"]);
    world.type_in(&format!("label node node1 {EXCLUDED}-"))?;
    left.with_context(|| daemon.tail(20))?;
    spreads_over(&WORKERS).with_context(|| daemon.tail(20))?;

    // Started anew where no API server answers: what was served is served on.
    daemon.kill()?;
    let mut daemon = start(&node, NOWHERE)?;
    eventually("it looks for the API server in vain", SOON, || {
        let said = daemon.tail(20);
        ensure!(said.contains("list failed"), "{said}");
        Ok(())
    })?;
    holds(&node, "skerry_lb_cluster_known 0")?;
    ensure!(
        nodes_of_answers(world, &client, to)?.len() == WORKERS.len(),
        "served less without an API server"
    );
    daemon.stop(Duration::from_secs(5))?;

    let mut daemon = start(&node, KUBECONFIG)?;
    spreads_over(&WORKERS).with_context(|| daemon.tail(20))?;
    world.type_in("delete service front-lb -n front-lb")?;
    eventually("the address is not served any more", SOON, || {
        ensure!(is_silent(&client, to)?, "it is");
        Ok(())
    })
    .with_context(|| daemon.tail(20))?;
    daemon.stop(Duration::from_secs(5))?;
    node.sh(&format!("{} lb --remove", paths::binary("skerry")?.display())).map(drop)
}

fn start(node: &Node, kubeconfig: &str) -> Result<Daemon> {
    let args =
        ["lb", "--kubeconfig", kubeconfig, "--load-balancer-class", "example.com/lb", "--device", "eth0"];
    let more = ["--xdp-mode", "native", "--announce", "--metrics-bind", METRICS_BIND];
    let daemon = node.spawn("lb", paths::binary("skerry")?, &[&args[..], &more[..]].concat())?;
    eventually("the balancer runs", SOON, || holds(node, "skerry_lb_cluster_known"))
        .with_context(|| daemon.tail(20))?;
    Ok(daemon)
}

fn is_silent(client: &Netns, to: SocketAddr) -> Result<bool> {
    Ok(client.run(|| get_within(to, Duration::from_millis(300)))?.is_err())
}

/// The nodes whose pods answer. A pod says its name.
fn nodes_of_answers(world: &World, client: &Netns, to: SocketAddr) -> Result<HashSet<String>> {
    let said = answers(client, to)?;
    let pods = world.json("get pods -n front-lb -l app=front")?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let node_of = |host: &String| {
        let pod = pods.iter().find(|pod| host.strip_prefix("host=") == Some(&*name_of(pod)));
        let node = pod.and_then(|pod| pod["spec"]["nodeName"].as_str());
        node.map(str::to_owned).with_context(|| format!("{host} answered, which is no pod of now"))
    };
    said.iter().map(node_of).collect()
}
