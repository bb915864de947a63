//! `skerry uninstall` on a namespace that stands for a machine: listed before and after.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use skerry_lab::{Cluster, Lab, Node, cluster, containerd, images};
use skerry_tests::{eventually, manifest};

const SOON: Duration = Duration::from_secs(40);

pub fn leaves_nothing() -> Result<()> {
    let lab = Lab::for_test()?;
    // The node as it is when a person comes with our programs: containerd runs, images are there.
    let node = lab.node(cluster::SERVER)?;
    cluster::install(&node)?;
    node.start_containerd(&containerd::Options::default())?;
    node.import(&images::walkthrough()?)?;
    eventually("the link-local address has settled", SOON, || {
        ensure!(!node.sh("ip -6 address")?.contains("tentative"), "still tentative");
        Ok(())
    })?;
    let before = listing(&node)?;
    let name = lab.name().to_owned();

    let cluster = Cluster::start(lab, &cluster::Options::default())?;
    cluster.kubectl().run(&format!("apply -f {}", manifest("load.yaml")))?;
    cluster.kubectl().run("rollout status deployment steady --timeout=40s")?;
    let during = listing(&node)?;
    ensure!(during.iter().any(|line| line.contains("skerry0")), "there was nothing to be removed");

    let mut daemon = node.daemon("skerry").context("skerry up runs")?;
    let uninstall = format!(
        "/opt/skerry/bin/skerry uninstall --cgroup-root {0} --cgroup-parent /{name}/{1}",
        node.cgroup().dir().display(),
        node.name()
    );
    let said = node.sh(&uninstall)?;
    daemon.wait(SOON).context("uninstall ends what runs")?;
    eventually("the machine is as it was", SOON, || {
        let after = listing(&node)?;
        let added: Vec<&String> = after.difference(&before).collect();
        let gone: Vec<&String> = before.difference(&after).collect();
        ensure!(added.is_empty() && gone.is_empty(), "left: {added:#?}\nlost: {gone:#?}\nit said: {said}");
        Ok(())
    })?;
    node.sh(&uninstall).context("a second time there is nothing to do")?;
    Ok(())
}

/// All that a program can leave on a machine, one thing a line.
fn listing(node: &Node) -> Result<BTreeSet<String>> {
    let name = node.cgroup().dir();
    let name = name.strip_prefix(skerry_lab::v2_mount()?)?.to_string_lossy().into_owned();
    let things = [
        "ip -o link | sed 's/^[0-9]*: //; s/ qlen .*//; s/@if[0-9]*//'",
        "ip -o address | sed 's/^[0-9]*: //; s/ valid_lft.*//'",
        "ip -4 route show table all; ip -6 route show table all | sed 's/ expires .*//'; ip rule; ip -6 rule",
        "ip -o neighbour show nud permanent",
        "nft list ruleset 2>/dev/null; iptables-legacy-save 2>/dev/null | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'",
        "tc filter show dev eth0 ingress; tc filter show dev eth0 egress; tc qdisc show dev eth0",
        "grep -r . /proc/sys/net/ipv4 /proc/sys/net/ipv6 /proc/sys/net/core 2>/dev/null | grep -v random",
        "find /sys/fs/bpf",
        "bpftool cgroup tree /sys/fs/cgroup/unified 2>/dev/null | grep -i skerry",
        // What containerd and its CNI library keep for themselves is their affair; containers are listed
        // below. The process id is the lab's note.
        "find /run /var/lib /var/log /opt /etc \\( -path '*/containerd/*' -o -path '/var/lib/cni*' \\) -prune -o -print \
         | grep -v '^/run/skerry.pid$'",
        "ctr -n k8s.io containers list -q",
        // Namespaces of other labs come and go.
        "cut -d' ' -f5 /proc/self/mountinfo | grep -v ^/run/netns/ | sort -u",
    ];
    let cgroups = format!("find /sys/fs/cgroup -path '*/{name}/*' -type d -not -path '*/{name}/system*'");
    let mut lines = BTreeSet::new();
    for thing in things.into_iter().chain([cgroups.as_str()]) {
        let text = node.sh(&format!("{{ {thing}; }} || true"))?;
        lines.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    Ok(lines)
}
