//! Random tables: the standard node, with services and facts by chance.

use std::net::SocketAddr;

use proxy_abi::{
    Addr, Be16, Frontend, FrontendKey, Member, Slot, SourceRangeKey, Window, facts_flag, frontend_flag,
    frontend_kind, member_of, proto,
};

use crate::{
    cases::{
        State,
        state::{addr, endpoint},
    },
    packets::Focus,
    random::Random,
};

/// Who there is, by family, alike in both: this node's pods, remote pods, nobody, router, node, other node,
/// outside, two service addresses, one without a service, a load balancer's.
pub const WHO: [[&str; 13]; 2] = [
    [
        "10.244.1.2",
        "10.244.1.3",
        "10.244.2.2",
        "10.244.3.2",
        "10.244.1.77",
        "10.244.1.1",
        "192.168.50.1",
        "192.168.50.2",
        "203.0.113.9",
        "10.96.0.10",
        "10.96.0.11",
        "10.96.0.99",
        "198.51.101.1",
    ],
    [
        "fd00:1::2",
        "fd00:1::3",
        "fd00:2::2",
        "fd00:2::3",
        "fd00:1::77",
        "fd00:1::1",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:9::9",
        "fd00:96::10",
        "fd00:96::11",
        "fd00:96::99",
        "2001:db8:1b::1",
    ],
];
pub const OWN_POD: usize = 0;
pub const REMOTE_POD: usize = 2;
pub const NOBODY: usize = 4;
pub const ROUTER: usize = 5;
pub const NODE: usize = 6;
pub const OTHER_NODE: usize = 7;
pub const OUTSIDE: usize = 8;
const VIP: usize = 9;
const OTHER_VIP: usize = 10;
const LOAD_BALANCER: usize = 12;

/// Where services are: an index into [`WHO`], or none for a NodePort.
const SERVICES: [(Option<usize>, u16, u8); 11] = [
    (Some(VIP), 53, proto::UDP),
    (Some(VIP), 80, proto::TCP),
    (Some(OTHER_VIP), 3_868, proto::SCTP),
    (Some(LOAD_BALANCER), 80, proto::TCP),
    // An externalIP that the node has itself.
    (Some(NODE), 8_443, proto::TCP),
    (None, 30_080, proto::TCP),
    (None, 30_053, proto::UDP),
    (None, 30_868, proto::SCTP),
    (None, 30_868, proto::UDP),
    (None, 30_000, proto::TCP),
    (None, 32_767, proto::UDP),
];
const BACKENDS: [(usize, u16); 10] = [
    (OWN_POD, 8_080),
    (1, 8_080),
    (REMOTE_POD, 8_080),
    (3, 7_000),
    (NOBODY, 8_080),
    (NODE, 8_080),
    (OTHER_NODE, 8_080),
    (OUTSIDE, 8_080),
    // Ports at which only nodes may speak.
    (NODE, 4_789),
    (OTHER_NODE, 4_789),
];

/// A backend as a first node names it: mostly one of this node's pods.
pub fn drawn(random: &mut Random, v6: usize) -> String {
    let (index, port) = if random.once_in(5) { random.pick(&BACKENDS) } else { random.pick(&BACKENDS[..2]) };
    socket(WHO[v6][index], port)
}

