//! Row 15, last line: with a readiness probe and a preStop pause, a pod that is deleted costs no request.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use skerry_tests::{Load, eventually, get, manifest};

use crate::{
    node_port_service::node_port,
    world::{SOON, World, name_of},
};

/// So many requests at least are made before what is done and after it, however busy the machine is.
const REQUESTS: usize = 50;

pub fn costs_no_request(world: &World) -> Result<()> {
    no_request_fails(world, "steady", |ns, pods| {
        let victim = pods.first().map(String::as_str).unwrap_or_default();
        world.type_in(&format!("delete pod {victim} -n {ns}"))?;
        world.ready_pods(ns, "app=steady", 3).map(drop)
    })
}

/// Three pods of `load.yaml` in a namespace of this name, asked through every node's port while `work` is
/// done with them: no request fails.
pub fn no_request_fails(
    world: &World,
    name: &str,
    work: impl FnOnce(&str, &[String]) -> Result<()>,
) -> Result<()> {
    let ns = world.namespace(name)?;
    world.type_in(&format!("apply -n {name} -f {}", manifest("load.yaml")))?;
    let pods: Vec<String> = world.ready_pods(&ns.name, "app=steady", 3)?.iter().map(name_of).collect();
    let port = node_port(&world.json(&format!("get service steady -n {name}"))?)?;
    let addresses: Vec<SocketAddr> =
        world.nodes()?.iter().map(|node| SocketAddr::new(node.ip().into(), port)).collect();
    for address in &addresses {
        eventually("every node answers", SOON, || get(*address))?;
    }
    let load = Load::start(world.lab()?.client(), addresses);
    let so_many_more = || {
        let mark = load.requests() + REQUESTS;
        eventually("the load goes on", SOON, || {
            ensure!(load.requests() >= mark, "{} requests", load.requests());
            Ok(())
        })
    };
    let done = so_many_more().and_then(|()| work(&ns.name, &pods)).and_then(|()| so_many_more());
    let report = load.stop()?;
    done?;
    ensure!(report.failed == 0, "{} of {} failed: {:?}", report.failed, report.requests, report.failures);
    Ok(())
}
