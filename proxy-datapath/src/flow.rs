//! Connection tracking: two entries a translated flow, each naming its twin (`entry.to.flip()`).

use proxy_abi::{Be16, Config, Flow, Reason, flow_flag, flow_state, proto};

use crate::{
    parse::{ACK, FIN, Kind, RST, SYN, View},
    tables::{FlowTable, Insert, Round, Scratch, Tables},
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
    if find_in(tables, FlowTable::Established, s, config, now_s) {
        return true;
    }
    find_in(tables, FlowTable::New, s, config, now_s) && settle_new(tables, s, now_s)
}

#[inline(always)]
fn find_in<T: Tables>(tables: &T, table: FlowTable, s: &mut Scratch, config: &Config, now_s: u32) -> bool {
    let view = &s.view;
    let error = matches!(view.kind, Kind::Error);
    let (to, copy) = (&mut s.to, &mut s.flow);
    let visited = tables.flow(table, &view.tuple, |flow| {
        *to = flow.to;
        copy.flags = flow.flags;
        copy.seen_s = flow.seen_s;
        copy.service_id = flow.service_id;
        if error {
            return Visit::Use;
        }
        let idle = idle_s(now_s, flow.seen_s);
        let tcp = view.proto == proto::TCP;
        if tcp && view.flags & (SYN | ACK) == SYN {
            let over = flow.state == flow_state::CLOSING;
            if over || (config.tcp_syn_s != 0 && idle > config.tcp_syn_s) {
                return Visit::Reused;
            }
        }
        if expired(config, view.proto, flow.state, idle) {
            return Visit::Idle;
        }
        note(flow, view, now_s)
    });
    let Some(visited) = visited else { return false };
    s.reverse_key = s.to.flip();
    match visited {
        Visit::Use => {}
        Visit::Revived => revive(tables, table, s),
        Visit::Reused => {
            remove_both(tables, table, s);
            return false;
        }
        Visit::Idle => {
            // A stream may run one way only: then only one of the two entries is fresh.
            let view = &s.view;
            let fresh = tables.flow(table, &s.reverse_key, |twin| {
                !expired(config, view.proto, twin.state, idle_s(now_s, twin.seen_s))
            });
            if fresh != Some(true) {
                remove_both(tables, table, s);
                return false;
            }
            let noted = tables.flow(table, &s.view.tuple, |flow| note(flow, view, now_s));
            if matches!(noted, Some(Visit::Revived)) {
                revive(tables, table, s);
            }
        }
    }
    if !error && s.view.proto == proto::TCP && s.view.flags & (FIN | RST) != 0 {
        close(tables, table, s);
    }
    true
}

