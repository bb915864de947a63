//! A virtual address, and who of its backends lives, as the planner wants it.

use std::net::SocketAddr;

use proxy_abi::{Be16, FrontendKey, frontend_flag, frontend_kind, proto};
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
    let protocol = if vip.proto == proto::UDP { "UDP" } else { "TCP" };
    let owner = ObjectKey::new("", &format!("{} {protocol}", vip.address));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WhenAllDown;

    #[test]
    fn a_virtual_address_is_one_frontend_with_its_living_backends_by_weight() {
        let backend = |text: &str, weight| config::Backend { address: text.parse().unwrap(), weight };
        let vip = Vip {
            address: "192.0.2.1:53".parse().unwrap(),
            proto: proto::UDP,
            is_direct: true,
            maglev: 0,
            allowed: Some(vec![(proxy_abi::Addr::from_v4([198, 51, 100, 0]), 120)]),
            backends: vec![backend("10.0.0.1:53", 2), backend("10.0.0.2:53", 1)],
            check: None,
            when_all_down: WhenAllDown::All,
        };
        let all: Vec<&config::Backend> = vip.backends.iter().collect();
        let (owner, tables) = wanted(&vip, &all);
        assert_eq!(owner.to_string(), "192.0.2.1:53 UDP");
        let [table] = &tables.ports[..] else { panic!("{tables:?}") };
        assert_eq!(table.layout.outside().len(), 3);
        assert_eq!(table.layout.outside(), table.layout.inside());
        let [frontend] = &table.frontends[..] else { panic!("{table:?}") };
        assert_eq!(
            frontend.flags,
            frontend_flag::LOAD_BALANCER | frontend_flag::DIRECT | frontend_flag::SOURCE_RANGES
        );
        assert_eq!((table.source_ranges.len(), frontend.affinity_s), (1, 0));
        // Maglev, and one that does not live has no place in it.
        let (_, tables) = wanted(&Vip { maglev: 251, allowed: None, ..vip.clone() }, &all[1..]);
        let table = &tables.ports[0];
        assert!(table.frontends[0].flags & frontend_flag::MAGLEV != 0 && table.source_ranges.is_empty());
        assert!(table.layout.outside().iter().all(|element| element.addr.octets()[15] == 2));
        assert!(table.layout.outside().len() >= 251);
    }
}
