//! PodDisruptionBudgets: their status, the eviction API, and `kubectl drain`, which waits until a budget
//! allows it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_tests::eventually;

use crate::world::{SOON, World, name_of};

const DRAIN: Duration = Duration::from_secs(90);

fn status(world: &World, ns: &str, name: &str) -> Result<Value> {
    Ok(world.json(&format!("get pdb {name} -n {ns}"))?["status"].clone())
}

/// Waits until the budget counts so many healthy pods and lets so many go.
fn counts(world: &World, ns: &str, name: &str, healthy: i64, allowed: i64) -> Result<Value> {
    eventually(&format!("{name} counts {healthy} healthy pods and allows {allowed}"), SOON, || {
        let status = status(world, ns, name)?;
        ensure!(status["currentHealthy"] == healthy && status["disruptionsAllowed"] == allowed, "{status}");
        Ok(status)
    })
}

/// POST of an Eviction; what kubectl says when it is refused.
fn evict(world: &World, ns: &str, pod: &str, version: &str) -> Result<Result<String, String>> {
    let body = format!(
        r#"{{"apiVersion":"{version}","kind":"Eviction","metadata":{{"name":"{pod}","namespace":"{ns}"}}}}"#
    );
    let path = format!("/api/v1/namespaces/{ns}/pods/{pod}/eviction");
    Ok(world
        .kubectl()
        .feed(&format!("create --raw {path} -f -"), &body)
        .map_err(|error| format!("{error:#}")))
}

pub fn a_budget_holds_evictions_back(world: &World) -> Result<()> {
    let namespace = world.namespace("budgets")?;
    let ns = &namespace.name;
    world.type_in(&format!("create deployment web --image=nginx -r 3 -n {ns}"))?;
    world.ready_pods(ns, "app=web", 3)?;
    world.type_in(&format!("create pdb web --selector=app=web --min-available=2 -n {ns}"))?;
    let told = counts(world, ns, "web", 3, 1)?;
    ensure!(told["desiredHealthy"] == 2 && told["expectedPods"] == 3, "{told}");
    ensure!(
        told["conditions"][0]["type"] == "DisruptionAllowed"
            && told["conditions"][0]["reason"] == "SufficientPods",
        "{told}"
    );
    let row = world.table(&format!("get pdb -n {ns}"))?.remove(0);
    ensure!(row["MIN AVAILABLE"] == "2" && row["ALLOWED DISRUPTIONS"] == "1", "{row:?}");

    // A share of what the Deployment wants; another budget on the same pods makes evictions fail, so it goes
    // again.
    world.type_in(&format!("create pdb share --selector=app=web --max-unavailable=50% -n {ns}"))?;
    let told = counts(world, ns, "share", 3, 2)?;
    ensure!(told["desiredHealthy"] == 1 && told["expectedPods"] == 3, "{told}");
    let pods = world.ready_pods(ns, "app=web", 3)?;
    let refused = evict(world, ns, &name_of(&pods[0]), "policy/v1")?;
    ensure!(refused.is_err_and(|said| said.contains("has more than one PodDisruptionBudget")), "two budgets");
    world.type_in(&format!("delete pdb share -n {ns}"))?;

    // What comes in an evicted pod's place is not ready before the second eviction is tried.
    let pods = world.ready_pods(ns, "app=web", 3)?;
    world.type_in("cordon node1 node2 node3")?;
    let outcome = (|| -> Result<()> {
        evict(world, ns, &name_of(&pods[0]), "policy/v1beta1")?.map_err(anyhow::Error::msg)?;
        counts(world, ns, "web", 2, 0)?;
        let said = evict(world, ns, &name_of(&pods[1]), "policy/v1")?
            .err()
            .context("a second eviction was allowed")?;
        ensure!(said.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{said}");
        ensure!(
            said.contains("The disruption budget web needs 2 healthy pods and has 2 currently")
                || said.contains("TooManyRequests"),
            "{said}"
        );
        let kept = world.json(&format!("get pod {} -n {ns}", name_of(&pods[1])))?;
        ensure!(kept["metadata"]["deletionTimestamp"].is_null(), "{kept}");
        Ok(())
    })();
    world.type_in("uncordon node1 node2 node3")?;
    outcome?;
    world.ready_pods(ns, "app=web", 3)?;
    counts(world, ns, "web", 3, 1)?;
    Ok(())
}

pub fn drain_waits_for_its_budget(world: &World) -> Result<()> {
    let namespace = world.namespace("drained")?;
    let ns = &namespace.name;
    // On one node at first, which is drained then: each pod has to be ready elsewhere before the next goes.
    world.type_in("cordon node2 node3")?;
    let placed = (|| {
        world.type_in(&format!("create deployment drained --image=nginx -r 2 -n {ns}"))?;
        world.ready_pods(ns, "app=drained", 2)
    })();
    world.type_in("uncordon node2 node3")?;
    let pods = placed?;
    ensure!(pods.iter().all(|pod| pod["spec"]["nodeName"] == "node1"), "{pods:?}");
    world.type_in(&format!("create pdb drained --selector=app=drained --max-unavailable=1 -n {ns}"))?;
    counts(world, ns, "drained", 2, 1)?;
    let is_cordoned = |expected: bool| {
        let row = world.first_row("get node node1")?;
        ensure!(row["STATUS"].contains("SchedulingDisabled") == expected, "{row:?}");
        Ok::<_, anyhow::Error>(())
    };
    is_cordoned(false)?;
    let line =
        format!("drain node1 --pod-selector=app=drained --ignore-daemonsets --timeout={}s", DRAIN.as_secs());
    let drained = world.tries(&line)?;
    let cordoned = is_cordoned(true);
    let said =
        format!("{}{}", String::from_utf8_lossy(&drained.stdout), String::from_utf8_lossy(&drained.stderr));
    world.type_in("uncordon node1")?;
    cordoned?;
    is_cordoned(false)?;
    ensure!(drained.status.success() && said.contains("node/node1 drained"), "{said}");
    ensure!(said.matches("evicted").count() >= 2, "{said}");
    let pods = world.ready_pods(ns, "app=drained", 2)?;
    ensure!(pods.iter().all(|pod| pod["spec"]["nodeName"] != "node1"), "{pods:?}");
    Ok(())
}
