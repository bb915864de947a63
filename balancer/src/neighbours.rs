//! XDP can't ask for a neighbour's address: it drops the packet and says so, and we make the kernel ask.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use aya::maps::{MapData, RingBuf};
use proxy_abi::Reason;
use proxy_maps::DropRing;
use tokio::net::UdpSocket;

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

/// Makes the kernel ask for neighbours that packets were dropped for, until it is dropped itself.
pub async fn watch(ring: RingBuf<MapData>) {
    let failed = |error| tracing::warn!(%error, "drop records are not read: neighbours are not asked for");
    let mut ring = match DropRing::new(ring) {
        Ok(ring) => ring,
        Err(error) => return failed(error),
    };
    loop {
        let dropped = match ring.next().await {
            Ok(dropped) => dropped,
            Err(error) => return failed(error),
        };
        let unknown: BTreeSet<IpAddr> = dropped
            .iter()
            .filter(|event| Reason::from_number(event.reason) == Some(Reason::NeighbourUnknown))
            .map(|event| event.tuple.dst.to_ip())
            .collect();
        for to in unknown {
            resolve(to).await;
        }
    }
}
