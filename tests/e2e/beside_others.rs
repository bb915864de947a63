//! On a machine where Docker and another network plugin have been: what is in the way is named, and pods work
//! past it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skerry_lab::{Cluster, Lab, Node, cluster, containerd};
use skerry_tests::{eventually, manifest};

const SOON: Duration = Duration::from_secs(40);
/// As Docker leaves it.
const FORWARD_DROP: &str = "add table ip filter; \
     add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }";
/// Comes before ours in a folder's order.
const FOREIGN: &str = "/etc/cni/net.d/05-other.conflist";

pub fn names_what_is_in_the_way() -> Result<()> {
    let lab = Lab::for_test()?;
    let node = lab.node(cluster::SERVER)?;
    cluster::install(&node)?;
    node.start_containerd(&containerd::Options::default())?;
    node.sh(&format!("nft '{FORWARD_DROP}'"))?;
    let other = r#"{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"no-such-plugin"}]}"#;
    node.sh(&format!("mkdir -p /etc/cni/net.d && echo '{other}' > {FOREIGN}"))?;

    let cluster = Cluster::start(lab, &cluster::Options::default())?;
    said(&node, &["the FORWARD chain of iptables drops", "iptables -P FORWARD ACCEPT"])?;
    said(&node, &["another network configuration comes before ours", FOREIGN])?;
    node.sh(&format!("rm {FOREIGN}"))?;
    let kubectl = cluster.kubectl();
    kubectl.run(&format!("apply -f {}", manifest("load.yaml")))?;
    kubectl.run("rollout status deployment steady --timeout=60s")?;
    // From the node, from pod to pod through the service: none of it meets the chain.
    let ip = kubectl.run("get service steady -o jsonpath={.spec.clusterIP}")?;
    let port = kubectl.run("get service steady -o jsonpath={.spec.ports[0].port}")?;
    let url = format!("http://{}:{}/", ip.trim(), port.trim());
    node.sh(&format!("curl -sf --max-time 5 -o /dev/null {url}"))?;
    let rules = node.sh("nft list chain ip filter FORWARD")?;
    ensure!(rules.contains("policy drop"), "a rule of others was changed: {rules}");
    Ok(())
}

fn said(node: &Node, words: &[&str]) -> Result<()> {
    eventually("it is said", SOON, || {
        let log = node.logs().into_iter().find(|log| log.ends_with("skerry.log")).context("a log")?;
        let text = std::fs::read_to_string(log)?;
        for word in words {
            ensure!(text.contains(word), "no {word:?} in its log");
        }
        Ok(())
    })
}
