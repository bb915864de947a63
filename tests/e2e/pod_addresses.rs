//! Row 3: a pod's address comes out of its node's own range.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use skerry_tests::manifest;

use crate::world::World;

pub fn are_the_nodes(world: &World) -> Result<()> {
    let _ns = world.namespace("row3")?;
    world.type_in(&format!("apply -n row3 -f {}", manifest("simple-pod.yaml")))?;
    world.type_in("wait pod/scnginx -n row3 --for=condition=Ready --timeout=40s")?;
    let row = world.table("get pod -n row3 -o wide")?.remove(0);
    ensure!(row["NOMINATED NODE"] == "<none>" && row["READINESS GATES"] == "<none>", "{row:?}");
    let node = world.json(&format!("get node {}", row["NODE"]))?;
    let range = node["spec"]["podCIDR"].as_str().context("the node has no podCIDR")?;
    ensure!(range.starts_with("10.244.") && range.ends_with(".0/24"), "podCIDR {range}");
    let address: Ipv4Addr = row["IP"].parse().with_context(|| format!("the address {}", row["IP"]))?;
    let prefix = range.trim_end_matches("0/24");
    ensure!(address.to_string().starts_with(prefix), "{address} is not in {range}");

    let mut ranges: Vec<String> = Vec::new();
    for node in world.json("get nodes")?["items"].as_array().into_iter().flatten() {
        ranges.push(node["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned());
    }
    let count = ranges.len();
    ranges.sort();
    ranges.dedup();
    ensure!(ranges.len() == count, "two nodes share a range: {ranges:?}");
    Ok(())
}
