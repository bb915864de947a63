//! A node's uplink before its network stack: what came from outside for a backend elsewhere turns round here.
//!
//! The same tables and the same steps as at [`from_uplink`](crate::from_uplink), which sees all that passes here: a packet
//! that is not sent on is left as it came, and only its flow may have been recorded. Answers come back through the tunnel and
//! meet the flow there.

use proxy_abi::{Be16, Config, Reason, Tuple, config_flag, flow_flag, proto};

use crate::{
    hooks::{
        own::is_for_own_socket,
        peers::{is_tunnel, speaks_as_node},
        uplink::{fits_tunnel, open},
        wire::frame,
    },
    packets::{
        checksum::{add_bytes, finish},
        outer::{is_stray, unwrap, wrapped_in},
        packet::{Frame, Way},
        parse::{ETH, ETHERTYPE_V4, Kind, Shape},
    },
    state::{
        tables::{Scratch, Tables},
        verdict::Verdict,
    },
    steps::{
        forward::{Place, address_tunnel, is_loopback},
        path::{self, Leaves},
        service::{Found, Side, joins_midway},
    },
};

/// Outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348 section 5).
const OUTER: u32 = 50;
const OUTER_HOPS: u8 = 64;
/// Outer source ports: one a flow, so that receivers spread flows over their queues (RFC 7348 section 5).
const FIRST_SOURCE_PORT: u32 = 0xc000;

