//! A program that is killed comes back to what it had; what was running goes on running.

use anyhow::{Result, ensure};
use skerry_tests::eventually;

use crate::{
    delete_pod_under_load::no_request_fails,
    world::{SOON, World, name_of},
};

pub fn server_keeps_everything(world: &World) -> Result<()> {
    let _ns = world.namespace("kept")?;
    world.type_in("create configmap kept --from-literal=a=b -n kept")?;
    let before = world.json("get configmap kept -n kept")?;
    let nodes = world.type_in("get nodes -o name")?;
    world.with_cluster(|cluster| {
        let server = &cluster.nodes()[0];
        let mut daemon = cluster.restart(server)?;
        ensure!(daemon.runs(), "skerry up ended: {}", daemon.tail(20));
        Ok(())
    })?;
    eventually("the API server is back", SOON, || world.type_in("get --raw=/readyz"))?;
    ensure!(world.json("get configmap kept -n kept")? == before, "the object has changed");
    ensure!(world.type_in("get nodes -o name")? == nodes, "the nodes have changed");
    world.type_in("wait nodes --all --for=condition=Ready --timeout=40s")?;
    // The whole chain still works: from the controllers to a container on a worker.
    world.type_in("create deployment after --image=nginx -r 3 -n kept")?;
    world.ready_pods("kept", "app=after", 3)?;
    Ok(())
}

pub fn node_keeps_forwarding(world: &World) -> Result<()> {
    no_request_fails(world, "forwarding", |ns, pods| {
        world.with_cluster(|cluster| {
            for node in cluster.workers() {
                cluster.kill(node)?;
                cluster.restart(node)?;
            }
            Ok(())
        })?;
        world.type_in("wait nodes --all --for=condition=Ready --timeout=40s")?;
        let after: Vec<String> = world.ready_pods(ns, "app=steady", 3)?.iter().map(name_of).collect();
        ensure!(after == pods, "pods were replaced: {pods:?}, now {after:?}");
        Ok(())
    })
}
