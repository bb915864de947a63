//! Nodes as flannel's VXLAN backend and the bridge plugin leave them (flannel's documentation, "Backends":
//! vxlan).

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use skerry_lab::{Netns, Node};

/// flannel's default: VNI 1 on the kernel's own port.
const VNI: u32 = 1;
const PORT: u16 = 8472;
/// 50 bytes of outer headers.
const MTU: u32 = 1450;
const PODS: &str = "10.245.0.0/16";

/// The one pod of the node with this number, from 1.
pub fn pod_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 245, node, 2)
}

/// # Errors
/// When a device, a route or a rule is refused.
pub fn set_up(nodes: &[Node; 2], pods: &[Netns; 2]) -> Result<()> {
    for (index, (node, pod)) in nodes.iter().zip(pods).enumerate() {
        let (own, other) = if index == 0 { (1, 2) } else { (2, 1) };
        let far = &nodes[1 - index];
        bridge(node, pod, own).with_context(|| format!("plug a pod into {}", node.name()))?;
        tunnel(node, far, own, other).with_context(|| format!("set up the tunnel of {}", node.name()))?;
        masquerade(node, own).with_context(|| format!("write the rules of {}", node.name()))?;
    }
    Ok(())
}

fn bridge(node: &Node, pod: &Netns, own: u8) -> Result<()> {
    let netns = node.netns();
    netns.ip(&format!("link add cni0 mtu {MTU} type bridge"))?;
    netns.ip(&format!("address add 10.245.{own}.1/24 dev cni0"))?;
    netns.ip("link set cni0 up")?;
    netns.ip(&format!("link add veth0 mtu {MTU} type veth peer name eth0 mtu {MTU} netns {}", pod.name()))?;
    netns.ip("link set veth0 master cni0")?;
    netns.ip("link set veth0 up")?;
    netns.sh("bridge link set dev veth0 hairpin on")?;
    pod.ip(&format!("address add {}/24 dev eth0", pod_address(own)))?;
    pod.ip("link set eth0 up")?;
    pod.ip(&format!("route add default via 10.245.{own}.1"))?;
    Ok(())
}

fn tunnel(node: &Node, far: &Node, own: u8, other: u8) -> Result<()> {
    let netns = node.netns();
    let (mac, far_mac) = (format!("02:f1:00:00:00:{own:02x}"), format!("02:f1:00:00:00:{other:02x}"));
    netns.ip(&format!(
        "link add flannel.1 address {mac} mtu {MTU} type vxlan id {VNI} dev eth0 local {} dstport {PORT} nolearning",
        node.ip()
    ))?;
    netns.ip(&format!("address add 10.245.{own}.0/32 dev flannel.1"))?;
    netns.ip("link set flannel.1 up")?;
    netns.ip(&format!("neigh add 10.245.{other}.0 lladdr {far_mac} dev flannel.1 nud permanent"))?;
    netns.sh(&format!("bridge fdb append {far_mac} dev flannel.1 dst {}", far.ip()))?;
    netns.ip(&format!("route add 10.245.{other}.0/24 via 10.245.{other}.0 dev flannel.1 onlink"))?;
    Ok(())
}

fn masquerade(node: &Node, own: u8) -> Result<()> {
    let rules = format!(
        "*nat\n:POSTROUTING ACCEPT [0:0]\n:FLANNEL-POSTRTG - [0:0]\n-A POSTROUTING -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN\n\
         -A FLANNEL-POSTRTG -s 10.245.{own}.0/24 -d {PODS} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {PODS} -d 10.245.{own}.0/24 -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s {PODS} -d 10.245.{own}.0/24 -j RETURN\n\
         -A FLANNEL-POSTRTG -s {PODS} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s {PODS} -d {PODS} -j MASQUERADE --random-fully\nCOMMIT\n\
         *filter\n:FORWARD ACCEPT [0:0]\n:FLANNEL-FWD - [0:0]\n-A FORWARD -j FLANNEL-FWD\n\
         -A FLANNEL-FWD -s {PODS} -j ACCEPT\n-A FLANNEL-FWD -d {PODS} -j ACCEPT\nCOMMIT\n"
    );
    let path = node.dir().join("opt/flannel.ipt");
    std::fs::write(&path, rules).with_context(|| format!("write {}", path.display()))?;
    node.sh("sysctl -qw net.ipv4.ip_forward=1")?;
    node.sh("iptables-legacy-restore < /opt/flannel.ipt").map(drop)
}
