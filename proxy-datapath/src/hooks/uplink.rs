//! The devices that lead to the other nodes and the outside.

use proxy_abi::{Addr, Facts, OwnPort, Reason, Uplink, endpoint_flag, facts_flag, flow_flag};

use crate::{
    hooks::own::{is_translated, remember, share},
    packets::{
        addresses::is_loopback,
        view::{Kind, Shape, View},
    },
    state::{
        choice::{Found, Sender, Side},
        hop::Place,
        scratch::{Fresh, Scratch},
        verdict::Verdict,
    },
    steps::{
        call::{PacketSteps, TableSteps},
        forward::ends_here,
        own::is_for_own_socket,
        peers::{is_forged_tunnel, is_tunnel, speaks_as_node, speaks_to_peer},
        service::joins_midway,
    },
};

/// What comes in from outside: NodePorts and other service addresses, answers to masqueraded flows. All else
/// is the stack's.
#[inline(always)]
pub fn from_uplink<P: PacketSteps, T: TableSteps>(packet: &mut P, tables: &T, s: &mut Scratch) -> Verdict {
    let Some(facts) = tables.facts() else { return Verdict::PASS };
    match packet.parse(s) {
        Shape::Ip => {}
        Shape::Broken if matches!(s.verdict.reason, Reason::MappedOnWire) => return s.verdict,
        // The node's own business, and its stack is the judge of it.
        Shape::Arp | Shape::Foreign | Shape::Broken => return Verdict::PASS,
    }
    if is_for_own_socket(tables, &s.view, facts) {
        return Verdict::PASS;
    }
    if is_tunnel(&s.view, facts) {
        let is_forged = is_forged_tunnel(tables, &s.view, facts);
        return if is_forged { Verdict::drop(Reason::SpokeAsNode) } else { Verdict::PASS };
    }
    if is_loopback(&s.view.src) || is_loopback(&s.view.dst) {
        return Verdict::drop(Reason::LoopbackSource);
    }
    let known = tables.find_flow(s);
    if !known {
        s.to = s.view.tuple;
        let is_own = s.view.src.same(facts.node(s.view.v4));
        let found = tables.find_service(s, if is_own { Side::Inside } else { Side::Outside });
        // Only the tunnel may bring packets from pods; on the wire a stranger could make them.
        if facts.flags & facts_flag::TUNNEL != 0 && tables.pod_cidr(&s.view.src).is_some() {
            return Verdict::drop(Reason::SourceSpoofed);
        }
        match found {
            Found::No | Found::SourceUnknown if !asks_backend_itself(tables, s) => return Verdict::PASS,
            Found::No | Found::SourceUnknown => s.stay(),
            Found::Drop => return s.verdict,
            Found::Reject => return packet.reject(s),
            Found::Backend if s.view.is_midway() && !joins_midway(tables, &s.view) => return Verdict::PASS,
            Found::Backend => s.balance(),
        }
    }
    tables.locate(s);
    if speaks_as_node(tables, s, facts) {
        return Verdict::drop(Reason::SpokeAsNode);
    }
    if ends_here(s) {
        return packet.expired(s, facts.node(s.view.v4));
    }
    if is_too_big(packet, s, facts) {
        return packet.too_big(s, facts.pod_mtu);
    }
    if !known {
        if let Err(reason) = open(tables, s, facts) {
            return Verdict::drop(reason);
        }
        if !tables.record_flow(s) {
            return s.verdict;
        }
        // Another CPU may have drawn another backend.
        if is_too_big(packet, s, facts) {
            return packet.too_big(s, facts.pod_mtu);
        }
    }
    packet.keep(tables, s);
    if s.direct || packet.rewrite(s) { packet.forward(s, facts) } else { s.verdict }
}

/// A client that reached a host-network backend by its service dials it directly, from the same port: the
/// answers would bear the service's address.
#[inline(always)]
fn asks_backend_itself<T: TableSteps>(tables: &T, s: &mut Scratch) -> bool {
    s.view.opens() && tables.own_port(OwnPort::Answers, s.view.tuple.dport) && tables.answers_are_taken(s)
}

/// What the node's stack sends out of an uplink: answers of its host-network backends are translated back,
/// and what pods or the router address send through the stack is masqueraded. What our own programs send here
/// has the node's address and belongs to no entry: it passes.
#[inline(always)]
pub fn to_uplink<P: PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    ifindex: u32,
) -> Verdict {
    let Some(facts) = tables.facts() else { return Verdict::PASS };
    if !matches!(packet.parse(s), Shape::Ip) {
        return Verdict::PASS;
    }
    let sender = packet.sender(tables, s);
    if matches!(sender, Sender::Own) {
        return Verdict::PASS;
    }
    let Some(source) = tables.endpoint(&s.view.src) else { return Verdict::PASS };
    let masquerade = source.flags & endpoint_flag::NODE == 0;
    if !masquerade && is_tunnel(&s.view, facts) {
        return Verdict::PASS;
    }
    if !masquerade && matches!(sender, Sender::AsksService) {
        return ask_service(packet, tables, s);
    }
    if !masquerade && facts.gives(s.view.tuple.sport) && is_translated(packet, tables, s) {
        return Verdict::PASS;
    }
    let is_known = tables.find_translated(s);
    if !is_known {
        s.to = s.view.tuple;
        s.to.dst = s.view.dst;
    }
    if source.flags & endpoint_flag::POD != 0 && speaks_to_peer(tables, s, facts) {
        return Verdict::drop(Reason::SpokeAsNode);
    }
    if !is_known {
        if masquerade {
            if facts.flags & facts_flag::MASQUERADE == 0 {
                return Verdict::PASS;
            }
            if let Err(reason) = hide(tables, s, facts, ifindex) {
                return Verdict::drop(reason);
            }
        } else {
            let is_ours = match sender {
                Sender::SpeaksFromService => remember(tables, s),
                Sender::SharesPort => share(tables, s),
                Sender::Other | Sender::Own | Sender::AsksService => false,
            };
            if !is_ours {
                return Verdict::PASS;
            }
        }
        if !tables.record_flow(s) {
            // The node's own goes out all the same.
            return if masquerade { s.verdict } else { Verdict::PASS };
        }
    }
    if packet.rewrite(s) && packet.write(s) { Verdict::PASS } else { s.verdict }
}

