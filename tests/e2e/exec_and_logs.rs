//! `exec` without a terminal gives output and exit codes back, `logs` prints what the container wrote.

use anyhow::{Result, ensure};
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World};

pub fn work(world: &World) -> Result<()> {
    let _ns = world.namespace("execs")?;
    world.type_in(&format!("apply -n execs -f {}", manifest("simple-pod.yaml")))?;
    world.type_in("wait pod/scnginx -n execs --for=condition=Ready --timeout=40s")?;
    let listed = world.type_in("exec scnginx -n execs -- ls /")?;
    ensure!(["bin", "etc", "usr"].iter().all(|dir| listed.lines().any(|line| line == *dir)), "{listed}");
    let mut command = world.kubectl().command("exec scnginx -n execs -- bash -c");
    let out = command.arg("echo to-out; echo to-err >&2; exit 7").output()?;
    ensure!(out.status.code() == Some(7), "{out:?}");
    ensure!(out.stdout == b"to-out\n", "{out:?}");
    ensure!(String::from_utf8_lossy(&out.stderr).contains("to-err"), "{out:?}");
    let echoed = world.kubectl().feed("exec -i scnginx -n execs -- cat", "fed by standard input\n")?;
    ensure!(echoed == "fed by standard input\n", "{echoed:?}");

    world.type_in("exec scnginx -n execs -- curl -sS http://127.0.0.1/from-exec -o /dev/null")?;
    eventually("the access log shows the request", SOON, || {
        let log = world.type_in("logs scnginx -n execs")?;
        ensure!(log.contains("/from-exec"), "{log}");
        Ok(())
    })?;
    let last = world.type_in("logs scnginx -n execs --tail=1")?;
    ensure!(last.lines().count() == 1, "{last}");
    Ok(())
}
