//! The VXLAN device: made, kept whole, given its addresses, removed.

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use proxy_abi::OVERLAY_DEV_MAC;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::{Network, NetworkError, OVERLAY, address::Address, failed, name_of};

impl Network {
    /// Index of a device by the overlay's name.
    pub(super) async fn overlay_index(&self) -> Result<Option<u32>, NetworkError> {
        let links = self.links().await?;
        let overlay = links.iter().find(|link| name_of(link).as_deref() == Some(OVERLAY));
        Ok(overlay.map(|link| link.header.index))
    }

    /// Makes the VXLAN device, or takes up the one that is there, and returns its index. It learns nothing
    /// and has no fixed peer: the programs give each packet its outer destination (collect metadata).
    pub async fn ensure_overlay(&self, port: u16, mtu: u32) -> Result<u32, NetworkError> {
        match self.find_overlay(port).await? {
            Some((index, false)) => {
                let delete = format!("remove {OVERLAY}, which has another port");
                self.handle.link().del(index).execute().await.map_err(failed(delete))?;
                self.add_overlay(port, mtu).await?;
            }
            Some((_, true)) => {}
            None => self.add_overlay(port, mtu).await?,
        }
        let link = self.link_by_name(OVERLAY).await?;
        let index = link.header.index;
        // Setting what is set already would make the kernel tell everyone of a change.
        if !is_overlay_whole(&link, mtu) {
            let set =
                LinkUnspec::new_with_index(index).address(OVERLAY_DEV_MAC.to_vec()).mtu(mtu).arp(false).up();
            self.handle
                .link()
                .set(set.build())
                .execute()
                .await
                .map_err(failed(format!("set up {OVERLAY}")))?;
        }
        Ok(index)
    }

    /// Index of the overlay that is there, and whether it has this port.
    ///
    /// # Errors
    /// When a device of others has its port or its name.
    pub(super) async fn find_overlay(&self, port: u16) -> Result<Option<(u32, bool)>, NetworkError> {
        let mut ours = None;
        for link in self.links().await? {
            let name = name_of(&link).unwrap_or_default();
            match vxlan_of(&link) {
                None if name == OVERLAY => return Err(NetworkError::ForeignDevice),
                Some(vxlan) if name == OVERLAY => ours = Some((link.header.index, vxlan == (port, true))),
                Some((other, _)) if other == port => {
                    return Err(NetworkError::PortTaken { port, device: name });
                }
                _ => {}
            }
        }
        Ok(ours)
    }

    async fn add_overlay(&self, port: u16, mtu: u32) -> Result<(), NetworkError> {
        let message = overlay_message(port, mtu);
        match self.handle.link().add(message).execute().await {
            // The device of another that is not a VXLAN one in our eyes, or in the kernel's books still.
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -17 => {
                Err(NetworkError::PortTaken { port, device: "?".to_owned() })
            }
            other => other.map_err(failed(format!("add VXLAN device {OVERLAY}"))),
        }
    }

    /// Gives the overlay exactly these addresses, each alone in its prefix.
    pub async fn set_overlay_addresses(
        &self,
        index: u32,
        wanted: &BTreeSet<IpAddr>,
    ) -> Result<(), NetworkError> {
        let addresses = self.addresses().await?;
        let here: Vec<&Address> = addresses.iter().filter(|a| a.index == index).collect();
        for ip in wanted.iter().filter(|ip| !here.iter().any(|a| a.ip == **ip)) {
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            let add = format!("add address {ip} to {OVERLAY}");
            let mut request = self.handle.address().add(index, *ip, bits);
            // Usable at once, as the source of the routes that come next: nobody else can have it.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            request.execute().await.map_err(failed(add))?;
        }
        for address in here.into_iter().filter(|a| a.is_global && !wanted.contains(&a.ip)) {
            let delete = format!("remove address {} from {OVERLAY}", address.ip);
            self.handle.address().del(address.message.clone()).execute().await.map_err(failed(delete))?;
        }
        Ok(())
    }

    /// Removes the overlay with its routes and addresses. `false`: there was none.
    pub async fn remove_overlay(&self) -> Result<bool, NetworkError> {
        let found = self.links().await?.into_iter().find(|link| name_of(link).as_deref() == Some(OVERLAY));
        let Some(link) = found.filter(|link| vxlan_of(link).is_some()) else { return Ok(false) };
        let delete = format!("remove {OVERLAY}");
        self.handle.link().del(link.header.index).execute().await.map_err(failed(delete))?;
        Ok(true)
    }
}

fn overlay_message(port: u16, mtu: u32) -> LinkMessage {
    LinkMessageBuilder::<LinkVxlan>::new(OVERLAY)
        .collect_metadata(true)
        .port(port)
        .learning(false)
        .address(OVERLAY_DEV_MAC.to_vec())
        .mtu(mtu)
        .build()
}

fn is_overlay_whole(link: &LinkMessage, mtu: u32) -> bool {
    let has = |wanted: &LinkAttribute| link.attributes.contains(wanted);
    has(&LinkAttribute::Address(OVERLAY_DEV_MAC.to_vec()))
        && has(&LinkAttribute::Mtu(mtu))
        && link.header.flags.contains(LinkFlags::Up | LinkFlags::Noarp)
}

/// UDP port of a VXLAN device, and whether it takes its tunnel from each packet's metadata.
fn vxlan_of(link: &LinkMessage) -> Option<(u16, bool)> {
    let infos = link
        .attributes
        .iter()
        .find_map(|a| if let LinkAttribute::LinkInfo(infos) = a { Some(infos) } else { None })?;
    if !infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Vxlan))) {
        return None;
    }
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    let port =
        data.iter().find_map(|info| if let InfoVxlan::Port(port) = info { Some(*port) } else { None })?;
    let is_external = data.iter().any(|info| matches!(info, InfoVxlan::CollectMetadata(true)));
    Some((port, is_external))
}
