//! `skerry service`, `skerry bpf` and `skerry trace` tell what the proxy of a node does, and change nothing.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_lab::Node;
use skerry_tests::{eventually, get, manifest};

use crate::{
    node_port_service::node_port,
    world::{SOON, World, name_of},
};

/// The rights of a person are needed where pods of other nodes are asked for: the server's own kubeconfig.
pub const SKERRY: &str = "/opt/skerry/bin/skerry";

pub fn by_its_maps(world: &World) -> Result<()> {
    let ns = world.namespace("explained")?;
    world.type_in(&format!("apply -n {} -f {}", ns.name, manifest("load.yaml")))?;
    let pods = world.ready_pods(&ns.name, "app=steady", 3)?;
    let service = world.json("get service steady -n explained")?;
    let port = node_port(&service)?;
    let cluster_ip = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?.to_owned();
    let node = world.node("node1")?;
    let outside = SocketAddr::new(node.ip().into(), port);
    eventually("the node answers", SOON, || get(outside))?;
    // Leaves a socket whose peer is shown as the service.
    node.sh(&format!("curl -sS --fail --max-time 3 -o /dev/null http://{cluster_ip}:8080"))?;

    let shown = json(&node, "service get explained/steady -o json")?;
    let kinds: Vec<&str> = list(&shown["frontends"]).iter().filter_map(|f| f["kind"].as_str()).collect();
    ensure!(kinds.contains(&"address") && kinds.contains(&"node-port"), "{shown}");
    for pod in &pods {
        let backend = format!("{}:80", pod["status"]["podIP"].as_str().unwrap_or_default());
        ensure!(list(&shown["backends"]).iter().any(|b| b["backend"] == *backend), "no {backend} in {shown}");
    }
    let table = node.sh(&format!("{SKERRY} service list"))?;
    ensure!(table.contains("explained/steady") && table.contains("default/kubernetes"), "{table}");

    let whats =
        ["config", "frontends", "slots", "endpoints", "links", "pod-cidrs", "peers", "flows", "sockets"];
    for what in whats.into_iter().chain(["counters"]) {
        let rows = json(&node, &format!("bpf {what} -o json"))?;
        ensure!(!list(&rows).is_empty(), "bpf {what} is empty");
        let table = node.sh(&format!("{SKERRY} bpf {what}"))?;
        ensure!(table.lines().next().is_some_and(|header| header == header.to_uppercase()), "{table}");
    }
    let flows = list(&json(&node, "bpf flows -o json")?).len();

    let trace = |args: &str| node.sh(&format!("{SKERRY} trace {args}"));
    // A pod of this node: at the socket, then on its device.
    let pod = pods.iter().find(|pod| pod["spec"]["nodeName"] == "node1").context("a pod on node1")?;
    let said = trace(&format!("--from explained/{} --to {cluster_ip}:8080", name_of(pod)))?;
    said_all(&said, &["is a pod of this node", "the socket is connected to", "from_pod", ":80", "backend"])?;
    // From outside: SNAT or delivery, by the backend that is drawn.
    let said = trace(&format!("--from 198.18.0.9 --to {outside}"))?;
    said_all(&said, &["from_uplink", "it becomes", "would be recorded"])?;
    ensure!(said.contains("into the pod") || said.contains("through the tunnel"), "{said}");
    // The node itself, to the pod of another node.
    let other = pods.iter().find(|pod| pod["spec"]["nodeName"] != "node1").context("a pod elsewhere")?;
    let address = other["status"]["podIP"].as_str().context("its address")?;
    let router = format!("{}", node.ip());
    said_all(&trace(&format!("--from {router} --to {address}:80"))?, &["to_overlay", "through the tunnel"])?;
    // What is refused or dropped has an exit code of its own.
    world.type_in("create service clusterip nobody --tcp=80:80 -n explained")?;
    let nobody = world.json("get service nobody -n explained")?;
    let nobody = nobody["spec"]["clusterIP"].as_str().context("a ClusterIP")?;
    eventually("a service without endpoints refuses", SOON, || {
        let refused = node.sh(&format!("{SKERRY} trace --from {router} --to {nobody}:80; test $? = 1"))?;
        said_all(&refused, &["ECONNREFUSED"])
    })?;
    let spoofed = node.sh(&format!("{SKERRY} trace --from {address} --to {outside}; test $? = 1"))?;
    said_all(&spoofed, &["dropped, source_spoofed"])?;
    drops_are_followed(world, &node, address)?;
    let now = list(&json(&node, "bpf flows -o json")?).len();
    ensure!(now <= flows + 50, "traces left flows behind: {flows}, now {now}");
    Ok(())
}

/// The container runtime tells the CNI plugin what a mesh's injector has written on the pod.
pub fn a_pod_with_a_sidecar_is_left_out(world: &World) -> Result<()> {
    let ns = world.namespace("meshed")?;
    let run = "run meshed --image=nginx:1.14.2 --annotations=sidecar.istio.io/status={}";
    world.type_in(&format!("{run} -n {}", ns.name))?;
    world.type_in("wait pod/meshed -n meshed --for=condition=Ready --timeout=40s")?;
    let node = world.table("get pod meshed -n meshed -o wide")?.remove(0)["NODE"].clone();
    let left_out =
        || -> Result<usize> { Ok(list(&json(&world.node(&node)?, "bpf left-out -o json")?).len()) };
    ensure!(left_out()? == 1, "its network namespace is not left out");
    world.type_in("delete pod meshed -n meshed --wait=false")?;
    eventually("nothing is left of it", SOON, || {
        ensure!(left_out()? == 0, "still left out");
        Ok(())
    })
}

/// A packet that claims to come from a pod, sent by a stranger on the wire.
fn drops_are_followed(world: &World, node: &Node, pod: &str) -> Result<()> {
    let stranger = format!("{}.200", pod.rsplit_once('.').context("an IPv4 address")?.0);
    let client = world.lab()?.client();
    client.ip(&format!("address replace {stranger}/32 dev eth0"))?;
    let mut follower = node.spawn("flows", SKERRY, &["flows", "--drops", "-o", "json"])?;
    // The follower may still be connecting: the stranger goes on until it has its record.
    let told = eventually("the drop is told", SOON, || {
        client.sh(&format!("curl -s --interface {stranger} --max-time 1 http://{}:9 || true", node.ip()))?;
        let said = std::fs::read_to_string(follower.log())?;
        let is_it = |line: &str| line.contains(r#""reason":"source_spoofed""#) && line.contains(&stranger);
        ensure!(said.lines().any(is_it), "{said}");
        Ok(())
    });
    follower.kill()?;
    client.ip(&format!("address del {stranger}/32 dev eth0"))?;
    told
}

fn json(node: &Node, args: &str) -> Result<Value> {
    let text = node.sh(&format!("{SKERRY} {args}"))?;
    serde_json::from_str(&text).with_context(|| format!("skerry {args}: {text}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn said_all(said: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(said.contains(word), "no {word:?} in:\n{said}");
    }
    Ok(())
}
