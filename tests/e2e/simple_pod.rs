//! Row 2: a pod is shown as ContainerCreating, then as Running.

use anyhow::{Context, Result, ensure};
use skerry_tests::manifest;

use crate::world::World;

pub fn is_created_then_runs(world: &World) -> Result<()> {
    let _ns = world.namespace("row2")?;
    let watch = world.begin("get pods -n row2 --watch --output-watch-events")?;
    let said = world.type_in(&format!("apply -n row2 -f {}", manifest("simple-pod.yaml")))?;
    ensure!(said.trim() == "pod/scnginx created", "{said}");
    world.type_in("wait pod/scnginx -n row2 --for=condition=Ready --timeout=40s")?;
    let row = world.first_row("get pod scnginx -n row2")?;
    ensure!(row["READY"] == "1/1" && row["STATUS"] == "Running" && row["RESTARTS"] == "0", "{row:?}");

    let seen = watch.until("1/1")?;
    let creating = seen.find("ContainerCreating").context("no ContainerCreating was shown")?;
    let running = seen.find("Running").context("no Running was shown")?;
    ensure!(creating < running, "{seen}");
    Ok(())
}
