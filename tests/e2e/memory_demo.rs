//! Rows 9 to 11: requests and limits are really in the cgroups, `top` shows what is used, and who uses too
//! much is killed and started again ever more slowly.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_tests::{Row, eventually, manifest_with};

use crate::world::{SOON, World};

const POD: &str = "memory-demo";
/// Three restarts and the back-off between them (10 s, 20 s), on a machine that does much else.
const RESTARTS: Duration = Duration::from_secs(90);

/// The walkthrough's pod, in a namespace of the row's own.
fn apply(world: &World, namespace: &str, more: &[(&str, &str)]) -> Result<()> {
    let own = format!("namespace: {namespace}");
    let exchanged: Vec<(&str, &str)> =
        std::iter::once(("namespace: mem-example", own.as_str())).chain(more.iter().copied()).collect();
    let said = world.feed("apply -f -", &manifest_with("memory-demo.yaml", &exchanged)?)?;
    ensure!(said.trim() == "pod/memory-demo created", "{said}");
    Ok(())
}

fn row(world: &World, namespace: &str) -> Result<Row> {
    world.first_row(&format!("get pod {POD} -n {namespace}"))
}

/// A cgroup file's number, of version 1 or 2, as the container sees it.
fn cgroup(world: &World, namespace: &str, old: &str, new: &str) -> Result<String> {
    let file = format!("cat /sys/fs/cgroup/{old} 2>/dev/null || cat /sys/fs/cgroup/{new}");
    Ok(world.type_in(&format!("exec {POD} -n {namespace} -- sh -c '{file}'"))?.trim().to_owned())
}

pub fn limits_are_in_the_cgroup(world: &World) -> Result<()> {
    let ns = world.namespace("mem-example-limits")?;
    apply(world, &ns.name, &[])?;
    world.kubectl().wait(&format!("pod/{POD} -n {}", ns.name), "condition=Ready", SOON)?;
    let line = format!("get pod {POD} -n {} -o yaml", ns.name);
    world.shows(&line, &["  resources:", "memory: 200Mi", "memory: 100Mi", "qosClass: Burstable"])?;
    ensure!(row(world, &ns.name)?["STATUS"] == "Running", "it runs");
    let limit = cgroup(world, &ns.name, "memory/memory.limit_in_bytes", "memory.max")?;
    ensure!(limit == (200 << 20).to_string(), "{limit}");
    Ok(())
}

/// `150Mi` as MiB.
fn mebibytes(cell: &str) -> Result<u64> {
    cell.strip_suffix("Mi")
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{cell:?} is no memory"))
}

pub fn top_shows_what_it_uses(world: &World) -> Result<()> {
    let ns = world.namespace("mem-example-top")?;
    apply(world, &ns.name, &[("name: memory-demo\n", "name: memory-demo\n  labels: {row: ten}\n")])?;
    world.kubectl().wait(&format!("pod/{POD} -n {}", ns.name), "condition=Ready", SOON)?;
    let used = eventually("about 150 MiB are used", SOON, || {
        let row = world.first_row(&format!("top pod {POD} -n {}", ns.name))?;
        let used = mebibytes(&row["MEMORY(bytes)"])?;
        ensure!((140..165).contains(&used), "{row:?}");
        Ok(row)
    })?;
    ensure!(used["NAME"] == POD && used["CPU(cores)"].ends_with('m'), "{used:?}");
    let rows = world.table(&format!("top pod -n {} -l row=ten --containers", ns.name))?;
    ensure!(rows.len() == 1 && rows[0]["NAME"] == "memory-demo-ctr" && rows[0]["POD"] == POD, "{rows:?}");
    let none = world.kubectl().output(&format!("top pod -n {} -l row=eleven", ns.name))?;
    ensure!(none.stdout.is_empty(), "{none:?}");

    let pod = world.json(&format!("get pod {POD} -n {}", ns.name))?;
    // The program gives its memory back and takes it again each second.
    eventually("the pod's node has its memory in use", SOON, || {
        let nodes = world.table("top node")?;
        ensure!(nodes.len() == world.nodes()?.len(), "{nodes:?}");
        let node = nodes.iter().find(|row| pod["spec"]["nodeName"] == row["NAME"].as_str());
        let node = node.with_context(|| format!("the pod's node is not in {nodes:?}"))?;
        ensure!(mebibytes(&node["MEMORY(bytes)"])? >= 140, "{node:?}");
        Ok(())
    })
}

/// Start and end of one run, as the runtime told them, in seconds.
type Runs = BTreeMap<i64, (i64, i64)>;

/// Notes how the run before the present one ended.
fn note(pod: &Value, runs: &mut Runs) -> Result<()> {
    let status = &pod["status"]["containerStatuses"][0];
    let count = status["restartCount"].as_i64().unwrap_or(0);
    for (state, number) in [
        ("state", count),
        (
            "lastState",
            if status["state"]["terminated"].is_null() && !status["state"]["waiting"].is_null() {
                count
            } else {
                count - 1
            },
        ),
    ] {
        let end = &status[state]["terminated"];
        if end.is_null() || number < 0 {
            continue;
        }
        // Of stress itself 137 is its worker's; it ends by itself then.
        ensure!(end["reason"] == "OOMKilled" && end["exitCode"] != 0, "{end}");
        let at = |field: &str| -> Result<i64> {
            let text = end[field].as_str().context("a time")?;
            let out = std::process::Command::new("date").args(["-d", text, "+%s"]).output()?;
            Ok(String::from_utf8_lossy(&out.stdout).trim().parse()?)
        };
        runs.insert(number, (at("startedAt")?, at("finishedAt")?));
    }
    Ok(())
}

pub fn too_much_is_killed_and_backed_off(world: &World) -> Result<()> {
    let ns = world.namespace("mem-example-oom")?;
    apply(world, &ns.name, &[("150M", "250M")])?;
    let (mut runs, mut seen) = (Runs::new(), BTreeMap::new());
    eventually("the third back-off", RESTARTS, || {
        let pod = world.json(&format!("get pod {POD} -n {}", ns.name))?;
        note(&pod, &mut runs)?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        if waiting["reason"] == "CrashLoopBackOff" {
            let message = waiting["message"].as_str().unwrap_or_default().to_owned();
            let row = row(world, &ns.name)?;
            seen.insert(message, row["STATUS"].clone());
        }
        let told = |delay: &str| {
            seen.keys().any(|message| message.starts_with(&format!("back-off {delay} restarting failed")))
        };
        ensure!(told("10s") && told("20s") && told("40s"), "{seen:?}");
        Ok(())
    })?;
    // The first comes back at once, the next after 10 s and 20 s; the rest of the row (40 … 300 s) is a test
    // of the node agent's on a clock of its own.
    let between = |number: i64| -> Result<i64> {
        let (before, after) = (runs.get(&number), runs.get(&(number + 1)));
        Ok(after.with_context(|| format!("{runs:?}"))?.0 - before.with_context(|| format!("{runs:?}"))?.1)
    };
    // Times are told to the second.
    ensure!(between(1)? >= 9 && between(2)? >= 19, "{runs:?}");
    let line = format!("get events -n {} --field-selector involvedObject.name={POD}", ns.name);
    world.shows(&line, &["LAST SEEN", "Back-off restarting failed container memory-demo-ctr"])?;
    world
        .shows(
            &format!("describe pod {POD} -n {}", ns.name),
            &["CrashLoopBackOff", "OOMKilled", "Restart Count"],
        )
        .map(drop)
}
