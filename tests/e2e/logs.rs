//! Row 22: `logs` in its forms, by the present kubectl and Debian's 1.20.

use anyhow::{Result, ensure};
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World};

const NS: &str = "row22-logs";

pub fn are_shown_in_all_forms(world: &World) -> Result<()> {
    let _ns = world.namespace(NS)?;
    world.type_in(&format!("apply -n {NS} -f {}", manifest("logs.yaml")))?;
    for pod in ["counts", "two"] {
        world.kubectl().wait(&format!("pod/{pod} -n {NS}"), "condition=Ready", SOON)?;
    }
    eventually("it has died once", SOON, || {
        let row = world.first_row(&format!("get pod died-once -n {NS}"))?;
        ensure!(row["STATUS"] == "Running" && row["RESTARTS"].starts_with('1'), "{row:?}");
        Ok(())
    })?;
    for (number, world) in [world, &world.with_1_20()?].into_iter().enumerate() {
        of_one_pod(world)?;
        of_several(world)?;
        followed(world, number)?;
    }
    Ok(())
}

fn of_one_pod(world: &World) -> Result<()> {
    let is = |line: &str, expected: &str| {
        eventually("what was written is shown", SOON, || {
            let said = world.type_in(&format!("logs {line} -n {NS}"))?;
            ensure!(said == expected, "kubectl logs {line}: {said:?}, not {expected:?}");
            Ok(())
        })
    };
    is("counts --since=1h --limit-bytes=21", "line 1\nline 2\nline 3\n")?;
    is("died-once", "second life\n")?;
    is("died-once --previous", "first life\n")?;
    is("two -c right", "from the right\n")?;
    let said = world.type_in(&format!("logs counts -n {NS} --timestamps --tail=1"))?;
    let (time, text) = said.trim_end().split_once(' ').unwrap_or_default();
    ensure!(time.starts_with("20") && time.contains('T') && text.starts_with("line "), "{said:?}");
    // kubectl sends whole seconds.
    let since = world.type_in(&format!("logs counts -n {NS} --since-time={time}"))?;
    ensure!(since.ends_with(&format!("{text}\n")), "{since}");
    let later = time.replacen("20", "21", 1);
    is(&format!("counts --since-time={later}"), "")?;
    let said = world.refused(&format!("logs two -n {NS} --previous -c left"))?;
    ensure!(said.contains("previous terminated container \"left\" in pod \"two\" not found"), "{said}");
    Ok(())
}

fn of_several(world: &World) -> Result<()> {
    let said = world.type_in(&format!("logs -l app=talks -n {NS} --all-containers --prefix --tail=1"))?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 3, "{said}");
    for line in ["[pod/two/left] from the left", "[pod/two/right] from the right", "[pod/counts/c] line "] {
        ensure!(lines.iter().any(|found| found.starts_with(line)), "no {line:?} in {said}");
    }
    Ok(())
}

/// What is written while somebody looks comes at once.
fn followed(world: &World, number: usize) -> Result<()> {
    let follow = world.begin(&format!("logs -f counts -n {NS}"))?;
    follow.until("line 3\n")?;
    if number == 0 {
        ensure!(!follow.printed().contains("line 4"), "{}", follow.printed());
        world.type_in(&format!("exec counts -n {NS} -- sh -c 'echo 4 > /tmp/go'"))?;
    }
    follow.until("line 4\n").map(drop)
}
