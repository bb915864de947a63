//! The VXLAN device, in metadata mode: one device for all nodes.

use proxy_abi::{DIRECT_MAC_TAG, Facts, OwnPort, Reason, endpoint_flag};

use crate::{
    hooks::{ingress::from_ingress, own::share},
    packets::{
        outer::Tunnel,
        view::{Kind, Shape},
    },
    state::{
        hop::Place,
        scratch::{Fresh, Scratch},
        verdict::Verdict,
    },
    steps::{
        call::{PacketSteps, TableSteps},
        own::shares_port,
        peers::speaks_as_node,
    },
};

/// What came out of the tunnel. `outer`: its metadata; none if the kernel gave none.
#[inline(always)]
pub fn from_overlay<P: PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    outer: Option<&Tunnel>,
) -> Verdict {
    let Some(facts) = tables.facts() else { return Verdict::PASS };
    // Before anything is refused: the record of a drop says what it was.
    let shape = packet.parse(s);
    let Some(outer) = outer else { return Verdict::drop(Reason::UnknownTunnelPeer) };
    if outer.vni != facts.vni {
        return Verdict::drop(Reason::WrongVni);
    }
    if !tables.is_tunnel_peer(&outer.peer) {
        return Verdict::drop(Reason::UnknownTunnelPeer);
    }
    match shape {
        Shape::Ip => {}
        Shape::Arp | Shape::Foreign => return Verdict::drop(Reason::UnknownProtocol),
        Shape::Broken => return s.verdict,
    }
    if s.head.source()[0] == DIRECT_MAC_TAG {
        return from_ingress(packet, tables, s, facts);
    }
    // A node speaks for its own pods and its router address only.
    let owner = tables.pod_cidr(&s.view.src);
    if !owner.is_some_and(|cidr| cidr.node.same(&outer.peer)) {
        return Verdict::drop(Reason::SourceSpoofed);
    }
    let known = tables.find_translated(s);
    if !known {
        s.to = s.view.tuple;
        // An ICMP error goes where it says, not where the packet came from that it quotes.
        s.to.dst = s.view.dst;
    }
    tables.locate(s);
    if speaks_as_node(tables, s, facts) {
        return Verdict::drop(Reason::SpokeAsNode);
    }
    if known {
        packet.keep(tables, s);
        if !packet.rewrite(s) {
            return s.verdict;
        }
    } else if !matches!(s.hop.place, Place::Pod | Place::Node) {
        // No transit: what is not for this node or one of its pods was sent here by mistake or on purpose.
        return Verdict::drop(Reason::UnknownEndpoint);
    }
    packet.forward(s, facts)
}

/// What leaves through the VXLAN device. `keyed`: the packet has its tunnel destination, one of our programs
/// sent it here; else it is the stack's own and gets one.
#[inline(always)]
pub fn to_overlay<P: PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    keyed: bool,
) -> Verdict {
    if keyed {
        return Verdict::PASS;
    }
    let Some(facts) = tables.facts() else { return Verdict::PASS };
    match packet.parse(s) {
        Shape::Ip => {}
        Shape::Arp | Shape::Foreign => return Verdict::drop(Reason::UnknownProtocol),
        Shape::Broken => return s.verdict,
    }
    s.to = s.view.tuple;
    s.to.dst = s.view.dst;
    tables.locate(s);
    if !matches!(s.hop.place, Place::Remote) {
        return Verdict::drop(Reason::Unroutable);
    }
    let node = s.hop.node;
    if !speak_as_router(packet, tables, s, facts) {
        return s.verdict;
    }
    s.head.address_tunnel();
    if packet.write(s) { Verdict::keyed(node) } else { s.verdict }
}

/// A process that bound itself to an address of the node's uplink gets the router address: the answer must
/// find its way back into the tunnel, and the receiving node would take any other source for spoofed.
#[inline(always)]
fn speak_as_router<P: PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> bool {
    let own = tables.endpoint(&s.view.src).map_or(0, |own| own.flags);
    if own & endpoint_flag::NODE == 0 {
        return own & endpoint_flag::ROUTER == 0 || keep_apart(packet, tables, s, facts);
    }
    if !tables.find_translated(s) {
        let unknown = match s.view.kind {
            Kind::Error => Some(Reason::NoFlow),
            Kind::Fragment => Some(Reason::FragmentUnknown),
            Kind::Ports | Kind::Echo | Kind::Other => None,
        };
        if let Some(reason) = unknown {
            s.verdict = Verdict::drop(reason);
            return false;
        }
        s.to = s.view.tuple;
        s.to.src = *facts.router(s.view.v4);
        s.fresh = Fresh { service_id: 0, flags: 0, snat: true };
        if !tables.record_flow(s) {
            return false;
        }
    }
    packet.rewrite(s)
}

/// What a socket here sends from the router address, which has flows of others, too.
#[inline(always)]
fn keep_apart<P: PacketSteps, T: TableSteps>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    facts: &Facts,
) -> bool {
    let shares = shares_port(packet, &s.view, facts);
    let is_kept = match s.view.kind {
        Kind::Ports => tables.own_port(OwnPort::Answers, s.view.tuple.sport),
        // It has no port to go by.
        Kind::Fragment => true,
        Kind::Echo | Kind::Error | Kind::Other => false,
    };
    if !shares && !is_kept {
        return true;
    }
    if tables.find_translated(s) || (shares && share(tables, s) && tables.record_flow(s)) {
        packet.rewrite(s)
    } else {
        true
    }
}
