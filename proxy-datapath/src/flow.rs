//! Connection tracking: two entries a translated flow, each naming its twin (`entry.to.flip()`), and a queue of the flows that
//! may be evicted.

use proxy_abi::{Be16, Config, Flow, Reason, flow_flag, flow_state, idle_s, proto};

use crate::{
    direct,
    parse::{ACK, FIN, Kind, RST, SYN, View},
    path,
    tables::{Insert, Round, Scratch, Tables},
};

/// Source ports tried before a destination counts as exhausted: at 90% use of the range one flow in 850 fails.
const PORT_TRIES: u32 = 64;

/// A closed connection's ports are left alone this long even when ports are rare: its last segments are still on the way.
const CLOSED_S: u32 = 2;

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
pub(crate) fn find<T: Tables>(tables: &T, s: &mut Scratch, config: &Config, now_s: u32) -> bool {
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
            if over || config.is_over(proto::TCP, flow_state::EMBRYONIC, idle) {
                return Visit::Reused;
            }
        }
        if config.is_over(view.proto, flow.state, idle) {
            return Visit::Idle;
        }
        note(flow, view, now_s)
    });
    s.direct = visited.is_some() && s.flow.flags & flow_flag::DIRECT != 0;
    let Some(visited) = visited else { return false };
    if s.direct {
        let lives = matches!(visited, Visit::Use);
        return direct::found(tables, s, config, lives, now_s);
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
                !config.is_over(view.proto, twin.state, idle_s(now_s, twin.seen_s))
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
        close(tables, s, config);
    }
    !proves(&s.view, &s.flow, now_s) || settle(tables, s)
}

/// Whether a packet tells something that the flow's other entry is to learn.
#[inline(always)]
fn concerns_twin(view: &View, flow: &Flow, now_s: u32) -> bool {
    (view.proto == proto::TCP && view.flags & (FIN | RST) != 0) || proves(view, flow, now_s)
}

/// Whether a packet proves, to a flow that may be evicted, that both ends are there: the client's acknowledgement of an answer
/// does (a flood with made-up sources gets answers, too); where the protocol has none, a packet in a later second than the
/// last: questions and answers that are done within a second need no place for longer.
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
fn close<T: Tables>(tables: &T, s: &mut Scratch, config: &Config) {
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
        let seat = tables.take_seat(config, forward, &mut s.leaver);
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

/// Whether answers to a packet that goes on as it is would be taken for those of another flow, and bear what that one asked.
#[inline(always)]
pub(crate) fn answers_are_taken<T: Tables>(tables: &T, s: &mut Scratch) -> bool {
    s.view.tuple.flip_to(&mut s.reverse_key);
    tables.flow(&s.reverse_key, |flow| flow.flags & flow_flag::REVERSE != 0) == Some(true)
}

/// A packet [proves] a flow that may be evicted: it is established, and stays, if it was answered. False: it has lost its twin
/// and is taken away.
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

/// Removes the flow that had the seat before, `s.leaver`, unless it has another seat by now, or none because it was established.
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

/// What is new about a flow that [`create`] records.
#[derive(Clone, Copy, Default, Debug)]
pub struct Fresh {
    /// 0: masquerade only.
    pub service_id: u32,
    pub flags: u16,
    /// `s.to.src` is not the packet's own source: a source port of ours goes with it.
    pub snat: bool,
}

impl Scratch {
    /// The packet goes where it says; its source port alone may have to change, so that its answers can be told.
    #[inline(always)]
    pub(crate) fn stay(&mut self) {
        self.choice.direct = false;
        self.fresh = Fresh::default();
    }

    /// Points the packet at the backend that was drawn.
    #[inline(always)]
    pub(crate) fn balance(&mut self) {
        let backend = &self.choice.backend;
        self.to.dst = backend.addr;
        self.to.dport = backend.port;
        self.fresh = Fresh { service_id: backend.service_id, flags: flow_flag::DNAT, snat: false };
    }
}

/// Records `s.view.tuple` → `s.to` as `s.fresh` says; the source port is chosen here. The reverse entry goes in first: that insertion *is* the
/// allocation of the port, since two flows with the same answers would collide in it. False: another CPU has recorded the flow a
/// moment ago, and what it has chosen holds.
///
/// # Errors
/// [`Reason::SnatExhausted`], [`Reason::FlowTableFull`].
#[inline(always)]
pub(crate) fn create<T: Tables>(
    tables: &T,
    s: &mut Scratch,
    config: &Config,
    now_s: u32,
) -> Result<bool, Reason> {
    let fresh = s.fresh;
    let flags = fresh.flags | if fresh.snat { flow_flag::SNAT } else { 0 };
    s.view.tuple.flip_to(&mut s.reverse.to);
    begin(&mut s.reverse, fresh.service_id, now_s, flags | flow_flag::REVERSE);
    s.attempt = Attempt::Again;
    tables.repeat(PORT_TRIES, |attempt| {
        s.attempt = reserve(tables, s, config, now_s, fresh, attempt);
        if matches!(s.attempt, Attempt::Again) { Round::Again } else { Round::Done }
    });
    match s.attempt {
        Attempt::Reserved => {}
        Attempt::Full => return Err(Reason::FlowTableFull),
        Attempt::Again | Attempt::Exhausted => return Err(Reason::SnatExhausted),
    }
    let seat = tables.take_seat(config, &s.view.tuple, &mut s.leaver);
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

/// How one try for a source port ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Attempt {
    /// The port is taken.
    #[default]
    Again = 0,
    Reserved = 1,
    Exhausted = 2,
    Full = 3,
}

/// One try: names a port and puts the reverse entry in.
#[inline(always)]
fn reserve<T: Tables>(
    tables: &T,
    s: &mut Scratch,
    config: &Config,
    now_s: u32,
    fresh: Fresh,
    attempt: u32,
) -> Attempt {
    if fresh.snat || attempt > 0 {
        if matches!(s.view.kind, Kind::Ports | Kind::Echo) {
            let Some(port) = random_port(config, tables.random()) else { return Attempt::Exhausted };
            // Answers to the tunnel's port would be taken for the tunnel's own packets.
            if port.get() == config.tunnel_port {
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
    if matches!(added, Insert::Exists) && reclaim(tables, s, config, now_s, pressed) {
        added = tables.add_flow(&s.reverse_key, &s.reverse);
    }
    match added {
        Insert::Done => Attempt::Reserved,
        Insert::Exists => Attempt::Again,
        Insert::Full => Attempt::Full,
    }
}

/// Frees the answers' key from a flow that is dead: silent beyond its time in both directions or, when ports have become
/// rare (`pressed`), closed a moment ago or not established: a flood may have all ports of a destination, as it has all seats.
#[inline(always)]
fn reclaim<T: Tables>(tables: &T, s: &mut Scratch, config: &Config, now_s: u32, pressed: bool) -> bool {
    let protocol = s.view.proto;
    let dead = |flow: &Flow| {
        let idle = idle_s(now_s, flow.seen_s);
        let closed = flow.state == flow_state::CLOSING && idle >= CLOSED_S;
        pressed && (closed || flow.state == flow_state::EMBRYONIC)
            || config.is_over(protocol, flow.state, idle)
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
fn random_port(config: &Config, random: u32) -> Option<Be16> {
    let (min, max) = (config.snat_min as u32, config.snat_max as u32);
    if min == 0 || max < min {
        return None;
    }
    let step = (random as u64 * (max - min + 1) as u64) >> 32;
    Some(Be16::new((min + step as u32) as u16))
}
