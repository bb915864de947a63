//! Row 15, last line: with a readiness probe and a preStop pause, a pod that is deleted costs no request.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use skerry_tests::{Load, eventually, get, manifest};

use crate::{
    node_port_service::node_port,
    world::{SOON, World, name_of},
};

pub fn costs_no_request(world: &World) -> Result<()> {
    let ns = world.namespace("steady")?;
    world.type_in(&format!("apply -n steady -f {}", manifest("load.yaml")))?;
    let pods = world.ready_pods(&ns.name, "app=steady", 3)?;
    let port = node_port(&world.json("get service steady -n steady")?)?;
    let addresses: Vec<SocketAddr> =
        world.nodes()?.iter().map(|node| SocketAddr::new(node.ip().into(), port)).collect();
    for address in &addresses {
        eventually("every node answers", SOON, || get(*address))?;
    }
    let load = Load::start(world.lab()?.client(), addresses);
    let victim = name_of(&pods[0]);
    let deleted = world.type_in(&format!("delete pod {victim} -n steady"));
    let again = deleted.and_then(|_| world.ready_pods(&ns.name, "app=steady", 3));
    let (during, mark) = (load.requests(), load.requests() + 100);
    let after = eventually("the load goes on", SOON, || {
        ensure!(load.requests() > mark, "{} requests", load.requests());
        Ok(())
    });
    let report = load.stop()?;
    again?;
    after?;
    ensure!(during > 100, "only {during} requests were made meanwhile");
    ensure!(report.failed == 0, "{} of {} failed: {:?}", report.failed, report.requests, report.failures);
    Ok(())
}
