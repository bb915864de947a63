//! A node's uplink before its network stack: what came from outside for a backend elsewhere turns round here.
//!
//! The same tables and the same steps as at [`from_uplink`](crate::from_uplink), which sees all that passes
//! here: a packet that is not sent on is left as it came, and only its flow may have been recorded. Answers
//! come back through the tunnel and meet the flow there.

use proxy_abi::{Be16, Facts, Reason, Tuple, facts_flag, flow_flag, proto};

use crate::{
    hooks::uplink::{fits_tunnel, open},
    packets::{
        addresses::is_loopback,
        outer::{VXLAN, Wrapping, source_port, unwrap, vxlan},
        packet::{Frame, Way},
        view::{Kind, Shape, View},
    },
    state::{
        choice::{Found, Side},
        hop::Place,
        scratch::Scratch,
        verdict::Verdict,
    },
    steps::{
        call::{PacketSteps, TableSteps},
        forward::address_tunnel,
        own::is_for_own_socket,
        path::{self, Leaves},
        peers::{is_tunnel, speaks_as_node, wrapped_in},
        service::{asked, joins_midway},
    },
};

/// One of so many new flows takes the way through the stack.
const REFRESH: u32 = 16;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The stack's, or the tc program's.
    Pass,
    /// As `s.verdict` says.
    Settled,
    /// To `s.to` through the tunnel, inside a datagram of `s.reverse_key` by `s.next`.
    Tunnel,
    /// To `s.to` by `s.next`.
    Translate,
}

/// What the wire brings to a node, as soon as its driver has it.
#[inline(always)]
pub fn from_nic<P: Frame + PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
) -> Verdict {
    let Some(facts) = tables.facts() else { return Verdict::PASS };
    if !matches!(packet.parse(s), Shape::Ip) || is_for_own_socket(tables, &s.view, facts) {
        return Verdict::PASS;
    }
    let was_wrapped = match wrapped_in(tables, &s.view, facts) {
        0 => false,
        outer => {
            if unwrap(packet, outer).is_none() {
                return Verdict::drop(Reason::RewriteFailed);
            }
            if !matches!(packet.parse(s), Shape::Ip) {
                return Verdict::drop(Reason::Malformed);
            }
            true
        }
    };
    let fate = decide(packet, tables, s, facts);
    if matches!(fate, Fate::Pass) {
        let is_stray = was_wrapped && is_for_no_service(tables, &s.view);
        return if is_stray { Verdict::drop(Reason::UnwrappedStray) } else { Verdict::PASS };
    }
    if matches!(fate, Fate::Settled) || !(s.direct || packet.rewrite(s)) {
        return s.verdict;
    }
    if let Err(reason) = s.head.count_hop(&s.view) {
        return Verdict::drop(reason);
    }
    let tunnel = matches!(fate, Fate::Tunnel);
    if tunnel {
        address_tunnel(s)
    } else {
        s.head.address(&s.next.macs)
    }
    if !packet.write(s) {
        return s.verdict;
    }
    if !tunnel {
        return Verdict::out(s.next.ifindex);
    }
    match encapsulate(packet, tables, s, facts) {
        Some(()) => Verdict::wrapped(s.next.ifindex),
        None => Verdict::drop(Reason::RewriteFailed),
    }
}

