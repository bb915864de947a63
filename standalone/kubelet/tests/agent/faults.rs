//! What goes wrong below the agent, or is changed above it while pods run.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::support::{Bed, NODE, able, condition, phase};

const BUSYBOX: &str = "busybox";

fn container(pod: &Pod) -> Option<ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first().cloned()
}

fn container_id(pod: &Pod) -> String {
    let id = container(pod).and_then(|status| status.container_id).unwrap_or_default();
    id.replace("containerd://", "")
}

/// Reason and message while the first container waits.
fn waiting(pod: &Pod) -> Option<(String, String)> {
    let waiting = container(pod)?.state?.waiting?;
    Some((waiting.reason?, waiting.message.unwrap_or_default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_sandbox_died_gets_another_and_runs_on() -> Result<()> {
    if !able("a_pod_whose_sandbox_died_gets_another_and_runs_on") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    bed.create(
        "p",
        json!({"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": BUSYBOX, "command": ["sleep", "1000"]}]}),
    )
    .await?;
    let kill =
        |id: &str| bed.sh(&format!("kill -9 $(ctr -n k8s.io task ls | awk '$1 == \"{id}\" {{print $2}}')"));
    let sandboxes = || bed.sh("ctr -n k8s.io containers ls -q 'labels.\"io.cri-containerd.kind\"==sandbox'");
    // The first time only the sandbox, then the sandbox and the container at once.
    for round in 1..=2 {
        let before = bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
        let sandbox = bed.until("one sandbox that runs", async || {
            let all = sandboxes()?;
            let running = bed.sh("ctr -n k8s.io task ls")?;
            let mut running = all.lines().map(str::trim).filter(|id| running.contains(id));
            Ok(running.next().map(str::to_owned))
        });
        kill(&sandbox.await?)?;
        if round == 2 {
            kill(&container_id(&before))?;
        }
        let after = bed
            .pod("p", "is Ready again", |pod| {
                condition(pod, "Ready") && container(pod).is_some_and(|status| status.restart_count == round)
            })
            .await?;
        assert_ne!(container_id(&before), container_id(&after));
    }
    let events = bed.events("p").await?;
    assert!(events.iter().any(|event| event.starts_with("SandboxChanged")), "{events:?}");
    bed.pods().delete("p", &Default::default()).await?;
    bed.gone("p").await?;
    assert_eq!(sandboxes()?.trim(), "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_container_from_running_is_named_as_kubernetes_names_it() -> Result<()> {
    if !able("what_keeps_a_container_from_running_is_named_as_kubernetes_names_it") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    bed.create("missing", json!({"containers": [{"name": "c", "image": BUSYBOX, "command": ["/nope"]}]}))
        .await?;
    bed.create("name", json!({"containers": [{"name": "c", "image": "Busybox:1"}]})).await?;
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let mounts = json!([{"name": "v", "mountPath": "/v", "subPathExpr": "$(NOPE)"}]);
    bed.create(
        "path",
        json!({"volumes": volumes, "containers": [{"name": "c", "image": BUSYBOX, "volumeMounts": mounts}]}),
    )
    .await?;
    bed.create(
        "hog",
        json!({"containers": [{"name": "c", "image": "polinux/stress",
            "resources": {"limits": {"memory": "100Mi"}},
            "command": ["stress"], "args": ["--vm", "1", "--vm-bytes", "250M", "--vm-hang", "1"]}]}),
    )
    .await?;
    let reason = |name: &'static str| move |pod: &Pod| waiting(pod).is_some_and(|(reason, _)| reason == name);
    let missing = bed.pod("missing", "RunContainerError", reason("RunContainerError")).await?;
    let (_, message) = waiting(&missing).context("a message")?;
    assert!(message.contains("\"/nope\"") && !message.contains("rpc error"), "{message}");
    let last = container(&missing).and_then(|status| status.last_state?.terminated).context("an end")?;
    assert_eq!((last.exit_code, last.reason.as_deref()), (128, Some("StartError")));
    bed.pod("missing", "CrashLoopBackOff", reason("CrashLoopBackOff")).await?;
    let name = bed.pod("name", "InvalidImageName", reason("InvalidImageName")).await?;
    let (_, message) = waiting(&name).context("a message")?;
    assert!(
        message.starts_with("Failed to apply default image tag \"Busybox:1\": couldn't parse"),
        "{message}"
    );
    let path = bed.pod("path", "a config error", reason("CreateContainerConfigError")).await?;
    assert_eq!(waiting(&path).context("a message")?.1, "missing value for NOPE");
    let killed = |pod: &Pod| {
        let end = container(pod).and_then(|status| status.state?.terminated);
        end.is_some_and(|end| end.reason.as_deref() == Some("OOMKilled"))
    };
    bed.pod("hog", "OOMKilled", killed).await?;
    let hog = bed.pod("hog", "CrashLoopBackOff", reason("CrashLoopBackOff")).await?;
    let last = container(&hog).and_then(|status| status.last_state?.terminated).context("an end")?;
    assert_eq!(last.reason.as_deref(), Some("OOMKilled"));
    for name in ["missing", "name", "path", "hog"] {
        let events = bed.events(name).await?;
        assert!(events.iter().all(|event| !event.contains("rpc error")), "{events:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_terminates_drains_by_its_readiness_and_its_sidecars_end_last() -> Result<()> {
    if !able("a_pod_that_terminates_drains_by_its_readiness_and_its_sidecars_end_last") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    bed.sh("mkdir -p /var/lib/drain && touch /var/lib/drain/ready")?;
    let ends =
        |name: &str| format!("trap 'echo {name} >> /drain/ends; exit' TERM; while :; do sleep 0.1; done");
    let mounts = json!([{"name": "v", "mountPath": "/drain"}]);
    let side = |name: &str| {
        json!({"name": name, "image": BUSYBOX, "restartPolicy": "Always", "volumeMounts": mounts,
            "command": ["sh", "-c", ends(name)]})
    };
    // The hook ends once the file is there.
    let hook = "while ! test -e /drain/go; do sleep 0.1; done";
    bed.create(
        "p",
        json!({"terminationGracePeriodSeconds": 60,
            "volumes": [{"name": "v", "hostPath": {"path": "/var/lib/drain"}}],
            "initContainers": [side("first"), side("second")],
            "containers": [{"name": "c", "image": BUSYBOX, "volumeMounts": mounts, "command": ["sh", "-c", ends("main")],
                "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", hook]}}},
                "livenessProbe": {"exec": {"command": ["test", "-e", "/drain/ready"]}, "periodSeconds": 1, "failureThreshold": 3},
                "readinessProbe": {"exec": {"command": ["test", "-e", "/drain/ready"]}, "periodSeconds": 1, "failureThreshold": 1}}]}),
    )
    .await?;
    bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    bed.pods().delete("p", &Default::default()).await?;
    bed.sh("rm /var/lib/drain/ready")?;
    let pod = bed.pod("p", "is not Ready any more", |pod| !condition(pod, "Ready")).await?;
    assert_eq!(phase(&pod), "Running");
    bed.sh("touch /var/lib/drain/go")?;
    bed.gone("p").await?;
    assert_eq!(bed.sh("cat /var/lib/drain/ends")?, "main\nsecond\nfirst\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_limits_of_a_running_pod_follow_its_object() -> Result<()> {
    if !able("files_and_limits_of_a_running_pod_follow_its_object") {
        return Ok(());
    }
    let bed = Bed::new().await?;
    let items = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    bed.create(
        "p",
        json!({"terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "down", "downwardAPI": {"items": items}}],
            "containers": [{"name": "c", "image": BUSYBOX, "command": ["sleep", "1000"],
                "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}}]}),
    )
    .await?;
    let before = bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    let uid = before.metadata.uid.clone().context("a uid")?;
    let file =
        format!("/var/lib/skerry/node/kubelet/pods/{uid}/volumes/kubernetes.io~downward-api/down/labels");
    let labels = Patch::Merge(json!({"metadata": {"labels": {"colour": "blue"}}}));
    bed.pods().patch("p", &PatchParams::default(), &labels).await?;
    bed.until("the changed file", async || {
        Ok(bed.sh(&format!("cat {file}"))?.contains("colour=\"blue\"").then_some(()))
    })
    .await?;
    let resources = json!({"requests": {"cpu": "200m", "memory": "32Mi"}, "limits": {"memory": "96Mi"}});
    let resize = Patch::Strategic(json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}));
    bed.pods().patch_subresource("resize", "p", &PatchParams::default(), &resize).await?;
    let after = bed
        .pod("p", "was resized", |pod| {
            let resources = container(pod).and_then(|status| status.resources?.limits);
            resources.is_some_and(|limits| limits["memory"].0 == "96Mi")
                && !condition(pod, "PodResizeInProgress")
        })
        .await?;
    assert_eq!(
        (container_id(&before), 0),
        (container_id(&after), container(&after).context("c")?.restart_count)
    );
    let limit = bed.sh(&format!(
        "cat $(find /sys/fs/cgroup -path '*{}*' '(' -name memory.max -o -name memory.limit_in_bytes ')')",
        container_id(&after)
    ))?;
    assert_eq!(limit.trim(), (96 << 20).to_string());
    let allocated = container(&after).and_then(|status| status.allocated_resources).context("allocated")?;
    assert_eq!(allocated["cpu"].0, "200m");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_while_the_node_was_cut_off_is_repaired_after_it() -> Result<()> {
    let test = "what_others_wrote_while_the_node_was_cut_off_is_repaired_after_it";
    if !able(test) {
        return Ok(());
    }
    if !skerry_lab::has_program("iptables") {
        skerry_lab::skipped(test, "not installed: iptables");
        return Ok(());
    }
    let bed = Bed::new().await?;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "image": BUSYBOX, "command": ["sleep", "1000"]}]});
    bed.create("p", spec).await?;
    bed.pod("p", "is Ready", |pod| condition(pod, "Ready")).await?;
    let cut = |change: &str| {
        bed.sh(&format!(
            "iptables {change} OUTPUT -o eth0 -j DROP && iptables {change} INPUT -i eth0 -j DROP"
        ))
    };
    cut("-I")?;
    // As the node lifecycle controller does after 40 s without a lease.
    let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    let params = PatchParams::default();
    let nodes: Api<Node> = Api::all(bed.client.clone());
    nodes.patch_status(NODE, &params, &Patch::Strategic(ready("Unknown"))).await?;
    bed.pods().patch_status("p", &params, &Patch::Strategic(ready("False"))).await?;
    cut("-D")?;
    bed.node_ready().await?;
    bed.pod("p", "is Ready again", |pod| condition(pod, "Ready")).await?;
    // A Node that was deleted comes back, with the pod running on.
    let first = bed.node_object().await?;
    nodes.delete(NODE, &Default::default()).await?;
    bed.until("the node is registered again", async || {
        let again = nodes.get_opt(NODE).await?;
        Ok(again.filter(|again| again.metadata.uid != first.metadata.uid))
    })
    .await?;
    bed.node_ready().await?;
    assert!(condition(&bed.pods().get("p").await?, "Ready"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pod_comes_back_from_a_storm_of_kills() -> Result<()> {
    if !able("every_pod_comes_back_from_a_storm_of_kills") {
        return Ok(());
    }
    const PODS: usize = 7;
    let bed = Bed::new().await?;
    let name = |n: usize| format!("p{n}");
    for n in 0..PODS {
        let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": BUSYBOX, "command": ["sleep", "1000"]}]});
        bed.create(&name(n), spec).await?;
    }
    let all_ready = async || {
        for n in 0..PODS {
            bed.pod(&name(n), "is Ready", |pod| condition(pod, "Ready")).await?;
        }
        anyhow::Ok(())
    };
    all_ready().await?;
    // Only the tasks of this node's own containerd: every process at once, then their shims.
    let tasks = "ctr -n k8s.io task ls | awk 'NR > 1 { print $2 }'";
    let shims = format!("ps -o ppid= -p $({tasks} | paste -sd, -) | sort -u");
    for processes in [tasks, &shims] {
        bed.sh(&format!("kill -9 $({processes})"))?;
        bed.until("a pod is not Ready", async || {
            let pods = bed.pods().list(&Default::default()).await?;
            Ok(pods.items.iter().any(|pod| !condition(pod, "Ready")).then_some(()))
        })
        .await?;
        all_ready().await?;
    }
    for n in 0..PODS {
        bed.pods().delete(&name(n), &Default::default()).await?;
    }
    for n in 0..PODS {
        bed.gone(&name(n)).await?;
    }
    assert_eq!(bed.sh(tasks)?.trim(), "");
    Ok(())
}
