//! Row 5: a Deployment makes its ReplicaSet anew; without the Deployment all is gone for good.

use anyhow::{Context, Result, ensure};
use skerry_tests::eventually;

use crate::world::{SOON, World, name_of};

pub fn comes_back(world: &World) -> Result<()> {
    let ns = world.namespace("row5")?;
    world.type_in("create deployment k8s-nginx --image=nginx -r 3 -n row5")?;
    let before = world.ready_pods(&ns.name, "app=k8s-nginx", 3)?;
    let sets = world.json("get rs -n row5 -l app=k8s-nginx")?;
    let set = sets["items"].get(0).context("the deployment has no ReplicaSet")?;
    let (name, uid) = (name_of(set), set["metadata"]["uid"].clone());

    let said = world.type_in(&format!("delete rs {name} -n row5"))?;
    ensure!(said.contains(&format!("replicaset.apps \"{name}\" deleted")), "{said}");
    let again = eventually("the deployment makes its ReplicaSet anew", SOON, || {
        let set = world.json(&format!("get rs {name} -n row5"))?;
        ensure!(set["metadata"]["uid"] != uid, "still the old one");
        Ok(set)
    })?;
    ensure!(again["metadata"]["ownerReferences"][0]["kind"] == "Deployment", "{again}");
    let new_pods = || {
        let pods = world.ready_pods(&ns.name, "app=k8s-nginx", 3)?;
        ensure!(
            !pods.iter().any(|pod| before.iter().any(|old| name_of(old) == name_of(pod))),
            "an old pod is left"
        );
        Ok(pods)
    };
    eventually("three new pods run", SOON, new_pods)?;

    world.type_in("delete deployment k8s-nginx -n row5")?;
    eventually("everything of the deployment is gone", SOON, || {
        let left = world.type_in("get rs,pods -n row5 -o name")?;
        ensure!(left.trim().is_empty(), "left: {left}");
        Ok(())
    })
}
