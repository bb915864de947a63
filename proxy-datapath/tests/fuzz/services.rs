//! Which backends a packet may be given.

use proxy_abi::{Addr, Be16, Frontend, FrontendKey, Reason, endpoint_flag, frontend_flag, frontend_kind};

use crate::{
    cases::State,
    read::{Body, Ip},
};

/// A destination in the service tables.
pub enum Found {
    No,
    /// No endpoints, or a port that the address has not.
    Reject,
    Drop(Reason),
    Served(Service),
}

pub struct Service {
    pub frontend: Frontend,
    pub backends: Vec<(Addr, Be16)>,
    /// Out of the window of clients outside.
    pub outside: bool,
    /// Slots of another generation are among them: such a draw is a drop.
    pub some_stale: bool,
}

impl Service {
    pub fn is_direct(&self) -> bool {
        self.frontend.flags & frontend_flag::DIRECT != 0
    }
}

pub fn endpoint_flags(state: &State, addr: &Addr) -> Option<u16> {
    state.endpoints.iter().find(|(known, _)| known == addr).map(|(_, endpoint)| endpoint.flags)
}

fn frontend(state: &State, key: FrontendKey) -> Option<Frontend> {
    state.frontends.iter().find(|(known, _)| *known == key).map(|(_, frontend)| *frontend)
}

fn bits(addr: &Addr) -> u128 {
    u128::from_be_bytes(addr.octets())
}

fn is_within(prefix: &Addr, len: u32, addr: &Addr) -> bool {
    len == 0 || (bits(prefix) ^ bits(addr)) >> (128 - len) == 0
}

/// Whether the packet's destination is a service's address and port, not only a NodePort.
pub fn is_address_of_service(state: &State, ip: &Ip, dport: u16) -> bool {
    let key =
        FrontendKey { addr: ip.dst, port: Be16::new(dport), proto: ip.proto, kind: frontend_kind::ADDRESS };
    frontend(state, key).is_some()
}

/// The frontend of a port.
pub fn dialled(state: &State, dst: &Addr, port: u16, proto: u8) -> Option<Frontend> {
    let port_be = Be16::new(port);
    let own = frontend(state, FrontendKey { addr: *dst, port: port_be, proto, kind: frontend_kind::ADDRESS });
    let is_node_port = (state.facts.nodeport_min..=state.facts.nodeport_max).contains(&port)
        && endpoint_flags(state, dst).is_some_and(|flags| flags & endpoint_flag::NODE_PORT != 0);
    let kind = if dst.is_v4() { frontend_kind::NODE_PORT_V4 } else { frontend_kind::NODE_PORT_V6 };
    own.or_else(|| {
        is_node_port
            .then(|| frontend(state, FrontendKey { addr: Addr::UNSPECIFIED, port: port_be, proto, kind }))
            .flatten()
    })
}

pub fn is_in_service_range(state: &State, addr: &Addr) -> bool {
    let ranges = state.facts.service_ranges.iter();
    ranges.take_while(|range| range.len != 0).any(|range| is_within(&range.addr, range.len, addr))
}

pub fn find(state: &State, ip: &Ip, outside: bool) -> Found {
    if let Body::Ports { dport, .. } = ip.body
        && let Some(frontend) = dialled(state, &ip.dst, dport, ip.proto)
    {
        return serve(state, ip, frontend, outside);
    }
    if !is_in_service_range(state, &ip.dst) {
        return Found::No;
    }
    if matches!(ip.body, Body::Later) {
        return Found::Drop(Reason::FragmentUnknown);
    }
    let marker = FrontendKey { addr: ip.dst, port: Be16::ZERO, proto: 0, kind: frontend_kind::ADDRESS };
    match frontend(state, marker) {
        Some(_) => Found::Reject,
        None => Found::Drop(Reason::UnallocatedService),
    }
}

fn serve(state: &State, ip: &Ip, frontend: Frontend, outside: bool) -> Found {
    let in_range = |id| {
        let mut ranges = state.source_ranges.iter().filter(|range| range.of.service_id == id);
        ranges.any(|range| is_within(&range.of.addr, range.prefix_len - 32, &ip.src))
    };
    if frontend.flags & frontend_flag::SOURCE_RANGES != 0 && !in_range(frontend.service_id) {
        return Found::Drop(Reason::SourceRange);
    }
    let window = if outside { frontend.outside } else { frontend.inside };
    if window.count == 0 {
        let silent = frontend.flags & frontend_flag::DROP_IF_EMPTY != 0;
        return if silent { Found::Drop(Reason::NoLocalEndpoint) } else { Found::Reject };
    }
    let slots = state.slots.iter().filter(|(index, _)| (window.first..window.end()).contains(index));
    let (good, stale): (Vec<_>, Vec<_>) = slots
        .map(|(_, slot)| *slot)
        .partition(|slot| slot.service_id == frontend.service_id && slot.generation == frontend.generation);
    let backends = good.iter().map(|slot| (slot.addr, slot.port)).collect();
    Found::Served(Service { frontend, backends, outside, some_stale: !stale.is_empty() })
}
