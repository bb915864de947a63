//! New flows: their two entries, and the source port that tells their answers from others'.

use proxy_abi::{Be16, Facts, Flow, Reason, flow_flag, flow_state, idle_s};

use crate::{
    packets::view::Kind,
    state::{
        scratch::{Attempt, Fresh, Scratch},
        tables::{Insert, Round, Tables},
    },
    steps::{
        path::{self},
        seat::evict,
    },
};

/// Source ports tried before a destination counts as exhausted: at 90% use of the range one flow in 850
/// fails.
const PORT_TRIES: u32 = 64;

/// A closed connection's ports are left alone this long even when ports are rare: its last segments are still
/// on the way.
const CLOSED_S: u32 = 2;

/// Records `s.view.tuple` → `s.to` as `s.fresh` says; the source port is chosen here. The reverse entry goes
/// in first: that insertion *is* the allocation of the port, since two flows with the same answers would
/// collide in it. False: another CPU has recorded the flow a moment ago, and what it has chosen holds.
///
/// # Errors
/// [`Reason::SnatExhausted`], [`Reason::FlowTableFull`].
#[inline(always)]
pub(crate) fn create<T: Tables>(
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
    now_s: u32,
) -> Result<bool, Reason> {
    let fresh = s.fresh;
    let flags = fresh.flags | if fresh.snat { flow_flag::SNAT } else { 0 };
    s.view.tuple.flip_to(&mut s.reverse.to);
    begin(&mut s.reverse, fresh.service_id, now_s, flags | flow_flag::REVERSE);
    s.attempt = Attempt::Again;
    tables.repeat(PORT_TRIES, |attempt| {
        s.attempt = reserve(tables, s, facts, now_s, fresh, attempt);
        if matches!(s.attempt, Attempt::Again) { Round::Again } else { Round::Done }
    });
    match s.attempt {
        Attempt::Reserved => {}
        Attempt::Full => return Err(Reason::FlowTableFull),
        Attempt::Again | Attempt::Exhausted => return Err(Reason::SnatExhausted),
    }
    let seat = tables.take_seat(facts, &s.view.tuple, &mut s.leaver);
    evict(tables, s, seat);
    let source_changed = fresh.snat || s.to.sport.raw() != s.view.tuple.sport.raw();
    s.flow.to = s.to;
    begin(&mut s.flow, fresh.service_id, now_s, flags | if source_changed { flow_flag::SNAT } else { 0 });
    s.flow.packets = 1;
    s.flow.seat = seat;
    path::begin(&mut s.flow.path, &s.hop, &s.next, s.known);
    match tables.add_flow(&s.view.tuple, &s.flow) {
        Insert::Done => Ok(true),
        Insert::Exists => {
            tables.remove_flow(&s.reverse_key);
            Ok(false)
        }
        Insert::Full => {
            tables.remove_flow(&s.reverse_key);
            Err(Reason::FlowTableFull)
        }
    }
}

/// A new entry, but for what its packets become.
#[inline(always)]
fn begin(flow: &mut Flow, service_id: u32, now_s: u32, flags: u16) {
    flow.service_id = service_id;
    flow.seen_s = now_s;
    flow.flags = flags;
    flow.state = flow_state::EMBRYONIC;
    flow.reserved = 0;
    flow.packets = 0;
    flow.seat = 0;
    flow.path.known = 0;
}

/// One try: names a port and puts the reverse entry in.
#[inline(always)]
fn reserve<T: Tables>(
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
    now_s: u32,
    fresh: Fresh,
    attempt: u32,
) -> Attempt {
    if fresh.snat || attempt > 0 {
        if matches!(s.view.kind, Kind::Ports | Kind::Echo) {
            let Some(port) = random_port(facts, tables.random()) else { return Attempt::Exhausted };
            // Answers to the tunnel's port would be taken for the tunnel's own packets.
            if port.get() == facts.tunnel_port {
                return Attempt::Again;
            }
            s.to.sport = port;
            if matches!(s.view.kind, Kind::Echo) {
                s.to.dport = port;
            }
        } else if attempt > 0 {
            // Without ports one flow a destination has room; a second one is refused.
            return Attempt::Exhausted;
        }
    }
    s.to.flip_to(&mut s.reverse_key);
    let pressed = attempt >= PORT_TRIES / 2;
    let mut added = tables.add_flow(&s.reverse_key, &s.reverse);
    if matches!(added, Insert::Exists) && reclaim(tables, s, facts, now_s, pressed) {
        added = tables.add_flow(&s.reverse_key, &s.reverse);
    }
    match added {
        Insert::Done => Attempt::Reserved,
        Insert::Exists => Attempt::Again,
        Insert::Full => Attempt::Full,
    }
}

/// Frees the answers' key from a flow that is dead: silent beyond its time in both directions or, when ports
/// have become rare (`pressed`), closed a moment ago or not established: a flood may have all ports of a
/// destination, as it has all seats.
#[inline(always)]
fn reclaim<T: Tables>(tables: &T, s: &mut Scratch, facts: &Facts, now_s: u32, pressed: bool) -> bool {
    let protocol = s.view.proto;
    let dead = |flow: &Flow| {
        let idle = idle_s(now_s, flow.seen_s);
        let closed = flow.state == flow_state::CLOSING && idle >= CLOSED_S;
        pressed && (closed || flow.state == flow_state::EMBRYONIC)
            || facts.is_over(protocol, flow.state, idle)
    };
    let to = &mut s.flow.to;
    let own = tables.flow(&s.reverse_key, |flow| {
        flow.to.flip_to(to);
        // One that has no twin goes with its seat.
        flow.flags & flow_flag::DIRECT == 0 && dead(flow)
    });
    if own != Some(true) || tables.flow(&s.flow.to, |twin| dead(twin)) == Some(false) {
        return false;
    }
    tables.remove_flow(&s.reverse_key);
    tables.remove_flow(&s.flow.to);
    true
}

#[inline(always)]
fn random_port(facts: &Facts, random: u32) -> Option<Be16> {
    let (min, max) = (facts.snat_min as u32, facts.snat_max as u32);
    if min == 0 || max < min {
        return None;
    }
    let step = (random as u64 * (max - min + 1) as u64) >> 32;
    Some(Be16::new((min + step as u32) as u16))
}
