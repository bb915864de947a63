//! Which service a packet is for, and which backend it gets.

use proxy_abi::{
    Addr, Affinity, AffinityKey, Be16, Facts, Frontend, FrontendKey, Member, Prefix, Reason, Slot,
    endpoint_flag, frontend_flag, frontend_kind, idle_s, member_of,
};

use crate::{
    packets::view::{Kind, SYN, View},
    state::{
        choice::{Choice, Side},
        scratch::Scratch,
        tables::Tables,
    },
};

/// What a destination is to the service tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// None of ours.
    No,
    Backend,
    /// No endpoints, or an address of ours without this port: the client is told.
    Reject,
    Drop(Reason),
    /// Only some sources are served, and the source is not known yet.
    SourceUnknown,
}

/// Who asks for a backend.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub side: Side,
    /// What sessionAffinity knows it by.
    pub identity: &'a Addr,
    /// Its address, where that is known.
    pub source: Option<&'a Addr>,
    /// Its port, or a random number where that is not known: what Maglev takes besides the address.
    pub port: u32,
}

/// Finds the service that a packet is for; draws its backend into `s.choice`.
#[inline(always)]
pub(crate) fn find<T: Tables>(tables: &T, s: &mut Scratch, facts: &Facts, side: Side) -> Service {
    let found = match s.view.kind {
        Kind::Ports => {
            let Scratch { view, choice, .. } = s;
            let (identity, port) = (&view.src, view.tuple.sport.raw() as u32);
            let client = Client { side, identity, source: Some(identity), port };
            select(tables, facts, view.destination(), &client, choice)
        }
        _ => Service::No,
    };
    if matches!(found, Service::No) { unmatched(tables, facts, &s.view) } else { found }
}

/// A frontend is read again, once, when its slot was recycled under the reader.
const READS: u32 = 2;

/// Finds the service behind a destination and draws a backend for a client.
#[inline(always)]
pub(crate) fn select<T: Tables>(
    tables: &T,
    facts: &Facts,
    (dst, port, proto): (&Addr, Be16, u8),
    client: &Client<'_>,
    choice: &mut Choice,
) -> Service {
    let mut key = FrontendKey { addr: *dst, port, proto, kind: frontend_kind::ADDRESS };
    let mut found = at(tables, facts, &mut key);
    for _ in 0..READS {
        let Some(frontend) = found else { return Service::No };
        match draw(tables, frontend, client, choice) {
            Service::Drop(Reason::StaleSlot) => found = tables.frontend(&key),
            result => return result,
        }
    }
    Service::Drop(Reason::StaleSlot)
}

/// The frontend of an address and port at this node; `key` is left as the one that was found.
#[inline(always)]
fn at<'a, T: Tables>(tables: &'a T, facts: &Facts, key: &mut FrontendKey) -> Option<&'a Frontend> {
    if is_node_port(tables, facts, &key.addr, key.port) {
        // No Service has an address of the node (the agent sees to it), so that most need no second look.
        let at_any = FrontendKey { addr: Addr::UNSPECIFIED, kind: node_port_kind(&key.addr), ..*key };
        if let Some(found) = tables.frontend(&at_any) {
            *key = at_any;
            return Some(found);
        }
    }
    tables.frontend(key)
}

/// Whether a packet comes from an address and port that a service has here.
#[inline(always)]
pub(crate) fn is_from_service<T: Tables>(tables: &T, facts: &Facts, view: &View) -> bool {
    let (addr, port, proto) = (view.src, view.tuple.sport, view.proto);
    at(tables, facts, &mut FrontendKey { addr, port, proto, kind: frontend_kind::ADDRESS }).is_some()
}

/// Whether a connection that this node does not know may be taken up in its middle: by Maglev every node
/// draws the same backend, so that one may come from a node that is gone. Looked up again: few packets ask.
#[inline(always)]
pub(crate) fn joins_midway<T: Tables>(tables: &T, view: &View) -> bool {
    // The answer to an opening is none of a client's.
    if view.flags & SYN != 0 {
        return false;
    }
    asked(tables, view).is_some_and(|frontend| frontend.flags & frontend_flag::MAGLEV != 0)
}

/// The frontend that a packet was sent to, at this node or at another.
#[inline(always)]
pub(crate) fn asked<'a, T: Tables>(tables: &'a T, view: &View) -> Option<&'a Frontend> {
    let (dst, port, proto) = view.destination();
    let mut key = FrontendKey { addr: *dst, port, proto, kind: frontend_kind::ADDRESS };
    if tables.frontend(&key).is_none() {
        key.addr = Addr::UNSPECIFIED;
        key.kind = node_port_kind(dst);
    }
    tables.frontend(&key)
}

#[inline(always)]
const fn node_port_kind(dst: &Addr) -> u8 {
    if dst.is_v4() { frontend_kind::NODE_PORT_V4 } else { frontend_kind::NODE_PORT_V6 }
}

