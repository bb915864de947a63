use std::{net::IpAddr, ops::RangeInclusive};

use ipnetwork::IpNetwork;
use proxy_abi::{ABI_VERSION, Addr, Config as Facts, Prefix, config_flag};

use crate::{config::Config, network::Uplink, settings};

/// What changes while the agent runs, beside its configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found<'a> {
    pub uplink: Option<&'a Uplink>,
    pub overlay_index: u32,
    pub host_netns_cookie: u64,
    /// `None`: our Node is not known yet; what the maps say stays.
    pub routers: Option<&'a [IpAddr]>,
}

/// The single element of the `CONFIG` map. `before`: what stands there now.
pub(crate) fn facts(config: &Config, found: &Found<'_>, before: &Facts) -> Facts {
    let router = |is_v4: bool, kept: Addr| match found.routers {
        Some(routers) => {
            routers.iter().find(|ip| ip.is_ipv4() == is_v4).map_or(Addr::UNSPECIFIED, |ip| (*ip).into())
        }
        None => kept,
    };
    let service = |is_v4: bool| {
        let cidr = config.service_cidrs.iter().find(|cidr| cidr.is_ipv4() == is_v4);
        cidr.map_or(Prefix::default(), prefix)
    };
    let snat = config.snat_ports.clone().unwrap_or_else(above_ephemeral_ports);
    let mut flags = 0;
    if config.masquerade {
        flags |= config_flag::MASQUERADE;
    }
    if found.overlay_index != 0 {
        flags |= config_flag::TUNNEL;
    }
    Facts {
        abi_version: ABI_VERSION,
        flags,
        host_netns_cookie: found.host_netns_cookie,
        node_v4: found.uplink.and_then(|uplink| uplink.v4).map_or(Addr::UNSPECIFIED, Addr::from),
        node_v6: found.uplink.and_then(|uplink| uplink.v6).map_or(Addr::UNSPECIFIED, Addr::from),
        router_v4: router(true, before.router_v4),
        router_v6: router(false, before.router_v6),
        service_v4: service(true),
        service_v6: service(false),
        uplink_ifindex: found.uplink.map_or(0, |uplink| uplink.index),
        overlay_ifindex: found.overlay_index,
        vni: config.vni,
        pod_mtu: found.uplink.map_or(0, Uplink::pod_mtu),
        nodeport_min: *config.node_ports.start(),
        nodeport_max: *config.node_ports.end(),
        snat_min: *snat.start(),
        snat_max: *snat.end(),
        // As kube-proxy sets them for Linux' own connection table, where it does; else that table's defaults.
        tcp_syn_s: 60,
        tcp_established_s: 86_400,
        tcp_closing_s: 60,
        udp_s: 60,
        udp_stream_s: 180,
        icmp_s: 30,
        tunnel_port: config.vxlan_port,
        reserved: [0; 6],
    }
}

fn prefix(cidr: &IpNetwork) -> Prefix {
    let mapped_bits = if cidr.is_ipv4() { 96 } else { 0 };
    Prefix { addr: cidr.network().into(), len: mapped_bits + u32::from(cidr.prefix()) }
}

/// Too few ports for SNAT to work with.
const FEWEST_PORTS: u16 = 1024;

/// Ports that the kernel gives to no socket by itself, so that a masqueraded flow never meets a socket of the node.
fn above_ephemeral_ports() -> RangeInclusive<u16> {
    let last = settings::read("net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().nth(1)?.parse::<u16>().ok())
        .filter(|last| u16::MAX - last >= FEWEST_PORTS);
    match last {
        Some(last) => last + 1..=u16::MAX,
        None => 61_000..=u16::MAX,
    }
}
