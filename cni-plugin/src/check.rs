//! CHECK: compares what ADD made with what is there. What other plugins added is none of our business.

use std::{collections::HashSet, fs::File, net::IpAddr, os::fd::AsFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAttribute, RouteMessage},
};
use rscni_types::{error::Error as CniError, types};
use serde_json::{Map, Value};

use crate::{
    conf::{Conf, parse_mac},
    datapath::{Datapath, Entry},
    failure::Failure,
    identity,
    netlink::{Netlink, NetlinkError},
    request::Attachment,
    state::{Record, Store},
    veth::{self, gateway},
};

pub fn check(conf: &Conf, request: &Attachment) -> Result<(), Failure> {
    let previous = conf.previous()?.ok_or_else(|| {
        CniError::InvalidNetworkConfig("field \"prevResult\" is missing: CHECK compares with it".into())
    })?;
    let key = identity::key(&request.container_id, &request.ifname);
    let store = Store::existing(&conf.state_dir()?, &conf.boot_id_file()?)?;
    let record = match &store {
        Some(store) => store.find(&key)?.and_then(|claim| claim.record),
        None => None,
    };
    let (Some(store), Some(record)) = (store, record) else {
        return Err(
            CniError::NotExist(format!("nothing is known of {key}: it was not added since boot")).into()
        );
    };
    let mac = parse_mac(&record.mac).unwrap_or_default();
    let mut found = differences_of_result(previous, &record);
    found.extend(
        record
            .addresses
            .iter()
            .filter(|address| !store.owns(&key, **address))
            .map(|address| format!("address {address} is written down as another pod's")),
    );

    let path = request.netns.clone().ok_or_else(|| CniError::missing_env(&[types::CNI_NETNS]))?;
    let netns = File::open(&path).map_err(|source| Failure::Netns { path: path.clone(), source })?;
    found.extend(skerry_kernel::in_netns(netns.as_fd(), &path.display().to_string(), || {
        differences_in_pod(&request.ifname, mac, &record.addresses)
    })??);
    found.extend(differences_on_host(&record)?);
    if found.is_empty() {
        let entry = Entry {
            ifindex: record.host_ifindex,
            mac,
            addresses: record.addresses.clone(),
            left_out: record.left_out,
        };
        let datapath = Datapath::open(&conf.pin_root()?)?;
        found.extend(datapath.differences(conf.hooks()?, &entry, &record.host_ifname)?);
    }
    if found.is_empty() { Ok(()) } else { Err(Failure::Changed { what: found }) }
}

/// The runtime must be talking about the same addresses and devices.
fn differences_of_result(previous: &Map<String, Value>, record: &Record) -> Vec<String> {
    let list = |name: &str| previous.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let told: HashSet<IpAddr> = list("ips")
        .iter()
        .filter_map(|ip| ip.get("address")?.as_str()?.split('/').next()?.parse().ok())
        .collect();
    let mut found: Vec<String> = record
        .addresses
        .iter()
        .filter(|address| !told.contains(address))
        .map(|address| format!("prevResult does not hold the address {address}"))
        .collect();
    if !list("interfaces").iter().any(|i| i.get("name").and_then(Value::as_str) == Some(&record.ifname)) {
        found.push(format!("prevResult does not hold the interface {}", record.ifname));
    }
    found
}

fn differences_in_pod(ifname: &str, mac: [u8; 6], addresses: &[IpAddr]) -> Result<Vec<String>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let Some(link) = find_link(&mut netlink, ifname)? else {
        return Ok(vec![format!("{ifname} is not in the pod")]);
    };
    let mut found = differences_of_link(&link, &format!("{ifname} in the pod"), Some(mac));
    let index = link.header.index;
    let there: HashSet<IpAddr> = netlink
        .dump("list the pod's addresses", RouteNetlinkMessage::GetAddress(AddressMessage::default()))?
        .into_iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(a) if a.header.index == index => Some(a.attributes),
            _ => None,
        })
        .flatten()
        .filter_map(|attribute| match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(address),
            _ => None,
        })
        .collect();
    let routes =
        netlink.dump("list the pod's routes", RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
    for address in addresses {
        if !there.contains(address) {
            found.push(format!("{ifname} in the pod has lost the address {address}"));
        }
        let via = RouteAttribute::Gateway(gateway(*address).into());
        let is_default = |route: &RouteMessage| {
            route.header.destination_prefix_length == 0
                && route.attributes.contains(&via)
                && route.attributes.contains(&RouteAttribute::Oif(index))
        };
        if !has_route(&routes, is_default) {
            found.push(format!("the pod has no default route to {}", gateway(*address)));
        }
    }
    Ok(found)
}

fn differences_on_host(record: &Record) -> Result<Vec<String>, NetlinkError> {
    let mut netlink = Netlink::open()?;
    let Some(link) = find_link(&mut netlink, &record.host_ifname)? else {
        return Ok(vec![format!("{} is gone", record.host_ifname)]);
    };
    let mut found = differences_of_link(&link, &record.host_ifname, None);
    let routes =
        netlink.dump("list the node's routes", RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
    for address in &record.addresses {
        let to = RouteAttribute::Destination((*address).into());
        let is_the_pods = |route: &RouteMessage| {
            route.attributes.contains(&to)
                && route.attributes.contains(&RouteAttribute::Oif(link.header.index))
                && matches!(route.header.destination_prefix_length, 32 | 128)
        };
        if !has_route(&routes, is_the_pods) {
            found.push(format!("the node has no route for {address} to {}", record.host_ifname));
        }
    }
    Ok(found)
}

fn find_link(netlink: &mut Netlink, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
    match netlink.run(&[veth::get_link(name)]) {
        Ok(answers) => Ok(answers.into_iter().flatten().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })),
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn differences_of_link(link: &LinkMessage, name: &str, mac: Option<[u8; 6]>) -> Vec<String> {
    let mut found = Vec::new();
    if !link.header.flags.contains(LinkFlags::Up) {
        found.push(format!("{name} is down"));
    }
    if let Some(mac) = mac
        && !link.attributes.contains(&LinkAttribute::Address(mac.to_vec()))
    {
        found.push(format!("{name} has another hardware address than {}", identity::mac_text(mac)));
    }
    found
}

fn has_route(routes: &[RouteNetlinkMessage], fits: impl Fn(&RouteMessage) -> bool) -> bool {
    routes.iter().any(|message| matches!(message, RouteNetlinkMessage::NewRoute(route) if fits(route)))
}