/// Not inlined: what it needs of the stack is free again when the packet is written.
#[inline(never)]
fn decide<P: Frame + PacketSteps, T: TableSteps>(
    packet: &P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> Fate {
    let view = &s.view;
    let ordinary = matches!(view.kind, Kind::Ports) && !view.fragment && view.ttl > 1;
    if !ordinary || is_tunnel(view, facts) || is_loopback(&view.src) || is_loopback(&view.dst) {
        return Fate::Pass;
    }
    if tables.find_flow(s) {
        if s.flow.flags & flow_flag::REVERSE != 0 {
            return Fate::Pass;
        }
        if !s.lively {
            let seen_s = s.flow.seen_s;
            return leave_to_stack(tables, s, seen_s);
        }
        tables.locate(s);
        if speaks_as_node(tables, s, facts) {
            return Fate::Pass;
        }
    } else {
        s.to = s.view.tuple;
        // The tc program tells why.
        if facts.flags & facts_flag::TUNNEL != 0 && tables.pod_cidr(&s.view.src).is_some() {
            return Fate::Pass;
        }
        if !matches!(tables.find_service(s, Side::Outside), Found::Backend) {
            return Fate::Pass;
        }
        if s.view.is_midway() && !joins_midway(tables, &s.view) {
            return Fate::Pass;
        }
        s.balance();
        tables.locate(s);
        if speaks_as_node(tables, s, facts) {
            return Fate::Pass;
        }
        if matches!(s.hop.place, Place::Remote) && !fits_tunnel(packet, &s.view, facts) {
            return Fate::Pass;
        }
        // The draw is noted even where the packet is left to the stack, or the local backends would be drawn
        // twice.
        if open(tables, s, facts).is_err() {
            return Fate::Pass;
        }
        if !tables.record_flow(s) {
            return Fate::Settled;
        }
        if tables.random().is_multiple_of(REFRESH) {
            return leave_to_stack(tables, s, tables.now_s().wrapping_sub(1));
        }
    }
    let fate = way(packet, s, facts);
    path::keep(tables, s);
    fate
}

/// Neighbours' addresses stay fresh by what the stack sends itself: the first packet of a flow in each
/// second, and some that open one. The tc program is to see it as such.
#[inline(always)]
fn leave_to_stack<T: TableSteps>(tables: &T, s: &Scratch, seen_s: u32) -> Fate {
    tables.flow(&s.view.tuple, |flow| flow.seen_s = seen_s);
    Fate::Pass
}

/// How the packet leaves; [`Fate::Pass`] where that takes more than writing a frame (an address to be asked
/// for, a message).
#[inline(always)]
fn way<P: Frame + PacketSteps>(packet: &P, s: &mut Scratch, facts: &Facts) -> Fate {
    let length = s.view.length as u32;
    match s.hop.place {
        Place::Remote => {
            // Over IPv6 the outer checksum would cover the whole packet.
            let reachable = s.hop.node.is_v4() && !facts.node_v4.is_unspecified();
            if !reachable || facts.overlay_ifindex == 0 || !fits_tunnel(packet, &s.view, facts) {
                return Fate::Pass;
            }
            let (source, port) = (source_port(&s.to), Be16::new(facts.tunnel_port));
            s.reverse_key = Tuple::new(facts.node_v4, source, s.hop.node, port, proto::UDP);
            let found = path::next_hop(packet, s, Leaves::Outer, length + VXLAN);
            if matches!(found, Way::Found) { Fate::Tunnel } else { Fate::Pass }
        }
        _ if s.direct => Fate::Pass,
        Place::Outside | Place::Routed => {
            let found = path::next_hop(packet, s, Leaves::Itself, length);
            if matches!(found, Way::Found) { Fate::Translate } else { Fate::Pass }
        }
        Place::Pod | Place::Node | Place::Nobody => Fate::Pass,
    }
}

/// Whether an unwrapped packet is for no service: the stack would send it on, maybe back to where it came
/// from. What only a flow can tell (errors, later fragments) is not said here.
#[inline(always)]
fn is_for_no_service<T: TableSteps>(tables: &T, view: &View) -> bool {
    matches!(view.kind, Kind::Ports) && asked(tables, view).is_none()
}

/// Not inlined, as [`decide`].
#[inline(never)]
fn encapsulate<P: Frame + PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> Option<()> {
    let wrapping = Wrapping { inner: &s.head, view: &s.view, outer: &s.reverse_key, next: &s.next };
    vxlan(packet, wrapping, facts.vni, || tables.random() as u16)
}
