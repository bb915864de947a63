//! Row 20: a Deployment's rollouts go on, back, pause and begin again; with a readiness probe and a preStop
//! pause a rolling update costs no request.

use anyhow::{Result, ensure};
use skerry_tests::eventually;

use crate::{
    delete_pod_under_load::no_request_fails,
    world::{SOON, World, name_of},
};

const STATUS: &str = "rollout status deployment web -n row20 --timeout=60s";

/// The image of all the Deployment's pods, once they have it.
fn pods_have(world: &World, image: &str) -> Result<Vec<String>> {
    eventually(&format!("all pods have {image}"), SOON, || {
        let pods = world.ready_pods("row20", "app=web", 2)?;
        ensure!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == image), "{pods:?}");
        Ok(pods.iter().map(name_of).collect())
    })
}

pub fn go_on_and_back_and_pause(world: &World) -> Result<()> {
    let _ns = world.namespace("row20")?;
    let see = |line: &str, expected: &str| {
        let said = world.type_in(line)?;
        ensure!(said.contains(expected), "kubectl {line}: no {expected:?} in {said}");
        Ok(said)
    };
    world.type_in("create deployment web --image=nginx:1.14.2 -r 2 -n row20")?;
    see(STATUS, "deployment \"web\" successfully rolled out")?;
    see("set image deployment/web nginx=nginx:1.16.1 -n row20", "deployment.apps/web image updated")?;
    see(STATUS, "successfully rolled out")?;
    pods_have(world, "nginx:1.16.1")?;
    let said = see("rollout history deployment web -n row20", "REVISION")?;
    let revisions = |said: &str| -> Vec<String> {
        said.lines()
            .filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok())
            .map(|n| n.to_string())
            .collect()
    };
    ensure!(revisions(&said) == ["1", "2"], "{said}");
    see("rollout history deployment web --revision=1 -n row20", "nginx:1.14.2")?;

    see("rollout undo deployment web -n row20", "deployment.apps/web rolled back")?;
    see(STATUS, "successfully rolled out")?;
    pods_have(world, "nginx:1.14.2")?;
    let said = see("rollout history deployment web -n row20", "REVISION")?;
    ensure!(revisions(&said) == ["2", "3"], "{said}");

    // What is changed while it pauses comes when it goes on.
    see("rollout pause deployment web -n row20", "deployment.apps/web paused")?;
    see("set image deployment/web nginx=nginx:latest -n row20", "image updated")?;
    eventually("the change is seen and waits", SOON, || {
        let object = world.json("get deployment web -n row20")?;
        let is_seen = object["metadata"]["generation"] == object["status"]["observedGeneration"];
        ensure!(is_seen && object["status"]["updatedReplicas"].is_null(), "{}", object["status"]);
        let paused = object["status"]["conditions"].as_array().into_iter().flatten();
        ensure!(paused.clone().any(|c| c["reason"] == "DeploymentPaused"), "{}", object["status"]);
        Ok(())
    })?;
    pods_have(world, "nginx:1.14.2")?;
    let said = world.refused("rollout undo deployment web -n row20")?;
    ensure!(said.contains("cannot rollback a paused deployment"), "{said}");
    see("rollout resume deployment web -n row20", "deployment.apps/web resumed")?;
    see(STATUS, "successfully rolled out")?;
    let before = pods_have(world, "nginx:latest")?;

    see("rollout restart deployment web -n row20", "deployment.apps/web restarted")?;
    see(STATUS, "successfully rolled out")?;
    let after = pods_have(world, "nginx:latest")?;
    ensure!(after.iter().all(|name| !before.contains(name)), "{before:?} {after:?}");
    see("rollout undo deployment web --to-revision=3 -n row20", "rolled back")?;
    see(STATUS, "successfully rolled out")?;
    pods_have(world, "nginx:1.14.2")?;

    see("scale deployment web --replicas=4 -n row20", "deployment.apps/web scaled")?;
    world.ready_pods("row20", "app=web", 4)?;
    see("scale deployment web --current-replicas=4 --replicas=1 -n row20", "scaled")?;
    world.ready_pods("row20", "app=web", 1)?;
    let row = world.first_row("get deployment web -n row20")?;
    ensure!(row["READY"] == "1/1" && row["UP-TO-DATE"] == "1" && row["AVAILABLE"] == "1", "{row:?}");
    Ok(())
}

pub fn a_rolling_update_costs_no_request(world: &World) -> Result<()> {
    no_request_fails(world, "row20-steady", |ns, pods| {
        world.type_in(&format!("set image deployment/steady nginx=nginx:1.16.1 -n {ns}"))?;
        world.type_in(&format!("rollout status deployment steady -n {ns} --timeout=90s"))?;
        let after = world.ready_pods(ns, "app=steady", 3)?;
        let is_new = |pod: &serde_json::Value| !pods.contains(&name_of(pod));
        ensure!(after.iter().all(is_new), "{after:?}");
        Ok(())
    })
}
