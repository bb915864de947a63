//! Row 7: taints of each effect, and what tolerates them. In a cluster of its own: a tainted node is missed
//! by all others.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use skerry_lab::{Cluster, Lab, cluster};
use skerry_tests::eventually;

use crate::world::{SOON, World, name_of};

/// How long one pod bears a NoExecute taint.
const BORNE: Duration = Duration::from_secs(3);

/// A pod for node1, with these tolerations.
fn pod(name: &str, tolerations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{kubernetes.io/hostname: node1}}\n  \
         terminationGracePeriodSeconds: 1\n  containers: [{{name: nginx, image: nginx}}]\n  tolerations: [{tolerations}]\n"
    )
}

fn create(world: &World, pods: &[(&str, &str)]) -> Result<()> {
    let text: Vec<String> = pods.iter().map(|(name, tolerations)| pod(name, tolerations)).collect();
    world.feed("apply -f -", &text.join("---\n")).map(drop)
}

fn status(world: &World, name: &str) -> Result<(String, String)> {
    let rows = world.table("get pods -o wide")?;
    let row = rows.iter().find(|row| row["NAME"] == name).with_context(|| format!("no {name}: {rows:?}"))?;
    Ok((row["STATUS"].clone(), row["NODE"].clone()))
}

fn runs_on_node1(world: &World, name: &str) -> Result<()> {
    eventually(&format!("{name} runs on node1"), SOON, || {
        let (status, node) = status(world, name)?;
        ensure!(status == "Running" && node == "node1", "{status} on {node}");
        Ok(())
    })
}

pub fn keep_pods_away_and_send_them_off() -> Result<()> {
    let options = cluster::Options { workers: 2, ..cluster::Options::default() };
    let cluster = Cluster::start(Lab::for_test()?, &options)?;
    let world = World::of(&cluster);
    no_schedule(&world)?;
    prefer_no_schedule(&world)?;
    no_execute(&world)
}

fn no_schedule(world: &World) -> Result<()> {
    let said = world.type_in("taint nodes node1 key1=value1:NoSchedule")?;
    ensure!(said.trim() == "node/node1 tainted", "{said}");
    create(
        world,
        &[
            ("equal", "{key: key1, operator: Equal, value: value1, effect: NoSchedule}"),
            ("exists", "{key: key1, operator: Exists, effect: NoSchedule}"),
            ("other-value", "{key: key1, operator: Equal, value: value2, effect: NoSchedule}"),
            ("none", ""),
        ],
    )?;
    runs_on_node1(world, "equal")?;
    runs_on_node1(world, "exists")?;
    for name in ["other-value", "none"] {
        eventually("an event says why", SOON, || {
            let why =
                format!("get events --field-selector reason=FailedScheduling,involvedObject.name={name}");
            let said = world.type_in(&why)?;
            ensure!(said.contains("0/3 nodes are available: "), "{said}");
            ensure!(said.contains("2 node(s) had untolerated taint(s)"), "{said}");
            ensure!(said.contains("1 node(s) didn't match Pod's node affinity/selector"), "{said}");
            ensure!(
                said.contains("preemption: 0/3 nodes are available: 3 Preemption is not helpful"),
                "{said}"
            );
            Ok(())
        })?;
        let (status, node) = status(world, name)?;
        ensure!(status == "Pending" && node == "<none>", "{name}: {status} on {node}");
    }
    // The taint goes, and all may come.
    let said = world.type_in("taint nodes node1 key1=value1:NoSchedule-")?;
    ensure!(said.trim() == "node/node1 untainted", "{said}");
    runs_on_node1(world, "other-value")?;
    runs_on_node1(world, "none")?;
    world.type_in("delete pods --all").map(drop)
}

fn prefer_no_schedule(world: &World) -> Result<()> {
    world.type_in("taint nodes node1 soft=yes:PreferNoSchedule")?;
    world.type_in("create deployment elsewhere --image=nginx -r 2")?;
    let pods = world.ready_pods("default", "app=elsewhere", 2)?;
    ensure!(pods.iter().all(|pod| pod["spec"]["nodeName"] == "node2"), "{pods:?}");
    // Where there is no other node it is used all the same.
    create(world, &[("all-the-same", "")])?;
    runs_on_node1(world, "all-the-same")?;
    world.type_in("taint nodes node1 soft-")?;
    world.type_in("delete deployment elsewhere")?;
    world.type_in("delete pod all-the-same").map(drop)
}

fn no_execute(world: &World) -> Result<()> {
    let later =
        format!("{{key: key2, operator: Exists, effect: NoExecute, tolerationSeconds: {}}}", BORNE.as_secs());
    let stays = "{key: key2, operator: Exists}";
    create(world, &[("goes", ""), ("later", later.as_str()), ("stays", stays)])?;
    for name in ["goes", "later", "stays"] {
        runs_on_node1(world, name)?;
    }
    let begun = Instant::now();
    world.type_in("taint nodes node1 key2=value2:NoExecute")?;
    let left = || -> Result<Vec<String>> {
        let pods = world.json("get pods --field-selector spec.nodeName=node1")?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).map(name_of).collect())
    };
    eventually("who tolerates nothing goes", SOON, || {
        let left = left()?;
        ensure!(!left.contains(&"goes".to_owned()), "{left:?}");
        Ok(())
    })?;
    eventually("who tolerates it for a time goes then", SOON, || {
        let left = left()?;
        ensure!(!left.contains(&"later".to_owned()), "{left:?}");
        Ok(())
    })?;
    ensure!(begun.elapsed() >= BORNE, "it was sent off after {:?}", begun.elapsed());
    let said = world.type_in("get events --field-selector reason=TaintManagerEviction")?;
    for name in ["goes", "later"] {
        ensure!(said.contains(&format!("Marking for deletion Pod default/{name}")), "{said}");
    }
    eventually("one is left", SOON, || {
        let rows = world.table("get pods")?;
        ensure!(rows.len() == 1 && rows[0]["NAME"] == "stays" && rows[0]["STATUS"] == "Running", "{rows:?}");
        Ok(())
    })
}
