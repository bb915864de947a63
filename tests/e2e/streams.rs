//! Row 22: `port-forward`, `attach` and `cp`, by the present kubectl (WebSockets) and Debian's 1.20 (SPDY).

use std::{fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use skerry_tests::{eventually, get, manifest};

use crate::world::{SOON, World};

const NS: &str = "row22-streams";
const WELCOME: &str = "Welcome to nginx!";

/// A pod that answers each line on its standard input.
const ANSWERS: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: answers}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
    containers:\n  - name: c\n    image: busybox\n    stdin: true\n    \
    command: [sh, -c, 'while read line; do echo \"got $line\"; done']\n";

pub fn reach_into_pods(world: &World) -> Result<()> {
    let _ns = world.namespace(NS)?;
    world.type_in(&format!("apply -n {NS} -f {}", manifest("simple-pod.yaml")))?;
    world.feed(&format!("apply -n {NS} -f -"), ANSWERS)?;
    world.type_in(&format!("label pod scnginx app=scnginx -n {NS}"))?;
    world.type_in(&format!("expose pod scnginx --port=8080 --target-port=80 -n {NS}"))?;
    for pod in ["scnginx", "answers"] {
        world.kubectl().wait(&format!("pod/{pod} -n {NS}"), "condition=Ready", SOON)?;
    }
    for (name, world) in [("new", world), ("old", &world.with_1_20()?)] {
        forwarded(world, "pod/scnginx :80")?;
        forwarded(world, "service/scnginx :8080")?;
        attached(world, name)?;
        copied(world, name)?;
    }
    Ok(())
}

fn forwarded(world: &World, what: &str) -> Result<()> {
    let forward = world.begin(&format!("port-forward {what} -n {NS} --address 127.0.0.1"))?;
    let said = forward.until(" -> 80\n")?;
    let address = said.split(' ').find_map(|word| word.parse::<SocketAddr>().ok());
    let address = address.with_context(|| format!("an address in {said:?}"))?;
    // More than one connection, and some at once.
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (get(address), get(address)))).collect();
        for thread in threads {
            let (first, second) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            ensure!(first?.contains(WELCOME) && second?.contains(WELCOME), "another page");
        }
        Ok(())
    })
}

fn attached(world: &World, name: &str) -> Result<()> {
    let mut attach = world.begin(&format!("attach -i answers -n {NS}"))?;
    eventually("it answers", SOON, || {
        // What is written before it is attached is lost to nobody: the stream keeps it.
        attach.write(&format!("{name}\n"))?;
        ensure!(attach.printed().contains(&format!("got {name}")), "{}", attach.printed());
        Ok(())
    })?;
    eventually("and it stands in the log", SOON, || {
        let log = world.kubectl().run(&format!("logs answers -n {NS}"))?;
        ensure!(log.contains(&format!("got {name}")), "{log}");
        Ok(())
    })
}

fn copied(world: &World, name: &str) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("skerry-cp-{}-{name}", std::process::id()));
    fs::create_dir_all(folder.join("in")).context("make a folder")?;
    // More than one chunk of a stream.
    let content: String = (0..40_000).map(|number| format!("{name} {number}\n")).collect();
    let outcome = (|| {
        fs::write(folder.join("in/page"), &content)?;
        let (from, to) = (folder.join("in").display().to_string(), folder.join("out").display().to_string());
        world.kubectl().run(&format!("cp {from} scnginx:/tmp/{name} -n {NS}"))?;
        let count = world.type_in(&format!("exec scnginx -n {NS} -- wc -c /tmp/{name}/page"))?;
        ensure!(count.starts_with(&content.len().to_string()), "{count}");
        world.kubectl().run(&format!("cp {NS}/scnginx:/tmp/{name} {to}"))?;
        ensure!(fs::read_to_string(folder.join("out/page"))? == content, "it has come back changed");
        Ok(())
    })();
    fs::remove_dir_all(&folder)?;
    outcome
}
