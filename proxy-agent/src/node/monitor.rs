use std::future::Future;

use futures::StreamExt;
use netlink_packet_route::{RouteNetlinkMessage, address::AddressScope};
use rtnetlink::{MulticastGroup, new_multicast_connection, packet_core::NetlinkPayload};
use tokio::sync::mpsc;

use crate::node::network::ROUTE_PROTOCOL;

#[derive(Debug, thiserror::Error)]
#[error("listen for changes of devices, addresses and routes")]
pub struct MonitorError(#[source] std::io::Error);

/// Says when devices, addresses or default routes changed in a way that may concern a node. The socket is
/// open when this returns; a burst of changes is one message.
///
/// # Errors
/// The kernel refuses the socket.
pub fn monitor(to: mpsc::Sender<()>) -> Result<impl Future<Output = ()>, MonitorError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _, mut messages) = new_multicast_connection(&groups).map_err(MonitorError)?;
    Ok(async move {
        let read = async move {
            while let Some((message, _)) = messages.next().await {
                let concerns_us = match message.payload {
                    NetlinkPayload::InnerMessage(inner) => concerns_us(&inner),
                    // The socket's buffer ran over: we don't know what we missed.
                    NetlinkPayload::Overrun(_) => true,
                    _ => false,
                };
                if concerns_us {
                    // Full: one message waits already and says the same.
                    to.try_send(()).ok();
                }
            }
        };
        // Both end with this future: a connection that nobody reads would go on and complain.
        tokio::select! {
            () = connection => {}
            () = read => {}
        }
    })
}

/// Pods' devices come and go all the time, and each gets a link-local address by itself: these are none of
/// ours.
fn concerns_us(message: &RouteNetlinkMessage) -> bool {
    use netlink_packet_route::link::LinkAttribute;
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            !link.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(name) if is_pod_device(name)))
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            address.header.scope == AddressScope::Universe
        }
        RouteNetlinkMessage::NewRoute(route) => route.header.destination_prefix_length == 0,
        // One of ours that somebody took away, too.
        RouteNetlinkMessage::DelRoute(route) => {
            route.header.destination_prefix_length == 0 || route.header.protocol == ROUTE_PROTOCOL
        }
        _ => false,
    }
}

/// `sk` and a hash: what the CNI plugin calls the host's side of a pod's pair. (The overlay is `skerry0`.)
pub(crate) fn is_pod_device(name: &str) -> bool {
    name.starts_with("sk") && name != crate::node::network::OVERLAY
}
