use std::{convert::Infallible, net::SocketAddr};

use aya::maps::{MapData, RingBuf};
use proxy_abi::{Addr, Be16, DropEvent, Reason, proto};
use proxy_maps::{DropRing, RingError};
use tokio::sync::broadcast::Sender;

use skerry_vocabulary::chain;

use crate::tell::admin::Line;

/// Tells whoever follows of each dropped packet, until it is dropped itself. The ring is emptied even when
/// nobody listens.
pub(crate) async fn follow_drops(ring: RingBuf<MapData>, followers: Sender<Line>) {
    let Err(error) = tell_each(ring, followers).await;
    tracing::warn!(error = chain(&error), "drop records are not read");
}

async fn tell_each(ring: RingBuf<MapData>, followers: Sender<Line>) -> Result<Infallible, RingError> {
    let mut ring = DropRing::new(ring)?;
    loop {
        let dropped = ring.next().await?;
        if followers.receiver_count() > 0 {
            // Who left in this moment misses nothing.
            dropped.iter().for_each(|event| drop(followers.send(record_of(event).into())));
        }
    }
}

/// As `skerry flows` reads it.
fn record_of(event: &DropEvent) -> String {
    let DropEvent { time_ns, tuple, ifindex, length, .. } = *event;
    let reason = Reason::from_number(event.reason);
    let socket = |addr: Addr, port: Be16| SocketAddr::new(addr.to_ip(), port.get()).to_string();
    let protocol = proto::name(tuple.proto).map_or_else(|| tuple.proto.to_string(), str::to_owned);
    serde_json::json!({
        "time_ns": time_ns, "protocol": protocol,
        "from": socket(tuple.src, tuple.sport), "to": socket(tuple.dst, tuple.dport),
        "ifindex": ifindex, "length": length,
        "reason": reason.map_or("unknown", Reason::label), "meaning": reason.map_or("", Reason::text),
    })
    .to_string()
}
