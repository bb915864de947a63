use std::{net::IpAddr, ops::RangeInclusive};

use ipnetwork::IpNetwork;
use proxy_abi::{ABI_VERSION, Addr, Facts, Prefix, facts_flag};

use crate::{
    config::{Config, SocketLb},
    node::{network::Uplink, settings},
};

/// What changes while the agent runs, beside its configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found<'a> {
    pub uplink: Option<&'a Uplink>,
    pub overlay_index: u32,
    pub host_netns_cookie: u64,
    pub flow_queue: u32,
    /// `None`: our Node is not known yet; what the maps say stays.
    pub routers: Option<&'a [IpAddr]>,
    /// What ServiceCIDR objects say; none: what the configuration says. `None`: not known yet; what the maps
    /// say stays.
    pub service_ranges: Option<&'a [IpNetwork]>,
}

/// The single element of the `CONFIG` map. `before`: what stands there now.
pub(crate) fn facts(config: &Config, found: &Found<'_>, before: &Facts) -> Facts {
    let router = |is_v4: bool, kept: Addr| match found.routers {
        Some(routers) => {
            routers.iter().find(|ip| ip.is_ipv4() == is_v4).map_or(Addr::UNSPECIFIED, |ip| (*ip).into())
        }
        None => kept,
    };
    let service_ranges = match found.service_ranges {
        Some(ranges) if !ranges.is_empty() => prefixes(ranges),
        None if before.service_ranges[0].len != 0 => before.service_ranges,
        _ => prefixes(&config.service_cidrs),
    };
    let snat = config.snat_ports.clone().unwrap_or_else(|| default_snat_ports(&config.node_ports));
    let mut flags = 0;
    if config.masquerade {
        flags |= facts_flag::MASQUERADE;
    }
    if config.socket_lb == SocketLb::Host {
        flags |= facts_flag::PODS_BY_PACKET;
    }
    if found.overlay_index != 0 {
        flags |= facts_flag::TUNNEL;
    }
    Facts {
        abi_version: ABI_VERSION,
        flags,
        host_netns_cookie: found.host_netns_cookie,
        node_v4: found.uplink.and_then(|uplink| uplink.v4).map_or(Addr::UNSPECIFIED, Addr::from),
        node_v6: found.uplink.and_then(|uplink| uplink.v6).map_or(Addr::UNSPECIFIED, Addr::from),
        router_v4: router(true, before.router_v4),
        router_v6: router(false, before.router_v6),
        service_ranges,
        balancers: prefixes(&config.unwrap_from),
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
        flow_queue: found.flow_queue,
        reserved: [0; 2],
    }
}

/// As many as there is room for.
fn prefixes<const N: usize>(ranges: &[IpNetwork]) -> [Prefix; N] {
    let prefix = |range: &IpNetwork| {
        let (addr, len) = proxy_state::prefix(*range);
        Prefix { addr, len }
    };
    Prefix::list(&ranges.iter().map(prefix).collect::<Vec<_>>())
}

/// The kernel's own ephemeral ports where it does not say (its default).
const EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
/// Ports below may not be bound by everybody: answers to them look odd to firewalls.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Where SNAT takes its source ports from by default. A translated flow is told from the node's own by all
/// five numbers, so what counts is to stay off the ports that the kernel gives to sockets which dial out, and
/// off the NodePorts.
fn default_snat_ports(node_ports: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let text = settings::read("net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|number| number.parse::<u16>().ok());
    let ephemeral = match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) => first..=last,
        _ => EPHEMERAL,
    };
    largest_gap(&[node_ports.clone(), ephemeral])
}

/// The longest run of unprivileged ports outside the ranges.
fn largest_gap(taken: &[RangeInclusive<u16>]) -> RangeInclusive<u16> {
    let mut taken = taken.to_vec();
    taken.sort_by_key(|range| *range.start());
    let mut best = u16::MAX..=u16::MAX;
    let mut next = FIRST_UNPRIVILEGED;
    for range in taken.into_iter().chain([u16::MAX..=u16::MAX]) {
        let longest = best.end() - best.start();
        if range.start().checked_sub(next).is_some_and(|length| length > longest) {
            best = next..=range.start() - 1;
        }
        next = next.max(range.end().saturating_add(1));
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snat_ports_stay_off_node_ports_and_the_kernels_own() {
        assert_eq!(largest_gap(&[30_000..=32_767, 32_768..=60_999]), 1024..=29_999);
        assert_eq!(largest_gap(&[1024..=60_999, 30_000..=32_767]), 61_000..=65_534);
        assert_eq!(largest_gap(&[2000..=3000, 40_000..=50_000]), 3001..=39_999);
    }
}
