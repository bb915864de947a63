//! What a container says last reaches the client that is attached.

use std::{io::Write as _, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::{Bed, able, condition, kubectl};

/// Of each kind of session.
const TRIES: usize = 3;
const ANSWERS: &str = "read line; echo got:$line";

/// What kubectl says when it is given a line and no more.
fn asked(bed: &Bed, args: &[&str], web_sockets: bool) -> Result<String> {
    let args = [args, &["--", "sh", "-c", ANSWERS]].concat();
    let mut command = kubectl(bed, &args)?;
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", web_sockets.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("stdin")?.write_all(b"a line\n")?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_container_says_last_is_heard() -> Result<()> {
    if !able("what_a_container_says_last_is_heard") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let container = json!({"name": "c", "image": "busybox", "command": ["sleep", "1000"]});
    bed.create("p", json!({"terminationGracePeriodSeconds": 1, "containers": [container]})).await?;
    bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    let on_node = r#"--overrides={"spec":{"nodeName":"n1"}}"#;
    tokio::task::block_in_place(|| {
        let mut unheard = Vec::new();
        for web_sockets in [true, false] {
            for n in 0..TRIES {
                let name = format!("{}{n}", if web_sockets { "w" } else { "s" });
                let debug = ["debug", "p", "-i", "--image=busybox", "-c", &name];
                let run = ["run", &name, "-i", "--rm", "--restart=Never", "--image=busybox", on_node];
                for (what, args) in [("debug", &debug[..]), ("run", &run), ("exec", &["exec", "-i", "p"])] {
                    let said = asked(&bed, args, web_sockets)?;
                    if !said.contains("got:a line\n") {
                        unheard.push(format!("{what} {name}: {said:?}"));
                    }
                }
            }
        }
        ensure!(unheard.is_empty(), "{unheard:#?}");
        anyhow::Ok(())
    })
}
