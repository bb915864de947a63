//! Names as pods look them up: by glibc's resolver, with the search list that the node agent writes.

use anyhow::{Context, Result, ensure};
use skerry_lab::Node;
use skerry_tests::{eventually, manifest};

use crate::{
    explains_itself::SKERRY,
    world::{SOON, World, name_of},
};

/// What pods' resolv.conf names in a cluster with the default ranges.
const DNS: &str = "10.96.0.10";

/// Addresses that a pod's program gets for a name.
fn found(world: &World, namespace: &str, name: &str) -> Result<Vec<String>> {
    let text = world.type_in(&format!("exec client -n {namespace} -- getent ahosts {name}"))?;
    let mut addresses: Vec<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}

fn eventually_found(world: &World, namespace: &str, name: &str, expected: &[&str]) -> Result<()> {
    let mut expected: Vec<&str> = expected.to_vec();
    expected.sort_unstable();
    eventually(&format!("{name} is found"), SOON, || {
        let addresses = found(world, namespace, name)?;
        ensure!(addresses == expected, "{addresses:?}, not {expected:?}");
        Ok(())
    })
}

fn ip_of(object: &serde_json::Value) -> Result<&str> {
    let ip = object["status"]["podIP"].as_str().or(object["spec"]["clusterIP"].as_str());
    ip.with_context(|| format!("{} has no address", name_of(object)))
}

pub fn are_found_from_pods(world: &World) -> Result<()> {
    let ns = world.namespace("names")?;
    let ns = ns.name.as_str();
    world.type_in(&format!("apply -n {ns} -f {}", manifest("names.yaml")))?;
    world.ready_pods(ns, "app=web", 2)?;
    world.ready_pods(ns, "app=client", 1)?;
    let pods = world.ready_pods(ns, "app=db", 2)?;
    let service = world.json(&format!("get service web -n {ns}"))?;
    let address = ip_of(&service)?;
    let (first, second) = (ip_of(&pods[0])?, ip_of(&pods[1])?);

    // A Service, by each form of its name, and then used.
    for name in ["web", "web.names", "web.names.svc", "web.names.svc.cluster.local"] {
        eventually_found(world, ns, name, &[address])?;
    }
    let page = world.type_in(&format!("exec client -n {ns} -- curl -s -m 5 http://web.names"))?;
    ensure!(page.contains("nginx"), "{page}");
    let api = world.json("get service kubernetes -n default")?;
    eventually_found(world, ns, "kubernetes.default", &[ip_of(&api)?])?;
    // Headless: all of its pods, and each by its own name.
    eventually_found(world, ns, "db", &[first, second])?;
    for pod in &pods {
        eventually_found(world, ns, &format!("{}.db", name_of(pod)), &[ip_of(pod)?])?;
    }
    let reverse = world.type_in(&format!("exec client -n {ns} -- getent hosts {first}"))?;
    ensure!(reverse.contains(&format!("{}.db.names.svc.cluster.local", name_of(&pods[0]))), "{reverse}");
    let dashed = first.replace('.', "-");
    eventually_found(world, ns, &format!("{dashed}.names.pod.cluster.local"), &[first])?;
    // What is not there is said at once.
    let nobody = found(world, ns, "nobody.names");
    ensure!(nobody.as_ref().is_err_and(|error| format!("{error:#}").contains("exit code 2")), "{nobody:?}");

    // The settings are followed, also for what another name leads to.
    let settings = r#"{"hosts":{"db.example.org":["192.0.2.77"]}}"#;
    world.type_in(&format!(
        "create configmap skerry-dns -n kube-system --from-literal=config.yaml={settings}"
    ))?;
    let set = eventually_found(world, ns, "out", &["192.0.2.77"]);
    world.type_in("delete configmap skerry-dns -n kube-system")?;
    set?;

    // A pod that goes takes its name along; its successor has it again.
    world.type_in(&format!("delete pod {} -n {ns}", name_of(&pods[0])))?;
    let pods = world.ready_pods(ns, "app=db", 2)?;
    eventually_found(world, ns, "db", &[ip_of(&pods[0])?, ip_of(&pods[1])?])
}

pub fn lookup_says_why(world: &World) -> Result<()> {
    let ns = world.namespace("names-why")?;
    let ns = ns.name.as_str();
    world.type_in(&format!("apply -n {ns} -f {}", manifest("names.yaml")))?;
    let pods = world.ready_pods(ns, "app=client", 1)?;
    let node = world.node(pods[0]["spec"]["nodeName"].as_str().context("the pod has no node")?)?;
    let config = "--kubeconfig /var/lib/skerry/node/kubeconfig.yaml";
    let lookup = |what: &str| node.sh(&format!("{SKERRY} dns lookup --from {ns}/client {config} {what}"));
    let told = eventually("the name is found", SOON, || lookup("web"))?;
    for part in ["web.names-why.svc.cluster.local. A: NOERROR", "a Service with an address of its own"] {
        ensure!(told.contains(part), "{told}");
    }
    let error = lookup("wbe || true")?;
    ensure!(error.contains("the namespace has no Service of this name"), "{error}");
    Ok(())
}

/// Asks the Service from the node itself, with no search list.
fn asked_at(node: &Node, name: &str) -> Result<String> {
    node.sh(&format!("busybox nslookup -type=a {name} {DNS}"))
}

pub fn outlive_server_and_process(world: &World) -> Result<()> {
    let ns = world.namespace("names-stay")?;
    let ns = ns.name.as_str();
    world.type_in(&format!("create service clusterip stays --tcp=80 -n {ns}"))?;
    let service = world.json(&format!("get service stays -n {ns}"))?;
    let (name, address) = (format!("stays.{ns}.svc.cluster.local"), ip_of(&service)?.to_owned());
    let node = world.node("node1")?;
    let is_found = |node: &Node| {
        let text = asked_at(node, &name)?;
        ensure!(text.contains(&address), "{text}");
        Ok(())
    };
    eventually("the name is found", SOON, || is_found(&node))?;
    // The process is killed: the question waits in the socket and is answered by its successor, whoever has
    // asked.
    for _ in 0..3 {
        let pid = eventually("the process says its number", SOON, || {
            let text = node.sh("head -n 1 /run/skerry/dns.pid")?;
            ensure!(text.trim().parse::<u32>().is_ok(), "{text}");
            Ok(text.trim().to_owned())
        })?;
        node.sh(&format!("kill -9 {pid}"))?;
        is_found(&node)?;
        eventually("another one runs", SOON, || {
            let text = node.sh("head -n 1 /run/skerry/dns.pid")?;
            ensure!(text.trim() != pid && !text.trim().is_empty(), "still {text}");
            Ok(())
        })?;
    }
    // The server is away, and then the node's own process begins anew without it.
    world.with_cluster(|cluster| {
        let server = &cluster.nodes()[0];
        cluster.kill(server)?;
        let away = is_found(&node).and_then(|()| {
            cluster.restart(&node)?;
            eventually("names are answered from the state on disk", SOON, || is_found(&node))
        });
        cluster.restart(server)?;
        away
    })?;
    eventually("the API server is back", SOON, || world.type_in("get --raw=/readyz"))?;
    world.type_in("wait nodes --all --for=condition=Ready --timeout=40s").map(drop)
}
