//! Pods on a real containerd, told by our own API server.

mod support;

use anyhow::Result;
use serde_json::json;
use support::{Bed, able, condition, phase, state};

const BUSYBOX: &str = "busybox";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_answers_for_itself_and_leaves_nothing_behind() -> Result<()> {
    if !able("a_pod_runs_answers_for_itself_and_leaves_nothing_behind") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let begun = std::time::Instant::now();
    bed.create(
        "web",
        json!({"containers": [{"name": "c", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "echo hello $(WHO); trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}]}),
    )
    .await?;
    let pod = bed.pod("web", "is Running and Ready", |pod| condition(pod, "Ready")).await?;
    eprintln!("ready after {:?}", begun.elapsed());
    let status = pod.status.as_ref().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.as_deref().unwrap().starts_with("10.244.0."), "{:?}", status.pod_ip);
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let uid = pod.metadata.uid.clone().unwrap();
    let log = bed.sh(&format!("cat /var/log/pods/default_web_{uid}/c/0.log"))?;
    assert!(log.trim_end().ends_with("stdout F hello web"), "{log}");
    let events = bed.events("web").await?;
    for reason in ["Pulled", "Created", "Started"] {
        assert!(events.iter().any(|event| event.starts_with(reason)), "{reason} in {events:?}");
    }
    bed.pods().delete("web", &Default::default()).await?;
    bed.gone("web").await?;
    assert_eq!(
        bed.sh("ls /var/log/pods /var/lib/skerry/node/kubelet/pods | grep -c web || true")?.trim(),
        "0"
    );
    let left = bed.sh(&format!("find /sys/fs/cgroup -name '*{uid}*' | wc -l"))?;
    assert_eq!(left.trim(), "0", "cgroup folders");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_decide_the_phase() -> Result<()> {
    if !able("exit_codes_decide_the_phase") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    for (name, code) in [("good", 0), ("bad", 3)] {
        let command = format!("echo last words > /dev/termination-log; exit {code}");
        bed.create(
            name,
            json!({"restartPolicy": "Never", "containers": [
                {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", command]}]}),
        )
        .await?;
    }
    bed.pod("good", "Succeeded", |pod| phase(pod) == "Succeeded").await?;
    let bad = bed.pod("bad", "Failed", |pod| phase(pod) == "Failed").await?;
    let end = state(&bad).unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (3, Some("Error")));
    assert_eq!(end.message.as_deref(), Some("last words\n"));
    Ok(())
}
