//! Routes: ours through the overlay, and what others' say of the node's surroundings.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
};
use rtnetlink::RouteMessageBuilder;

use super::{Network, NetworkError, OVERLAY, failed};

/// What the kernel says of a route that is there already.
const EEXIST: i32 = 17;
/// Marks our routes (`ip route show proto 115`), so that only they are ever removed.
pub(crate) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(115);

/// What routes say that are not ours.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Surroundings {
    /// Gateways, by the devices that they are reached on.
    pub gateways: BTreeMap<IpAddr, u32>,
    /// Where they lead to.
    pub destinations: BTreeSet<IpNetwork>,
}

impl Network {
    /// Looks at the routes of others; `claimed`: destinations that matter.
    pub async fn surroundings(&self, claimed: &HashSet<IpNetwork>) -> Result<Surroundings, NetworkError> {
        let overlay = self.overlay_index().await?;
        let mut found = Surroundings::default();
        for route in self.routes().await?.iter().filter(|route| route.header.kind == RouteType::Unicast) {
            if overlay.is_some() && is_ours(route) && device_of(route) == overlay {
                continue;
            }
            found.gateways.extend(gateways_of(route));
            let destination = destination_of(route).filter(|to| is_main(route) && claimed.contains(to));
            found.destinations.extend(destination);
        }
        Ok(found)
    }

    /// Makes the routes through the overlay exactly these. Routes of others are left as they are: returns the
    /// destinations that they lead to meanwhile.
    pub async fn set_overlay_routes(
        &self,
        index: u32,
        wanted: &BTreeSet<IpNetwork>,
        routers: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpNetwork>, NetworkError> {
        let source = |cidr: &IpNetwork| routers.iter().find(|ip| ip.is_ipv4() == cidr.is_ipv4()).copied();
        let mut there = BTreeSet::new();
        for route in self.routes().await? {
            if !is_ours(&route) || device_of(&route) != Some(index) {
                continue;
            }
            let Some(cidr) = destination_of(&route) else { continue };
            if wanted.contains(&cidr) && source_of(&route) == source(&cidr) {
                there.insert(cidr);
            } else {
                let delete = format!("remove the route to {cidr}");
                self.handle.route().del(route).execute().await.map_err(failed(delete))?;
            }
        }
        let mut in_the_way = Vec::new();
        for cidr in wanted.difference(&there) {
            let mut route = RouteMessageBuilder::<IpAddr>::new();
            route = route.output_interface(index).protocol(ROUTE_PROTOCOL);
            let add = format!("add a route to {cidr} through {OVERLAY}");
            let invalid =
                |_| NetworkError::Netlink { operation: add.clone(), source: rtnetlink::Error::RequestFailed };
            route = route.destination_prefix(cidr.network(), cidr.prefix()).map_err(invalid)?;
            if let Some(source) = source(cidr) {
                route = route.pref_source(source).map_err(invalid)?;
            }
            match self.handle.route().add(route.build()).execute().await {
                Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -EEXIST => {
                    in_the_way.push(*cidr);
                }
                done => done.map_err(failed(add))?,
            }
        }
        Ok(in_the_way)
    }

    pub(super) async fn routes(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            let found: Vec<_> =
                self.handle.route().get(ask).execute().try_collect().await.map_err(failed("list routes"))?;
            routes.extend(found);
        }
        Ok(routes)
    }
}

/// The device of the default route with the lowest metric, IPv4 first.
pub(super) fn default_device(routes: &[RouteMessage]) -> Option<u32> {
    let metric = |route: &RouteMessage| {
        route
            .attributes
            .iter()
            .find_map(|a| if let RouteAttribute::Priority(p) = a { Some(*p) } else { None })
    };
    let best = routes
        .iter()
        .filter(|route| is_default(route))
        .min_by_key(|route| (route.header.address_family != AddressFamily::Inet, metric(route)));
    best.and_then(|route| devices_of(route).next())
}

/// Devices with a default route, and those that anything beyond a single host is routed to.
pub(super) fn routed(routes: &[RouteMessage]) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let of = |fits: &dyn Fn(&RouteMessage) -> bool| {
        routes.iter().filter(|route| fits(route)).flat_map(devices_of).collect()
    };
    let leads_on = |route: &RouteMessage| {
        is_main(route)
            && route.header.kind == RouteType::Unicast
            && destination_of(route).is_none_or(|to| !is_of_link(&to) && !is_host(&to))
    };
    (of(&is_default), of(&leads_on))
}

fn is_main(route: &RouteMessage) -> bool {
    route.header.table == RouteHeader::RT_TABLE_MAIN
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && is_main(route) && devices_of(route).next().is_some()
}

fn is_ours(route: &RouteMessage) -> bool {
    route.header.protocol == ROUTE_PROTOCOL
}

/// Every link has these by itself.
fn is_of_link(to: &IpNetwork) -> bool {
    match to.network() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast(),
    }
}

fn is_host(to: &IpNetwork) -> bool {
    to.prefix() == if to.is_ipv4() { 32 } else { 128 }
}

pub(super) fn device_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
}

/// One route may have several ways.
fn devices_of(route: &RouteMessage) -> impl Iterator<Item = u32> {
    let ways = route.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::MultiPath(ways) => ways.iter().map(|way| way.interface_index).collect(),
        RouteAttribute::Oif(index) => vec![*index],
        _ => Vec::new(),
    });
    ways.collect::<Vec<u32>>().into_iter()
}

fn gateways_of(route: &RouteMessage) -> Vec<(IpAddr, u32)> {
    let gateway = |attributes: &[RouteAttribute]| {
        attributes.iter().find_map(|a| if let RouteAttribute::Gateway(ip) = a { address(ip) } else { None })
    };
    let mut found: Vec<(IpAddr, u32)> =
        gateway(&route.attributes).zip(device_of(route)).into_iter().collect();
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(ways) = attribute {
            found
                .extend(ways.iter().filter_map(|way| Some((gateway(&way.attributes)?, way.interface_index))));
        }
    }
    found
}

fn destination_of(route: &RouteMessage) -> Option<IpNetwork> {
    let to = route.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(to) => address(to),
        _ => None,
    })?;
    IpNetwork::new(to, route.header.destination_prefix_length).ok()
}

fn source_of(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(from) => address(from),
        _ => None,
    })
}

fn address(of: &RouteAddress) -> Option<IpAddr> {
    match of {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
