//! The node's own traffic, which is most of what its uplink sees: told by its addresses and ports, so that it costs next to
//! nothing.

use proxy_abi::{Facts, FrontendKey, OwnPort, Prefix, facts_flag, frontend_kind, proto};

use crate::{
    hooks::peers::is_tunnel,
    packets::{
        addresses::is_loopback,
        view::{ETH, Kind, View},
    },
    state::scratch::{Fresh, Scratch},
    steps::{
        call::{PacketSteps, TableSteps},
        service::is_from_service,
    },
};

/// A whole TCP segment or UDP datagram behind a header without options. Whatever is none takes the long way.
#[inline(always)]
fn is_plain(view: &View) -> bool {
    let header = if view.v4 { 20 } else { 40 };
    matches!(view.kind, Kind::Ports)
        && (view.proto == proto::TCP || view.proto == proto::UDP)
        && !view.fragment
        && view.l4 as u32 == ETH + header
}

/// Whether a packet that came in by the uplink is for a socket of the node, of which no table of ours knows anything.
#[inline(always)]
pub(crate) fn is_for_own_socket<T: TableSteps>(tables: &T, view: &View, facts: &Facts) -> bool {
    if !is_plain(view) {
        return false;
    }
    let View { tuple, v4, .. } = view;
    let port = tuple.dport.get();
    // What could be a NodePort, or a port that we gave a flow of somebody's.
    let ours = (port >= facts.nodeport_min && port <= facts.nodeport_max)
        || (port >= facts.snat_min && port <= facts.snat_max);
    if ours || !tuple.dst.same(facts.node(*v4)) || is_loopback(&tuple.src) {
        return false;
    }
    if tables.own_port(OwnPort::Asked, tuple.dport) || tables.own_port(OwnPort::Answers, tuple.dport) {
        return false;
    }
    // A segment that opens nothing: had it to do with a flow of ours, the port would be marked.
    if view.is_midway() {
        return true;
    }
    let key =
        FrontendKey { addr: tuple.dst, port: tuple.dport, proto: tuple.proto, kind: frontend_kind::ADDRESS };
    // A source that only the tunnel may bring is the long way's to drop.
    tables.frontend(&key).is_none()
        && (facts.flags & facts_flag::TUNNEL == 0 || tables.pod_cidr(&tuple.src).is_none())
}

/// Whether a packet on its way out is a socket's of the node, no answer to a flow that we translated, and none whose answer could
/// be taken for something else.
#[inline(always)]
pub(crate) fn is_from_own_socket<P: PacketSteps, T: TableSteps>(
    packet: &P,
    tables: &T,
    view: &View,
    facts: &Facts,
) -> bool {
    if !is_plain(view) || !view.src.same(facts.node(view.v4)) {
        return false;
    }
    is_tunnel(view, facts)
        || !(tables.own_port(OwnPort::Answers, view.tuple.sport)
            || asks_service(view, facts)
            || speaks_from_service(packet, tables, view, facts))
}

/// Whether a socket of the node has sent a datagram to a service's address that the socket hooks have left as it was.
#[inline(always)]
pub(crate) fn asks_service(view: &View, facts: &Facts) -> bool {
    view.proto == proto::UDP && Prefix::any_has(&facts.service_ranges, &view.dst)
}

/// Whether a socket of the node opens something from an address and port that a service has here.
#[inline(always)]
fn speaks_from_service<P: PacketSteps, T: TableSteps>(
    packet: &P,
    tables: &T,
    view: &View,
    facts: &Facts,
) -> bool {
    view.opens() && packet.may_be_sent_from(view.tuple.sport) && is_from_service(tables, facts, view)
}

/// Remembers what the node itself sends from an address and port that a service has here, as a flow that is translated to
/// itself: its answers find that, and are not taken for a client's packets. Without room for it they are. What answers a client
/// of the service has a flow already, seen from the other end.
#[inline(always)]
pub(crate) fn remember<P: PacketSteps, T: TableSteps>(
    packet: &P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> bool {
    if !speaks_from_service(packet, tables, &s.view, facts) {
        return false;
    }
    s.view.tuple.flip_to(&mut s.reverse_key);
    if tables.flow(&s.reverse_key, |_| ()).is_some() {
        return false;
    }
    s.to = s.view.tuple;
    s.fresh = Fresh::default();
    tables.note_own_port(OwnPort::Answers, s.to.sport);
    tables.record_flow(s)
}
