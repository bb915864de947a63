mod address;
mod overlay;
mod routes;
mod ways_out;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::{
    address::AddressMessage,
    link::{InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
};
use rtnetlink::Handle;
use skerry_kernel::source_towards_outside;

use self::{
    address::Address,
    ways_out::{DeviceKind, ways_out},
};
pub(crate) use self::{
    routes::ROUTE_PROTOCOL,
    ways_out::{Device, reached},
};
use crate::{config::Config, node::monitor::is_pod_device};

/// Name of the VXLAN device.
pub(crate) const OVERLAY: &str = "skerry0";
/// IPv4, UDP, VXLAN and inner Ethernet headers; IPv6 takes 20 more.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;
/// What map `UPLINKS` holds beside the first.
const MOST_OTHERS: usize = 63;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("open a netlink socket")]
    Socket(#[source] std::io::Error),
    #[error("{operation}")]
    Netlink { operation: String, source: rtnetlink::Error },
    #[error("no device is called {0}: set --uplink to the device towards the other nodes")]
    NoDevice(String),
    #[error("no device holds the node's address {0}: set --node-ip to one of this machine's addresses")]
    NoSuchAddress(IpAddr),
    #[error("no default route: set --uplink or --node-ip to say how this node reaches the others")]
    NoDefaultRoute,
    #[error("device {0} has no address: give it one, or set --node-ip")]
    NoAddress(String),
    #[error(
        "UDP port {port} is taken by the VXLAN device {device} (another network plugin's?): remove it \
         (`ip link del {device}`) or set --vxlan-port"
    )]
    PortTaken { port: u16, device: String },
    #[error("UDP port {0}, the VXLAN port, is taken by a program (`ss -lunp`): end it or set --vxlan-port")]
    PortUsed(u16),
    #[error("a device called {OVERLAY} is there and is not ours: remove it (`ip link del {OVERLAY}`)")]
    ForeignDevice,
}

impl NetworkError {
    /// Whether a device, an address or a route may yet appear that is lacking.
    pub fn may_pass(&self) -> bool {
        use NetworkError::{NoAddress, NoDefaultRoute, NoDevice, NoSuchAddress};
        matches!(self, NoDevice(_) | NoSuchAddress(_) | NoDefaultRoute | NoAddress(_))
    }
}

fn failed(operation: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let operation = operation.into();
    move |source| NetworkError::Netlink { operation, source }
}

/// The device towards the other nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Uplink {
    pub name: String,
    pub index: u32,
    pub mtu: u32,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    /// Whether others reach us by IPv4: then the tunnel's outer header is of it.
    pub is_reached_by_v4: bool,
}

impl Uplink {
    /// What fits through the tunnel, inner IP header included.
    pub fn pod_mtu(&self) -> u32 {
        self.mtu.saturating_sub(if self.is_reached_by_v4 { OVERHEAD_V4 } else { OVERHEAD_V6 })
    }
}

/// Another device that leads out of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SideUplink {
    pub name: String,
    pub index: u32,
    pub v4: Option<IpAddr>,
    pub v6: Option<IpAddr>,
}

/// Whether the VXLAN device can have its port and its name, asked before anything is made.
///
/// # Errors
/// Who has them, and what to do.
pub async fn check_overlay(port: u16) -> Result<(), NetworkError> {
    if matches!(Network::open()?.find_overlay(port).await?, Some((_, true))) {
        return Ok(());
    }
    match std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
    {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(NetworkError::PortUsed(port)),
        _ => Ok(()),
    }
}

/// Devices, addresses and routes of the network namespace we run in.
#[derive(Clone)]
pub(crate) struct Network {
    handle: Handle,
}

