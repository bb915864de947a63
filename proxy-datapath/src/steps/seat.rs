//! The queue of flows that may be evicted: who loses its seat.

use proxy_abi::{flow_flag, flow_state};

use crate::state::{scratch::Scratch, tables::Tables};

/// Removes the flow that had the seat before, `s.leaver`, unless it has another seat by now, or none because
/// it was established.
#[inline(always)]
pub(crate) fn evict<T: Tables>(tables: &T, s: &mut Scratch, seat: u16) {
    if s.leaver.proto == 0 {
        return;
    }
    let twin = &mut s.leaver_twin;
    let leaves = tables.flow(&s.leaver, |flow| {
        flow.to.flip_to(twin);
        let stays = flow.state == flow_state::ESTABLISHED && flow.flags & flow_flag::DIRECT == 0;
        (flow.seat == seat && !stays).then_some(flow.flags & flow_flag::DIRECT == 0)
    });
    if let Some(Some(has_twin)) = leaves {
        tables.remove_flow(&s.leaver);
        if has_twin {
            tables.remove_flow(&s.leaver_twin);
        }
    }
}
