//! The verbs that a person uses on the first day, each with what it must print.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::world::World;

pub fn work(world: &World) -> Result<()> {
    let ns = world.namespace("verbs")?;
    let see = |line: &str, expected: &str| {
        let said = world.type_in(line)?;
        ensure!(said.contains(expected), "kubectl {line}: no {expected:?} in {said}");
        Ok(said)
    };
    see("api-resources", "deployments")?;
    see("api-resources --api-group=discovery.k8s.io", "endpointslices")?;
    see("version", "Server Version: v1.36")?;
    see("create deployment web --image=nginx -r 1 -n verbs", "deployment.apps/web created")?;
    see("scale deployment web --replicas=2 -n verbs", "deployment.apps/web scaled")?;
    let pods = world.ready_pods(&ns.name, "app=web", 2)?;
    see(
        "expose deployment web --type=NodePort --port=8080 --target-port=80 -n verbs",
        "service/web exposed",
    )?;
    see("label deployment web tier=front -n verbs", "deployment.apps/web labeled")?;
    see("get deployment -l tier=front -n verbs", "web")?;
    see("get deployment web -n verbs -o yaml", "tier: front")?;
    see("get pods -n verbs -o name", "pod/web-")?;
    see("get pods -n verbs --field-selector=status.phase=Running", "Running")?;
    see("get all -n verbs", "replicaset.apps/web-")?;
    see("describe deployment web -n verbs", "2 desired | 2 updated | 2 total | 2 available | 0 unavailable")?;
    let pod = pods[0]["metadata"]["name"].as_str().context("a pod's name")?;
    let described = see(&format!("describe pod {pod} -n verbs"), "Scheduled")?;
    for reason in ["Pulled", "Created", "Started"] {
        ensure!(described.contains(reason), "no event {reason}: {described}");
    }
    see("describe service web -n verbs", "NodePort:")?;
    see("describe node node1", "Ready")?;
    see("get nodes -o wide", "containerd://")?;
    see("get endpointslices -n verbs", "web-")?;
    see("annotate deployment web note=seen -n verbs", "annotated")?;
    let patched = "patch deployment web -n verbs --type=merge -p {\"spec\":{\"replicas\":1}}";
    see(patched, "deployment.apps/web patched")?;
    world.ready_pods(&ns.name, "app=web", 1)?;

    let object: Value = serde_json::from_str(&world.type_in("get deployment web -n verbs -o json")?)?;
    ensure!(object["metadata"]["generation"].as_i64() > Some(2), "{object}");
    ensure!(object["status"]["observedGeneration"] == object["metadata"]["generation"], "{object}");
    see("delete service web -n verbs", "service \"web\" deleted")?;
    see("delete deployment web -n verbs", "deployment.apps \"web\" deleted")?;
    let out = world.kubectl().output("get deployment web -n verbs")?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(said.contains("Error from server (NotFound): deployments.apps \"web\" not found"), "{said}");
    Ok(())
}
