//! `skerry doctor` finds nothing wrong with a cluster that is well, and says what is wrong with one that is not.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use skerry_tests::eventually;

use crate::{
    explains_itself::SKERRY,
    world::{SOON, World},
};

pub fn finds_nothing_wrong(world: &World) -> Result<()> {
    for name in ["master", "node1"] {
        let node = world.node(name)?;
        // Other cases may have their nodes' addresses and tables change at this moment.
        eventually(&format!("all is well at {name}"), SOON, || {
            let told = node.sh(&format!("{SKERRY} doctor -o json || true"))?;
            let told: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
            ensure!(told["well"] == true, "{told:#}");
            let checks = told["checks"].as_array().context("checks")?;
            let state =
                |check: &str| checks.iter().find(|told| told["check"] == check).map(|told| &told["state"]);
            for check in ["programs", "certificates", "disk", "kernel", "containerd"] {
                ensure!(state(check).is_some_and(|state| state == "fine"), "{check}: {told:#}");
            }
            if name == "master" {
                for check in ["api server", "clock", "nodes", "versions", "names"] {
                    ensure!(state(check).is_some_and(|state| state == "fine"), "{check}: {told:#}");
                }
            }
            Ok(())
        })?;
    }
    let server = world.node("master")?;
    let text = server.sh(&format!("{SKERRY} doctor"))?;
    ensure!(text.contains("All is well"), "{text}");

    // A server that is not there, by a kubeconfig that leads nowhere.
    let text = server.sh(&format!(
        "{SKERRY} kubeconfig | sed 's|server: .*|server: https://127.0.0.1:1|' > /opt/moved.yaml
         {SKERRY} doctor --kubeconfig /opt/moved.yaml; test $? = 1"
    ))?;
    for words in ["the API server does not answer", "next: ", "1 finding."] {
        ensure!(text.contains(words), "no {words:?} in {text}");
    }
    Ok(())
}
