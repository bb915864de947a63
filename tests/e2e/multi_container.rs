//! Row 13: two containers, one address, reached from every node and from every other pod.

use anyhow::{Context, Result, ensure};
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World, name_of};

pub fn share_an_address(world: &World) -> Result<()> {
    let ns = world.namespace("mem-example")?;
    world.type_in(&format!("apply -f {}", manifest("multi-container.yaml")))?;
    world.type_in("wait pod/memory-demo -n mem-example --for=condition=Ready --timeout=40s")?;
    let row = world.table("get pod memory-demo -n mem-example -o wide")?.remove(0);
    ensure!(row["READY"] == "2/2" && row["STATUS"] == "Running", "{row:?}");
    let address = row["IP"].clone();
    for container in ["memory-demo-ctr", "webleader2"] {
        let shown = world
            .type_in(&format!("exec memory-demo -n mem-example -c {container} -- ip -4 addr show eth0"))?;
        ensure!(shown.contains(&format!(" {address}/")), "{container} has not {address}: {shown}");
    }
    for node in world.nodes()? {
        eventually(&format!("nginx's page on {}", node.name()), SOON, || {
            let page = world.on(&node, &format!("curl -sS --max-time 3 http://{address}"))?;
            ensure!(page.contains("Welcome to nginx!"), "{page}");
            Ok(())
        })?;
    }
    // One other pod on each worker, so that one is beside it and the others come through the tunnel.
    world.type_in("create deployment others --image=nginx -r 3 -n mem-example")?;
    for pod in world.ready_pods(&ns.name, "app=others", 3)? {
        let node = pod["spec"]["nodeName"].as_str().context("a pod that runs has a node")?;
        let page = world
            .type_in(&format!(
                "exec {} -n mem-example -- curl -sS --max-time 3 http://{address}",
                name_of(&pod)
            ))
            .with_context(|| format!("from a pod on {node}"))?;
        ensure!(page.contains("Welcome to nginx!"), "from a pod on {node}: {page}");
    }
    Ok(())
}