/// What a socket of the node sends to a service's address: it was connected before there were endpoints, or
/// no socket hook was there. In by the device that it was to leave by it is balanced as what others send.
#[inline(always)]
fn ask_service<P: PacketSteps, T: TableSteps>(packet: &mut P, tables: &T, s: &mut Scratch) -> Verdict {
    // A later fragment follows the first one.
    if !matches!(s.view.kind, Kind::Fragment) {
        match tables.find_service(s, Side::Inside) {
            Found::No | Found::SourceUnknown => return Verdict::PASS,
            Found::Drop => return s.verdict,
            Found::Reject => return packet.reject(s).taken_in(),
            Found::Backend => {}
        }
        let backend = s.choice.backend.addr;
        if tables.endpoint(&backend).is_some_and(|own| own.flags & endpoint_flag::NODE != 0) {
            // The stack takes nothing in that bears its own address. Told that nobody listens, its socket is
            // connected again.
            return packet.reject(s).taken_in();
        }
    }
    let own = *s.head.source();
    s.head.address_to(&own);
    if packet.write(s) { Verdict::TAKEN_IN } else { s.verdict }
}

#[inline(always)]
fn is_too_big<P: PacketSteps>(packet: &P, s: &Scratch, facts: &Facts) -> bool {
    matches!(s.hop.place, Place::Remote) && !fits_tunnel(packet, &s.view, facts)
}

/// Clients outside have no say in the tunnel's MTU: theirs is larger. What may be cut is cut, around the
/// tunnel's header.
#[inline(always)]
pub(crate) fn fits_tunnel<P: PacketSteps>(packet: &P, view: &View, facts: &Facts) -> bool {
    view.length as u32 <= facts.pod_mtu || !view.whole || view.fragment || packet.is_merged()
}

/// What the flow from outside becomes whose backend was drawn and found: `s.fresh`, `s.to.src`.
///
/// # Errors
/// [`Reason::Unroutable`]: it needs another source, and the node has no address of its family.
#[inline(always)]
pub(crate) fn open<T: TableSteps>(tables: &T, s: &mut Scratch, facts: &Facts) -> Result<(), Reason> {
    s.fresh.flags |= flow_flag::FROM_UPLINK;
    // A node may speak for one of its pods here: the answer must come to it from outside, and never would
    // from its own pod.
    s.direct = s.choice.direct && matches!(s.hop.place, Place::Remote) && !tables.is_tunnel_peer(&s.view.src);
    if s.direct {
        s.fresh.flags |= flow_flag::DIRECT;
        return Ok(());
    }
    s.fresh.snat = choose_source(s, facts)?;
    Ok(())
}

/// Whether the first packet of a flow from outside to a service needs another source than the client.
///
/// # Errors
/// [`Reason::Unroutable`]: it does, and the node has no address of its family.
#[inline(always)]
fn choose_source(s: &mut Scratch, facts: &Facts) -> Result<bool, Reason> {
    let source = match s.hop.place {
        // The answer comes back through the tunnel because the router address is in our pod CIDR.
        Place::Remote => facts.router(s.view.v4),
        Place::Outside | Place::Routed => facts.node(s.view.v4),
        // On this node the client's address is kept: the answer meets us anyway.
        Place::Pod | Place::Node | Place::Nobody => return Ok(false),
    };
    if source.is_unspecified() {
        return Err(Reason::Unroutable);
    }
    s.to.src = *source;
    Ok(true)
}

/// The node's address for what leaves by a device: the device's own, else that of the uplink towards the
/// other nodes.
#[inline(always)]
pub(crate) fn source_on<'a>(uplink: &'a Uplink, facts: &'a Facts, v4: bool) -> Option<&'a Addr> {
    let own = uplink.node(v4);
    let source = if own.is_unspecified() { facts.node(v4) } else { own };
    if source.is_unspecified() { None } else { Some(source) }
}

/// Masquerade of what went through the stack: what its flow becomes.
#[inline(always)]
fn hide<T: TableSteps>(tables: &T, s: &mut Scratch, facts: &Facts, ifindex: u32) -> Result<(), Reason> {
    match s.view.kind {
        Kind::Error => return Err(Reason::NoFlow),
        Kind::Fragment => return Err(Reason::FragmentUnknown),
        _ => {}
    }
    let uplink = tables.uplink(ifindex);
    let Some(node) = uplink.and_then(|uplink| source_on(uplink, facts, s.view.v4)) else {
        return Err(Reason::Unroutable);
    };
    s.to = s.view.tuple;
    s.to.src = *node;
    s.fresh = Fresh { service_id: 0, flags: 0, snat: true };
    Ok(())
}
