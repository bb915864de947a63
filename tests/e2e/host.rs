//! `cargo xtask up --host` on a namespace that stands for a machine: our own containerd beside the one that
//! is there.

use anyhow::{Context, Result, ensure};
use skerry_lab::{Lab, containerd, paths};

/// Where `--host` has its cluster's kubeconfig.
const KUBECONFIG: &str = "/var/lib/skerry/server/kubeconfig/admin.yaml";

pub fn runs_beside_what_is_there() -> Result<()> {
    let lab = Lab::for_test()?;
    let machine = lab.node("machine")?;
    machine.start_containerd(&containerd::Options::default())?;
    let theirs = machine.daemon("containerd").context("the machine's own containerd runs")?.pid();
    let cgroup = format!("{}/machine/host", lab.name());
    let root = machine.cgroup().dir();
    let xtask = |args: &[&str]| {
        let mut command = machine.command(paths::binary("xtask")?)?;
        command.args(args).args(["--host-cgroup", &cgroup]).arg("--host-cgroup-root").arg(&root);
        skerry_lab::output(&mut command)
    };
    let said = xtask(&["up", "--host", "--no-build"])?;
    ensure!(said.contains("the node is Ready") && said.contains(KUBECONFIG), "{said}");
    let kubectl = skerry_lab::kubectl::ensure()?;
    let kubectl = format!("{} --kubeconfig {KUBECONFIG}", kubectl.display());
    machine.sh(&format!("{kubectl} create deployment web --image=nginx -r 2"))?;
    machine.sh(&format!("{kubectl} rollout status deployment web --timeout=40s"))?;
    let again = xtask(&["up", "--host", "--no-build"])?;
    ensure!(again.contains("the node is Ready"), "{again}");
    machine.sh(&format!("{kubectl} get deployment web"))?;

    xtask(&["down", "--host"])?;
    xtask(&["uninstall"])?;
    let left = machine.sh("ip -br link; ls /var/lib /run; mount")?;
    ensure!(!left.contains("skerry0") && !left.contains("skerry-host"), "{left}");
    let now = machine.daemon("containerd").context("the machine's own containerd still runs")?.pid();
    ensure!(now == theirs, "the machine's own containerd was restarted");
    Ok(())
}
