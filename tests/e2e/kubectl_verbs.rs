//! The verbs that a person uses on the first day, each with what it must print.

use anyhow::{Context, Result, ensure};

use crate::world::World;

pub fn work(world: &World) -> Result<()> {
    let ns = world.namespace("verbs")?;
    let see = |line: &str, expected: &str| {
        let said = world.type_in(line)?;
        ensure!(said.contains(expected), "kubectl {line}: no {expected:?} in {said}");
        Ok(said)
    };
    world.shows("api-resources", &["NAME", "deployments", "pods"])?;
    see("api-resources --api-group=discovery.k8s.io", "endpointslices")?;
    see("version", "Server Version: v1.36")?;
    let explained = see("explain pod.spec.containers.resources", "FIELD: resources <ResourceRequirements>")?;
    ensure!(explained.contains("limits\t<map[string]Quantity>"), "{explained}");
    world.shows(
        "explain statefulset --recursive --api-version=apps/v1",
        &["KIND:", "VERSION:", "volumeClaimTemplates"],
    )?;
    see("create deployment web --image=nginx -r 1 -n verbs", "deployment.apps/web created")?;
    see("scale deployment web --replicas=2 -n verbs", "deployment.apps/web scaled")?;
    let pods = world.ready_pods(&ns.name, "app=web", 2)?;
    waits(world)?;
    see(
        "expose deployment web --type=NodePort --port=8080 --target-port=80 -n verbs",
        "service/web exposed",
    )?;
    see("label deployment web tier=front -n verbs", "deployment.apps/web labeled")?;
    see("get deployment -l tier=front -n verbs", "web")?;
    world.shows("get deployment web -n verbs -o yaml", &["kind: ", "tier: front"])?;
    see("get pods -n verbs -o name", "pod/web-")?;
    see("get pods -n verbs --field-selector=status.phase=Running", "Running")?;
    see("get all -n verbs", "replicaset.apps/web-")?;
    world.shows(
        "describe deployment web -n verbs",
        &["2 desired | 2 updated | 2 total | 2 available | 0 unavailable", "NewReplicaSet:"],
    )?;
    let pod = pods[0]["metadata"]["name"].as_str().context("a pod's name")?;
    world.shows(&format!("describe pod {pod} -n verbs"), &["Scheduled", "Pulled", "Created", "Started"])?;
    // In the order of what happened.
    let events = see(&format!("events --for pod/{pod} -n verbs"), "Successfully assigned verbs/web-")?;
    let at = |reason: &str| events.find(reason).with_context(|| format!("no {reason} in {events}"));
    ensure!(at("Scheduled")? < at("Created")? && at("Created")? < at("Started")?, "{events}");
    see("get events -n verbs --field-selector reason=ScalingReplicaSet", "Scaled up replica set web-")?;
    see("get events -n verbs --sort-by=.lastTimestamp", "SuccessfulCreate")?;
    world.shows("describe service web -n verbs", &["Selector:", "IP:", "NodePort:", "Endpoints:"])?;
    world.shows("describe node node1", &["Ready", "PodCIDR:", "Container Runtime Version:"])?;
    see("get nodes -o wide", "containerd://")?;
    see("get endpointslices -n verbs", "web-")?;
    see("annotate deployment web note=seen -n verbs", "annotated")?;
    let patched = "patch deployment web -n verbs --type=merge -p {\"spec\":{\"replicas\":1}}";
    see(patched, "deployment.apps/web patched")?;
    world.ready_pods(&ns.name, "app=web", 1)?;

    let object = world.json("get deployment web -n verbs")?;
    ensure!(object["metadata"]["generation"].as_i64() > Some(2), "{object}");
    ensure!(object["status"]["observedGeneration"] == object["metadata"]["generation"], "{object}");
    see("delete service web -n verbs", "service \"web\" deleted")?;
    see("delete deployment web -n verbs", "deployment.apps \"web\" deleted")?;
    let said = world.refused("get deployment web -n verbs")?;
    ensure!(said.contains("Error from server (NotFound): deployments.apps \"web\" not found"), "{said}");
    Ok(())
}

/// `wait` ends when its condition is there, and says what was not there in time.
fn waits(world: &World) -> Result<()> {
    for (what, said) in [
        ("deployment/web --for=condition=Available", "deployment.apps/web condition met"),
        ("deployment/web --for=jsonpath={.status.readyReplicas}=2", "deployment.apps/web condition met"),
        ("pod -l app=web --for=condition=Ready", "condition met"),
        ("pod/nobody --for=delete", ""),
    ] {
        let printed = world.type_in(&format!("wait {what} -n verbs --timeout=40s"))?;
        ensure!(printed.contains(said), "kubectl wait {what}: {printed}");
    }
    let said = world.refused("wait deployment/web --for=condition=Lost -n verbs --timeout=1s")?;
    ensure!(said.contains("timed out waiting for the condition on deployments/web"), "{said}");
    Ok(())
}
