//! Names as long as they may be: 63 characters for a Service, its namespace, labels and pods, 15 for a port.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use skerry_tests::{eventually, get, manifest};

use crate::{
    node_port_service::node_port,
    world::{SOON, World, name_of},
};

const NAMESPACE: &str = "namespace-abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabc";
const SERVICE: &str = "service-abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcde";
const LABEL: &str = "label-abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefg";
const LONGEST: usize = 63;

pub fn serve_as_any(world: &World) -> Result<()> {
    world.type_in(&format!("apply -f {}", manifest("long-names.yaml")))?;
    let outcome = answers(world);
    // Not waited for: the cluster's end takes what is still there.
    world.type_in(&format!("delete namespace {NAMESPACE} --wait=false"))?;
    outcome
}

fn answers(world: &World) -> Result<()> {
    let pods = world.ready_pods(NAMESPACE, &format!("app={LABEL}"), 2)?;
    for pod in &pods {
        // What is generated from a long name is cut so that a host can be called that.
        let name = name_of(pod);
        ensure!(name.len() <= LONGEST, "{name} is longer than a host's name may be");
        let host = world.type_in(&format!("exec {name} -n {NAMESPACE} -- hostname"))?;
        ensure!(host.trim() == name, "{name} calls itself {host}");
    }
    let service = world.json(&format!("get service {SERVICE} -n {NAMESPACE}"))?;
    let cluster_ip = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?.to_owned();
    let node = world.node("node1")?;
    let outside = SocketAddr::new(node.ip().into(), node_port(&service)?);
    eventually("the NodePort answers", SOON, || get(outside))?;
    node.sh(&format!("curl -sS --fail --max-time 3 -o /dev/null http://{cluster_ip}:8080"))?;
    let curl = format!("curl -sS --max-time 3 http://{cluster_ip}:8080");
    let page = world.type_in(&format!("exec {} -n {NAMESPACE} -- {curl}", name_of(&pods[0])))?;
    ensure!(page.contains("Welcome to nginx!"), "from a pod: {page}");
    // Neither kubectl nor the node's own table cuts them; a slice's own name is generated, its label names
    // the service.
    let listed = world.type_in(&format!("get service,deployment -n {NAMESPACE}"))?;
    ensure!(listed.contains(SERVICE), "{listed}");
    let selector = format!("kubernetes.io/service-name={SERVICE}");
    let slices = world.json(&format!("get endpointslice -n {NAMESPACE} -l {selector}"))?;
    ensure!(slices["items"].as_array().is_some_and(|items| items.len() == 1), "{slices}");
    let table = node.sh("/opt/skerry/bin/skerry service list")?;
    ensure!(table.contains(&format!("{NAMESPACE}/{SERVICE}")), "{table}");
    let shown = node.sh(&format!("/opt/skerry/bin/skerry service get {NAMESPACE}/{SERVICE}"))?;
    for pod in &pods {
        let backend = format!("{}:80", pod["status"]["podIP"].as_str().unwrap_or_default());
        ensure!(shown.contains(&backend), "no {backend} in {shown}");
    }
    Ok(())
}
