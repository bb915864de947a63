//! Which backend a client is given: affinity, Maglev tables.

use std::collections::{BTreeSet, HashMap};

use proxy_abi::{Addr, Be16, Frontend, Member, Slot, frontend_flag, member_of, proto};

use crate::{
    cases::{Hook, Packet, State, packet::tcp, state::addr},
    memory::{Bytes, Maps, run},
};

const AT: &str = "192.168.50.1:30080";
const AFFINITY_S: u32 = 60;

fn backends(count: u8) -> Vec<String> {
    (0..count).map(|n| format!("10.244.2.{}:8080", n + 2)).collect()
}

fn maps(count: u8, change: impl Fn(&mut Frontend)) -> Maps {
    let backends = backends(count);
    let texts: Vec<&str> = backends.iter().map(String::as_str).collect();
    let state = State::standard()
        .facts(|facts| facts.snat_max = 65_000)
        .node_port(1, proto::TCP, 30_080, &texts)
        .frontends(change);
    Maps::new(&state)
}

/// The backend that a new connection's packet leaves for.
fn chosen(maps: &Maps, client: &str, port: u16) -> Addr {
    let packet: Packet = tcp(&format!("{client}:{port}"), AT, "S");
    let mut packet = Bytes { data: packet.bytes(), uplink: 7 };
    run(Hook::FromUplink, &mut packet, maps);
    Addr::from_v4(packet.data[30..34].try_into().unwrap())
}

/// Replaces the run by one of the next generation.
fn replace(maps: &mut Maps, backends: &[Addr]) {
    for frontend in maps.frontends.values_mut() {
        frontend.generation += 1;
        frontend.outside.count = backends.len() as u32;
        frontend.inside = frontend.outside;
        for (index, addr) in backends.iter().enumerate() {
            let slot = Slot {
                addr: *addr,
                port: Be16::new(8_080),
                flags: 0,
                service_id: frontend.service_id,
                generation: frontend.generation,
            };
            maps.slots.insert(frontend.outside.first + index as u32, slot);
        }
        maps.members = backends
            .iter()
            .map(|addr| (Member::new(frontend.service_id, *addr, Be16::new(8_080)), member_of::OUTSIDE))
            .collect();
    }
}

#[test]
fn affinity_sticks_until_its_time_is_over() {
    let maps = maps(8, |frontend| frontend.affinity_s = AFFINITY_S);
    let first = chosen(&maps, "203.0.113.9", 1);
    for port in 2..50 {
        assert_eq!(chosen(&maps, "203.0.113.9", port), first);
    }
    let others: BTreeSet<Addr> =
        (1..30).map(|n| chosen(&maps, &format!("203.0.113.{}", 100 + n), 1)).collect();
    assert!(others.len() > 4, "one client's backend is not all clients': {others:?}");
    // Each new connection starts the time again.
    maps.now_s.set(maps.now_s.get() + AFFINITY_S);
    assert_eq!(chosen(&maps, "203.0.113.9", 60), first);
    maps.now_s.set(maps.now_s.get() + AFFINITY_S);
    assert_eq!(chosen(&maps, "203.0.113.9", 61), first);
    let after: BTreeSet<Addr> = (0..20)
        .map(|n| {
            maps.now_s.set(maps.now_s.get() + AFFINITY_S + 1);
            chosen(&maps, "203.0.113.9", 70 + n)
        })
        .collect();
    assert!(after.len() > 1, "it never expires");
}

#[test]
fn affinity_outlives_the_loss_of_other_backends_and_moves_with_its_own() {
    let mut maps = maps(8, |frontend| frontend.affinity_s = AFFINITY_S);
    let all: Vec<Addr> = backends(8).iter().map(|text| addr(&text[..text.len() - 5])).collect();
    let clients: Vec<String> = (0..40).map(|n| format!("203.0.113.{n}")).collect();
    let mut port = 1;
    let mut connect = |maps: &Maps| -> HashMap<String, Addr> {
        port += 1;
        clients.iter().map(|client| (client.clone(), chosen(maps, client, port))).collect()
    };
    let mut before = connect(&maps);
    for kept in [&all[1..], &all[1..7], &all[1..4]] {
        replace(&mut maps, kept);
        let now = connect(&maps);
        for (client, addr) in &now {
            assert!(kept.contains(addr), "{addr} is gone");
            assert!(
                !kept.contains(&before[client]) || *addr == before[client],
                "{client} moved without need"
            );
        }
        before = now;
    }
    // One that comes back elsewhere in the run is found again.
    let mut reversed = all.clone();
    reversed.reverse();
    replace(&mut maps, &reversed);
    assert_eq!(connect(&maps), before);
}

#[test]
fn a_maglev_table_is_read_by_the_clients_address_and_port() {
    let read = |maps: &Maps| -> Vec<Addr> {
        (0..200).map(|n| chosen(maps, &format!("203.0.113.{}", n % 50), 1_000 + n)).collect()
    };
    let (one, other) = (maps(7, maglev), maps(7, maglev));
    // The second node's random numbers are elsewhere.
    proxy_datapath::Tables::random(&other);
    let choices = read(&one);
    assert_eq!(choices, read(&other), "the same through any node");
    let mut counts: HashMap<Addr, u32> = HashMap::new();
    choices.iter().for_each(|addr| *counts.entry(*addr).or_default() += 1);
    assert!(counts.len() == 7 && counts.values().all(|n| (10..60).contains(n)), "{counts:?}");
}

fn maglev(frontend: &mut Frontend) {
    frontend.flags |= frontend_flag::MAGLEV;
}
