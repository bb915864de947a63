//! A balancer that stands in front of nodes, before its machine's network stack.
//!
//! Two ways to a backend. *Translated*: the backend sees the balancer's address and answers it. *Direct*
//! (DSR): the packet travels unchanged inside another one, the backend's node unwraps it, holds the service's
//! address itself and answers the client; the balancer sees one direction only.

use proxy_abi::{Be16, Facts, FrontendKey, Reason, Tuple, flow_flag, frontend_flag, frontend_kind};

use crate::{
    packets::{
        ip::{self},
        outer::{Wrapping, same_inside, wrap_v4, wrap_v6},
        packet::{Frame, NextHop, Way},
        view::{Kind, Shape},
    },
    state::{
        choice::{Found, Side},
        scratch::Scratch,
        verdict::Verdict,
    },
    steps::{
        call::{PacketSteps, TableSteps},
        path::{self, Leaves},
        service::{Client, Service, select},
    },
};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop(Reason),
    /// As `s.verdict` says.
    Settled,
    /// To nobody: the client is told.
    Reject,
    /// Too long once it is wrapped, as `s.next` says.
    TooBig,
    /// To `s.to` by `s.next`.
    Translate,
    /// By `s.next` inside a packet from `s.reverse_key.src` to `s.reverse_key.dst`.
    Wrap,
}

/// What the wire brings: packets to service addresses, and answers to translated flows. All else is the
/// machine's own.
#[inline(always)]
pub fn from_wire<P: Frame + PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
) -> Verdict {
    let Some(facts) = tables.facts() else { return Verdict::PASS };
    if !matches!(packet.parse(s), Shape::Ip) {
        return Verdict::PASS;
    }
    // A flow goes on as it began, whatever its service has become.
    let is_known = tables.find_flow(s);
    let is_direct = if is_known { s.direct } else { asks_for_direct(packet, tables, s, facts) };
    let fate = match is_direct {
        true => direct(packet, tables, s, facts, is_known),
        false => translated(packet, tables, s, facts, is_known),
    };
    match fate {
        Fate::Pass => return Verdict::PASS,
        Fate::Drop(reason) => return Verdict::drop(reason),
        Fate::Settled => return s.verdict,
        Fate::Reject => return packet.reject(s),
        Fate::TooBig => return refuse_length(packet, s),
        Fate::Translate if !packet.rewrite(s) => return s.verdict,
        Fate::Translate | Fate::Wrap => {}
    }
    if let Err(reason) = s.head.count_hop(&s.view) {
        return Verdict::drop(reason);
    }
    let wraps = matches!(fate, Fate::Wrap);
    if !wraps {
        s.head.address(&s.next.macs);
    }
    if !packet.write(s) {
        return s.verdict;
    }
    let ifindex = s.next.ifindex;
    if !wraps {
        return Verdict::out(ifindex);
    }
    let wrapped = if s.view.v4 { wrap_around_v4(packet, tables, s) } else { wrap_around_v6(packet, s) };
    if wrapped.is_some() { Verdict::wrapped(ifindex) } else { Verdict::drop(Reason::RewriteFailed) }
}