/// NodePorts are served on chosen addresses of this node; on the loopback where that is asked for (KEP-3866:
/// not by default).
#[inline(always)]
fn is_node_port<T: Tables>(tables: &T, facts: &Facts, dst: &Addr, port: Be16) -> bool {
    let port = port.get();
    port >= facts.nodeport_min
        && port <= facts.nodeport_max
        && tables.endpoint(dst).is_some_and(|endpoint| endpoint.flags & endpoint_flag::NODE_PORT != 0)
}

#[inline(always)]
fn draw<T: Tables>(tables: &T, frontend: &Frontend, client: &Client<'_>, choice: &mut Choice) -> Service {
    if frontend.flags & frontend_flag::SOURCE_RANGES != 0 {
        match client.source {
            None => return Service::SourceUnknown,
            Some(source) if !tables.allows_source(frontend.service_id, source) => {
                return Service::Drop(Reason::SourceRange);
            }
            Some(_) => {}
        }
    }
    let window = match client.side {
        Side::Inside => &frontend.inside,
        Side::Outside => &frontend.outside,
    };
    if window.count == 0 {
        return if frontend.flags & frontend_flag::DROP_IF_EMPTY != 0 {
            Service::Drop(Reason::NoLocalEndpoint)
        } else {
            Service::Reject
        };
    }
    choice.direct = frontend.flags & frontend_flag::DIRECT != 0;
    let sticky = frontend.affinity_s != 0;
    if sticky && recall(tables, frontend, client, choice) {
        remember(tables, choice);
        return Service::Backend;
    }
    let number = if frontend.flags & frontend_flag::MAGLEV != 0 {
        let port = if sticky { 0 } else { client.port };
        hash(client.source.unwrap_or(client.identity), port)
    } else {
        tables.random()
    };
    let index = ((number as u64 * window.count as u64) >> 32) as u32;
    let Some(slot) = tables.slot(window.first.wrapping_add(index)) else {
        return Service::Drop(Reason::StaleSlot);
    };
    if slot.service_id != frontend.service_id || slot.generation != frontend.generation {
        return Service::Drop(Reason::StaleSlot);
    }
    choice.backend = slot;
    if sticky {
        remember(tables, choice);
    }
    Service::Backend
}

/// The backend that the client was given last, if it still stands in its window (sessionAffinity ClientIP).
/// Leaves the key for [`remember`] behind.
#[inline(always)]
fn recall<T: Tables>(tables: &T, frontend: &Frontend, client: &Client<'_>, choice: &mut Choice) -> bool {
    let service_id = frontend.service_id;
    choice.key = AffinityKey { client: *client.identity, service_id };
    let Some(known) = tables.affinity(&choice.key) else { return false };
    if idle_s(tables.now_s(), known.seen_s) > frontend.affinity_s {
        return false;
    }
    choice.member = Member::new(service_id, known.addr, known.port);
    let window = match client.side {
        Side::Inside => member_of::INSIDE,
        Side::Outside => member_of::OUTSIDE,
    };
    if tables.member(&choice.member) & window == 0 {
        return false;
    }
    choice.backend =
        Slot { addr: known.addr, port: known.port, flags: 0, service_id, generation: frontend.generation };
    true
}

#[inline(always)]
fn remember<T: Tables>(tables: &T, choice: &mut Choice) {
    let Slot { addr, port, .. } = choice.backend;
    choice.affinity = Affinity { addr, port, reserved: 0, seen_s: tables.now_s() };
    tables.set_affinity(&choice.key, &choice.affinity);
}

/// The same on every node: no address of a node and no secret is part of it. Each word is mixed by a
/// multiplication with an odd constant and a shift, the sum finished as in MurmurHash3.
#[inline(always)]
const fn hash(client: &Addr, port: u32) -> u32 {
    let mut sum = port;
    let mut index = 0;
    while index < 4 {
        sum = (sum ^ u32::from_be(client.0[index])).wrapping_mul(0x9e37_79b1);
        sum ^= sum >> 15;
        index += 1;
    }
    sum = sum.wrapping_mul(0x85eb_ca6b);
    sum ^= sum >> 13;
    sum = sum.wrapping_mul(0xc2b2_ae35);
    sum ^ (sum >> 16)
}

/// What becomes of a packet for an address that no frontend matched in full.
#[inline(always)]
fn unmatched<T: Tables>(tables: &T, facts: &Facts, view: &View) -> Service {
    let dst = &view.dst;
    if !Prefix::any_has(&facts.service_ranges, dst) {
        return Service::No;
    }
    if matches!(view.kind, Kind::Fragment) {
        return Service::Drop(Reason::FragmentUnknown);
    }
    let marker = FrontendKey { addr: *dst, port: Be16::ZERO, proto: 0, kind: frontend_kind::ADDRESS };
    match tables.frontend(&marker) {
        Some(_) => Service::Reject,
        None => Service::Drop(Reason::UnallocatedService),
    }
}
