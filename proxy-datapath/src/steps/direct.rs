//! Direct server return: the node that a client has reached draws a backend and sends the packet to its node as it came; that
//! node translates it and answers the client itself.
//!
//! Of such a flow the first node sees one direction only and has one entry, which may be evicted for as long as it lives, since
//! the answers that would tell a real client from a made-up one pass elsewhere; in each second that it is used it takes a new
//! seat. Maglev draws the same backend again, and the backend's node knows its flow by both directions as any other.

use proxy_abi::{Addr, Be16, Config, DIRECT_MAC_TAG, Flow, Reason, Tuple, flow_flag, flow_state, proto};

use crate::{
    packets::{
        head::Head,
        packet::Packet,
        parse::{ACK, FIN, Kind, RST, SYN, View},
    },
    state::{
        tables::{Insert, Scratch, Tables},
        verdict::Verdict,
    },
    steps::{
        flow::{Fresh, evict},
        forward::{Place, is_loopback},
        path,
        service::asked,
    },
};

/// Notes a packet in the entry of a direct flow: what the client's side alone tells of its state.
#[inline(always)]
pub(crate) fn note(flow: &mut Flow, view: &View) {
    let tcp = view.proto == proto::TCP;
    if tcp && view.flags & (FIN | RST) != 0 {
        flow.state = flow_state::CLOSING;
    } else if flow.state == flow_state::EMBRYONIC && (!tcp || view.flags & (SYN | ACK) == ACK) {
        flow.state = flow_state::ESTABLISHED;
    }
}

/// The rest of the look-up of a direct flow, whose entry was copied to `s.flow`. `lives`: it is not over.
#[inline(always)]
pub(crate) fn found<T: Tables>(
    tables: &T,
    s: &mut Scratch,
    config: &Config,
    lives: bool,
    now_s: u32,
) -> bool {
    if !lives {
        tables.remove_flow(&s.view.tuple);
        s.direct = false;
        return false;
    }
    if !matches!(s.view.kind, Kind::Error) && s.flow.seen_s != now_s {
        let seat = tables.take_seat(config, &s.view.tuple, &mut s.leaver);
        tables.flow(&s.view.tuple, |flow| flow.seat = seat);
        evict(tables, s, seat);
    }
    true
}

/// Records `s.view.tuple` → `s.to` as `s.fresh` says. A table without room costs nothing but the memory of it. False: as
/// [`create`](crate::steps::flow::create).
#[inline(always)]
pub(crate) fn record<T: Tables>(tables: &T, s: &mut Scratch, config: &Config, now_s: u32) -> bool {
    let seat = tables.take_seat(config, &s.view.tuple, &mut s.leaver);
    evict(tables, s, seat);
    let Fresh { service_id, flags, .. } = s.fresh;
    s.flow = Flow { to: s.to, service_id, seen_s: now_s, flags, packets: 1, seat, ..Flow::default() };
    path::begin(&mut s.flow.path, &s.hop, &s.next, s.known);
    !matches!(tables.add_flow(&s.view.tuple, &s.flow), Insert::Exists)
}

/// The backend as the frame's addresses: see [`DIRECT_MAC_TAG`].
#[inline(always)]
pub(crate) fn address(head: &mut Head, to: &Tuple) {
    let [a, b, c, d] = to.dst.0[2].to_ne_bytes();
    let [e, f, g, h] = to.dst.0[3].to_ne_bytes();
    let [i, j] = to.dport.raw().to_ne_bytes();
    head.address(&[DIRECT_MAC_TAG, a, b, c, d, e, DIRECT_MAC_TAG, f, g, h, i, j]);
}

/// The backend that [`address`] wrote: one of this node's pods, so that it shares the first 8 bytes with the router address.
#[inline(always)]
fn addressed(head: &Head, config: &Config, v4: bool, to: &mut Tuple) -> bool {
    let [tag, a, b, c, d, e, _, f, g, h, i, j, ..] = head.bytes;
    let (high, low) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    let router = config.router(v4);
    to.dst = Addr([router.0[0], router.0[1], high, low]);
    to.dport = Be16::from_raw(u16::from_ne_bytes([i, j]));
    tag == DIRECT_MAC_TAG && to.dst.is_v4() == v4
}

/// What another node got from a client outside and sent here for the backend that it drew.
#[inline(always)]
pub(crate) fn from_ingress<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    s: &mut Scratch,
    config: &Config,
) -> Verdict {
    // It came from a node ([`speaks_as_node`](crate::hooks::peers::speaks_as_node) keeps pods from what would look so), which writes these
    // addresses itself into what its pods send, and speaks for no pod in this way.
    if tables.pod_cidr(&s.view.src).is_some() || is_loopback(&s.view.src) {
        return Verdict::drop(Reason::SourceSpoofed);
    }
    let found = tables.find_flow(s);
    let outdated = s.direct;
    s.direct = false;
    let known = found && !outdated;
    if !known {
        s.forget_path();
        match s.view.kind {
            Kind::Ports if !s.view.is_stray() => {}
            Kind::Fragment => return Verdict::drop(Reason::FragmentUnknown),
            _ => return Verdict::drop(Reason::NoFlow),
        }
        s.to = s.view.tuple;
        if !addressed(&s.head, config, s.view.v4, &mut s.to) {
            return Verdict::drop(Reason::Malformed);
        }
        let service_id = asked(tables, &s.view).map_or(0, |frontend| frontend.service_id);
        s.fresh = Fresh { service_id, flags: flow_flag::DNAT | flow_flag::FROM_UPLINK, snat: false };
    }
    tables.locate(s);
    if !matches!(s.hop.place, Place::Pod) {
        return Verdict::drop(Reason::UnknownEndpoint);
    }
    if outdated {
        // The client has reached this node first, and now another one.
        tables.remove_flow(&s.view.tuple);
    }
    if !known && !tables.record_flow(s) {
        return s.verdict;
    }
    // Another CPU may have recorded it as something else.
    if s.direct || !matches!(s.hop.place, Place::Pod) {
        return Verdict::drop(Reason::UnknownEndpoint);
    }
    if packet.take_in().is_none() {
        return Verdict::drop(Reason::RewriteFailed);
    }
    packet.keep(tables, s);
    if packet.rewrite(s) { packet.forward(s, config) } else { s.verdict }
}
