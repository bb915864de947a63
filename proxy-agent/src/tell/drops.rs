use std::net::SocketAddr;

use aya::maps::{MapData, RingBuf};
use bytemuck::pod_read_unaligned;
use proxy_abi::{Addr, Be16, DropEvent, Reason, proto};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::broadcast::Sender,
};

use crate::tell::admin::Line;

/// Logs each dropped packet at level debug and tells whoever follows, until it is dropped itself. The ring is emptied even
/// when nobody listens.
pub(crate) async fn log_drops(ring: RingBuf<MapData>, followers: Sender<Line>) {
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
        while let Some(record) = ring.next() {
            let Some(bytes) = record.get(..size_of::<DropEvent>()) else { continue };
            let event: DropEvent = pod_read_unaligned(bytes);
            let reason = Reason::from_number(event.reason).map_or("unknown", Reason::label);
            let DropEvent { tuple, ifindex, length, .. } = event;
            tracing::debug!(
                reason,
                src = %tuple.src, sport = %tuple.sport, dst = %tuple.dst, dport = %tuple.dport, proto = tuple.proto,
                ifindex, length, "packet dropped"
            );
            if followers.receiver_count() > 0 {
                // Who left in this moment misses nothing.
                followers.send(record_of(&event).into()).ok();
            }
        }
        guard.clear_ready();
    }
}

/// As `skerry flows` reads it.
fn record_of(event: &DropEvent) -> String {
    let DropEvent { time_ns, tuple, ifindex, length, .. } = *event;
    let reason = Reason::from_number(event.reason);
    let socket = |addr: Addr, port: Be16| SocketAddr::new(addr.to_ip(), port.get()).to_string();
    let protocol = match tuple.proto {
        proto::ICMP => "icmp".to_owned(),
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        proto::ICMPV6 => "icmpv6".to_owned(),
        proto::SCTP => "sctp".to_owned(),
        other => other.to_string(),
    };
    serde_json::json!({
        "time_ns": time_ns, "protocol": protocol,
        "from": socket(tuple.src, tuple.sport), "to": socket(tuple.dst, tuple.dport),
        "ifindex": ifindex, "length": length,
        "reason": reason.map_or("unknown", Reason::label), "meaning": reason.map_or("", Reason::text),
    })
    .to_string()
}
