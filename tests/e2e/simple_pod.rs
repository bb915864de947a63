//! Row 2: a pod is shown as ContainerCreating, then as Running.

use std::{
    fs,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World};

pub fn is_created_then_runs(world: &World) -> Result<()> {
    let _ns = world.namespace("row2")?;
    let log = std::env::temp_dir().join(format!("skerry-watch-{}", std::process::id()));
    let file = fs::File::create(&log).context("make a file for the watch")?;
    let mut watch = world.kubectl().command("get pods -n row2 --watch --output-watch-events");
    let _watch = Ends(watch.stdout(file).stderr(Stdio::inherit()).spawn().context("start kubectl get -w")?);

    let said = world.type_in(&format!("apply -n row2 -f {}", manifest("simple-pod.yaml")))?;
    ensure!(said.trim() == "pod/scnginx created", "{said}");
    world.type_in("wait pod/scnginx -n row2 --for=condition=Ready --timeout=40s")?;
    let row = world.table("get pod scnginx -n row2")?.remove(0);
    ensure!(row["READY"] == "1/1" && row["STATUS"] == "Running" && row["RESTARTS"] == "0", "{row:?}");

    let seen = eventually("the watch shows that the pod runs", SOON, || {
        let seen = fs::read_to_string(&log)?;
        ensure!(seen.contains("1/1"), "{seen}");
        Ok(seen)
    })?;
    let creating = seen.find("ContainerCreating").context("no ContainerCreating was shown")?;
    let running = seen.find("Running").context("no Running was shown")?;
    ensure!(creating < running, "{seen}");
    fs::remove_file(&log)?;
    Ok(())
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
