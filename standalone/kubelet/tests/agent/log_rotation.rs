//! Logs that are turned over, with the real containerd and kubectl.

use std::io::{BufRead as _, BufReader};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::support::{Bed, able, condition, kubectl, phase, run};

/// Writes numbered lines as fast as it can, then waits, then writes the last.
const TALKER: &str = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); \
    echo \"line $i of a container that has much to say\"; [ $((i%500)) = 0 ] && usleep 100000; done; \
    until [ -e /tmp/go ]; do usleep 50000; done; echo the end";

fn files(bed: &Bed) -> Result<Vec<String>> {
    let names = bed.sh("ls /var/log/pods/default_p_*/c")?;
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

/// The numbers of the lines, in their order.
fn numbers(text: &str) -> Vec<u32> {
    text.lines().filter_map(|line| line.split(' ').nth(1)?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_followed_log_is_turned_over_without_a_lost_or_doubled_line() -> Result<()> {
    if !able("a_followed_log_is_turned_over_without_a_lost_or_doubled_line") {
        return Ok(());
    }
    let mut bed = Bed::new().await?;
    let container = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", TALKER]});
    bed.create("p", json!({"restartPolicy": "Never", "containers": [container]})).await?;
    bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    tokio::task::block_in_place(|| {
        let mut follow = kubectl(&bed, &["logs", "-f", "p"])?.stdout(std::process::Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(follow.stdout.take().context("stdout")?).lines();
        for n in 1..=20_000 {
            let line = lines.next().context("the log went on")??;
            ensure!(line == format!("line {n} of a container that has much to say"), "{n}: {line}");
        }
        let (code, _, err) = run(&bed, &["exec", "p", "--", "touch", "/tmp/go"])?;
        ensure!(code == 0, "{err}");
        ensure!(lines.next().context("the last line")?? == "the end");
        ensure!(lines.next().is_none() && follow.wait()?.success());
        anyhow::Ok(())
    })?;
    bed.pod("p", "Succeeded", |pod| phase(pod) == "Succeeded").await?;
    // 1.6 MB were written: three files of 200 kB, and what came between two looks.
    let names = files(&bed)?;
    assert!(names.len() == 3 && names[0] == "0.log", "{names:?}");
    assert!(names[1].ends_with(".gz") && !names[2].ends_with(".gz"), "{names:?}");
    tokio::task::block_in_place(|| {
        let (_, out, err) = run(&bed, &["logs", "p"])?;
        let kept = numbers(&out);
        let whole = kept.windows(2).all(|pair| pair[1] == pair[0] + 1) && kept.last() == Some(&20_000);
        ensure!(whole && kept.len() > 2000, "{} lines of {names:?} {err}", kept.len());
        let tail = (kept.len() - 100).to_string();
        let (_, out, _) = run(&bed, &["logs", "p", "--tail", &tail])?;
        ensure!(numbers(&out) == kept[101..], "the last lines of all files");
        let (_, out, _) = run(&bed, &["logs", "p", "--since", "1h"])?;
        ensure!(numbers(&out) == kept);
        anyhow::Ok(())
    })?;
    bed.pods().delete("p", &Default::default()).await?;
    bed.gone("p").await?;
    let left = async || Ok(bed.sh("ls /var/log/pods")?.is_empty().then_some(()));
    bed.until("all files of the log went with the pod", left).await?;
    turned_over_by_an_agent_that_was_killed(&mut bed).await
}

/// The next agent has the runtime open the log anew, and nothing that was written meanwhile is lost.
async fn turned_over_by_an_agent_that_was_killed(bed: &mut Bed) -> Result<()> {
    let script = "echo one; until [ -e /tmp/go ]; do usleep 50000; done; echo two; sleep 1000";
    let container = json!({"name": "c", "image": "busybox", "command": ["sh", "-c", script]});
    bed.create("p", json!({"terminationGracePeriodSeconds": 1, "containers": [container]})).await?;
    bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    bed.agent.take().context("the agent")?.kill()?;
    bed.sh("cd /var/log/pods/default_p_*/c && mv 0.log 0.log.20260101-000000")?;
    let task = bed.sh("ctr -n k8s.io task ls -q")?;
    for id in task.split_whitespace() {
        // The sandbox has no touch.
        let _ = bed.sh(&format!("ctr -n k8s.io task exec --exec-id go {id} touch /tmp/go"));
    }
    bed.until("the line is in the file that was put aside", async || {
        let text = bed.sh("cat /var/log/pods/default_p_*/c/0.log.20260101-000000")?;
        Ok(text.contains("two").then_some(()))
    })
    .await?;
    bed.start_agent()?;
    bed.until("the log is there again", async || Ok(files(bed)?.contains(&"0.log".to_owned()).then_some(())))
        .await?;
    bed.node_ready().await?;
    bed.until("the log is read as a whole", async || {
        let (_, out, _) = tokio::task::block_in_place(|| run(bed, &["logs", "p"]))?;
        Ok((out == "one\ntwo\n").then_some(()))
    })
    .await
}