/// Notes a packet in the entry of its direction.
#[inline(always)]
fn note(flow: &mut Flow, view: &View, now_s: u32) -> Visit {
    flow.seen_s = now_s;
    flow.packets = flow.packets.saturating_add(1);
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
fn remove_both<T: Tables>(tables: &T, table: FlowTable, s: &Scratch) {
    tables.remove_flow(table, &s.view.tuple);
    tables.remove_flow(table, &s.reverse_key);
}

/// A FIN was seen in one direction or an RST: both entries learn of it.
#[inline(always)]
fn close<T: Tables>(tables: &T, table: FlowTable, s: &Scratch) {
    let reset = s.view.flags & RST != 0;
    let both = tables.flow(table, &s.reverse_key, |twin| {
        let over = reset || twin.flags & flow_flag::FIN != 0;
        if over {
            twin.state = flow_state::CLOSING;
        }
        over
    });
    if both != Some(false) {
        tables.flow(table, &s.view.tuple, |flow| flow.state = flow_state::CLOSING);
    }
}

/// A reset was out of the window, or came from some box on the way: the connection lives on.
#[inline(always)]
fn revive<T: Tables>(tables: &T, table: FlowTable, s: &Scratch) {
    let state = match table {
        FlowTable::New => flow_state::EMBRYONIC,
        FlowTable::Established => flow_state::ESTABLISHED,
    };
    let over = tables.flow(table, &s.reverse_key, |twin| {
        let over = twin.flags & s.flow.flags & flow_flag::FIN != 0 || twin.flags & flow_flag::RESET != 0;
        if !over {
            twin.state = state;
        }
        over
    });
    if over == Some(false) {
        tables.flow(table, &s.view.tuple, |flow| flow.state = state);
    }
}

/// Takes away the flow whose answers would have the packet's addresses, turned round, if it is over: a TCP connection that is
/// closed, datagrams that have paused. One that lives stays, or whoever makes up a source could end it.
#[inline(always)]
pub(crate) fn forget_answers<T: Tables>(tables: &T, s: &mut Scratch, now_s: u32) {
    s.reverse_key = s.view.tuple.flip();
    forget_in(tables, FlowTable::Established, s, now_s);
    forget_in(tables, FlowTable::New, s, now_s);
}

#[inline(always)]
fn forget_in<T: Tables>(tables: &T, table: FlowTable, s: &mut Scratch, now_s: u32) {
    let (to, tcp) = (&mut s.to, s.view.proto == proto::TCP);
    let is_over = tables.flow(table, &s.reverse_key, |flow| {
        *to = flow.to.flip();
        let over =
            if tcp { flow.state == flow_state::CLOSING } else { idle_s(now_s, flow.seen_s) >= CLOSED_S };
        over && flow.flags & flow_flag::REVERSE != 0
    });
    if is_over == Some(true) {
        tables.remove_flow(table, &s.reverse_key);
        tables.remove_flow(table, &s.to);
    }
}

/// A packet met its entry among the new ones. Answered flows move to the table that is never evicted: UDP and ICMP with the
/// answer, TCP with the client's acknowledgement of it, so that a flood with made-up sources can't fill that table.
#[inline(always)]
fn settle_new<T: Tables>(tables: &T, s: &mut Scratch, now_s: u32) -> bool {
    if matches!(s.view.kind, Kind::Error) {
        return true;
    }
    let tcp = s.view.proto == proto::TCP;
    if s.flow.flags & flow_flag::REVERSE != 0 {
        if !tcp {
            promote(tables, s);
        }
        return true;
    }
    let back = s.view.tuple.flip();
    // Some(Some(packets)): the twin; Some(None): another flow's entry.
    let twin = tables.flow(FlowTable::New, &s.reverse_key, |twin| {
        if twin.to.same(&back) { Some(twin.packets) } else { None }
    });
    match twin {
        Some(Some(answers)) => {
            if answers > 0 && (!tcp || s.view.flags & (SYN | ACK | RST) == ACK) {
                promote(tables, s);
            }
            true
        }
        Some(None) => {
            tables.remove_flow(FlowTable::New, &s.view.tuple);
            false
        }
        // The table is under pressure and the twin was evicted: put it back.
        None => {
            s.reverse = Flow {
                to: back,
                service_id: s.flow.service_id,
                seen_s: now_s,
                flags: s.flow.flags | flow_flag::REVERSE,
                ..Flow::default()
            };
            match tables.add_flow(FlowTable::New, &s.reverse_key, &s.reverse) {
                Insert::Done => true,
                Insert::Exists | Insert::Full => {
                    tables.remove_flow(FlowTable::New, &s.view.tuple);
                    false
                }
            }
        }
    }
}

/// Moves both entries. A full table leaves them where they are: they work there too, but can be evicted.
#[inline(always)]
fn promote<T: Tables>(tables: &T, s: &mut Scratch) {
    let (flow, reverse) = (&mut s.flow, &mut s.reverse);
    let own = tables.flow(FlowTable::New, &s.view.tuple, |entry| {
        *flow = *entry;
        flow.state = established(flow.state);
    });
    let twin = tables.flow(FlowTable::New, &s.reverse_key, |entry| {
        *reverse = *entry;
        reverse.state = established(reverse.state);
    });
    if own.is_none() || twin.is_none() {
        return;
    }
    // Into the one before out of the other: a reader on another CPU finds each entry in at least one table.
    if matches!(tables.add_flow(FlowTable::Established, &s.reverse_key, &s.reverse), Insert::Full) {
        return;
    }
    if matches!(tables.add_flow(FlowTable::Established, &s.view.tuple, &s.flow), Insert::Full) {
        tables.remove_flow(FlowTable::Established, &s.reverse_key);
        return;
    }
    remove_both(tables, FlowTable::New, s);
}

#[inline(always)]
const fn established(state: u8) -> u8 {
    if state == flow_state::EMBRYONIC { flow_state::ESTABLISHED } else { state }
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

impl Fresh {
    #[inline(always)]
    pub(crate) const fn is_translated(&self) -> bool {
        self.flags != 0 || self.snat
    }
}

impl Scratch {
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
/// allocation of the port, since two flows with the same answers would collide in it.
///
/// # Errors
/// [`Reason::SnatExhausted`], [`Reason::FlowTableFull`].
#[inline(always)]
pub(crate) fn create<T: Tables>(
    tables: &T,
    s: &mut Scratch,
    config: &Config,
    now_s: u32,
) -> Result<(), Reason> {
    let fresh = s.fresh;
    let flags = fresh.flags | if fresh.snat { flow_flag::SNAT } else { 0 };
    s.reverse = Flow {
        to: s.view.tuple.flip(),
        service_id: fresh.service_id,
        seen_s: now_s,
        flags: flags | flow_flag::REVERSE,
        ..Flow::default()
    };
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
    let source_changed = fresh.snat || s.to.sport.raw() != s.view.tuple.sport.raw();
    s.flow = Flow {
        to: s.to,
        service_id: fresh.service_id,
        seen_s: now_s,
        flags: flags | if source_changed { flow_flag::SNAT } else { 0 },
        packets: 1,
        ..Flow::default()
    };
    match tables.add_flow(FlowTable::New, &s.view.tuple, &s.flow) {
        Insert::Done => Ok(()),
        Insert::Exists => adopt(tables, s),
        Insert::Full => {
            tables.remove_flow(FlowTable::New, &s.reverse_key);
            Err(Reason::FlowTableFull)
        }
    }
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
            s.to.sport = port;
            if matches!(s.view.kind, Kind::Echo) {
                s.to.dport = port;
            }
        } else if attempt > 0 {
            // Without ports one flow a destination has room; a second one is refused.
            return Attempt::Exhausted;
        }
    }
    s.reverse_key = s.to.flip();
    let pressed = attempt >= PORT_TRIES / 2;
    let mut added = tables.add_flow(FlowTable::New, &s.reverse_key, &s.reverse);
    if matches!(added, Insert::Exists) && reclaim(tables, FlowTable::New, s, config, now_s, pressed) {
        added = tables.add_flow(FlowTable::New, &s.reverse_key, &s.reverse);
    }
    match added {
        Insert::Done => {}
        Insert::Exists => return Attempt::Again,
        Insert::Full => return Attempt::Full,
    }
    // Asked after the insertion: a flow that moves between the tables in this moment is seen in one of them.
    let taken = tables.flow(FlowTable::Established, &s.reverse_key, |_| ()).is_some();
    if taken && !reclaim(tables, FlowTable::Established, s, config, now_s, pressed) {
        tables.remove_flow(FlowTable::New, &s.reverse_key);
        return Attempt::Again;
    }
    Attempt::Reserved
}

/// Frees the answers' key from a flow that is dead: silent beyond its time in both directions or, when ports have become
/// rare (`pressed`), closed a moment ago.
#[inline(always)]
fn reclaim<T: Tables>(
    tables: &T,
    table: FlowTable,
    s: &mut Scratch,
    config: &Config,
    now_s: u32,
    pressed: bool,
) -> bool {
    let protocol = s.view.proto;
    let dead = |flow: &Flow| {
        let idle = idle_s(now_s, flow.seen_s);
        let closed = pressed && flow.state == flow_state::CLOSING && idle >= CLOSED_S;
        closed || expired(config, protocol, flow.state, idle)
    };
    let to = &mut s.flow.to;
    let own = tables.flow(table, &s.reverse_key, |flow| {
        *to = flow.to.flip();
        dead(flow)
    });
    if own != Some(true) || tables.flow(table, &s.flow.to, |twin| dead(twin)) == Some(false) {
        return false;
    }
    tables.remove_flow(table, &s.reverse_key);
    tables.remove_flow(table, &s.flow.to);
    true
}

/// Another CPU recorded the same flow a moment ago: its choice holds.
#[inline(always)]
fn adopt<T: Tables>(tables: &T, s: &mut Scratch) -> Result<(), Reason> {
    tables.remove_flow(FlowTable::New, &s.reverse_key);
    let to = &mut s.to;
    tables.flow(FlowTable::New, &s.view.tuple, |flow| *to = flow.to).ok_or(Reason::FlowTableFull)
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

#[inline(always)]
pub(crate) const fn idle_s(now_s: u32, seen_s: u32) -> u32 {
    let idle = now_s.wrapping_sub(seen_s);
    // Another CPU's clock may be a tick ahead.
    if idle > u32::MAX / 2 { 0 } else { idle }
}

/// A time of 0 in the configuration means "never".
#[inline(always)]
pub(crate) const fn expired(config: &Config, protocol: u8, state: u8, idle_s: u32) -> bool {
    let limit = match (protocol, state) {
        (proto::TCP, flow_state::EMBRYONIC) => config.tcp_syn_s,
        (proto::TCP, flow_state::ESTABLISHED) => config.tcp_established_s,
        (proto::TCP, _) => config.tcp_closing_s,
        (proto::ICMP | proto::ICMPV6, _) => config.icmp_s,
        (_, flow_state::EMBRYONIC) => config.udp_s,
        (_, _) => config.udp_stream_s,
    };
    limit != 0 && idle_s > limit
}