impl Network {
    /// Must be called within a tokio runtime.
    pub fn open() -> Result<Network, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Socket)?;
        tokio::spawn(connection);
        Ok(Network { handle })
    }

    /// The device towards the other nodes and the node's addresses there: what the configuration says, and of
    /// what it doesn't say what the machine has at the moment.
    pub async fn find_uplink(&self, config: &Config) -> Result<Uplink, NetworkError> {
        let given = &config.node_ips;
        let addresses = self.addresses().await?;
        let is_here = |ip: &IpAddr| addresses.iter().any(|address| address.ip == *ip);
        if let Some(missing) = given.iter().find(|ip| !is_here(ip)) {
            return Err(NetworkError::NoSuchAddress(*missing));
        }
        let index = match (&config.uplink, given.first()) {
            (Some(name), _) => self.link_by_name(name).await?.header.index,
            (None, Some(ip)) => {
                addresses.iter().find(|a| a.ip == *ip).ok_or(NetworkError::NoSuchAddress(*ip))?.index
            }
            (None, None) => {
                routes::default_device(&self.routes().await?).ok_or(NetworkError::NoDefaultRoute)?
            }
        };
        let link = self.links().await?.into_iter().find(|link| link.header.index == index);
        let link = link.ok_or_else(|| NetworkError::NoDevice(format!("#{index}")))?;
        let name = name_of(&link).unwrap_or_default();
        // Those that stay before those that will change or go.
        let mut here: Vec<&Address> = addresses.iter().filter(|a| a.index == index && a.is_global).collect();
        here.sort_by_key(|address| !address.is_lasting);
        // What the kernel itself speaks from, as whoever else looks for the node's address asks it.
        let spoken_from = [true, false].into_iter().filter_map(source_towards_outside).filter(|ip| {
            given.is_empty()
                && addresses
                    .iter()
                    .any(|a| a.ip == *ip && a.is_global && (a.index == index || config.uplink.is_none()))
        });
        // The given addresses first: a device may have several of one family.
        let candidates: Vec<IpAddr> =
            given.iter().copied().chain(spoken_from).chain(here.iter().map(|address| address.ip)).collect();
        let v4 = candidates.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None });
        let v6 = candidates.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None });
        if v4.is_none() && v6.is_none() {
            return Err(NetworkError::NoAddress(name));
        }
        let mtu = link
            .attributes
            .iter()
            .find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None });
        // The node is known by addresses of the cluster's families.
        let speaks_v4 = match given.is_empty() {
            true => config.cluster_cidrs.is_empty() || config.cluster_cidrs.iter().any(IpNetwork::is_ipv4),
            false => given.iter().any(IpAddr::is_ipv4),
        };
        let is_reached_by_v4 = v4.is_some() && speaks_v4;
        Ok(Uplink { name, index, mtu: mtu.unwrap_or(1500), v4, v6, is_reached_by_v4 })
    }

    /// All devices of the node.
    pub async fn devices(&self) -> Result<Vec<Device>, NetworkError> {
        let (links, addresses) = (self.links().await?, self.addresses().await?);
        let (with_default, routed) = routes::routed(&self.routes().await?);
        let device = |link: &LinkMessage| {
            let (index, name) = (link.header.index, name_of(link)?);
            let mut here: Vec<&Address> =
                addresses.iter().filter(|a| a.index == index && a.is_global).collect();
            here.sort_by_key(|address| !address.is_lasting);
            Some(Device {
                index,
                kind: kind_of(link, &name),
                name,
                addresses: here.iter().map(|address| address.ip).collect(),
                has_default_route: with_default.contains(&index),
                is_routed: routed.contains(&index),
            })
        };
        Ok(links.iter().filter_map(device).collect())
    }

    /// Devices beside `first` that lead out, too ([`ways_out`]). Named ones that are not there come later.
    pub async fn other_uplinks(
        &self,
        first: u32,
        named: Option<&[String]>,
        pods: &[IpNetwork],
    ) -> Result<Vec<SideUplink>, NetworkError> {
        let devices = self.devices().await?;
        let mut others = ways_out(&devices, first, named, pods);
        if others.len() > MOST_OTHERS {
            let left_out: Vec<&str> = others.drain(MOST_OTHERS..).map(|device| &*device.name).collect();
            tracing::warn!(
                ?left_out,
                "more than {MOST_OTHERS} ways out: these are not served; name some by --other-uplinks"
            );
        }
        let side = |device: &&Device| SideUplink {
            name: device.name.clone(),
            index: device.index,
            v4: device.first(true),
            v6: device.first(false),
        };
        Ok(others.iter().map(side).collect())
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, NetworkError> {
        self.handle.link().get().execute().try_collect().await.map_err(failed("list devices"))
    }

    async fn link_by_name(&self, name: &str) -> Result<LinkMessage, NetworkError> {
        let links = self.links().await?;
        let named = links.into_iter().find(|link| name_of(link).as_deref() == Some(name));
        named.ok_or_else(|| NetworkError::NoDevice(name.to_owned()))
    }

    async fn addresses(&self) -> Result<Vec<Address>, NetworkError> {
        let all: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed("list addresses"))?;
        Ok(all.into_iter().filter_map(Address::new).collect())
    }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.clone()) } else { None })
}

fn kind_of(link: &LinkMessage, name: &str) -> DeviceKind {
    let infos = link
        .attributes
        .iter()
        .find_map(|a| if let LinkAttribute::LinkInfo(infos) = a { Some(infos.as_slice()) } else { None })
        .unwrap_or_default();
    let has = |wanted: &[LinkInfo]| infos.iter().any(|info| wanted.contains(info));
    let is_port = link.attributes.iter().any(|a| matches!(a, LinkAttribute::Controller(_)))
        && !has(&[LinkInfo::PortKind(InfoPortKind::Vrf)]);
    if name == OVERLAY || is_pod_device(name) {
        DeviceKind::Ours
    } else if link.header.flags.contains(LinkFlags::Loopback) || has(&[LinkInfo::Kind(InfoKind::Dummy)]) {
        DeviceKind::Inner
    } else if link.header.link_layer_type != LinkLayerType::Ether {
        DeviceKind::Frameless
    } else if is_port {
        DeviceKind::Port
    } else {
        DeviceKind::Ethernet
    }
}
