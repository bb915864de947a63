//! Row 17: what a person sees of a pod in each of its states, brought about on purpose.

use anyhow::{Context, Result, ensure};
use skerry_lab::{Cluster, Lab, cluster};
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World};

/// What `kubectl get pods` is to show, and the phase.
const STATES: &[(&str, &[&str], &str)] = &[
    ("too-large", &["Pending"], "Pending"),
    ("well", &["Running"], "Running"),
    ("ends-", &["Completed"], "Succeeded"),
    ("fails-", &["Error"], "Failed"),
    ("no-image", &["ErrImagePull", "ImagePullBackOff"], "Pending"),
    ("no-program", &["RunContainerError", "CrashLoopBackOff"], "Running"),
    ("crashes", &["Error", "CrashLoopBackOff"], "Running"),
    ("no-settings", &["CreateContainerConfigError"], "Pending"),
    ("no-volume", &["Pending"], "Pending"),
    ("too-much", &["OOMKilled"], "Failed"),
    ("no-map", &["ContainerCreating"], "Pending"),
];

/// What events say of those that wait.
const WHYS: &[(&str, &str, &str)] = &[
    ("too-large", "FailedScheduling", "3 Insufficient cpu"),
    ("no-image", "Failed", "Failed to pull image \"nginx:no-such-tag\""),
    ("no-image", "Failed", "Error: ErrImagePull"),
    ("no-image", "BackOff", "Back-off pulling image \"nginx:no-such-tag\""),
    ("no-program", "Failed", "/no-such-program"),
    ("crashes", "BackOff", "Back-off restarting failed container c in pod crashes_row17"),
    ("no-settings", "Failed", "Error: configmap \"no-such-map\" not found"),
    ("no-volume", "FailedScheduling", "pod has unbound immediate PersistentVolumeClaims"),
    (
        "no-map",
        "FailedMount",
        "MountVolume.SetUp failed for volume \"settings\" : configmap \"no-such-map\" not found",
    ),
];

pub fn are_shown(world: &World) -> Result<()> {
    let _ns = world.namespace("row17")?;
    // Some are there for a moment only.
    let watch = world.begin("get pods -n row17 --watch")?;
    world.type_in(&format!("apply -n row17 -f {}", manifest("states.yaml")))?;
    for (pod, statuses, phase) in STATES {
        for status in *statuses {
            eventually(&format!("{pod} is shown as {status}"), SOON, || {
                let printed = watch.printed();
                let is_its = |line: &&str| {
                    let mut cells = line.split_whitespace();
                    cells.next().is_some_and(|name| name.starts_with(pod)) && cells.nth(1) == Some(status)
                };
                ensure!(printed.lines().any(|line| is_its(&line)), "{printed}");
                Ok(())
            })?;
        }
        let pods = world.json("get pods -n row17")?;
        let mut pods = pods["items"].as_array().into_iter().flatten();
        let found = pods.find(|found| crate::world::name_of(found).starts_with(pod)).context("the pod")?;
        ensure!(found["status"]["phase"] == *phase, "{pod}: {}", found["status"]);
    }
    world.type_in("get pods -n row17")?;
    for (pod, reason, message) in WHYS {
        let line = format!("get events -n row17 --field-selector involvedObject.name={pod},reason={reason}");
        eventually(&format!("{pod} has an event {reason}"), SOON, || {
            let said = world.type_in(&line)?;
            ensure!(said.contains(message), "no {message:?} in {said}");
            Ok(())
        })?;
    }
    let said = world.type_in("get events -n row17 --field-selector involvedObject.name=no-volume")?;
    ensure!(said.contains("0/4 nodes are available: "), "{said}");
    Ok(())
}

/// In a cluster whose server gives up a silent node sooner than after 40 s.
pub fn a_lost_nodes_pod_is_unknown() -> Result<()> {
    let server_args = vec!["--node-monitor-grace-period".to_owned(), "15s".to_owned()];
    let options = cluster::Options { workers: 1, server_args, ..cluster::Options::default() };
    let cluster = Cluster::start(Lab::for_test()?, &options)?;
    let world = World::of(&cluster);
    let tolerations =
        "[{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}]";
    world.feed(
        "apply -f -",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: lost}}\nspec:\n  containers: [{{name: nginx, image: nginx}}]\n  \
             tolerations: {tolerations}\n"
        ),
    )?;
    world.kubectl().wait("pod/lost", "condition=Ready", SOON)?;
    let node = world.node("node1")?;
    cluster.lab().cable(&node, false)?;
    eventually("the node is not Ready", SOON, || {
        let rows = world.table("get nodes")?;
        let row = rows.iter().find(|row| row["NAME"] == "node1").context("node1")?;
        ensure!(row["STATUS"] == "NotReady", "{row:?}");
        Ok(())
    })?;
    world.shows("describe node node1", &["NodeStatusUnknown", "node.kubernetes.io/unreachable:NoExecute"])?;
    eventually("its pod is Unknown", SOON, || {
        let row = world.first_row("get pod lost")?;
        ensure!(row["STATUS"] == "Unknown", "{row:?}");
        Ok(())
    })?;
    world
        .shows("describe pod lost", &["NodeLost", "Node node1 which was running pod lost is unresponsive"])?;
    // It hears of the deletion when it is there again.
    cluster.lab().cable(&node, true)?;
    world.type_in("wait pod/lost --for=delete --timeout=60s")?;
    eventually("the node is Ready", SOON, || {
        let rows = world.table("get nodes")?;
        ensure!(rows.iter().all(|row| row["STATUS"] == "Ready"), "{rows:?}");
        Ok(())
    })
}
