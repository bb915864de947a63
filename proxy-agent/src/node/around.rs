//! What is around the node: the devices that lead out, its own addresses, and what others may not take away.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use proxy_abi::{Addr, Uplink as WayOut, endpoint_flag};
use proxy_state::{Bounds, Kept, NodeTables, router_address};
use skerry_kernel::Update;

use super::{Node, NodeError, network::reached};

impl Node {
    /// What Nodes may not take away: this node's own addresses, its gateways, the way to the API server,
    /// routes of others.
    pub async fn bounds(&self, claimed: &HashSet<IpNetwork>) -> Result<Bounds, NodeError> {
        let around = self.network.surroundings(claimed).await?;
        let ways_out = self.ways_out();
        let gateways = around.gateways.iter().filter(|(_, device)| ways_out.contains(device));
        let mut kept: BTreeMap<Addr, Kept> =
            gateways.map(|(ip, _)| (Addr::from(*ip), Kept::Gateway)).collect();
        kept.extend(self.servers.iter().map(|ip| (Addr::from(*ip), Kept::ApiServer)));
        let first = [self.uplink.v4.map(IpAddr::from), self.uplink.v6.map(IpAddr::from)];
        let others = self.others.iter().flat_map(|other| [other.v4, other.v6]);
        kept.extend(first.into_iter().chain(others).flatten().map(|ip| (Addr::from(ip), Kept::Own)));
        Ok(Bounds { cluster: self.config.cluster_cidrs.clone(), kept, routes: around.destinations })
    }

    fn ways_out(&self) -> Vec<u32> {
        [self.uplink.index].into_iter().chain(self.others.iter().map(|other| other.index)).collect()
    }

    /// The devices that lead out, for the programs. One that is gone goes.
    pub(super) fn write_ways_out(&self) -> Result<(), NodeError> {
        let address = |ip: Option<IpAddr>| ip.map_or(Addr::UNSPECIFIED, Addr::from);
        let first = WayOut {
            v4: self.uplink.v4.map_or(Addr::UNSPECIFIED, Addr::from),
            v6: self.uplink.v6.map_or(Addr::UNSPECIFIED, Addr::from),
        };
        let others = self.others.iter().map(|o| (o.index, WayOut { v4: address(o.v4), v6: address(o.v6) }));
        let wanted: BTreeMap<u32, WayOut> = others.chain([(self.uplink.index, first)]).collect();
        let now: BTreeMap<u32, WayOut> =
            self.uplinks.entries().map_err(NodeError::Uplinks)?.into_iter().collect();
        for (index, way) in wanted.iter().filter(|(index, way)| now.get(index) != Some(way)) {
            self.uplinks.update(index, way, Update::Any).map_err(NodeError::Uplinks)?;
        }
        for index in now.keys().filter(|index| !wanted.contains_key(index)) {
            self.uplinks.delete(index).map_err(NodeError::Uplinks)?;
        }
        Ok(())
    }

    /// The addresses that this node answers on, for the `ENDPOINTS` map.
    pub async fn own_addresses(&self, tables: Option<&NodeTables>) -> Result<Vec<(Addr, u16)>, NodeError> {
        let (devices, ways_out) = (self.network.devices().await?, self.ways_out());
        let chosen = &self.config.node_port_addresses;
        let own = reached(&devices, &ways_out).chain(served_loopback(chosen).map(|ip| (ip, true)));
        let own = own.map(|(ip, is_reached)| (ip.into(), own_flags(ip, is_reached, chosen)));
        let routers = tables.into_iter().flat_map(|tables| &tables.own).map(router_address);
        Ok(own.chain(routers.map(|ip| (ip.into(), endpoint_flag::ROUTER))).collect())
    }
}

/// What an address of the node is to the programs. `is_reached`: packets come to it by the ways out.
fn own_flags(ip: IpAddr, is_reached: bool, node_port_addresses: &[IpNetwork]) -> u16 {
    let is_chosen =
        node_port_addresses.is_empty() || node_port_addresses.iter().any(|cidr| cidr.contains(ip));
    let serves = is_reached && is_chosen;
    endpoint_flag::NODE | if serves { endpoint_flag::NODE_PORT } else { 0 }
}

/// The loopback addresses that NodePorts are served on: where a chosen range lies within the loopback. One
/// that merely covers it (`0.0.0.0/0`) does not ask for that.
fn served_loopback(node_port_addresses: &[IpNetwork]) -> impl Iterator<Item = IpAddr> {
    [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].into_iter().filter(|ip| {
        node_port_addresses.iter().any(|cidr| cidr.network().is_loopback() && cidr.contains(*ip))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ports_are_served_on_localhost_where_a_range_of_it_is_named() {
        let served = |cidrs: &[&str]| {
            let cidrs: Vec<IpNetwork> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
            served_loopback(&cidrs).map(|ip| ip.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(served(&["127.0.0.0/8"]), ["127.0.0.1"]);
        assert_eq!(served(&["192.168.0.0/16", "127.0.0.1/32", "::1/128"]), ["127.0.0.1", "::1"]);
        assert!(served(&[]).is_empty() && served(&["0.0.0.0/0", "::/0", "127.5.0.0/16"]).is_empty());
    }

    #[test]
    fn node_ports_are_served_on_chosen_addresses() {
        let cidrs = ["192.168.50.0/24".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        let serves = |ip: &str, cidrs: &[IpNetwork]| {
            own_flags(ip.parse().unwrap(), true, cidrs) & endpoint_flag::NODE_PORT != 0
        };
        assert!(serves("192.168.50.1", &cidrs) && serves("2001:db8::7", &cidrs) && serves("10.0.0.1", &[]));
        assert!(!serves("10.0.0.1", &cidrs) && !serves("2001:db8:1::7", &cidrs));
        assert_eq!(own_flags("10.0.0.1".parse().unwrap(), false, &[]), endpoint_flag::NODE);
    }
}
