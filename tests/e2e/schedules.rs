//! Row 19: Jobs with completions, parallelism and limits, their policies, and a CronJob every minute.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use skerry_tests::{eventually, manifest};

use crate::world::{World, name_of};

/// Until the next minute, a pod's start and its end.
const A_MINUTE: Duration = Duration::from_secs(110);

pub fn jobs_end_as_they_are_told(world: &World) -> Result<()> {
    let _ns = world.namespace("row19-jobs")?;
    let said = world.type_in(&format!("apply -n row19-jobs -f {}", manifest("jobs.yaml")))?;
    ensure!(said.contains("job.batch/five created") && !said.contains("Warning"), "{said}");
    world.type_in("wait job/five job/leader -n row19-jobs --for=condition=Complete --timeout=90s")?;
    world
        .type_in("wait job/never job/fatal job/indexes -n row19-jobs --for=condition=Failed --timeout=90s")?;
    let rows = world.table("get jobs -n row19-jobs")?;
    let row = |name: &str| rows.iter().find(|row| row["NAME"] == name).cloned().unwrap_or_default();
    ensure!(row("five")["COMPLETIONS"] == "5/5" && row("five")["STATUS"] == "Complete", "{rows:?}");
    ensure!(row("never")["STATUS"] == "Failed", "{rows:?}");
    for (job, kind, reason) in [
        ("never", "Failed", "BackoffLimitExceeded"),
        ("fatal", "Failed", "PodFailurePolicy"),
        ("indexes", "Failed", "FailedIndexes"),
        ("leader", "Complete", "SuccessPolicy"),
    ] {
        let object = world.json(&format!("get job {job} -n row19-jobs"))?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind);
        ensure!(
            found.is_some_and(|found| found["reason"] == reason),
            "{job}: no {kind} by {reason}: {conditions:?}"
        );
    }
    let object = world.json("get job indexes -n row19-jobs")?;
    ensure!(
        object["status"]["failedIndexes"] == "1" && object["status"]["completedIndexes"] == "0,2",
        "{object}"
    );
    let object = world.json("get job fatal -n row19-jobs")?;
    ensure!(object["status"]["failed"] == 1, "it was not tried again: {object}");
    Ok(())
}

pub fn a_cron_job_runs_every_minute(world: &World) -> Result<()> {
    let _ns = world.namespace("row19-cron")?;
    // Not as a line: the schedule's own spaces would take it apart.
    let mut command = world.kubectl().command("create cronjob hello -n row19-cron --image=busybox");
    let out = command.args(["--schedule", "* * * * *", "--", "date"]).output()?;
    ensure!(out.status.success(), "kubectl create cronjob: {}", String::from_utf8_lossy(&out.stderr));
    let jobs = || -> Result<Vec<Value>> {
        let list = world.json("get jobs -n row19-cron")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    };
    let job = eventually("a job is started at the minute", A_MINUTE, || {
        let jobs = jobs()?;
        ensure!(jobs.len() == 1, "{} jobs", jobs.len());
        Ok(jobs[0].clone())
    })?;
    let name = name_of(&job);
    ensure!(name.strip_prefix("hello-").is_some_and(|minute| minute.parse::<u64>().is_ok()), "{name}");
    world.type_in(&format!("wait job/{name} -n row19-cron --for=condition=Complete --timeout=60s"))?;
    let row = world.table("get cronjob -n row19-cron")?.remove(0);
    ensure!(row["SCHEDULE"] == "* * * * *" && row["SUSPEND"] == "False", "{row:?}");
    eventually("its events tell of it", A_MINUTE, || {
        let said = world.type_in("describe cronjob hello -n row19-cron")?;
        for text in [format!("Created job {name}"), format!("Saw completed job: {name}, condition: Complete")]
        {
            ensure!(said.contains(&text), "no {text:?} in {said}");
        }
        Ok(())
    })?;

    // By hand, whatever the schedule says.
    world.type_in("patch cronjob hello -n row19-cron --type=merge -p {\"spec\":{\"suspend\":true}}")?;
    let said = world.type_in("create job by-hand -n row19-cron --from=cronjob/hello")?;
    ensure!(said.trim() == "job.batch/by-hand created", "{said}");
    world.type_in("wait job/by-hand -n row19-cron --for=condition=Complete --timeout=60s")?;
    ensure!(world.json("get cronjob hello -n row19-cron")?["spec"]["suspend"] == true, "it is suspended");
    world.type_in("delete cronjob hello -n row19-cron")?;
    eventually("its jobs go with it", A_MINUTE, || {
        let left = jobs()?;
        ensure!(left.is_empty(), "{} jobs are left", left.len());
        Ok(())
    })
}
