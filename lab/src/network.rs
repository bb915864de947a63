//! The underlay: a bridge in a namespace of its own; nodes, an outside client and the person's shell are
//! plugged in.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{Netns, command, netns, subnet::Subnet};

/// The last byte of the address of the person's end, which is also the nodes' default gateway.
pub const SHELL: u8 = 1;
/// The last byte of the outside client's address.
pub const CLIENT: u8 = 2;
/// The last byte of the first node's address.
pub const FIRST_NODE: u8 = 10;

pub(crate) fn bridge_netns(lab: &str) -> String {
    format!("{lab}-net")
}

pub(crate) fn client_netns(lab: &str) -> String {
    format!("{lab}-out")
}

/// Makes the bridge, the client's namespace and the person's end, where they aren't there yet.
pub(crate) fn underlay(lab: &str, subnet: Subnet) -> Result<()> {
    if ensure_netns(&bridge_netns(lab))? {
        ip(lab, "link add br0 type bridge forward_delay 0")?;
        ip(lab, "link set br0 up")?;
    }
    if ensure_netns(&client_netns(lab))? {
        plug(lab, &client_netns(lab), "client", subnet, CLIENT)?;
    }
    // The only thing outside of the lab's namespaces: one interface, and the route that its address brings.
    if command::run("ip", &["link", "show", lab]).is_err() {
        let netns = bridge_netns(lab);
        command::run("ip", &["link", "add", lab, "type", "veth", "peer", "name", "shell", "netns", &netns])?;
        ip(lab, "link set shell master br0 up")?;
        command::run("ip", &["address", "add", &format!("{}/24", subnet.host(SHELL)), "dev", lab])?;
        if has_ipv6() {
            let switch = format!("/proc/sys/net/ipv6/conf/{lab}/disable_ipv6");
            fs::write(&switch, "0").with_context(|| format!("write {switch}"))?;
            let address = format!("{}/64", subnet.host6(SHELL));
            command::run("ip", &["-6", "address", "add", &address, "dev", lab, "nodad"])?;
        }
        command::run("ip", &["link", "set", lab, "up"])?;
    }
    Ok(())
}

/// Gives `netns` an `eth0` with the subnet's addresses of this number, its other end on the bridge.
pub(crate) fn plug(lab: &str, netns: &str, port: &str, subnet: Subnet, number: u8) -> Result<()> {
    let bridge = bridge_netns(lab);
    let add = [
        "link", "add", "name", port, "netns", &bridge, "type", "veth", "peer", "name", "eth0", "netns", netns,
    ];
    command::run("ip", &add)?;
    ip(lab, &format!("link set dev {port} master br0 up"))?;
    let inside = Netns::existing(netns);
    inside.ip(&format!("address add {}/24 dev eth0", subnet.host(number)))?;
    if has_ipv6() {
        // No other can have it: duplicate address detection would only keep it back for a second.
        inside.ip(&format!("-6 address add {}/64 dev eth0 nodad", subnet.host6(number)))?;
    }
    inside.ip("link set eth0 up")?;
    inside.ip(&format!("route add default via {}", subnet.host(SHELL)))?;
    if has_ipv6() {
        inside.ip(&format!("-6 route add default via {} dev eth0", subnet.host6(SHELL)))?;
    }
    Ok(())
}

/// Whether this kernel speaks IPv6 at all.
fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").is_dir()
}

/// Pulls the plug of a node, or puts it in again.
pub(crate) fn link(lab: &str, port: &str, up: bool) -> Result<()> {
    ip(lab, &format!("link set dev {port} {}", if up { "up" } else { "down" }))
}

/// Removes what [`underlay`] made. Nothing there is fine.
pub(crate) fn remove(lab: &str) -> Result<()> {
    if command::run("ip", &["link", "show", lab]).is_ok() {
        command::run("ip", &["link", "del", lab])?;
    }
    for netns in [bridge_netns(lab), client_netns(lab)] {
        if Netns::existing(&netns).path().exists() {
            command::run("ip", &["netns", "del", &netns])?;
        }
    }
    Ok(())
}

/// Whether the namespace is new.
pub(crate) fn ensure_netns(name: &str) -> Result<bool> {
    let made = Netns::existing(name);
    if made.path().exists() {
        return Ok(false);
    }
    netns::add(name)?;
    made.ip("link set lo up")?;
    Ok(true)
}

fn ip(lab: &str, args: &str) -> Result<()> {
    Netns::existing(&bridge_netns(lab)).ip(args).map(drop).context("set up the lab's bridge")
}
