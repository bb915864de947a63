//! The agent or the runtime goes away and comes back: pods run on.

use std::time::Duration;

use crate::support::{Bed, able, condition, phase, state};
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;
use skerry_lab::containerd;

fn sleeper() -> serde_json::Value {
    json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "image": "busybox", "command": ["sleep", "1000"]}]})
}

fn container_id(pod: &Pod) -> String {
    let statuses =
        pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    statuses.first().and_then(|status| status.container_id.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_outlive_a_killed_agent_and_orphans_are_ended() -> Result<()> {
    if !able("pods_outlive_a_killed_agent_and_orphans_are_ended") {
        return Ok(());
    }
    let mut bed = Bed::new().await?;
    for name in ["stays", "goes", "ends"] {
        bed.create(name, sleeper()).await?;
    }
    let before = bed.pod("stays", "is Ready", |pod| condition(pod, "Ready")).await?;
    let goes = bed.pod("goes", "is Ready", |pod| condition(pod, "Ready")).await?;
    let ends = bed.pod("ends", "is Ready", |pod| condition(pod, "Ready")).await?;
    bed.agent.take().context("an agent")?.kill()?;
    bed.pods().delete("goes", &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await?;
    bed.gone("goes").await?;
    let id = container_id(&ends).replace("containerd://", "");
    bed.sh(&format!("ctr -n k8s.io task kill -s KILL {id}"))?;
    bed.create("new", sleeper()).await?;
    bed.start_agent()?;
    bed.pod("new", "is Ready", |pod| condition(pod, "Ready")).await?;
    bed.pod("ends", "was restarted", |pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.is_some_and(|statuses| statuses[0].restart_count == 1 && statuses[0].ready)
    })
    .await?;
    let after = bed.pods().get("stays").await?;
    assert_eq!(container_id(&before), container_id(&after));
    assert_eq!(before.status, after.status, "nothing flipped");
    let uid = goes.metadata.uid.context("a uid")?;
    bed.until("the orphan has left logs and cgroups", async || {
        let left =
            bed.sh(&format!("find /var/log/pods /sys/fs/cgroup -name '*{uid}*' 2>/dev/null | wc -l"))?;
        Ok((left.trim() == "0").then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_outlive_a_killed_containerd_and_their_ends_are_noticed() -> Result<()> {
    if !able("pods_outlive_a_killed_containerd_and_their_ends_are_noticed") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let mut spec = sleeper();
    spec["restartPolicy"] = "Never".into();
    bed.create("p", spec).await?;
    let before = bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    bed.node.daemon("containerd").context("containerd")?.kill()?;
    bed.until("the node is not Ready", async || {
        let node = bed.node_object().await?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        Ok(conditions.iter().any(|c| c.type_ == "Ready" && c.status != "True").then_some(()))
    })
    .await?;
    bed.node.start_containerd(&containerd::Options::default())?;
    bed.node_ready().await?;
    let after = bed.pods().get("p").await?;
    assert_eq!(before.status, after.status);
    let id = container_id(&after).replace("containerd://", "");
    bed.sh(&format!("ctr -n k8s.io task kill -s KILL {id}"))?;
    let ended = bed.pod("p", "Failed", |pod| phase(pod) == "Failed").await?;
    assert_eq!(state(&ended).context("a state")?.terminated.context("an end")?.exit_code, 137);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_pods_start_side_by_side() -> Result<()> {
    if !able("thirty_pods_start_side_by_side") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let begun = std::time::Instant::now();
    for n in 0..30 {
        bed.create(&format!("p{n}"), sleeper()).await?;
    }
    for n in 0..30 {
        bed.pod(&format!("p{n}"), "is Ready", |pod| condition(pod, "Ready")).await?;
    }
    let took = begun.elapsed();
    eprintln!("thirty pods were Ready after {took:?}");
    // Bare CRI calls take 2.5 s on an idle machine; the bench compares, this only guards against serial
    // starts.
    assert!(took < Duration::from_secs(40), "{took:?}");
    for n in 0..30 {
        bed.pods().delete(&format!("p{n}"), &DeleteParams::default()).await?;
    }
    for n in 0..30 {
        bed.gone(&format!("p{n}")).await?;
    }
    Ok(())
}