/// Not inlined, as the next two: what they need of the stack is free again when the packet is rewritten.
/// Notes whether the packet is the machine's own, which no backend is drawn for.
#[inline(never)]
fn asks_for_direct<P: Frame + PacketSteps, T: TableSteps>(
    packet: &P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> bool {
    let Tuple { dst, dport, proto, .. } = s.view.tuple;
    let key = FrontendKey { addr: dst, port: dport, proto, kind: frontend_kind::ADDRESS };
    let Some(frontend) = tables.frontend(&key) else {
        s.is_own = false;
        return false;
    };
    s.is_own = is_own_answer(packet, s, facts);
    !s.is_own && frontend.flags & frontend_flag::DIRECT != 0
}

#[inline(never)]
fn translated<P: Frame + PacketSteps, T: TableSteps>(
    packet: &P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
    is_known: bool,
) -> Fate {
    if !is_known {
        let drawn = draw(tables, s, facts);
        if !matches!(drawn, Fate::Translate) {
            return drawn;
        }
        s.balance();
        s.fresh.snat = true;
        if !tables.record_flow(s) {
            return Fate::Settled;
        }
        // Another CPU may have recorded it before its service was asked for in this way.
        if s.flow.flags & flow_flag::DIRECT != 0 {
            return Fate::Drop(Reason::FlowTableFull);
        }
    }
    // As long as the packet that came in, so any length: it fitted the wire.
    match path::next_hop(packet, s, Leaves::Itself, 0) {
        Way::Found => {
            path::keep(tables, s);
            return Fate::Translate;
        }
        // The event names where the packet was to go.
        _ => s.view.tuple = s.to,
    }
    refusal(&s.next)
}

/// A backend for the first packet of a flow, which will come from this machine's own address.
#[inline(never)]
fn draw<T: TableSteps>(tables: &T, s: &mut Scratch, facts: &Facts) -> Fate {
    if s.is_own {
        return Fate::Pass;
    }
    match tables.find_service(s, Side::Outside) {
        Found::No | Found::SourceUnknown => return Fate::Pass,
        Found::Drop => return Fate::Settled,
        Found::Reject => return Fate::Reject,
        Found::Backend => {}
    }
    s.to = s.view.tuple;
    s.to.src = *facts.node(s.view.v4);
    if s.to.src.is_unspecified() { Fate::Drop(Reason::Unroutable) } else { Fate::Translate }
}

/// Whether a packet to a service's address answers what this machine itself has asked from there: that is no
/// client's. Nothing here sees what the machine sends, so a socket that is not connected can't be told from a
/// server's.
#[inline(always)]
fn is_own_answer<P: Frame + PacketSteps>(packet: &P, s: &Scratch, facts: &Facts) -> bool {
    s.view.dst.same(facts.node(s.view.v4))
        && matches!(s.view.kind, Kind::Ports)
        && packet.is_for_connected_socket(&s.view.tuple)
}

#[inline(always)]
const fn refusal(hop: &NextHop) -> Fate {
    match hop.way {
        Way::TooBig => Fate::TooBig,
        Way::NoNeighbour => Fate::Drop(Reason::NeighbourUnknown),
        Way::None | Way::Found => Fate::Drop(Reason::Unroutable),
    }
}

#[inline(never)]
fn direct<P: Frame + PacketSteps, T: TableSteps>(
    packet: &P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
    is_known: bool,
) -> Fate {
    if !is_known {
        if s.view.tuple.dport.raw() == 0 {
            return Fate::Drop(Reason::FragmentUnknown);
        }
        let Scratch { view, choice, .. } = s;
        let Tuple { src, dst, sport, dport, proto, .. } = &view.tuple;
        let client =
            Client { side: Side::Outside, identity: src, source: Some(src), port: sport.raw() as u32 };
        match select(tables, facts, (dst, *dport, *proto), &client, choice) {
            Service::Backend => {}
            Service::No | Service::SourceUnknown => return Fate::Pass,
            Service::Drop(reason) => return Fate::Drop(reason),
            Service::Reject => return Fate::Reject,
        }
        s.to = s.view.tuple;
        s.balance();
        s.fresh.flags |= flow_flag::DIRECT;
        // Maglev says where an error goes, and nothing is opened by one.
        if !matches!(s.view.kind, Kind::Error) {
            if !tables.record_flow(s) {
                return Fate::Settled;
            }
            if s.flow.flags & flow_flag::DIRECT == 0 {
                return Fate::Drop(Reason::FlowTableFull);
            }
        }
    }
    let source = facts.node(s.view.v4);
    if source.is_unspecified() || source.is_v4() != s.to.dst.is_v4() {
        return Fate::Drop(Reason::Unroutable);
    }
    let protocol = same_inside(s.view.v4);
    s.reverse_key = Tuple::new(*source, Be16::ZERO, s.to.dst, Be16::ZERO, protocol);
    let length = s.view.length as u32 + ip::length(s.view.v4);
    match path::next_hop(packet, s, Leaves::Outer, length) {
        Way::Found => {
            path::keep(tables, s);
            return Fate::Wrap;
        }
        Way::TooBig => return Fate::TooBig,
        _ => s.view.tuple = s.reverse_key,
    }
    refusal(&s.next)
}

/// Does not fit once it is wrapped: the sender is told what would, if it has forbidden to cut it.
#[inline(always)]
fn refuse_length<P: Frame + PacketSteps>(packet: &mut P, s: &mut Scratch) -> Verdict {
    if !s.view.whole {
        return Verdict::drop(Reason::TooBig);
    }
    packet.too_big(s, s.next.mtu.saturating_sub(ip::length(s.view.v4)))
}

/// Not inlined, as its twin.
#[inline(never)]
fn wrap_around_v4<P: Frame + PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &Scratch,
) -> Option<()> {
    wrap_v4(packet, wrapping(s), || tables.random() as u16)
}

#[inline(never)]
fn wrap_around_v6<P: Frame + PacketSteps>(packet: &mut P, s: &Scratch) -> Option<()> {
    wrap_v6(packet, wrapping(s))
}

#[inline(always)]
const fn wrapping(s: &Scratch) -> Wrapping<'_> {
    Wrapping { inner: &s.head, view: &s.view, outer: &s.reverse_key, next: &s.next }
}
