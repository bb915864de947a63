use std::io;

use aya::maps::{MapData, RingBuf};
use bytemuck::pod_read_unaligned;
use proxy_abi::{DropEvent, Reason};
use tokio::io::{Interest, unix::AsyncFd};

/// Records that are handed out at once: a flood of drops must not gather in memory.
const BATCH: usize = 256;

/// The ring cannot be waited for.
#[derive(Debug, thiserror::Error)]
#[error("wait for the ring of drop records")]
pub struct RingError(#[source] io::Error);

/// The records that the programs leave of packets that they drop. The ring must be read even if nobody wants
/// to know: what does not fit is lost.
pub struct DropRing {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl DropRing {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The runtime takes no more descriptors.
    pub fn new(ring: RingBuf<MapData>) -> Result<DropRing, RingError> {
        #[expect(
            deprecated,
            reason = "its successor is an unsafe function; a RingBuf owns its descriptor, which is the condition"
        )]
        let ring = AsyncFd::with_interest(ring, Interest::READABLE).map_err(RingError)?;
        Ok(DropRing { ring })
    }

    /// Waits for records; each is logged at level debug.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn next(&mut self) -> Result<Vec<DropEvent>, RingError> {
        loop {
            let mut guard = self.ring.readable_mut().await.map_err(RingError)?;
            let ring = guard.get_inner_mut();
            let mut events = Vec::new();
            while events.len() < BATCH
                && let Some(record) = ring.next()
            {
                // A newer program's may be longer.
                let Some(bytes) = record.get(..size_of::<DropEvent>()) else { continue };
                events.push(pod_read_unaligned(bytes));
            }
            if events.len() < BATCH {
                guard.clear_ready();
            }
            if !events.is_empty() {
                events.iter().for_each(log);
                return Ok(events);
            }
        }
    }
}

fn log(event: &DropEvent) {
    let reason = Reason::from_number(event.reason).map_or("unknown", Reason::label);
    let DropEvent { tuple, ifindex, length, .. } = *event;
    tracing::debug!(
        reason,
        src = %tuple.src, sport = %tuple.sport, dst = %tuple.dst, dport = %tuple.dport, proto = tuple.proto,
        ifindex, length, "packet dropped"
    );
}