/// As it is parsed.
fn socket(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

pub fn state(random: &mut Random) -> State {
    let mut state = facts(random);
    if random.once_in(40) {
        state.links.clear();
    }
    let mut id = 0;
    for (family, who) in WHO.iter().enumerate() {
        for (at, port, protocol) in SERVICES {
            if random.once_in(3) {
                continue;
            }
            id += 1;
            let names = backends(random, who);
            let texts: Vec<&str> = names.iter().map(String::as_str).collect();
            let kind = match (at, family) {
                (Some(_), _) => frontend_kind::ADDRESS,
                (None, 0) => frontend_kind::NODE_PORT_V4,
                (None, _) => frontend_kind::NODE_PORT_V6,
            };
            let addr = at.map_or(Addr::UNSPECIFIED, |at| addr(who[at]));
            let key = FrontendKey { addr, port: Be16::new(port), proto: protocol, kind };
            state = state.frontend(id, key, &texts);
            if at.is_some() {
                let marker = FrontendKey { port: Be16::ZERO, proto: 0, ..key };
                state.frontends.push((marker, Frontend::default()));
            }
            policies(random, &mut state, id, family);
        }
    }
    state
}

/// A service that clients may dwell on: where it is dialled, and from where.
pub fn focus(random: &mut Random, state: &State) -> Option<Focus> {
    let served: Vec<&FrontendKey> =
        state.frontends.iter().filter(|(_, frontend)| frontend.service_id != 0).map(|(key, _)| key).collect();
    if served.is_empty() || random.once_in(2) {
        return None;
    }
    let key = random.pick(&served);
    let family = match key.kind {
        frontend_kind::ADDRESS => usize::from(!key.addr.is_v4()),
        kind => usize::from(kind == frontend_kind::NODE_PORT_V6),
    };
    let who = |index: usize| WHO[family][index].parse().ok();
    let to = if key.kind == frontend_kind::ADDRESS { key.addr.to_ip() } else { who(NODE)? };
    let from = who(random.pick(&[OWN_POD, OUTSIDE, OUTSIDE, OTHER_NODE]))?;
    Some(Focus { from, to: SocketAddr::new(to, key.port.get()), proto: key.proto })
}

/// One service gets other backends, in a run of the next generation, or goes.
pub fn update(random: &mut Random, state: &mut State) {
    let ids: Vec<(u32, u8, Addr)> = state
        .frontends
        .iter()
        .filter(|(_, frontend)| frontend.service_id != 0)
        .map(|(key, frontend)| (frontend.service_id, key.kind, key.addr))
        .collect();
    if ids.is_empty() {
        return;
    }
    let (id, kind, addr) = random.pick(&ids);
    let family = match kind {
        frontend_kind::ADDRESS => usize::from(!addr.is_v4()),
        kind => usize::from(kind == frontend_kind::NODE_PORT_V6),
    };
    state.slots.retain(|(_, slot)| slot.service_id != id);
    state.members.retain(|(member, _)| member.service_id != id);
    if random.once_in(4) {
        state.frontends.retain(|(_, frontend)| frontend.service_id != id);
        return;
    }
    let names = backends(random, &WHO[family]);
    let Some((_, frontend)) = state.frontends.iter_mut().find(|(_, frontend)| frontend.service_id == id)
    else {
        return;
    };
    frontend.generation += 1;
    let first = frontend.inside.first.min(frontend.outside.first);
    frontend.inside = Window { first, count: names.len() as u32 };
    frontend.outside = frontend.inside;
    let generation = frontend.generation;
    for (index, name) in (first..).zip(&names) {
        let (addr, port) = endpoint(name);
        state.slots.push((index, Slot { addr, port, flags: 0, service_id: id, generation }));
        state.members.push((Member::new(id, addr, port), member_of::INSIDE | member_of::OUTSIDE));
    }
}

fn facts(random: &mut Random) -> State {
    State::standard().facts(|facts| {
        facts.snat_max += [0, 1, 3, 4_000][random.below(4)];
        if random.once_in(10) {
            facts.flags &= !facts_flag::TUNNEL;
        }
        if random.once_in(10) {
            facts.flags &= !facts_flag::MASQUERADE;
        }
        if random.once_in(20) {
            facts.overlay_ifindex = 0;
        }
        if random.once_in(20) {
            facts.node_v6 = Addr::UNSPECIFIED;
        }
        if random.once_in(40) {
            facts.abi_version = 0;
        }
        if random.once_in(40) {
            facts.snat_min = 0;
        }
    })
}

fn backends(random: &mut Random, who: &[&str]) -> Vec<String> {
    let count = [0, 1, 1, 2, 4][random.below(5)];
    let name = |(index, port): (usize, u16)| socket(who[index], port);
    let mut names: Vec<String> = (0..count).map(|_| name(random.pick(&BACKENDS))).collect();
    names.sort();
    names.dedup();
    names
}

fn policies(random: &mut Random, state: &mut State, id: u32, family: usize) {
    let Some((_, frontend)) = state.frontends.iter_mut().find(|(_, frontend)| frontend.service_id == id)
    else {
        return;
    };
    let all = frontend.inside;
    if random.once_in(4) && all.count > 0 {
        let part = |random: &mut Random| {
            let from = random.below(all.count as usize + 1) as u32;
            Window { first: all.first + from, count: random.below((all.count - from) as usize + 1) as u32 }
        };
        (frontend.inside, frontend.outside) = (part(random), part(random));
    }
    for (flag, times) in [
        (frontend_flag::DROP_IF_EMPTY, 3),
        (frontend_flag::MAGLEV, 8),
        (frontend_flag::SOURCE_RANGES, 6),
        (frontend_flag::DIRECT, 4),
    ] {
        if random.once_in(times) {
            frontend.flags |= flag;
        }
    }
    if random.once_in(3) {
        frontend.affinity_s = 60;
    }
    let frontend = *frontend;
    let (prefix, len) = [("203.0.113.0", 96 + 24), ("2001:db8:9::", 48)][family];
    if random.once_in(2) {
        state.source_ranges.push(SourceRangeKey::new(id, addr(prefix), len));
    }
    state.members.retain(|(member, _)| member.service_id != id);
    for (index, slot) in &mut state.slots {
        if slot.service_id != id {
            continue;
        }
        let within = |window: Window| (window.first..window.end()).contains(index);
        let mut windows = 0;
        if within(frontend.inside) {
            windows |= member_of::INSIDE;
        }
        if within(frontend.outside) {
            windows |= member_of::OUTSIDE;
        }
        state.members.push((Member::new(id, slot.addr, slot.port), windows));
        if random.once_in(40) {
            slot.generation += 1;
        }
    }
}
