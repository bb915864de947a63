//! The archive of `cargo xtask dist` on a machine that has containerd and nothing of ours.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use skerry_lab::{Lab, containerd, output, paths};
use skerry_tests::eventually;

const SOON: Duration = Duration::from_secs(40);
const SKERRY: &str = "/opt/local/bin/skerry";

pub fn an_archive_is_all_that_a_machine_needs() -> Result<()> {
    let lab = Lab::for_test()?;
    let machine = lab.node("machine")?;
    machine.start_containerd(&containerd::Options::default())?;
    // The node's own folder `opt` is its `/opt`.
    let folder = machine.dir().join("opt");
    fs::create_dir_all(&folder)?;
    output(Command::new(paths::binary("xtask")?).args(["dist", "--built", "--out"]).arg(&folder))?;
    let archives = fs::read_dir(&folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let archive = archives.into_iter().find(|name| name.ends_with(".tar.gz")).context("an archive")?;
    let name = archive.trim_end_matches(".tar.gz");
    ensure!(name.starts_with("skerry-") && name.ends_with(std::env::consts::ARCH), "{name}");

    machine.sh(&format!("cd /opt && tar -xzf {archive} && rm {archive}"))?;
    let refused = machine.sh(&format!("sh /opt/{name}/install.sh --pre 2>&1; test $? = 2"))?;
    ensure!(refused.contains("usage:"), "{refused}");
    let install = format!("sh /opt/{name}/install.sh --prefix /opt/local --units /opt/units");
    for _ in 0..2 {
        let said = machine.sh(&install)?;
        ensure!(said.contains("installed in /opt/local") && said.contains("skerry up"), "{said}");
    }
    let units = machine.sh("cat /opt/units/skerry.service /opt/units/skerry-node.service")?;
    for line in ["ExecStart=/opt/local/lib/skerry/skerry up", "ExecStart=/opt/local/lib/skerry/skerry node"] {
        ensure!(units.contains(line), "no {line} in {units}");
    }
    // Nothing of what runs is the archive's.
    machine.sh(&format!("rm -r /opt/{name}/bin"))?;

    let begun = Instant::now();
    let cgroup = machine.cgroup().dir();
    let args = ["up", "--cgroup-root", &cgroup.to_string_lossy()];
    let mut up = machine.spawn("skerry", SKERRY, &args)?;
    let ready = eventually("the node is Ready", SOON, || {
        ensure!(up.runs(), "it ended: {}", up.tail(30));
        ensure!(machine.sh(&format!("{SKERRY} status"))?.contains(" Ready"), "not yet: {}", up.tail(5));
        Ok(())
    });
    let plugin = machine.sh("test -x /opt/cni/bin/skerry-cni");
    let ended = up.stop(SOON)?;
    ready.and(plugin).with_context(|| format!("after {:?}", begun.elapsed()))?;
    ensure!(ended, "SIGTERM did not end it: {}", up.tail(30));

    machine.sh(&format!("{SKERRY} uninstall --cgroup-root {0}", cgroup.display()))?;
    machine.sh(&format!("{install} --remove"))?;
    let left = machine.sh("find /opt/local /opt/units -type f -o -type l")?;
    ensure!(left.trim().is_empty(), "left: {left}");
    Ok(())
}
