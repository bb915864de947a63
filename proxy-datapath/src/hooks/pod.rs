//! The two ends of a pod's veth pair, on the node's side.

use proxy_abi::{Addr, Facts, Link, OwnPort, Reason, endpoint_flag, facts_flag, proto};

use crate::{
    hooks::{own::remember, uplink::source_on},
    packets::{
        addresses::{is_link_local_v6, is_loopback, is_multicast},
        view::{ETH, Kind, Shape},
    },
    state::{
        choice::{Found, Side},
        hop::Place,
        scratch::{Fresh, Scratch},
        verdict::Verdict,
    },
    steps::{
        call::{PacketSteps, TableSteps},
        forward::ends_here,
        peers::speaks_as_node,
    },
};

/// What a pod sends: its addresses are checked, services translated, other pods reached past the stack, the
/// outside masqueraded.
#[inline(always)]
pub fn from_pod<P: PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    ifindex: u32,
) -> Verdict {
    let Some(facts) = tables.facts() else { return Verdict::PASS };
    // Before anything is refused: the record of a drop says what it was.
    let shape = packet.parse(s);
    let Some(link) = tables.link(ifindex) else { return Verdict::drop(Reason::UnknownLink) };
    if matches!(shape, Shape::Broken) {
        return s.verdict;
    }
    if !same_mac(s.head.source(), &link.mac) {
        return Verdict::drop(Reason::MacSpoofed);
    }
    match shape {
        Shape::Arp => check_arp(packet, s, link),
        Shape::Foreign | Shape::Broken => Verdict::drop(Reason::UnknownProtocol),
        Shape::Ip => match admit(s, link) {
            Some(verdict) => verdict,
            None => route(packet, tables, s, facts),
        },
    }
}

/// What the node's own stack sends to a pod. Only answers of host-network backends are ours to translate
/// back.
#[inline(always)]
pub fn to_pod<P: PacketSteps, T: TableSteps>(packet: &mut P, tables: &T, s: &mut Scratch) -> Verdict {
    let Some(facts) = tables.facts() else { return Verdict::PASS };
    if !matches!(packet.parse(s), Shape::Ip) {
        return Verdict::PASS;
    }
    let source = tables.endpoint(&s.view.src).map_or(0, |own| own.flags);
    if source & (endpoint_flag::NODE | endpoint_flag::ROUTER) == 0 && !matches!(s.view.kind, Kind::Error) {
        return Verdict::PASS;
    }
    if source & endpoint_flag::ROUTER != 0 && matches!(s.view.kind, Kind::Ports | Kind::Fragment) {
        // A UDP server on the wildcard address speaks from the route's source, whatever address it was asked
        // at.
        s.view.tuple.src = *facts.node(s.view.v4);
    }
    let is_known = tables.find_translated(s);
    // What the router address says is an answer, or comes back to an address that no service has.
    if !is_known {
        let is_own = source & endpoint_flag::NODE != 0 && packet.speaks_from_service(tables, s);
        if !is_own || !remember(tables, s) || !tables.record_flow(s) {
            return Verdict::PASS;
        }
    }
    if packet.rewrite(s) && packet.write(s) { Verdict::PASS } else { s.verdict }
}

#[inline(always)]
const fn same_mac(a: &[u8; 6], b: &[u8; 6]) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) | (a[5] ^ b[5]) == 0
}

/// A pod may say of its own address, and of none, where it lives (RFC 826, RFC 5227).
#[inline(always)]
fn check_arp<P: PacketSteps>(packet: &P, s: &mut Scratch, link: &Link) -> Verdict {
    let Some(arp) = packet.load::<28>(ETH) else { return Verdict::drop(Reason::Malformed) };
    let sender = Addr::from_v4([arp[14], arp[15], arp[16], arp[17]]);
    s.view.tuple.src = sender;
    s.view.tuple.dst = Addr::from_v4([arp[24], arp[25], arp[26], arp[27]]);
    if !same_mac(&[arp[8], arp[9], arp[10], arp[11], arp[12], arp[13]], &link.mac) {
        return Verdict::drop(Reason::MacSpoofed);
    }
    if sender.same(&link.v4) || sender.v4_raw() == 0 {
        Verdict::PASS
    } else {
        Verdict::drop(Reason::SourceSpoofed)
    }
}

/// Decides on the source address, and on what is never routed; none means "go on".
#[inline(always)]
fn admit(s: &Scratch, link: &Link) -> Option<Verdict> {
    let view = &s.view;
    if is_loopback(&view.src) || is_loopback(&view.dst) {
        return Some(Verdict::drop(Reason::LoopbackSource));
    }
    let own = if view.v4 { &link.v4 } else { &link.v6 };
    if view.src.same(own) && !own.is_unspecified() {
        return if is_multicast(&view.dst) { Some(Verdict::PASS) } else { None };
    }
    if !view.v4 && (is_link_local_v6(&view.src) || view.src.is_unspecified()) {
        return Some(admit_link_local(view.proto, view.flags));
    }
    Some(Verdict::drop(Reason::SourceSpoofed))
}

