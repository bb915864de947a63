//! `skerry status` and `skerry kubeconfig` on the server node.

use std::fs;

use anyhow::{Result, ensure};
use skerry_lab::Kubectl;

use crate::world::World;

pub fn tell(world: &World) -> Result<()> {
    let server = world.node("master")?;
    let status = server.sh("/opt/skerry/bin/skerry status")?;
    for word in ["server", "node"] {
        ensure!(status.contains(word), "no {word} in {status}");
    }
    let text = server.sh("/opt/skerry/bin/skerry kubeconfig")?;
    let path = server.run_dir().join("printed.yaml");
    fs::write(&path, text)?;
    let nodes = Kubectl::new(path)?.run("get nodes -o name")?;
    ensure!(nodes.contains("node/master"), "{nodes}");
    let mode = server
        .sh("stat -c %a /var/lib/skerry/server/join-token /var/lib/skerry/server/kubeconfig/admin.yaml")?;
    ensure!(mode.lines().all(|mode| mode == "600"), "secrets are readable: {mode}");
    Ok(())
}
