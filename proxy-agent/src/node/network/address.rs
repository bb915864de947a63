use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};

/// An address of a device, as far as it matters.
pub(super) struct Address {
    pub index: u32,
    pub ip: IpAddr,
    pub is_global: bool,
    /// IPv6: neither temporary (RFC 8981) nor deprecated, and not in doubt (RFC 4862 section 5.4).
    pub is_lasting: bool,
    pub message: AddressMessage,
}

impl Address {
    pub fn new(message: AddressMessage) -> Option<Address> {
        // On point-to-point devices `Address` is the other end's.
        let local = message
            .attributes
            .iter()
            .find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
        let any = || {
            message
                .attributes
                .iter()
                .find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None })
        };
        let ip = local.or_else(any)?;
        let passing = AddressHeaderFlags::Secondary
            | AddressHeaderFlags::Deprecated
            | AddressHeaderFlags::Tentative
            | AddressHeaderFlags::Dadfailed;
        Some(Address {
            index: message.header.index,
            ip,
            is_lasting: ip.is_ipv4() || !message.header.flags.intersects(passing),
            is_global: message.header.scope == AddressScope::Universe && !ip.is_loopback(),
            message,
        })
    }
}