/// The kernel speaks for itself from link-local addresses: neighbour discovery and multicast listener reports
/// stay on the link. Router advertisements and redirects would bend the node's own routes (CVE-2020-10749).
#[inline(always)]
const fn admit_link_local(protocol: u8, icmp_type: u8) -> Verdict {
    match (protocol, icmp_type) {
        (proto::ICMPV6, 131 | 132 | 133 | 135 | 136 | 143) => Verdict::PASS,
        _ => Verdict::drop(Reason::SourceSpoofed),
    }
}

#[inline(always)]
fn route<P: PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> Verdict {
    let known = tables.find_translated(s);
    s.fresh = Fresh::default();
    if !known {
        s.to = s.view.tuple;
        // An ICMP error goes where it says, not where the packet came from that it quotes.
        s.to.dst = s.view.dst;
        match tables.find_service(s, Side::Inside) {
            Found::Backend => s.balance(),
            Found::Reject => return packet.reject(s),
            Found::Drop => return s.verdict,
            Found::No | Found::SourceUnknown => {}
        }
    }
    tables.locate(s);
    if speaks_as_node(tables, s, facts) {
        return Verdict::drop(Reason::SpokeAsNode);
    }
    if ends_here(s) {
        return packet.expired(s, facts.router(s.view.v4));
    }
    let mut is_translated = known;
    if !known {
        is_translated = match open(packet, tables, s, facts) {
            Opening::Translated => true,
            Opening::AsItIs => false,
            Opening::Stack => return Verdict::PASS,
            Opening::Refuse(reason) => return Verdict::drop(reason),
        };
        if is_translated && !tables.record_flow(s) {
            return s.verdict;
        }
    }
    packet.keep(tables, s);
    if is_translated && !packet.rewrite(s) {
        return s.verdict;
    }
    packet.forward(s, facts)
}

/// What a pod's packet that no flow has becomes.
#[derive(Clone, Copy)]
enum Opening {
    /// A flow, as `s.to` and `s.fresh` say.
    Translated,
    AsItIs,
    /// What the kernel would not send out of an uplink is left to the stack as it is.
    Stack,
    Refuse(Reason),
}

#[inline(always)]
fn open<P: PacketSteps, T: TableSteps>(packet: &P, tables: &T, s: &mut Scratch, facts: &Facts) -> Opening {
    let mut is_translated = true;
    if s.fresh.flags != 0 {
        match choose_source(s, facts) {
            Ok(snat) => s.fresh.snat = snat,
            Err(reason) => return Opening::Refuse(reason),
        }
    } else if matches!(s.hop.place, Place::Outside) {
        match masquerade(packet, tables, s, facts) {
            Opening::Translated => s.fresh.snat = true,
            other => return other,
        }
    } else {
        // It asks a backend itself that it has reached by a service before, from the same port.
        is_translated =
            s.view.opens() && tables.own_port(OwnPort::Answers, s.to.dport) && tables.answers_are_taken(s);
        if !is_translated && matches!(s.hop.place, Place::Routed) {
            return Opening::Stack;
        }
    }
    // A refusal or a farewell of a connection that nobody knows: it can open none.
    match is_translated {
        true if s.view.is_stray() => Opening::Refuse(Reason::NoFlow),
        true => Opening::Translated,
        false => Opening::AsItIs,
    }
}

/// Whether the first packet of a pod's flow to a service needs another source than the pod.
///
/// # Errors
/// [`Reason::Unroutable`]: it does, and the node has no address of its family.
#[inline(always)]
fn choose_source(s: &mut Scratch, facts: &Facts) -> Result<bool, Reason> {
    let source = match s.hop.place {
        // To itself: a packet from its own address would be a martian to the pod.
        Place::Pod if s.to.dst.same(&s.view.src) => facts.router(s.view.v4),
        // A host-network backend on another node must answer to us.
        Place::Outside if facts.flags & facts_flag::MASQUERADE != 0 => facts.node(s.view.v4),
        _ => return Ok(false),
    };
    if source.is_unspecified() {
        return Err(Reason::Unroutable);
    }
    s.to.src = *source;
    Ok(true)
}

/// Out of an uplink under the node's address there, past the stack: other people's FORWARD rules never see
/// it.
#[inline(always)]
fn masquerade<P: PacketSteps, T: TableSteps>(
    packet: &P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> Opening {
    if facts.flags & facts_flag::MASQUERADE == 0 {
        return Opening::Stack;
    }
    packet.way_out(&s.to, &mut s.next);
    let uplink = s.next.device().and_then(|ifindex| tables.uplink(ifindex));
    let Some(node) = uplink.and_then(|uplink| source_on(uplink, facts, s.view.v4)) else {
        return Opening::Stack;
    };
    match s.view.kind {
        Kind::Error => return Opening::Refuse(Reason::NoFlow),
        Kind::Fragment => return Opening::Refuse(Reason::FragmentUnknown),
        Kind::Ports | Kind::Echo | Kind::Other => {}
    }
    s.to.src = *node;
    Opening::Translated
}
