//! Row 4: `exec` with a terminal and without one, by the present kubectl (WebSockets) and Debian's 1.20
//! (SPDY).

use anyhow::{Result, ensure};
use skerry_tests::manifest;

use crate::world::{SOON, World};

/// As much as the terminal below is told to have.
const SIZE: &str = "33 77";

pub fn gives_a_shell_and_exit_codes(world: &World) -> Result<()> {
    let ns = world.namespace("row4")?;
    world.type_in(&format!("apply -n row4 -f {}", manifest("simple-pod.yaml")))?;
    world.kubectl().wait("pod/scnginx -n row4", "condition=Ready", SOON)?;
    without_a_terminal(world)?;
    with_a_terminal(world)?;
    let old = world.with_1_20()?;
    without_a_terminal(&old)?;
    with_a_terminal(&old)?;
    let missing = world.refused(&format!("exec scnginx -n {} -- no-such-program", ns.name))?;
    ensure!(missing.contains("no-such-program") && missing.contains("not found"), "{missing}");
    Ok(())
}

fn without_a_terminal(world: &World) -> Result<()> {
    let listed = world.type_in("exec scnginx -n row4 -- ls /")?;
    ensure!(["bin", "etc", "usr"].iter().all(|dir| listed.lines().any(|line| line == *dir)), "{listed}");
    let out = world.tries("exec scnginx -n row4 -- bash -c 'echo to-out; echo to-err >&2; exit 7'")?;
    ensure!(out.status.code() == Some(7) && out.stdout == b"to-out\n", "{out:?}");
    ensure!(String::from_utf8_lossy(&out.stderr).contains("to-err"), "{out:?}");
    let echoed = world.kubectl().feed("exec -i scnginx -n row4 -- cat", "fed by standard input\n")?;
    ensure!(echoed == "fed by standard input\n", "{echoed:?}");
    Ok(())
}

fn with_a_terminal(world: &World) -> Result<()> {
    let mut shell = world.begin_on_a_terminal("exec -it scnginx -n row4 -- bash", SIZE)?;
    shell.until("# ")?;
    shell.write("tty\n")?;
    shell.until("/dev/pts/")?;
    shell.write("hostname; stty size\n")?;
    let said = shell.until(SIZE)?;
    ensure!(said.contains("scnginx\r\n"), "{said:?}");
    shell.write("exit 3\n")?;
    let code = shell.ended()?;
    ensure!(code == Some(3), "{code:?}: {}", shell.printed());
    Ok(())
}
