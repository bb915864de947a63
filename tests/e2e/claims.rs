//! Claims of the built-in class: bound at the first pod, kept over pods, removed from the node's disk at the
//! end.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use skerry_tests::{eventually, manifest};

use crate::world::{SOON, World};

pub fn keep_their_data(world: &World) -> Result<()> {
    let _ns = world.namespace("claims")?;
    let classes = world.type_in("get sc")?;
    ensure!(
        classes.contains("local-path (default)") && classes.contains("skerry.io/local-path"),
        "{classes}"
    );
    let said = world.type_in(&format!("apply -n claims -f {}", manifest("claim.yaml")))?;
    ensure!(said.contains("persistentvolumeclaim/notes created") && !said.contains("Warning"), "{said}");
    world.type_in("wait pod/writer -n claims --for=condition=Ready --timeout=40s")?;

    let claim = world.table("get pvc -n claims")?.remove(0);
    ensure!(
        claim["STATUS"] == "Bound" && claim["CAPACITY"] == "64Mi" && claim["ACCESS MODES"] == "RWO",
        "{claim:?}"
    );
    ensure!(claim["STORAGECLASS"] == "local-path", "{claim:?}");
    let volume = claim["VOLUME"].clone();
    let row = world.table(&format!("get pv {volume}"))?.remove(0);
    ensure!(
        row["STATUS"] == "Bound" && row["CLAIM"] == "claims/notes" && row["RECLAIM POLICY"] == "Delete",
        "{row:?}"
    );
    let described = world.type_in("describe pvc notes -n claims")?;
    ensure!(described.contains("ProvisioningSucceeded") && described.contains("Used By:"), "{described}");

    let node = world.json("get pod writer -n claims")?["spec"]["nodeName"].clone();
    let object = world.json(&format!("get pv {volume}"))?;
    let folder = object["spec"]["local"]["path"].as_str().context("the volume's folder")?;
    let folder = world.node(node.as_str().context("the pod's node")?)?.outside(folder)?;
    let page = folder.join("page");
    eventually("what the pod wrote is on its node's disk", SOON, || {
        let text = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
        ensure!(text == "kept\n", "{text:?}");
        Ok(())
    })?;

    // The pod goes and comes again: on the same node, with its data.
    world.type_in("delete pod writer -n claims")?;
    world.type_in(&format!("apply -n claims -f {}", manifest("claim.yaml")))?;
    world.type_in("wait pod/writer -n claims --for=condition=Ready --timeout=40s")?;
    ensure!(world.json("get pod writer -n claims")?["spec"]["nodeName"] == node, "it moved from {node}");
    eventually("both have written", SOON, || {
        let said = world.type_in("exec writer -n claims -- cat /notes/page")?;
        ensure!(said == "kept\nkept\n", "{said}");
        Ok(())
    })?;
    reader(world)?;

    // Who is used stays, and says so; then all of it goes.
    world.type_in("delete pvc notes -n claims --wait=false")?;
    let claim = world.table("get pvc -n claims")?.remove(0);
    ensure!(claim["STATUS"] == "Terminating", "{claim:?}");
    world.type_in("delete pod writer reader -n claims")?;
    world.type_in("wait pvc/notes -n claims --for=delete --timeout=40s")?;
    world.type_in(&format!("wait pv/{volume} --for=delete --timeout=40s"))?;
    ensure!(!folder.exists(), "{} is still there", folder.display());
    Ok(())
}

/// A claim that is made for a pod (`volumes[].ephemeral`) comes and goes with it, and is nobody else's.
pub fn own_ones_go_with_their_pod(world: &World) -> Result<()> {
    let _ns = world.namespace("own-claims")?;
    // Its name is taken by a claim that is not the pod's.
    let taken = r#"{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"scratch-space"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Mi"}}}}"#;
    world.kubectl().feed("apply -n own-claims -f -", taken)?;
    let said = world.type_in(&format!("apply -n own-claims -f {}", manifest("own-claim.yaml")))?;
    ensure!(said.contains("pod/scratch created") && !said.contains("Warning"), "{said}");
    let conflict =
        "PVC own-claims/scratch-space was not created for pod own-claims/scratch (pod is not owner)";
    eventually("the conflict is named", SOON, || {
        let said = world.type_in("describe pod scratch -n own-claims")?;
        ensure!(said.contains(&format!("ephemeral volume space: {conflict}")), "{said}");
        Ok(())
    })?;
    world.type_in("delete pvc scratch-space -n own-claims")?;
    world.type_in("wait pod/scratch -n own-claims --for=condition=Ready --timeout=40s")?;
    let claim = world.json("get pvc scratch-space -n own-claims")?;
    let owner = &claim["metadata"]["ownerReferences"][0];
    ensure!(owner["kind"] == "Pod" && owner["name"] == "scratch" && owner["controller"] == true, "{owner}");
    ensure!(claim["metadata"]["labels"]["purpose"] == "scratch", "{claim}");
    ensure!(claim["status"]["phase"] == "Bound", "{claim}");
    eventually("the pod writes to it", SOON, || {
        let said = world.type_in("exec scratch -n own-claims -- cat /scratch/page")?;
        ensure!(said == "written\n", "{said}");
        Ok(())
    })?;
    let volume = claim["spec"]["volumeName"].as_str().context("its volume")?;
    world.type_in("delete pod scratch -n own-claims")?;
    world.type_in("wait pvc/scratch-space -n own-claims --for=delete --timeout=40s")?;
    world.type_in(&format!("wait pv/{volume} --for=delete --timeout=40s"))?;
    Ok(())
}

/// A pod that only reads can't write.
fn reader(world: &World) -> Result<()> {
    world.type_in(&format!("apply -n claims -f {}", manifest("claim-reader.yaml")))?;
    world.type_in("wait pod/reader -n claims --for=condition=Ready --timeout=40s")?;
    let said = world.type_in("exec reader -n claims -- cat /notes/page")?;
    ensure!(said == "kept\nkept\n", "{said}");
    let mut command: Command = world.kubectl().command("exec reader -n claims -- touch /notes/other");
    let out = command.output().context("kubectl exec")?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success() && said.contains("Read-only file system"), "{said}");
    Ok(())
}
