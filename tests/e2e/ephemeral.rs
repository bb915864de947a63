//! `kubectl debug`: an ephemeral container joins a pod that runs, sees a container's processes where it is
//! told to, and is never started again.

use std::{io::Write as _, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World};

fn status(world: &World, ns: &str, name: &str) -> Result<Value> {
    let pod = world.json(&format!("get pod scnginx -n {ns}"))?;
    let statuses = pod["status"]["ephemeralContainerStatuses"].as_array().cloned().unwrap_or_default();
    let found = statuses.into_iter().find(|status| status["name"] == name);
    found.with_context(|| format!("no status of {name} in {}", pod["status"]))
}

fn ended(world: &World, ns: &str, name: &str) -> Result<Value> {
    eventually(&format!("{name} has ended"), SOON, || {
        let status = status(world, ns, name)?;
        ensure!(!status["state"]["terminated"].is_null(), "{status}");
        Ok(status)
    })
}

/// `kubectl debug` with a script to run.
fn debug(world: &World, ns: &str, options: &str, script: &str, input: &str) -> Result<String> {
    let mut command =
        world.kubectl().command(&format!("debug scnginx -n {ns} --image=busybox {options} -- sh -c"));
    command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start kubectl debug")?;
    child.stdin.take().context("its standard input")?.write_all(input.as_bytes())?;
    let out = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    Ok(said)
}

/// Waits for what the container has written: the runtime may tell of its end before it has written the last
/// of it.
fn logged(world: &World, ns: &str, name: &str, text: &str) -> Result<()> {
    eventually(&format!("the log of {name} has {text:?}"), SOON, || {
        let log = world.type_in(&format!("logs scnginx -n {ns} -c {name}"))?;
        ensure!(log.contains(text), "{log:?}");
        Ok(())
    })
}

pub fn debug_adds_a_container(world: &World) -> Result<()> {
    let namespace = world.namespace("debugged")?;
    let ns = &namespace.name;
    world.type_in(&format!("apply -n {ns} -f {}", manifest("simple-pod.yaml")))?;
    world.kubectl().wait(&format!("pod/scnginx -n {ns}"), "condition=Ready", SOON)?;
    let before = world.json(&format!("get pod scnginx -n {ns}"))?;

    debug(world, ns, "--container=plain", "hostname;exit 3", "")?;
    let end = ended(world, ns, "plain")?;
    ensure!(end["state"]["terminated"]["exitCode"] == 3 && end["restartCount"] == 0, "{end}");
    logged(world, ns, "plain", "scnginx")?;

    // With the processes of another container in view: the first of them is nginx.
    debug(world, ns, "--container=beside --target=nginx", "tr '\\0' ' ' </proc/1/cmdline", "")?;
    ended(world, ns, "beside")?;
    logged(world, ns, "beside", "nginx")?;

    let said = debug(world, ns, "--container=talks -i", "read line;echo got:$line", "a line\n")?;
    ensure!(said.contains("got:a line"), "the client heard {said:?}");
    ended(world, ns, "talks")?;
    logged(world, ns, "talks", "got:a line")?;

    // The pod itself goes on as before, and what is there can't be changed or taken away.
    let after = world.json(&format!("get pod scnginx -n {ns}"))?;
    ensure!(after["status"]["phase"] == "Running", "{}", after["status"]);
    let count = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
    ensure!(count(&before) == count(&after), "{}", after["status"]);
    let patch = r#"[{"op":"remove","path":"/spec/ephemeralContainers/0"}]"#;
    let refused = world.kubectl().output(&format!(
        "patch pod scnginx -n {ns} --subresource=ephemeralcontainers --type=json -p {patch}"
    ))?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("existing ephemeral containers \"plain\" may not be removed"), "{said}");
    let wrong = debug(world, ns, "--container=lost --target=nobody", "true", "");
    ensure!(
        wrong.is_err_and(|error| format!("{error:#}").contains("targetContainerName: Not found")),
        "no such target"
    );
    Ok(())
}
