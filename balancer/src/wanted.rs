//! A virtual address, and who of its backends lives, as the planner wants it.

use std::net::SocketAddr;

use proxy_abi::{Be16, FrontendKey, frontend_flag, frontend_kind};
use proxy_state::{
    Backend, FrontendSpec, Layout, ObjectKey, Scope, ServicePortId, ServicePortTable, ServiceTables,
    maglev_table,
};

use crate::config::{self, Vip};

/// `chosen`: the backends that new connections may go to.
pub fn wanted(vip: &Vip, chosen: &[&config::Backend]) -> (ObjectKey, ServiceTables) {
    let weighted: Vec<(Backend, u32)> =
        chosen.iter().map(|backend| (element(backend.address), backend.weight)).collect();
    let elements = match vip.maglev {
        0 => repeated(&weighted),
        size => maglev_table(&weighted, size),
    };
    let frontend = FrontendSpec { key: key(vip), flags: flags(vip), affinity_s: 0 };
    let id = ServicePortId {
        port: vip.address.port(),
        proto: vip.proto,
        is_v4: vip.address.is_ipv4(),
        scope: Scope::Cluster,
    };
    let table = ServicePortTable {
        id,
        frontends: vec![frontend],
        layout: Layout::whole(elements),
        source_ranges: vip.allowed.clone().unwrap_or_default(),
    };
    let owner = ObjectKey::new("", &format!("{} protocol {}", vip.address, vip.proto));
    (owner, ServiceTables { ports: vec![table], addresses: Vec::new() })
}

fn key(vip: &Vip) -> FrontendKey {
    FrontendKey {
        addr: vip.address.ip().into(),
        port: Be16::new(vip.address.port()),
        proto: vip.proto,
        kind: frontend_kind::ADDRESS,
    }
}

/// Bits of `frontend_flag`.
fn flags(vip: &Vip) -> u32 {
    let mut flags = frontend_flag::LOAD_BALANCER;
    for (is_set, flag) in [
        (vip.is_direct, frontend_flag::DIRECT),
        (vip.maglev != 0, frontend_flag::MAGLEV),
        (vip.allowed.is_some(), frontend_flag::SOURCE_RANGES),
    ] {
        if is_set {
            flags |= flag;
        }
    }
    flags
}

fn element(address: SocketAddr) -> Backend {
    Backend { addr: address.ip().into(), port: Be16::new(address.port()), flags: 0 }
}

/// As many elements a backend as its weight says.
fn repeated(weighted: &[(Backend, u32)]) -> Vec<Backend> {
    weighted.iter().flat_map(|(backend, weight)| std::iter::repeat_n(*backend, *weight as usize)).collect()
}
