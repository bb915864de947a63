//! The requests that make up a pod's wire: pure. Who is who:
//!
//! ```text
//!  pod's namespace                                    node's namespace
//!  eth0  10.244.1.5/32                    veth pair   skXXXXXXXXXX  (no address of its own)
//!  default via 169.254.1.1 onlink  ────────────────── 10.244.1.5/32 dev skXXXXXXXXXX src ROUTER
//!  169.254.1.1 → host side's MAC, permanent           10.244.1.5 → eth0's MAC, permanent
//! ```
//!
//! Both neighbours are permanent: nobody asks, so nobody can answer in another's name.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::RawFd,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage as Message,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use crate::netlink::Step;

/// What pods send everything to. No device has it.
pub const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// As [`GATEWAY_V4`].
pub const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

pub fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv6() { GATEWAY_V6 } else { GATEWAY_V4 }
}

/// A pod's wire, as it is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wire {
    pub host_ifname: String,
    pub host_mac: [u8; 6],
    pub pod_ifname: String,
    pub pod_mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// At most one of each family, with the router address of its range.
    pub addresses: Vec<(IpAddr, IpAddr)>,
}

/// The pair, down on both ends, its pod's end born in the namespace that `netns` is open on.
pub fn create(wire: &Wire, netns: RawFd) -> Step {
    let end = |name: &str, mac: [u8; 6]| {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(wire.mtu),
            LinkAttribute::Address(mac.to_vec()),
        ];
        link
    };
    let mut peer = end(&wire.pod_ifname, wire.pod_mac);
    peer.attributes.push(LinkAttribute::NetNsFd(netns));
    let mut link = end(&wire.host_ifname, wire.host_mac);
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    Step {
        what: format!("make the veth pair {} and {} in the pod", wire.host_ifname, wire.pod_ifname),
        message: Message::NewLink(link),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

/// Everything inside the pod, sent from its namespace: the end comes up here, but nothing passes until the
/// host's does.
pub fn pod_side(wire: &Wire, ifindex: u32) -> Vec<Step> {
    let name = format!("{} in the pod", wire.pod_ifname);
    let mut steps = vec![no_link_local(&name, ifindex), up(&name, ifindex)];
    for (address, _) in &wire.addresses {
        steps.push(add_address(&name, ifindex, *address));
        steps.push(neighbour(&name, ifindex, gateway(*address), wire.host_mac));
        steps.push(default_route(&name, ifindex, *address));
    }
    steps
}

/// Everything on the node but the routes, sent once the programs are attached: from here on packets pass.
pub fn host_side(wire: &Wire, ifindex: u32) -> Vec<Step> {
    let name = &wire.host_ifname;
    let neighbours = wire.addresses.iter().map(|(ip, _)| neighbour(name, ifindex, *ip, wire.pod_mac));
    [no_link_local(name, ifindex)].into_iter().chain(neighbours).chain([up(name, ifindex)]).collect()
}

/// The way to one of the pod's addresses. With `source` the node speaks to the pod as its router; that needs
/// the address to be on a device of the node.
pub fn host_route(wire: &Wire, ifindex: u32, address: IpAddr, source: Option<IpAddr>) -> Step {
    let mut route = route_message(address, full_length(address), RouteScope::Link);
    route.attributes = vec![RouteAttribute::Destination(address.into()), RouteAttribute::Oif(ifindex)];
    route.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    Step {
        what: format!("route {address} to {}", wire.host_ifname),
        message: Message::NewRoute(route),
        // A route of an earlier owner whose device is on its way out gives place.
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// Asks for a device by name.
pub fn get_link(name: &str) -> Step {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    Step { what: format!("ask about {name}"), message: Message::GetLink(link), flags: 0 }
}

/// Asks which way packets to an address go.
pub fn get_route(address: IpAddr) -> Step {
    let mut route = RouteMessage::default();
    route.header.address_family = family(address);
    route.header.destination_prefix_length = full_length(address);
    route.attributes = vec![RouteAttribute::Destination(address.into())];
    Step { what: format!("ask for the way to {address}"), message: Message::GetRoute(route), flags: 0 }
}

/// Removes the pair by its host side.
pub fn delete(name: &str) -> Step {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    Step { what: format!("delete {name}"), message: Message::DelLink(link), flags: 0 }
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv6() { 128 } else { 32 }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// No link-local address, so no duplicate detection, no router solicitation, no multicast reports.
fn no_link_local(name: &str, ifindex: u32) -> Step {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    link.attributes = vec![LinkAttribute::AfSpecUnspec(vec![inet6])];
    Step { what: format!("keep IPv6 quiet on {name}"), message: Message::SetLink(link), flags: 0 }
}

pub fn up(name: &str, ifindex: u32) -> Step {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    Step { what: format!("set {name} up"), message: Message::SetLink(link), flags: 0 }
}

fn add_address(name: &str, ifindex: u32, address: IpAddr) -> Step {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = full_length(address);
    message.header.index = ifindex;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    if address.is_ipv6() {
        // No other node can have it: it need not ask.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Step {
        what: format!("give {name} the address {address}"),
        message: Message::NewAddress(message),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

fn neighbour(name: &str, ifindex: u32, address: IpAddr, mac: [u8; 6]) -> Step {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(address.into()),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    Step {
        what: format!("tell {name} the hardware address of {address}"),
        message: Message::NewNeighbour(message),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
    }
}

fn default_route(name: &str, ifindex: u32, address: IpAddr) -> Step {
    let gateway = gateway(address);
    let mut route = route_message(address, 0, RouteScope::Universe);
    route.header.flags = RouteFlags::Onlink;
    route.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(ifindex)];
    Step {
        what: format!("route everything to {gateway} on {name}"),
        message: Message::NewRoute(route),
        flags: NLM_F_CREATE | NLM_F_EXCL,
    }
}

fn route_message(address: IpAddr, length: u8, scope: RouteScope) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family(address);
    route.header.destination_prefix_length = length;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = scope;
    route.header.kind = RouteType::Unicast;
    route
}
