//! The `loopback` plugin: sets `lo` up in a pod's namespace. One program answers for both types, so that a
//! runtime that asks for `loopback` beside the network's plugin (containerd before 2.0) needs nobody else's.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::PathBuf,
};

use netlink_packet_route::{RouteNetlinkMessage, link::LinkFlags};
use rscni_types::{
    error::Error as CniError,
    ipnet::IpNet,
    types::{self, CNIResult, Interface, IpConfig},
    version::SpecVersion,
};
use serde_json::Value;

use crate::{
    answer,
    conf::Conf,
    failure::Failure,
    netlink::{Netlink, NetlinkError},
    request::{Attachment, Request},
    veth,
};

const LO: &str = "lo";
/// The kernel makes `lo` first in every namespace.
const LO_INDEX: u32 = 1;

/// The device is the namespace's own: DEL leaves it to go with it, as a namespace that other containers share
/// must keep it.
pub fn answer(conf: &Conf, version: SpecVersion, request: &Request) -> Result<Option<Value>, Failure> {
    match request {
        Request::Add(attachment) => {
            let netns = in_pod(attachment, |netlink| netlink.run(&[veth::up(LO, LO_INDEX)]).map(drop))?;
            let result = match conf.previous()? {
                Some(previous) => Value::Object(previous.clone()),
                None => answer::encode(version, result(&netns))?,
            };
            Ok(Some(result))
        }
        Request::Check(attachment) => {
            let mut is_up = false;
            in_pod(attachment, |netlink| {
                let answers = netlink.run(&[veth::get_link(LO)])?;
                is_up = answers.into_iter().flatten().any(|message| {
                    matches!(message, RouteNetlinkMessage::NewLink(link) if link.header.flags.contains(LinkFlags::Up))
                });
                Ok(())
            })?;
            if is_up { Ok(None) } else { Err(Failure::Changed { what: vec!["lo is down".to_owned()] }) }
        }
        Request::Del(_) | Request::Gc | Request::Status | Request::Version => Ok(None),
    }
}

fn in_pod(
    attachment: &Attachment,
    work: impl FnOnce(&mut Netlink) -> Result<(), NetlinkError> + Send,
) -> Result<PathBuf, Failure> {
    let path = attachment.netns.clone().ok_or_else(|| CniError::missing_env(&[types::CNI_NETNS]))?;
    let netns = File::open(&path).map_err(|source| Failure::Netns { path: path.clone(), source })?;
    skerry_kernel::in_netns(netns.as_fd(), &path.display().to_string(), || work(&mut Netlink::open()?))??;
    Ok(path)
}

fn result(netns: &std::path::Path) -> CNIResult {
    let address = |address: IpAddr, length: u8| IpConfig {
        interface: Some(0),
        address: IpNet::new_assert(address, length),
        gateway: None,
    };
    CNIResult {
        interfaces: vec![Interface {
            name: LO.to_owned(),
            mac: crate::identity::mac_text([0; 6]),
            mtu: None,
            sandbox: Some(netns.display().to_string()),
            socket_path: None,
            pci_id: None,
        }],
        ips: vec![address(Ipv4Addr::LOCALHOST.into(), 8), address(Ipv6Addr::LOCALHOST.into(), 128)],
        routes: Vec::new(),
        dns: None,
    }
}
