//! Connection tracking: two entries a translated flow, each naming its twin (`entry.to.flip()`). What a
//! packet tells its flow.

use proxy_abi::{Facts, Flow, flow_flag, flow_state, idle_s, proto};

use crate::{
    packets::view::{ACK, FIN, Kind, RST, SYN, View},
    state::{scratch::Scratch, tables::Tables},
    steps::{
        direct::{self},
        path::{self},
        seat::evict,
    },
};

/// What an entry says about the packet at hand.
#[derive(Clone, Copy)]
enum Visit {
    Use,
    /// Idle beyond its time: dead, unless its twin is not.
    Idle,
    /// A SYN on a connection that is over: its ports are used again.
    Reused,
    /// Its sender has sent a reset, and yet goes on: nobody believed it.
    Revived,
}

/// Looks up the packet's flow, notes the packet in it and copies its translation to `s.to`.
#[inline(always)]
pub(crate) fn find<T: Tables>(tables: &T, s: &mut Scratch, facts: &Facts, now_s: u32) -> bool {
    let Scratch { view, to, flow: copy, hop, next, known, .. } = s;
    let error = matches!(view.kind, Kind::Error);
    let visited = tables.flow(&view.tuple, |flow| {
        *to = flow.to;
        if flow.seen_s == now_s && flow.path.known != 0 {
            *known = flow.path.known;
            path::recall(&flow.path, hop, next);
        }
        copy.flags = flow.flags;
        copy.state = flow.state;
        copy.seen_s = flow.seen_s;
        copy.service_id = flow.service_id;
        if error {
            return Visit::Use;
        }
        let idle = idle_s(now_s, flow.seen_s);
        let tcp = view.proto == proto::TCP;
        if tcp && view.flags & (SYN | ACK) == SYN {
            let over = flow.state == flow_state::CLOSING;
            if over || facts.is_over(proto::TCP, flow_state::EMBRYONIC, idle) {
                return Visit::Reused;
            }
        }
        if facts.is_over(view.proto, flow.state, idle) {
            return Visit::Idle;
        }
        note(flow, view, now_s)
    });
    s.direct = visited.is_some() && s.flow.flags & flow_flag::DIRECT != 0;
    let Some(visited) = visited else { return false };
    if s.direct {
        let lives = matches!(visited, Visit::Use);
        return direct::found(tables, s, facts, lives, now_s);
    }
    if matches!(visited, Visit::Use) && (error || !concerns_twin(&s.view, &s.flow, now_s)) {
        return true;
    }
    s.to.flip_to(&mut s.reverse_key);
    match visited {
        Visit::Use => {}
        Visit::Revived => revive(tables, s),
        Visit::Reused => {
            remove_both(tables, s);
            return false;
        }
        Visit::Idle => {
            // A stream may run one way only: then only one of the two entries is fresh.
            let view = &s.view;
            let fresh = tables.flow(&s.reverse_key, |twin| {
                !facts.is_over(view.proto, twin.state, idle_s(now_s, twin.seen_s))
            });
            if fresh != Some(true) {
                remove_both(tables, s);
                return false;
            }
            let noted = tables.flow(&s.view.tuple, |flow| note(flow, view, now_s));
            if matches!(noted, Some(Visit::Revived)) {
                revive(tables, s);
            }
        }
    }
    if error {
        return true;
    }
    if s.view.proto == proto::TCP && s.view.flags & (FIN | RST) != 0 {
        close(tables, s, facts);
    }
    !proves(&s.view, &s.flow, now_s) || settle(tables, s)
}

/// Whether a packet tells something that the flow's other entry is to learn.
#[inline(always)]
fn concerns_twin(view: &View, flow: &Flow, now_s: u32) -> bool {
    (view.proto == proto::TCP && view.flags & (FIN | RST) != 0) || proves(view, flow, now_s)
}

/// Whether a packet proves, to a flow that may be evicted, that both ends are there: the client's
/// acknowledgement of an answer does (a flood with made-up sources gets answers, too); where the protocol has
/// none, a packet in a later second than the last: questions and answers that are done within a second need
/// no place for longer.
#[inline(always)]
fn proves(view: &View, flow: &Flow, now_s: u32) -> bool {
    let reverse = flow.flags & flow_flag::REVERSE != 0;
    flow.state == flow_state::EMBRYONIC
        && match view.proto {
            proto::TCP => !reverse && view.flags & (SYN | ACK | RST) == ACK,
            proto::SCTP => !reverse,
            _ => flow.seen_s != now_s,
        }
}

