use aya::maps::{MapData, RingBuf};
use bytemuck::pod_read_unaligned;
use proxy_abi::{DropEvent, Reason};
use tokio::io::{Interest, unix::AsyncFd};

/// Logs each dropped packet at level debug, until it is dropped itself. The ring is emptied even when nobody listens.
pub(crate) async fn log_drops(ring: RingBuf<MapData>) {
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
        }
        guard.clear_ready();
    }
}
