//! `skerry pod timeline` tells how a pod behind a Service came to be, by what everyone has recorded.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_tests::{eventually, manifest};

use crate::{
    explains_itself::SKERRY,
    world::{SOON, World, name_of},
};

pub fn tells_every_step(world: &World) -> Result<()> {
    let ns = world.namespace("timed")?;
    world.type_in(&format!("apply -n {} -f {}", ns.name, manifest("load.yaml")))?;
    let pods = world.ready_pods(&ns.name, "app=steady", 3)?;
    let pod = name_of(&pods[0]);
    let node = pods[0]["spec"]["nodeName"].as_str().context("its node")?.to_owned();
    let address = pods[0]["status"]["podIP"].as_str().context("its address")?.to_owned();
    let server = world.node("master")?;
    let asked = format!("{SKERRY} pod timeline {pod} -n {}", ns.name);

    let nodes: Vec<String> = world.nodes()?.iter().map(|node| node.name().to_owned()).collect();
    let programmed: Vec<String> =
        nodes.iter().map(|node| format!("timed/steady programmed on {node}")).collect();
    let known_steps = eventually("every step has a time", SOON, || {
        let steps: Vec<Value> = serde_json::from_str(&server.sh(&format!("{asked} -o json"))?)?;
        for wanted in [
            "created".to_owned(),
            format!("scheduled to {node}"),
            "seen by the node agent".to_owned(),
            "sandbox asked for".to_owned(),
            format!("address {address} given (CNI)"),
            "sandbox and network ready".to_owned(),
            "ready".to_owned(),
            "endpoint of timed/steady in an EndpointSlice".to_owned(),
        ]
        .iter()
        .chain(&programmed)
        {
            ensure!(steps.iter().any(|step| step["step"] == *wanted), "no step {wanted:?} in {steps:#?}");
        }
        let unknown: Vec<&Value> = steps.iter().filter(|step| step["time"].is_null()).collect();
        ensure!(unknown.is_empty(), "without a time: {unknown:#?}");
        Ok(steps)
    })?;
    // One machine, one clock: up to its endpoint each step comes after the one before, and no node's tables had
    // it before it was there. Times to the second are not rounded up.
    let before_tables = known_steps.len() - programmed.len();
    let times: Vec<&str> = known_steps.iter().filter_map(|step| step["time"].as_str()).collect();
    let exact: Vec<&str> = times[..before_tables].iter().copied().filter(|time| time.contains('.')).collect();
    ensure!(exact.len() + 1 == before_tables, "only the creation is known to the second: {times:#?}");
    // The scheduler notes its step once it was answered: the node may have heard by then.
    ensure!(exact[1..].is_sorted(), "{known_steps:#?}");
    ensure!(times[0].trim_end_matches('Z') <= times[1], "{times:?}");
    let endpoint = times[before_tables - 1];
    ensure!(times[before_tables..].iter().all(|programmed| *programmed >= endpoint), "{times:#?}");

    let table = server.sh(&asked)?;
    ensure!(table.starts_with("STEP ") && table.contains("AFTER-S"), "{table}");
    let missing = server.sh(&format!("{SKERRY} pod timeline nobody -n {} 2>&1; test $? = 1", ns.name))?;
    ensure!(missing.contains("get pod timed/nobody") && missing.contains("not found"), "{missing}");
    Ok(())
}
