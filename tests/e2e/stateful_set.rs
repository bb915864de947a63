//! Row 18: a StatefulSet's pods have names and DNS names that stay; they come, go and change one after the
//! other.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World, name_of};

/// A namespace's name is part of the names.
const NS: &str = "row18";

/// The pods by their names, in their order.
fn pods(world: &World, count: usize) -> Result<Vec<Value>> {
    let mut pods = world.ready_pods(NS, "app=web", count)?;
    pods.sort_by_key(name_of);
    let names: Vec<String> = pods.iter().map(name_of).collect();
    let expected: Vec<String> = (0..count).map(|number| format!("web-{number}")).collect();
    ensure!(names == expected, "{names:?}");
    Ok(pods)
}

/// Each pod is found by its name from the first one.
fn names_lead_to(world: &World, pods: &[Value]) -> Result<()> {
    for pod in pods {
        let (name, ip) = (name_of(pod), pod["status"]["podIP"].as_str().context("an address")?.to_owned());
        for name in [format!("{name}.nginx"), format!("{name}.nginx.{NS}.svc.cluster.local")] {
            eventually(&format!("{name} is {ip}"), SOON, || {
                let found = world.type_in(&format!("exec web-0 -n {NS} -- getent hosts {name}"))?;
                ensure!(found.starts_with(&format!("{ip} ")), "{found}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Where a line of a watch, by its name and its status, stands for the first time.
fn at(printed: &str, name: &str, status: &str) -> Result<usize> {
    let found = printed.lines().position(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        // Of those that run only the ready ones count.
        cells.first() == Some(&name)
            && cells.get(2) == Some(&status)
            && (status != "Running" || cells.get(1) == Some(&"1/1"))
    });
    found.with_context(|| format!("no {name} {status} in\n{printed}"))
}

pub fn keeps_its_order_and_names(world: &World) -> Result<()> {
    let _ns = world.namespace(NS)?;
    let watch = world.begin(&format!("get pods -n {NS} --watch"))?;
    world.type_in(&format!("apply -n {NS} -f {}", manifest("stateful-set.yaml")))?;
    world.type_in(&format!("rollout status statefulset web -n {NS} --timeout=60s"))?;
    let first = pods(world, 3)?;
    let row = world.first_row(&format!("get statefulset -n {NS}"))?;
    ensure!(row["READY"] == "3/3", "{row:?}");
    watch.until("web-2")?;
    let printed = watch.printed();
    for (before, after) in [("web-0", "web-1"), ("web-1", "web-2")] {
        let (ready, there) = (at(&printed, before, "Running")?, at(&printed, after, "Pending")?);
        ensure!(ready < there, "{after} before {before} was ready:\n{printed}");
    }
    drop(watch);
    names_lead_to(world, &first)?;
    let said = world.type_in(&format!("exec web-1 -n {NS} -- hostname -f"))?;
    ensure!(said.trim() == format!("web-1.nginx.{NS}.svc.cluster.local"), "{said}");
    let all = world.type_in(&format!("exec web-0 -n {NS} -- getent ahosts nginx"))?;
    ensure!(first.iter().all(|pod| all.contains(pod["status"]["podIP"].as_str().unwrap_or("?"))), "{all}");

    world.type_in(&format!("scale statefulset web -n {NS} --replicas=4"))?;
    pods(world, 4)?;
    let watch = world.begin(&format!("get pods -n {NS} --watch --output-watch-events"))?;
    watch.until("web-3")?;
    world.type_in(&format!("scale statefulset web -n {NS} --replicas=2"))?;
    let seen = eventually("the last two are gone", SOON, || {
        let printed = watch.printed();
        let deleted: Vec<&str> = printed.lines().filter(|line| line.starts_with("DELETED")).collect();
        ensure!(deleted.len() == 2, "{printed}");
        Ok(deleted.join("\n"))
    })?;
    ensure!(seen.find("web-3") < seen.find("web-2"), "the last goes first: {seen}");
    drop(watch);
    let before = pods(world, 2)?;

    // From the last to the first, each when the one before is ready.
    let watch = world.begin(&format!("get pods -n {NS} --watch --output-watch-events"))?;
    watch.until("web-1")?;
    world.type_in(&format!("set image statefulset/web nginx=nginx:1.16.1 -n {NS}"))?;
    world.type_in(&format!("rollout status statefulset web -n {NS} --timeout=60s"))?;
    let seen = eventually("both were replaced", SOON, || {
        let printed = watch.printed();
        ensure!(printed.matches("DELETED").count() == 2, "{printed}");
        Ok(printed)
    })?;
    let deleted: Vec<&str> = seen.lines().filter(|line| line.starts_with("DELETED")).collect();
    ensure!(deleted[0].contains("web-1") && deleted[1].contains("web-0"), "{seen}");
    drop(watch);
    let after = pods(world, 2)?;
    for (old, new) in before.iter().zip(&after) {
        ensure!(old["metadata"]["uid"] != new["metadata"]["uid"], "{} was not replaced", name_of(new));
        ensure!(new["spec"]["containers"][0]["image"] == "nginx:1.16.1", "{}", new["spec"]);
    }
    // The names lead to the new pods.
    names_lead_to(world, &after)?;

    let said = world.type_in(&format!("delete statefulset web -n {NS}"))?;
    ensure!(said.contains("statefulset.apps \"web\" deleted"), "{said}");
    eventually("its pods go with it", SOON, || {
        let left = world.type_in(&format!("get pods -n {NS} -o name"))?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}