/// One of so many new flows takes the way through the stack.
const REFRESH: u32 = 16;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
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
pub fn from_nic<P: Frame, T: Tables>(packet: &mut P, tables: &T, s: &mut Scratch) -> Verdict {
    let Some(config) = tables.config() else { return Verdict::PASS };
    if !matches!(packet.parse(s), Shape::Ip) || is_for_own_socket(tables, &s.view, config) {
        return Verdict::PASS;
    }
    let was_wrapped = match wrapped_in(tables, &s.view, config) {
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
    let step = decide(packet, tables, s, config);
    if matches!(step, Step::Pass) {
        let is_stray = was_wrapped && is_stray(tables, &s.view);
        return if is_stray { Verdict::drop(Reason::UnwrappedStray) } else { Verdict::PASS };
    }
    if matches!(step, Step::Settled) || !(s.direct || packet.rewrite(s)) {
        return s.verdict;
    }
    if let Err(reason) = s.head.count_hop(&s.view) {
        return Verdict::drop(reason);
    }
    let tunnel = matches!(step, Step::Tunnel);
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
    match encapsulate(packet, tables, s, config) {
        Some(()) => Verdict::wrapped(s.next.ifindex),
        None => Verdict::drop(Reason::RewriteFailed),
    }
}

/// Not inlined: what it needs of the stack is free again when the packet is written.
#[inline(never)]
fn decide<P: Frame, T: Tables>(packet: &P, tables: &T, s: &mut Scratch, config: &Config) -> Step {
    let view = &s.view;
    let ordinary = matches!(view.kind, Kind::Ports) && !view.fragment && view.ttl > 1;
    if !ordinary || is_tunnel(view, config) || is_loopback(&view.src) || is_loopback(&view.dst) {
        return Step::Pass;
    }
    if tables.find_flow(s) {
        if s.flow.flags & flow_flag::REVERSE != 0 {
            return Step::Pass;
        }
        if !s.lively {
            let seen_s = s.flow.seen_s;
            return leave_to_stack(tables, s, seen_s);
        }
        tables.locate(s);
        if speaks_as_node(tables, s, config) {
            return Step::Pass;
        }
    } else {
        s.to = s.view.tuple;
        // The tc program tells why.
        if config.flags & config_flag::TUNNEL != 0 && tables.pod_cidr(&s.view.src).is_some() {
            return Step::Pass;
        }
        if !matches!(tables.find_service(s, Side::Outside), Found::Backend) {
            return Step::Pass;
        }
        if s.view.is_midway() && !joins_midway(tables, &s.view) {
            return Step::Pass;
        }
        s.balance();
        tables.locate(s);
        if speaks_as_node(tables, s, config) {
            return Step::Pass;
        }
        if matches!(s.hop.place, Place::Remote) && !fits_tunnel(packet, &s.view, config) {
            return Step::Pass;
        }
        // The draw is noted even where the packet is left to the stack, or the local backends would be drawn twice.
        if open(tables, s, config).is_err() {
            return Step::Pass;
        }
        if !tables.record_flow(s) {
            return Step::Settled;
        }
        if tables.random().is_multiple_of(REFRESH) {
            return leave_to_stack(tables, s, tables.now_s().wrapping_sub(1));
        }
    }
    let step = way(packet, s, config);
    path::keep(tables, s);
    step
}

/// Neighbours' addresses stay fresh by what the stack sends itself: the first packet of a flow in each second, and some that
/// open one. The tc program is to see it as such.
#[inline(always)]
fn leave_to_stack<T: Tables>(tables: &T, s: &Scratch, seen_s: u32) -> Step {
    tables.flow(&s.view.tuple, |flow| flow.seen_s = seen_s);
    Step::Pass
}

/// How the packet leaves; [`Step::Pass`] where that takes more than writing a frame (an address to be asked for, a message).
#[inline(always)]
fn way<P: Frame>(packet: &P, s: &mut Scratch, config: &Config) -> Step {
    let length = s.view.length as u32;
    match s.hop.place {
        Place::Remote => {
            // Over IPv6 the outer checksum would cover the whole packet.
            let reachable = s.hop.node.is_v4() && !config.node_v4.is_unspecified();
            if !reachable || config.overlay_ifindex == 0 || !fits_tunnel(packet, &s.view, config) {
                return Step::Pass;
            }
            let (source, port) = (source_port(&s.to), Be16::new(config.tunnel_port));
            s.reverse_key = Tuple::new(config.node_v4, source, s.hop.node, port, proto::UDP);
            let found = path::next_hop(packet, s, Leaves::Outer, length + OUTER);
            if matches!(found, Way::Found) { Step::Tunnel } else { Step::Pass }
        }
        _ if s.direct => Step::Pass,
        Place::Outside | Place::Routed => {
            let found = path::next_hop(packet, s, Leaves::Itself, length);
            if matches!(found, Way::Found) { Step::Translate } else { Step::Pass }
        }
        Place::Pod | Place::Node | Place::Nobody => Step::Pass,
    }
}

#[inline(always)]
const fn source_port(tuple: &Tuple) -> Be16 {
    let ports = (tuple.sport.raw() as u32) << 16 | tuple.dport.raw() as u32;
    let mixed = (ports ^ tuple.src.0[3] ^ tuple.dst.0[3]).wrapping_mul(0x9e37_79b1);
    Be16::new((FIRST_SOURCE_PORT | mixed >> 18) as u16)
}

/// Puts the frame into a VXLAN datagram, as the VXLAN device does: no outer checksum, congestion marks carried over (RFC 6040
/// section 4.1), may be cut on the way.
#[inline(never)]
fn encapsulate<P: Frame, T: Tables>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    config: &Config,
) -> Option<()> {
    let class = s.head.ip()[1];
    let marks = if s.view.v4 { class & 3 } else { class >> 4 & 3 };
    // From here on the inner frame's length counts: Ethernet header and IP packet.
    let udp = s.view.length.wrapping_add((ETH + 16) as u16);
    packet.prepend(OUTER)?;
    let [a, b] = udp.wrapping_add(20).to_be_bytes();
    let [c, d] = (tables.random() as u16).to_ne_bytes();
    let [e, f, g, h] = s.reverse_key.src.v4_raw().to_ne_bytes();
    let [i, j, k, l] = s.reverse_key.dst.v4_raw().to_ne_bytes();
    let mut ip = [0x45, marks, a, b, c, d, 0, 0, OUTER_HOPS, proto::UDP, 0, 0, e, f, g, h, i, j, k, l];
    let [m, n] = finish(add_bytes(0, &ip)).to_ne_bytes();
    ip[10] = m;
    ip[11] = n;
    packet.store_new(ETH, &ip)?;
    let ([a, b], [c, d]) = (s.reverse_key.sport.raw().to_ne_bytes(), s.reverse_key.dport.raw().to_ne_bytes());
    let [e, f] = udp.to_be_bytes();
    let [_, g, h, i] = config.vni.to_be_bytes();
    packet.store_new(ETH + 20, &[a, b, c, d, e, f, 0, 0, 0x08, 0, 0, 0, g, h, i, 0])?;
    frame(packet, &s.next, ETHERTYPE_V4)
}
