//! XDP can't ask for a neighbour's address: it drops the packet and says so, and we make the kernel ask.

use std::net::{IpAddr, SocketAddr};

use aya::maps::{MapData, RingBuf};
use bytemuck::pod_read_unaligned;
use proxy_abi::{DropEvent, Reason};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UdpSocket,
};

/// RFC 863: nobody answers, and any datagram makes the kernel resolve its next hop.
const DISCARD: u16 = 9;

/// Sends an empty datagram towards `to`.
pub async fn resolve(to: IpAddr) {
    let any: SocketAddr = match to {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let sent = async { UdpSocket::bind(any).await?.send_to(&[], SocketAddr::new(to, DISCARD)).await };
    if let Err(error) = sent.await {
        tracing::debug!(%error, %to, "ask for a neighbour");
    }
}

/// Empties the ring of drop records until it is dropped itself.
pub async fn watch(ring: RingBuf<MapData>) {
    #[expect(
        deprecated,
        reason = "its successor is an unsafe function; a RingBuf owns its descriptor, which is the condition"
    )]
    let registered = AsyncFd::with_interest(ring, Interest::READABLE);
    let mut ring = match registered {
        Ok(ring) => ring,
        Err(error) => {
            tracing::warn!(%error, "drop records are not read: cannot wait for the ring");
            return;
        }
    };
    loop {
        let Ok(mut guard) = ring.readable_mut().await else { return };
        let ring = guard.get_inner_mut();
        let mut unknown: Vec<IpAddr> = Vec::new();
        while let Some(record) = ring.next() {
            let Some(bytes) = record.get(..size_of::<DropEvent>()) else { continue };
            let event: DropEvent = pod_read_unaligned(bytes);
            let (DropEvent { tuple, .. }, reason) = (event, Reason::from_number(event.reason));
            tracing::debug!(
                reason = reason.map_or("unknown", Reason::label),
                src = %tuple.src, sport = %tuple.sport, dst = %tuple.dst, dport = %tuple.dport, proto = tuple.proto,
                "packet dropped"
            );
            let to = tuple.dst.to_ip();
            if reason == Some(Reason::NeighbourUnknown) && !unknown.contains(&to) {
                unknown.push(to);
            }
        }
        guard.clear_ready();
        for to in unknown {
            resolve(to).await;
        }
    }
}
