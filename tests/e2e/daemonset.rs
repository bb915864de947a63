//! Row 6: a DaemonSet has a pod on each node, the server's too; one that joins gets one, one that leaves
//! loses it. In a cluster of its own: the others count nodes.

use anyhow::{Result, ensure};
use skerry_lab::{Cluster, Lab, cluster};
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World};

const NAME: &str = "fluentd-elasticsearch";

/// Waits for a ready pod on each of these nodes, and on no other.
fn is_on(world: &World, nodes: &[&str]) -> Result<Vec<(String, String)>> {
    let found = eventually(&format!("its pods are on {nodes:?}"), SOON, || {
        let pods = world.json(&format!("get pods -n kube-system -l name={NAME}"))?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        ensure!(pods.iter().all(crate::world::is_ready), "not all are ready: {pods:?}");
        let mut found: Vec<(String, String)> = pods
            .iter()
            .map(|pod| {
                (pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(), crate::world::name_of(pod))
            })
            .collect();
        found.sort();
        ensure!(found.iter().map(|(node, _)| node.as_str()).eq(nodes.iter().copied()), "{found:?}");
        Ok(found)
    })?;
    let count = nodes.len().to_string();
    eventually("the DaemonSet counts them", SOON, || {
        let row = world.first_row("get daemonset -n kube-system")?;
        ensure!(row["NAME"] == NAME && row["DESIRED"] == count && row["AVAILABLE"] == count, "{row:?}");
        Ok(())
    })?;
    Ok(found)
}

pub fn follows_the_nodes() -> Result<()> {
    let options = cluster::Options { workers: 1, ..cluster::Options::default() };
    let cluster = Cluster::start(Lab::for_test()?, &options)?;
    let world = World::of(&cluster);
    let said = world.type_in(&format!("apply -f {}", manifest("fluentd-daemonset.yaml")))?;
    ensure!(said.trim() == format!("daemonset.apps/{NAME} created"), "{said}");
    let pods = is_on(&world, &["master", "node1"])?;
    world.type_in("get pods -n kube-system -o wide")?;

    for (node, pod) in &pods {
        world.on(&world.node(node)?, &format!("echo seen on {node} > /var/log/walkthrough"))?;
        let seen = world.type_in(&format!("exec {pod} -n kube-system -- cat /var/log/walkthrough"))?;
        ensure!(seen.trim() == format!("seen on {node}"), "{seen}");
        let log = eventually("it prints what is there", SOON, || {
            let log = world.kubectl().run(&format!("logs {pod} -n kube-system"))?;
            ensure!(log.contains("/var/log/"), "{log}");
            Ok(log)
        })?;
        ensure!(log.contains("reading /var/log"), "{log}");
    }

    let node = cluster.join("node2")?;
    world.type_in("get nodes")?;
    is_on(&world, &["master", "node1", "node2"])?;
    cluster.kill(&node)?;
    world.type_in("delete node node2")?;
    is_on(&world, &["master", "node1"])?;
    let said = world.type_in(&format!("delete -f {}", manifest("fluentd-daemonset.yaml")))?;
    ensure!(said.contains(&format!("daemonset.apps \"{NAME}\" deleted")), "{said}");
    eventually("its pods go with it", SOON, || {
        let left = world.type_in("get pods -n kube-system -o name")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}
