//! `skerry up` where it can't: one line that says what is in its way and what to do.

use std::{
    net::{TcpListener, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use skerry_lab::{Lab, Node, cluster, containerd};

const LIMIT: Duration = Duration::from_secs(20);

pub fn says_what_is_in_its_way() -> Result<()> {
    let lab = Lab::for_test()?;
    let node = lab.node("node1")?;
    cluster::install(&node)?;
    let says = |what: &str, words: &[&str], command: &mut Command| {
        let begun = Instant::now();
        let out = command.output().context("start skerry up")?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(!out.status.success(), "{what}: it went on: {said}");
        ensure!(begun.elapsed() < LIMIT, "{what}: it took {:?}", begun.elapsed());
        for word in words {
            ensure!(said.to_lowercase().contains(word), "{what}: no {word:?} in {said}");
        }
        ensure!(!said.contains("panicked"), "{what}: {said}");
        Ok(())
    };
    let up = |node: &Node| {
        node.command("timeout").map(|mut c| {
            let cgroup = node.cgroup().dir();
            c.args(["10", "/opt/skerry/bin/skerry", "up", "--cgroup-root"]).arg(cgroup);
            c
        })
    };
    says("without containerd", &["containerd"], &mut up(&node)?)?;
    node.start_containerd(&containerd::Options::default())?;

    let mut unprivileged = node.command("setpriv")?;
    unprivileged.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/opt/skerry/bin/skerry", "up"]);
    says("without root", &["root"], &mut unprivileged)?;

    let taken = node.netns().run(|| TcpListener::bind("0.0.0.0:6443")).context("enter the node")??;
    says("with a taken port", &["6443", "--bind"], &mut up(&node)?)?;
    drop(taken);

    node.sh("ip link add flannel.1 type vxlan id 1 dstport 4789 dev eth0 && ip link set flannel.1 up")?;
    says("with a foreign VXLAN device", &["flannel.1", "4789", "ip link del"], &mut up(&node)?)?;
    node.sh("ip link del flannel.1")?;
    let taken = node.netns().run(|| UdpSocket::bind("0.0.0.0:4789")).context("enter the node")??;
    says("with a taken VXLAN port", &["4789", "--vxlan-port"], &mut up(&node)?)?;
    drop(taken);

    node.sh("mkdir -p /var/lib/skerry && mount -t tmpfs -o size=8m full /var/lib/skerry")?;
    says("with a full disk", &["full", "8 mib free", "--data-dir"], &mut up(&node)?)?;
    node.sh("umount /var/lib/skerry")?;

    // The release is the kernel's word, which a mount of this one process's own hides.
    let mut old = node.command("unshare")?;
    let hidden = "echo 5.15.0-91-generic > /run/osrelease && mount --bind /run/osrelease /proc/sys/kernel/osrelease \
                  && exec timeout 10 /opt/skerry/bin/skerry up";
    old.args(["--mount", "sh", "-c", hidden]);
    says("on an old kernel", &["5.15.0-91-generic", "6.1"], &mut old)?;
    let left = node.sh("ls /var/lib/skerry /run/skerry /sys/fs/bpf; ip -br link")?;
    ensure!(!left.contains("server") && !left.contains("skerry0"), "what was refused left something: {left}");

    let cgroup = node.cgroup().dir();
    let args = ["up", "--cgroup-root", &cgroup.to_string_lossy()];
    let mut first = node.spawn("skerry", "/opt/skerry/bin/skerry", &args)?;
    let runs = skerry_tests::eventually("skerry up runs", LIMIT, || {
        ensure!(first.runs(), "it ended: {}", first.tail(20));
        node.sh("test -e /var/lib/skerry/server/join-token")
    });
    let second = says("with one instance running", &["already"], &mut up(&node)?);
    let stopped = first.stop(LIMIT)?;
    runs.and(second.map(|()| String::new()))?;
    ensure!(stopped, "SIGTERM did not end it; its log:\n{}", first.tail(30));
    Ok(())
}
