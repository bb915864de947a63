//! The node's own traffic, which is most of what its uplink sees: told by its addresses and ports, so that it
//! costs next to nothing.

use proxy_abi::{Be16, Facts, FrontendKey, OwnPort, Prefix, facts_flag, frontend_kind, proto};

use crate::{
    packets::{
        addresses::is_loopback,
        packet::Packet,
        view::{ETH, Kind, View},
    },
    state::{choice::Sender, tables::Tables},
    steps::{peers::is_tunnel, service::is_from_service},
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

/// Whether a packet that came in by the uplink is for a socket of the node, of which no table of ours knows
/// anything.
#[inline(always)]
pub(crate) fn is_for_own_socket<T: Tables>(tables: &T, view: &View, facts: &Facts) -> bool {
    if !is_plain(view) {
        return false;
    }
    let View { tuple, v4, .. } = view;
    let port = tuple.dport.get();
    // What could be a NodePort, or a port that we gave a flow of somebody's.
    let ours = (port >= facts.nodeport_min && port <= facts.nodeport_max) || facts.gives(tuple.dport);
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

/// Whose packet it is that leaves by an uplink, and what it wants.
#[inline(always)]
pub(crate) fn sender<P: Packet, T: Tables>(packet: &P, tables: &T, view: &View, facts: &Facts) -> Sender {
    let is_plain = is_plain(view) && view.src.same(facts.node(view.v4));
    if is_plain && is_tunnel(view, facts) {
        return Sender::Own;
    }
    if asks_service(view, facts) {
        return Sender::AsksService;
    }
    if speaks_from_service(packet, tables, view, facts) {
        return Sender::SpeaksFromService;
    }
    if shares_port(packet, view, facts) {
        return Sender::SharesPort;
    }
    if is_plain && !tables.own_port(OwnPort::Answers, view.tuple.sport) { Sender::Own } else { Sender::Other }
}

/// Whether a socket here, or a rule that has translated what it sends, opens something from one of the ports
/// that our flows are given. A datagram opens nothing that could be told from what follows: only those of
/// sockets that were bound there count, as resolvers bind themselves.
#[inline(always)]
pub(crate) fn shares_port<P: Packet>(packet: &P, view: &View, facts: &Facts) -> bool {
    let port = view.tuple.sport;
    facts.gives(port)
        && view.opens()
        && packet.socket_port().is_some_and(|own| view.proto == proto::TCP || is_port(own, port))
}

/// Whether a socket of the node has sent a datagram to a service's address that the socket hooks have left as
/// it was.
#[inline(always)]
fn asks_service(view: &View, facts: &Facts) -> bool {
    view.proto == proto::UDP && Prefix::any_has(&facts.service_ranges, &view.dst)
}

/// Whether a socket of the node opens something from an address and port that a service has here.
#[inline(always)]
pub(crate) fn speaks_from_service<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    view: &View,
    facts: &Facts,
) -> bool {
    view.opens()
        && packet.socket_port().is_some_and(|own| is_port(own, view.tuple.sport))
        && is_from_service(tables, facts, view)
}

/// What our programs have sent out under the node's address seldom has its socket's port.
#[inline(always)]
fn is_port(own: Be16, port: Be16) -> bool {
    own.raw() == 0 || own.raw() == port.raw()
}
