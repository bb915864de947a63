//! The device that leads to the other nodes and the outside.

use proxy_abi::{Config, Reason, config_flag, endpoint_flag, flow_flag, proto};

use crate::{
    answer::{reject, too_big},
    flow::{self, Fresh},
    forward::{Place, forward, is_loopback, locate},
    fragment::follow,
    packet::Packet,
    parse::{Kind, SYN, Shape, View, parse},
    rewrite::rewrite,
    service::{Service, Side, find as service, joins_midway},
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
    follow(tables, &mut s.view);
    let known = flow::find(tables, s, config, now_s);
    let mut fresh = Fresh::default();
    if !known {
        s.to = s.view.tuple;
        let service = service(tables, s, config, Side::Outside);
        // Only the tunnel may bring packets from pods; on the wire a stranger could make them.
        if config.flags & config_flag::TUNNEL != 0 && tables.pod_cidr(&s.view.src).is_some() {
            return Verdict::drop(Reason::SourceSpoofed);
        }
        match service {
            Service::No | Service::SourceUnknown => return Verdict::PASS,
            Service::Drop(reason) => return Verdict::drop(reason),
            Service::Reject => return reject(packet, &s.view),
            Service::Backend if is_midway(&s.view) && !joins_midway(tables, &s.view) => return Verdict::PASS,
            Service::Backend => fresh = s.balance(),
        }
    }
    locate(tables, config, &s.to.dst, &mut s.hop);
    if matches!(s.hop.place, Place::Remote) && !fits_tunnel(packet, &s.view, config) {
        return too_big(packet, &s.view, config.pod_mtu);
    }
    if !known {
        fresh.flags |= flow_flag::FROM_UPLINK;
        fresh.snat = choose_source(s, config);
        if let Err(reason) = flow::create(tables, s, config, now_s, fresh) {
            return Verdict::drop(reason);
        }
    }
    match rewrite(packet, &mut s.view, &s.to) {
        Ok(()) => forward(packet, &s.view, config, &s.hop),
        Err(reason) => Verdict::drop(reason),
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
    follow(tables, &mut s.view);
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

/// Clients outside have no say in the tunnel's MTU: theirs is larger. What may be cut is cut, around the tunnel's header.
#[inline(always)]
fn fits_tunnel<P: Packet>(packet: &P, view: &View, config: &Config) -> bool {
    view.length as u32 <= config.pod_mtu || !view.whole || view.fragment || packet.is_merged()
}

/// A TCP segment that opens nothing. Without an entry it belongs to a connection that was made before we came: the stack knows
/// it, if anybody does (kube-proxy's rules led it there), and any backend that we drew would reset it.
#[inline(always)]
const fn is_midway(view: &View) -> bool {
    view.proto == proto::TCP && view.flags & SYN == 0
}

/// The tunnel's own packets: their inner ones meet the VXLAN device's programs.
#[inline(always)]
const fn is_tunnel(view: &View, config: &Config) -> bool {
    view.proto == proto::UDP
        && matches!(view.kind, Kind::Ports)
        && config.tunnel_port != 0
        && view.tuple.dport.get() == config.tunnel_port
}

/// Whether the first packet of a flow from outside to a service needs another source than the client.
#[inline(always)]
fn choose_source(s: &mut Scratch, config: &Config) -> bool {
    match s.hop.place {
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