/// Notes a packet in the entry of its direction.
#[inline(always)]
fn note(flow: &mut Flow, view: &View, now_s: u32) -> Visit {
    if flow.seen_s != now_s {
        flow.seen_s = now_s;
        flow.path.known = 0;
    }
    flow.packets = flow.packets.saturating_add(1);
    if flow.flags & flow_flag::DIRECT != 0 {
        direct::note(flow, view);
        return Visit::Use;
    }
    if view.proto != proto::TCP {
        return Visit::Use;
    }
    if view.flags & FIN != 0 {
        flow.flags |= flow_flag::FIN;
    }
    if view.flags & RST != 0 {
        flow.flags |= flow_flag::RESET;
    } else if flow.flags & flow_flag::RESET != 0 {
        flow.flags &= !flow_flag::RESET;
        return Visit::Revived;
    }
    Visit::Use
}

#[inline(always)]
fn remove_both<T: Tables>(tables: &T, s: &Scratch) {
    tables.remove_flow(&s.view.tuple);
    tables.remove_flow(&s.reverse_key);
}

/// A FIN was seen in one direction or an RST: both entries learn of it. A flow that is over may be evicted.
#[inline(always)]
fn close<T: Tables>(tables: &T, s: &mut Scratch, facts: &Facts) {
    let reset = s.view.flags & RST != 0;
    let both = tables.flow(&s.reverse_key, |twin| {
        let over = reset || twin.flags & flow_flag::FIN != 0;
        if over {
            twin.state = flow_state::CLOSING;
        }
        over
    });
    if both == Some(false) {
        return;
    }
    tables.flow(&s.view.tuple, |flow| flow.state = flow_state::CLOSING);
    // One that was never established has its seat still.
    if s.flow.state == flow_state::ESTABLISHED {
        let forward = if s.flow.flags & flow_flag::REVERSE == 0 { &s.view.tuple } else { &s.reverse_key };
        let seat = tables.take_seat(facts, forward, &mut s.leaver);
        tables.flow(forward, |flow| flow.seat = seat);
        evict(tables, s, seat);
    }
}

/// A reset was out of the window, or came from some box on the way: the connection lives on.
#[inline(always)]
fn revive<T: Tables>(tables: &T, s: &mut Scratch) {
    let state = match s.flow.flags & flow_flag::SETTLED {
        0 => flow_state::EMBRYONIC,
        _ => flow_state::ESTABLISHED,
    };
    let over = tables.flow(&s.reverse_key, |twin| {
        let over = twin.flags & s.flow.flags & flow_flag::FIN != 0 || twin.flags & flow_flag::RESET != 0;
        if !over {
            twin.state = state;
        }
        over
    });
    if over == Some(false) {
        tables.flow(&s.view.tuple, |flow| flow.state = state);
        s.flow.state = state;
    }
}

/// Whether answers to a packet that goes on as it is would be taken for those of another flow, and bear what
/// that one asked.
#[inline(always)]
pub(crate) fn answers_are_taken<T: Tables>(tables: &T, s: &mut Scratch) -> bool {
    s.view.tuple.flip_to(&mut s.reverse_key);
    tables.flow(&s.reverse_key, |flow| flow.flags & flow_flag::REVERSE != 0) == Some(true)
}

/// A packet [proves] a flow that may be evicted: it is established, and stays, if it was answered. False: it
/// has lost its twin and is taken away.
#[inline(always)]
fn settle<T: Tables>(tables: &T, s: &mut Scratch) -> bool {
    let reverse = s.flow.flags & flow_flag::REVERSE != 0;
    let back = s.view.tuple.flip();
    let twin = tables.flow(&s.reverse_key, |twin| {
        let settles = (reverse || twin.packets > 0) && twin.state == flow_state::EMBRYONIC;
        if settles && twin.to.same(&back) {
            twin.state = flow_state::ESTABLISHED;
            twin.flags |= flow_flag::SETTLED;
        }
        if twin.to.same(&back) { Some(settles) } else { None }
    });
    match twin {
        Some(Some(false)) => true,
        Some(Some(true)) => {
            tables.flow(&s.view.tuple, |flow| {
                flow.state = flow_state::ESTABLISHED;
                flow.flags |= flow_flag::SETTLED;
            });
            true
        }
        // No twin, or another flow's entry in its place.
        Some(None) | None => {
            tables.remove_flow(&s.view.tuple);
            false
        }
    }
}
