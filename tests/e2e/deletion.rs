//! Row 12: a pod goes with what ran for it, a namespace with everything in it.

use anyhow::{Context, Result, ensure};
use skerry_tests::{eventually, manifest_with};

use crate::world::{SOON, World};

const NAMESPACE: &str = "mem-example-gone";

pub fn takes_everything_along(world: &World) -> Result<()> {
    world.type_in(&format!("create namespace {NAMESPACE}"))?;
    let own = format!("namespace: {NAMESPACE}");
    // Its program does not end when it is asked to.
    let exchanged = [
        ("namespace: mem-example", own.as_str()),
        ("spec:\n", "spec:\n  terminationGracePeriodSeconds: 1\n"),
    ];
    let text = manifest_with("memory-demo.yaml", &exchanged)?;
    world.feed("apply -f -", &text)?;
    world.kubectl().wait(&format!("pod/memory-demo -n {NAMESPACE}"), "condition=Ready", SOON)?;
    let pod = world.json(&format!("get pod memory-demo -n {NAMESPACE}"))?;
    let node = world.node(pod["spec"]["nodeName"].as_str().context("the pod's node")?)?;
    let uid = pod["metadata"]["uid"].as_str().context("a uid")?;
    let traces = format!("find /sys/fs/cgroup /var/log/pods /var/lib/skerry -name '*{uid}*' | wc -l");
    ensure!(node.sh(&traces)?.trim() != "0", "no cgroup has the pod's name");

    let said = world.type_in(&format!("delete pod memory-demo -n {NAMESPACE}"))?;
    ensure!(said.starts_with("pod \"memory-demo\" deleted"), "{said}");
    let said = world.refused(&format!("get pod memory-demo -n {NAMESPACE}"))?;
    ensure!(said.trim() == "Error from server (NotFound): pods \"memory-demo\" not found", "{said}");
    eventually("nothing of it is left on its node", SOON, || {
        let left = node.sh(&traces)?;
        ensure!(left.trim() == "0", "{left} files and folders: {}", node.sh(&traces.replace("| wc -l", ""))?);
        Ok(())
    })?;

    world.feed("apply -f -", &text)?;
    for line in [
        "create deployment web --image=nginx -r 2",
        "expose deployment web --port=80",
        "create configmap settings --from-literal=a=b",
        "create secret generic key --from-literal=a=b",
        "create job once --image=busybox -- true",
        "create pdb web --selector=app=web --min-available=1",
    ] {
        world.type_in(&line.replacen(' ', &format!(" -n {NAMESPACE} "), 1))?;
    }
    world.ready_pods(NAMESPACE, "app=web", 2)?;
    let said = world.type_in(&format!("delete namespace {NAMESPACE}"))?;
    ensure!(said.trim() == format!("namespace \"{NAMESPACE}\" deleted"), "{said}");
    let said = world.refused(&format!("get namespace {NAMESPACE}"))?;
    ensure!(said.contains("(NotFound)"), "{said}");
    let kinds = "all,endpointslices,configmaps,secrets,serviceaccounts,pdb,events";
    let out = world.tries(&format!("get {kinds} -n {NAMESPACE}"))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.stdout.is_empty(), "{out:?}");
    ensure!(said.trim() == format!("No resources found in {NAMESPACE} namespace."), "{said}");
    Ok(())
}
