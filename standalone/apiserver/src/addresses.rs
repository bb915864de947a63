//! The machine's own addresses, and being told when they change.

use std::{collections::BTreeSet, net::IpAddr, os::fd::OwnedFd, time::Duration};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::io::unix::AsyncFd;

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (rtnetlink(7)).
const ADDRESS_GROUPS: u32 = 0x10 | 0x100;
/// Addresses come and go in groups: one look serves all that change within this time.
const SETTLING: Duration = Duration::from_secs(1);
/// Addresses that are taken in: more than a machine has by itself.
const MAX_ADDRESSES: usize = 64;

/// By which others can reach this machine: of devices that are up, without loopback and link-local ones. At
/// most 64.
pub fn of_this_machine() -> nix::Result<BTreeSet<IpAddr>> {
    let found = getifaddrs()?.filter(|one| one.flags.contains(InterfaceFlags::IFF_UP)).filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    let found: BTreeSet<IpAddr> = found.filter(is_reachable).collect();
    Ok(found.into_iter().take(MAX_ADDRESSES).collect())
}

fn is_reachable(address: &IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !is_link_local && !address.is_loopback() && !address.is_unspecified()
}

/// A subscription to the kernel's word that an address came or went (rtnetlink(7)).
pub struct Changes(Option<AsyncFd<OwnedFd>>);

impl Changes {
    /// Without `wanted`, or where the kernel refuses, nothing is ever told.
    pub fn open(wanted: bool) -> Self {
        let opened = wanted.then(subscribe).transpose();
        Self(opened.unwrap_or_else(|error| {
            tracing::warn!(%error, "subscribe to changes of this machine's addresses");
            None
        }))
    }

    /// Returns a moment after something has changed.
    pub async fn next(&mut self) {
        let Some(socket) = &self.0 else { return std::future::pending().await };
        match socket.readable().await {
            Ok(_) => tokio::time::sleep(SETTLING).await,
            Err(error) => {
                tracing::warn!(%error, "wait for changes of this machine's addresses");
                self.0 = None;
                return;
            }
        }
        let mut guard = match socket.readable().await {
            Ok(guard) => guard,
            Err(_) => return,
        };
        // What they say does not matter, nor that some were lost (ENOBUFS): all addresses are read again.
        let mut buffer = [0; 8192];
        loop {
            match recv(std::os::fd::AsRawFd::as_raw_fd(guard.get_inner()), &mut buffer, MsgFlags::empty()) {
                Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => {}
                Err(_) => {
                    guard.clear_ready();
                    return;
                }
            }
        }
    }
}

fn subscribe() -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &NetlinkAddr::new(0, ADDRESS_GROUPS))?;
    #[expect(
        deprecated,
        reason = "its successor is an unsafe function; an OwnedFd owns its descriptor, which is the condition"
    )]
    AsyncFd::new(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_others_can_reach_count() {
        for (address, expected) in [
            ("192.0.2.1", true),
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.1.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_reachable(&address.parse().unwrap()), expected, "{address}");
        }
    }
}
