//! Row 1: three replicas, one on each worker, none on the tainted server node.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::world::World;

pub fn spreads(world: &World) -> Result<()> {
    let ns = world.namespace("row1")?;
    let said = world.type_in("create deployment k8s-nginx --image=nginx -r 3 -n row1")?;
    ensure!(said.trim() == "deployment.apps/k8s-nginx created", "{said}");
    world.type_in("rollout status deployment k8s-nginx -n row1 --timeout=40s")?;

    let row = world.table("get deployment k8s-nginx -n row1")?.remove(0);
    let shown = [&row["READY"], &row["UP-TO-DATE"], &row["AVAILABLE"]];
    ensure!(shown == ["3/3", "3", "3"], "{row:?}");

    let pods = world.ready_pods(&ns.name, "app=k8s-nginx", 3)?;
    let nodes: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    ensure!(nodes == BTreeSet::from(["node1", "node2", "node3"]), "pods are on {nodes:?}");
    Ok(())
}
