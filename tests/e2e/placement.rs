//! Row 8: pods are placed by labels of nodes, and beside or apart from other pods; what can't be placed says
//! why.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World};

pub fn follows_selectors_and_affinity(world: &World) -> Result<()> {
    let ns = world.namespace("row8")?;
    world.type_in("label node node2 row8/disk=ssd")?;
    let outcome = placed(world, &ns.name);
    world.type_in("label node node2 row8/disk-")?;
    outcome
}

fn placed(world: &World, ns: &str) -> Result<()> {
    world.type_in(&format!("apply -n {ns} -f {}", manifest("placement.yaml")))?;
    for (pod, node) in
        [("selects", "node2"), ("requires", "node2"), ("prefers", "node3"), ("beside", "node2")]
    {
        world.kubectl().wait(&format!("pod/{pod} -n {ns}"), "condition=Ready", SOON)?;
        let row = world.json(&format!("get pod {pod} -n {ns}"))?;
        ensure!(row["spec"]["nodeName"] == node, "{pod} is on {}", row["spec"]["nodeName"]);
    }
    world.kubectl().wait(&format!("pod/prefers-what-is-not-there -n {ns}"), "condition=Ready", SOON)?;

    // A node each, and none for the fourth.
    let rows = eventually("three run and one waits", SOON, || {
        let rows = world.table(&format!("get pods -n {ns} -l app=apart -o wide"))?;
        let running = rows.iter().filter(|row| row["STATUS"] == "Running").count();
        ensure!(rows.len() == 4 && running == 3, "{rows:?}");
        Ok(rows)
    })?;
    let nodes: BTreeSet<&str> = rows.iter().map(|row| row["NODE"].as_str()).collect();
    ensure!(nodes == BTreeSet::from(["<none>", "node1", "node2", "node3"]), "{nodes:?}");
    let fourth = rows.iter().find(|row| row["NODE"] == "<none>").context("the fourth")?;
    ensure!(fourth["STATUS"] == "Pending", "{fourth:?}");

    for (pod, why) in [
        (fourth["NAME"].as_str(), "3 node(s) didn't match pod anti-affinity rules"),
        ("impossible", "3 node(s) didn't match Pod's node affinity/selector"),
        ("alone", "3 node(s) didn't match pod affinity rules"),
    ] {
        eventually("an event says why", SOON, || {
            let said =
                world.shows(&format!("describe pod {pod} -n {ns}"), &["Status: ", "FailedScheduling"])?;
            let why = format!(
                "0/4 nodes are available: 1 node(s) had untolerated taint(s), {why}. \
                 preemption: 0/4 nodes are available: "
            );
            ensure!(said.contains(&why), "no {why:?} in {said}");
            Ok(())
        })?;
        let row = world.first_row(&format!("get pod {pod} -n {ns}"))?;
        ensure!(row["STATUS"] == "Pending", "{row:?}");
    }
    Ok(())
}
