//! Direct server return: the node that a client has reached draws a backend and sends the packet to its node
//! as it came; that node translates it and answers the client itself.
//!
//! Of such a flow the first node sees one direction only and has one entry, which may be evicted for as long
//! as it lives, since the answers that would tell a real client from a made-up one pass elsewhere; in each
//! second that it is used it takes a new seat. Maglev draws the same backend again, and the backend's node
//! knows its flow by both directions as any other.

use proxy_abi::{Facts, Flow, flow_state, proto};

use crate::{
    packets::view::{ACK, FIN, Kind, RST, SYN, View},
    state::{
        scratch::{Fresh, Scratch},
        tables::{Insert, Tables},
    },
    steps::{
        path::{self},
        seat::evict,
    },
};

/// Notes a packet in the entry of a direct flow: what the client's side alone tells of its state.
#[inline(always)]
pub(crate) fn note(flow: &mut Flow, view: &View) {
    let tcp = view.proto == proto::TCP;
    if tcp && view.flags & (FIN | RST) != 0 {
        flow.state = flow_state::CLOSING;
    } else if flow.state == flow_state::EMBRYONIC && (!tcp || view.flags & (SYN | ACK) == ACK) {
        flow.state = flow_state::ESTABLISHED;
    }
}

/// The rest of the look-up of a direct flow, whose entry was copied to `s.flow`. `lives`: it is not over.
#[inline(always)]
pub(crate) fn found<T: Tables>(tables: &T, s: &mut Scratch, facts: &Facts, lives: bool, now_s: u32) -> bool {
    if !lives {
        tables.remove_flow(&s.view.tuple);
        s.direct = false;
        return false;
    }
    if !matches!(s.view.kind, Kind::Error) && s.flow.seen_s != now_s {
        let seat = tables.take_seat(facts, &s.view.tuple, &mut s.leaver);
        tables.flow(&s.view.tuple, |flow| flow.seat = seat);
        evict(tables, s, seat);
    }
    true
}

/// Records `s.view.tuple` → `s.to` as `s.fresh` says. A table without room costs nothing but the memory of
/// it. False: as [`create`](crate::steps::create).
#[inline(always)]
pub(crate) fn record<T: Tables>(tables: &T, s: &mut Scratch, facts: &Facts, now_s: u32) -> bool {
    let seat = tables.take_seat(facts, &s.view.tuple, &mut s.leaver);
    evict(tables, s, seat);
    let Fresh { service_id, flags, .. } = s.fresh;
    s.flow = Flow { to: s.to, service_id, seen_s: now_s, flags, packets: 1, seat, ..Flow::default() };
    path::begin(&mut s.flow.path, &s.hop, &s.next, s.known);
    !matches!(tables.add_flow(&s.view.tuple, &s.flow), Insert::Exists)
}
