//! A plan, executed on real maps.

use proxy_abi::{
    Addr, Be16, Endpoint, Frontend, FrontendKey, Member, PodCidr, PodCidrKey, Slot, SourceRangeKey, Window,
    map,
};
use proxy_maps::{PinnedTables, Tables};
use proxy_state::{Dump, Op};

use crate::scene::Scene;

fn addr(n: u8) -> Addr {
    Addr::from_v4([10, 0, 0, n])
}

/// Every kind of operation, and neighbours of one kind; what is set first goes again in part.
fn ops() -> Vec<Op> {
    let key = |n: u8| FrontendKey { addr: addr(n), port: Be16::new(80), proto: 6, ..FrontendKey::default() };
    let slot = |n: u8| Slot { addr: addr(n), port: Be16::new(8080), service_id: 7, ..Slot::default() };
    let frontend = |n: u32| Frontend {
        service_id: 7,
        generation: n,
        outside: Window { first: 2, count: 2 },
        ..Frontend::default()
    };
    let member = |n: u8| Member::new(7, addr(n), Be16::new(8080));
    let range = |n: u8| SourceRangeKey::new(7, addr(n), 128);
    let cidr = |n: u8| PodCidrKey { prefix_len: 128, addr: addr(n) };
    vec![
        Op::WriteSlots { first: 0, slots: vec![slot(1), slot(2)] },
        Op::ClearSlots { first: 0, count: 2 },
        Op::WriteSlots { first: 2, slots: vec![slot(3), slot(4)] },
        Op::SetMember { member: member(3), windows: 3 },
        Op::SetMember { member: member(4), windows: 1 },
        Op::SetSourceRange { range: range(1) },
        Op::SetSourceRange { range: range(2) },
        Op::SetFrontend { key: key(1), value: frontend(1) },
        Op::SetFrontend { key: key(2), value: frontend(1) },
        Op::SetFrontend { key: key(1), value: frontend(2) },
        Op::DeleteFrontend { key: key(2) },
        // One that is gone already is no failure.
        Op::DeleteFrontend { key: key(9) },
        Op::DeleteMember { member: member(4) },
        Op::DeleteSourceRange { range: range(1) },
        Op::SetPeer { addr: addr(1) },
        Op::SetPeer { addr: addr(2) },
        Op::DeletePeer { addr: addr(1) },
        Op::SetPodCidr { key: cidr(1), value: PodCidr { node: addr(9), flags: 0 } },
        Op::SetPodCidr { key: cidr(2), value: PodCidr { node: addr(9), flags: 1 } },
        Op::DeletePodCidr { key: cidr(1) },
        Op::SetEndpoint { addr: addr(1), value: Endpoint { flags: 2, ..Endpoint::default() } },
        Op::SetEndpoint { addr: addr(2), value: Endpoint { flags: 4, ..Endpoint::default() } },
        Op::DeleteEndpoint { addr: addr(1) },
    ]
}

/// After each of a plan's operations the maps hold what its model says.
#[test]
fn the_maps_hold_what_a_plans_model_says() {
    let scene = Scene::new("tables");
    scene.hash::<FrontendKey, Frontend>(map::FRONTENDS);
    scene.array::<Slot>(map::SLOTS);
    scene.hash::<Member, u32>(map::MEMBERS);
    scene.trie::<SourceRangeKey, u32>(map::SOURCE_RANGES);
    scene.trie::<PodCidrKey, PodCidr>(map::POD_CIDRS);
    scene.hash::<Addr, u32>(map::TUNNEL_PEERS);
    scene.hash::<Addr, Endpoint>(map::ENDPOINTS);
    let mut tables = PinnedTables::open(scene.folder()).unwrap();
    assert_eq!(tables.dump().unwrap(), Dump::default());
    let limits = tables.limits(1_000, 5);
    assert_eq!((limits.frontends, limits.slots, limits.grace_ms, limits.ids_until), (64, 64, 1_000, 5));

    let (ops, mut model) = (ops(), Dump::default());
    for op in &ops {
        tables.execute(std::slice::from_ref(op)).unwrap();
        model.execute(op);
        let mut wanted = model.clone();
        // Free slots at the end are not told.
        while wanted.slots.last().is_some_and(|slot| slot.service_id == 0) {
            wanted.slots.pop();
        }
        assert_eq!(tables.dump().unwrap(), wanted, "after {op:?}");
    }
    // And all at once, where neighbours go in together.
    tables.execute(&ops).unwrap();
    assert_eq!(tables.dump().unwrap(), model);
}
