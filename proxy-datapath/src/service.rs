use proxy_abi::{
    Addr, Be16, Config, FrontendKey, Prefix, Reason, Slot, endpoint_flag, frontend_flag, frontend_kind,
};

use crate::{
    parse::{Kind, View},
    tables::{Scratch, Tables},
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
}

/// Finds the service that a packet is for; draws its backend into `s.backend`.
#[inline(always)]
pub(crate) fn find<T: Tables>(tables: &T, s: &mut Scratch, config: &Config) -> Service {
    let found = match s.view.kind {
        Kind::Ports => select(tables, config, s.view.destination(), &mut s.backend),
        _ => Service::No,
    };
    if matches!(found, Service::No) { unmatched(tables, config, &s.view) } else { found }
}

/// A frontend is read again, once, when its slot was recycled under the reader.
const READS: u32 = 2;

/// Finds the service behind a destination and draws a backend into `backend`.
#[inline(always)]
pub(crate) fn select<T: Tables>(
    tables: &T,
    config: &Config,
    (dst, port, proto): (&Addr, Be16, u8),
    backend: &mut Slot,
) -> Service {
    let mut key = FrontendKey { addr: *dst, port, proto, kind: frontend_kind::ADDRESS };
    let by_address = draw(tables, &key, backend);
    if !matches!(by_address, Service::No) {
        return by_address;
    }
    if is_node_port(tables, config, dst, port) {
        key.addr = Addr::UNSPECIFIED;
        key.kind = node_port_kind(dst);
        return draw(tables, &key, backend);
    }
    Service::No
}

#[inline(always)]
const fn node_port_kind(dst: &Addr) -> u8 {
    if dst.is_v4() { frontend_kind::NODE_PORT_V4 } else { frontend_kind::NODE_PORT_V6 }
}

/// NodePorts are served on this node's own addresses, never on the loopback (KEP-3866).
#[inline(always)]
fn is_node_port<T: Tables>(tables: &T, config: &Config, dst: &Addr, port: Be16) -> bool {
    let port = port.get();
    port >= config.nodeport_min
        && port <= config.nodeport_max
        && tables.endpoint(dst).is_some_and(|endpoint| endpoint.flags & endpoint_flag::NODE != 0)
}

#[inline(always)]
fn draw<T: Tables>(tables: &T, key: &FrontendKey, backend: &mut Slot) -> Service {
    for _ in 0..READS {
        let Some(frontend) = tables.frontend(key) else { return Service::No };
        if frontend.count == 0 {
            return if frontend.flags & frontend_flag::DROP_IF_EMPTY != 0 {
                Service::Drop(Reason::NoLocalEndpoint)
            } else {
                Service::Reject
            };
        }
        let step = (tables.random() as u64 * frontend.count as u64) >> 32;
        let Some(slot) = tables.slot(frontend.first.wrapping_add(step as u32)) else { continue };
        if slot.service_id == frontend.service_id && slot.generation == frontend.generation {
            *backend = slot;
            return Service::Backend;
        }
    }
    Service::Drop(Reason::StaleSlot)
}

/// What becomes of a packet for an address that no frontend matched in full.
#[inline(always)]
fn unmatched<T: Tables>(tables: &T, config: &Config, view: &View) -> Service {
    let dst = &view.dst;
    let range = if dst.is_v4() { &config.service_v4 } else { &config.service_v6 };
    if !contains(range, dst) {
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

#[inline(always)]
pub(crate) const fn contains(range: &Prefix, addr: &Addr) -> bool {
    range.len != 0
        && (word(range, addr, 0, 0)
            | word(range, addr, 1, 32)
            | word(range, addr, 2, 64)
            | word(range, addr, 3, 96))
            == 0
}

/// The bits of one word that lie within the prefix and differ.
#[inline(always)]
const fn word(range: &Prefix, addr: &Addr, index: usize, bits_before: u32) -> u32 {
    let bits = range.len.saturating_sub(bits_before);
    let mask = if bits >= 32 { u32::MAX } else { !(u32::MAX >> bits) };
    (range.addr.0[index] ^ addr.0[index]) & mask.to_be()
}
