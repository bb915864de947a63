//! The device that leads to the other nodes and the outside.

use proxy_abi::{Config, Reason, config_flag, endpoint_flag, flow_flag, proto};

use crate::{
    answer::reject,
    flow::{self, Fresh},
    forward::{Place, forward, is_loopback, locate},
    packet::Packet,
    parse::{Kind, Shape, View, parse},
    rewrite::rewrite,
    service::{Service, select, unmatched},
    tables::{Scratch, Tables},
    verdict::Verdict,
};

/// What comes in from outside: NodePorts and other service addresses, answers to masqueraded flows. All else is the stack's.
#[inline(always)]
pub fn from_uplink<P: Packet, T: Tables>(packet: &mut P, tables: &T, s: &mut Scratch) -> Verdict {
    let Some(config) = tables.config() else { return Verdict::PASS };
    match parse(packet, &mut s.view) {
        Ok(Shape::Ip) => {}
        Err(Reason::MappedOnWire) => return Verdict::drop(Reason::MappedOnWire),
        // The node's own business, and its stack is the judge of it.
        Ok(Shape::Arp | Shape::Foreign) | Err(_) => return Verdict::PASS,
    }
    if is_tunnel(&s.view, config) {
        return Verdict::PASS;
    }
    if is_loopback(&s.view.src) || is_loopback(&s.view.dst) {
        return Verdict::drop(Reason::LoopbackSource);
    }
    let now_s = tables.now_s();
    if flow::find(tables, s, config, now_s) {
        locate(tables, config, &s.to.dst, &mut s.hop);
        return match rewrite(packet, &mut s.view, &s.to) {
            Ok(()) => forward(packet, &s.view, config, &s.hop),
            Err(reason) => Verdict::drop(reason),
        };
    }
    let service = match s.view.kind {
        Kind::Ports => select(tables, config, s.view.destination(), &mut s.backend),
        _ => Service::No,
    };
    let service = match service {
        Service::No => unmatched(tables, config, &s.view.dst),
        found => found,
    };
    match service {
        Service::No if claims_to_be_a_pod(tables, s, config) => Verdict::drop(Reason::SourceSpoofed),
        Service::No => Verdict::PASS,
        Service::Drop(reason) => Verdict::drop(reason),
        Service::Reject => reject(packet, &s.view),
        Service::Backend => balance(packet, tables, s, config, now_s),
    }
}

/// What the node's stack sends out of the uplink: answers of its host-network backends are translated back, and what pods
/// or the router address send through the stack is masqueraded. What our own programs send here has the node's address and
/// belongs to no entry: it passes.
#[inline(always)]
pub fn to_uplink<P: Packet, T: Tables>(packet: &mut P, tables: &T, s: &mut Scratch) -> Verdict {
    let Some(config) = tables.config() else { return Verdict::PASS };
    if !matches!(parse(packet, &mut s.view), Ok(Shape::Ip)) || is_tunnel(&s.view, config) {
        return Verdict::PASS;
    }
    let Some(source) = tables.endpoint(&s.view.src) else { return Verdict::PASS };
    let masquerade = source.flags & endpoint_flag::NODE == 0;
    let now_s = tables.now_s();
    if !flow::find(tables, s, config, now_s) {
        if !masquerade || config.flags & config_flag::MASQUERADE == 0 {
            return Verdict::PASS;
        }
        if let Err(reason) = hide(tables, s, config, now_s) {
            return Verdict::drop(reason);
        }
    }
    match rewrite(packet, &mut s.view, &s.to) {
        Ok(()) => Verdict::PASS,
        Err(reason) => Verdict::drop(reason),
    }
}

/// The tunnel's own packets: their inner ones meet the VXLAN device's programs.
#[inline(always)]
const fn is_tunnel(view: &View, config: &Config) -> bool {
    view.proto == proto::UDP
        && matches!(view.kind, Kind::Ports)
        && config.tunnel_port != 0
        && view.tuple.dport.get() == config.tunnel_port
}

/// Only the tunnel may bring packets from pods; on the wire a stranger could make them.
#[inline(always)]
fn claims_to_be_a_pod<T: Tables>(tables: &T, s: &Scratch, config: &Config) -> bool {
    config.flags & config_flag::TUNNEL != 0 && tables.pod_cidr(&s.view.src).is_some()
}

/// The first packet of a flow from outside to a service.
#[inline(always)]
fn balance<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    config: &Config,
    now_s: u32,
) -> Verdict {
    if claims_to_be_a_pod(tables, s, config) {
        return Verdict::drop(Reason::SourceSpoofed);
    }
    s.to = s.view.tuple;
    s.to.dst = s.backend.addr;
    s.to.dport = s.backend.port;
    locate(tables, config, &s.to.dst, &mut s.hop);
    let snat = match s.hop.place {
        // The answer comes back through the tunnel because the router address is in our pod CIDR.
        Place::Remote => {
            s.to.src = *config.router(s.view.v4);
            true
        }
        Place::Outside | Place::Routed => {
            s.to.src = *config.node(s.view.v4);
            true
        }
        // On this node the client's address is kept: the answer meets us anyway.
        Place::Pod | Place::Node | Place::Nobody => false,
    };
    let flags = flow_flag::DNAT | flow_flag::FROM_UPLINK;
    let fresh = Fresh { service_id: s.backend.service_id, flags, snat };
    let done =
        flow::create(tables, s, config, now_s, fresh).and_then(|()| rewrite(packet, &mut s.view, &s.to));
    match done {
        Ok(()) => forward(packet, &s.view, config, &s.hop),
        Err(reason) => Verdict::drop(reason),
    }
}

/// Masquerade of what went through the stack.
#[inline(always)]
fn hide<T: Tables>(tables: &T, s: &mut Scratch, config: &Config, now_s: u32) -> Result<(), Reason> {
    match s.view.kind {
        Kind::Error => return Err(Reason::NoFlow),
        Kind::Fragment => return Err(Reason::FragmentUnknown),
        _ => {}
    }
    let node = config.node(s.view.v4);
    if node.is_unspecified() {
        return Err(Reason::Unroutable);
    }
    s.to = s.view.tuple;
    s.to.src = *node;
    flow::create(tables, s, config, now_s, Fresh { service_id: 0, flags: 0, snat: true })
}
