//! Rows 14 and 15: a NodePort Service is listed, and answers from outside, from pods and from nodes.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_tests::{eventually, get, manifest};

use crate::world::{SOON, World, name_of};

/// By chance three pods are all hit: one of them is left out by 60 requests once in 10^10 runs.
const REQUESTS: usize = 60;

/// The manifests of both rows are in the default namespace; they are applied once.
static APPLIED: Mutex<bool> = Mutex::new(false);

fn applied(world: &World) -> Result<Vec<Value>> {
    let mut applied = APPLIED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*applied {
        let said = world.type_in(&format!("apply -f {}", manifest("my-nginx-deployment.yaml")))?;
        ensure!(said.trim() == "deployment.apps/my-nginx created", "{said}");
        let said = world.type_in(&format!("apply -f {}", manifest("my-nginx-service.yaml")))?;
        ensure!(said.trim() == "service/my-nginx created", "{said}");
        *applied = true;
    }
    world.ready_pods("default", "run=my-nginx", 3)
}

pub fn is_listed(world: &World) -> Result<()> {
    applied(world)?;
    let rows = world.table("get service")?;
    let row = |name: &str| {
        rows.iter().find(|row| row["NAME"] == name).with_context(|| format!("no {name}: {rows:?}"))
    };
    let service = row("my-nginx")?;
    ensure!(service["TYPE"] == "NodePort" && service["EXTERNAL-IP"] == "<none>", "{service:?}");
    ensure!(is_cluster_ip(&service["CLUSTER-IP"]), "{service:?}");
    let port = service["PORT(S)"].strip_prefix("8080:").and_then(|rest| rest.strip_suffix("/TCP"));
    let port: u16 = port.context("8080:PORT/TCP")?.parse().with_context(|| format!("{service:?}"))?;
    ensure!((30000..=32767).contains(&port), "{service:?}");
    let kubernetes = row("kubernetes")?;
    ensure!(kubernetes["TYPE"] == "ClusterIP" && kubernetes["PORT(S)"] == "443/TCP", "{kubernetes:?}");
    Ok(())
}

pub fn answers(world: &World) -> Result<()> {
    let pods = applied(world)?;
    let service = world.json("get service my-nginx")?;
    let node_port = node_port(&service)?;
    let cluster_ip = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?.to_owned();
    for node in world.nodes()? {
        let address = SocketAddr::new(node.ip().into(), node_port);
        // From this shell, through our end of the lab's bridge; the first answer may wait for the rules to
        // arrive.
        let page = eventually(&format!("{} answers", node.name()), SOON, || get(address))?;
        ensure!(page.contains("Welcome to nginx!"), "{page}");
        let title = world.outside(&format!("curl -sS http://{address} | grep title"))?;
        ensure!(title.contains("Welcome to nginx!"), "{title}");
        world
            .lab()?
            .client()
            .run(|| every_request_works(address))
            .context("enter the client's namespace")??;
        let line =
            format!("for i in 1 2 3 4 5; do curl -sS --max-time 3 http://{cluster_ip}:8080 || exit 1; done");
        let pages = world.on(&node, &line).with_context(|| format!("ClusterIP from {}", node.name()))?;
        ensure!(
            pages.matches("<title>Welcome to nginx!").count() == 5,
            "ClusterIP from {}: {pages}",
            node.name()
        );
    }
    for pod in &pods {
        let line = format!("exec {} -- curl -sS --max-time 3 http://{cluster_ip}:8080", name_of(pod));
        for _ in 0..5 {
            let page = world.type_in(&line)?;
            ensure!(page.contains("Welcome to nginx!"), "from a pod: {page}");
        }
        let node = pod["status"]["hostIP"].as_str().context("hostIP")?;
        let page = world
            .type_in(&format!("exec {} -- curl -sS --max-time 3 http://{node}:{node_port}", name_of(pod)))?;
        ensure!(page.contains("Welcome to nginx!"), "NodePort from a pod: {page}");
    }
    for pod in &pods {
        let log = world.type_in(&format!("logs {}", name_of(pod)))?;
        ensure!(log.contains("GET / HTTP/1.1"), "{} was never asked: {log}", name_of(pod));
    }
    Ok(())
}

pub fn refuses_without_endpoints(world: &World) -> Result<()> {
    let _ns = world.namespace("nobody")?;
    world.type_in("create service nodeport nobody --tcp=80:80 -n nobody")?;
    let service = world.json("get service nobody -n nobody")?;
    let cluster_ip = service["spec"]["clusterIP"].as_str().context("a ClusterIP")?;
    let node = world.node("node1")?;
    // curl's exit code 7: the connection was refused; 28 would be a time-out.
    let refused = |line: String| {
        let begun = Instant::now();
        let said = node.sh(&format!("curl -sS --max-time 5 {line}; test $? = 7"))?;
        ensure!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
        Ok(said)
    };
    eventually("the ClusterIP refuses", SOON, || refused(format!("http://{cluster_ip}")))?;
    let port = node_port(&service)?;
    let outside = world.lab()?.client();
    eventually("the NodePort refuses", SOON, || {
        let begun = Instant::now();
        outside.sh(&format!("curl -sS --max-time 5 http://{}:{port}; test $? = 7", node.ip()))?;
        ensure!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
        Ok(())
    })
}

pub fn node_port(service: &Value) -> Result<u16> {
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("the service has no nodePort")?;
    u16::try_from(port).context("a port")
}

fn every_request_works(address: SocketAddr) -> Result<()> {
    for number in 0..REQUESTS {
        let page = get(address).with_context(|| format!("request {number} from outside"))?;
        ensure!(page.contains("Welcome to nginx!"), "request {number} from outside: {page}");
    }
    Ok(())
}

/// In 10.96.0.0/12.
fn is_cluster_ip(text: &str) -> bool {
    text.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.octets()[0] == 10 && ip.octets()[1] >> 4 == 6)
}
