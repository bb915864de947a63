//! The connection table, cleared away.

use proxy_abi::{Addr, Be16, Facts, Flow, Tuple, flow_flag, flow_state, map, proto};
use proxy_maps::{Collected, FlowTable};
use skerry_kernel::{Map, Update};

use crate::scene::Scene;

struct Table {
    flows: Map<Tuple, Flow>,
    table: FlowTable,
    _scene: Scene,
}

impl Table {
    fn new(name: &str) -> Table {
        let scene = Scene::new(name);
        let flows = scene.hash(map::FLOWS);
        Table { flows, table: FlowTable::open(scene.folder()).unwrap(), _scene: scene }
    }

    /// A flow from this port, when its two entries had a packet last.
    fn add(&self, proto: u8, port: u16, state: u8, seen_s: [u32; 2]) -> Tuple {
        let tuple = |src: u8, sport: u16, dst: u8, dport: u16| Tuple {
            src: Addr::from_v4([10, 0, 0, src]),
            dst: Addr::from_v4([10, 0, 0, dst]),
            sport: Be16::new(sport),
            dport: Be16::new(dport),
            proto,
            ..Tuple::default()
        };
        // The client asks 10.0.0.2, and 10.0.0.3 is drawn.
        let (asked, drawn) = (tuple(1, port, 2, 80), tuple(1, port, 3, 8080));
        let forward = Flow { to: drawn, state, seen_s: seen_s[0], ..Flow::default() };
        let reverse =
            Flow { to: asked.flip(), state, seen_s: seen_s[1], flags: flow_flag::REVERSE, ..Flow::default() };
        self.flows.update(&asked, &forward, Update::Any).unwrap();
        self.flows.update(&drawn.flip(), &reverse, Update::Any).unwrap();
        asked
    }

    fn has(&self, forward: &Tuple) -> bool {
        self.flows.lookup(forward).unwrap().is_some()
    }
}

fn facts() -> Facts {
    Facts {
        tcp_syn_s: 10,
        tcp_established_s: 1_000,
        tcp_closing_s: 5,
        udp_s: 20,
        udp_stream_s: 100,
        icmp_s: 0,
        ..Facts::default()
    }
}

const NOW_S: u32 = 5_000;

#[test]
fn a_flow_goes_when_both_directions_were_silent_for_longer_than_its_time() {
    let table = Table::new("silent");
    let seen = |there: u32, back: u32| [NOW_S - there, NOW_S - back];
    let stays = [
        table.add(proto::TCP, 1, flow_state::ESTABLISHED, seen(1_000, 1_000)),
        table.add(proto::TCP, 2, flow_state::ESTABLISHED, seen(4_000, 1)),
        table.add(proto::SCTP, 3, flow_state::ESTABLISHED, seen(100, 100)),
        table.add(proto::UDP, 4, flow_state::EMBRYONIC, seen(20, 20)),
        // Its time is 0: for ever.
        table.add(proto::ICMP, 5, flow_state::ESTABLISHED, seen(4_999, 4_999)),
        // Another CPU's clock was a tick ahead.
        table.add(proto::TCP, 6, flow_state::CLOSING, [NOW_S + 1, NOW_S + 1]),
    ];
    let goes = [
        table.add(proto::TCP, 11, flow_state::ESTABLISHED, seen(1_001, 1_001)),
        table.add(proto::TCP, 12, flow_state::EMBRYONIC, seen(11, 4_000)),
        table.add(proto::TCP, 13, flow_state::CLOSING, seen(6, 6)),
        table.add(proto::SCTP, 14, flow_state::EMBRYONIC, seen(21, 21)),
        table.add(proto::UDP, 15, flow_state::ESTABLISHED, seen(101, 101)),
    ];
    let collected = table.table.collect(&facts(), NOW_S).unwrap();
    assert!(stays.iter().all(|flow| table.has(flow)) && !goes.iter().any(|flow| table.has(flow)));
    assert_eq!(collected, Collected { removed: 10, embryonic: 6, established: 12, closing: 4, capacity: 64 });
    assert_eq!(table.flows.entries().unwrap().len(), 12);
}

#[test]
fn a_flow_is_found_by_its_forward_entry_and_forgotten_with_both() {
    let table = Table::new("forget");
    let [one, other] = [1, 2].map(|port| table.add(proto::TCP, port, flow_state::ESTABLISHED, [NOW_S; 2]));
    let found = table.table.find(|key, flow| key.sport == one.sport && flow.to.dport.get() == 8080).unwrap();
    assert_eq!(found, [one]);
    assert_eq!(table.table.forget(&found).unwrap(), 1);
    assert_eq!(table.table.forget(&found).unwrap(), 0);
    assert!(!table.has(&one) && table.has(&other));
    assert_eq!(table.flows.entries().unwrap().len(), 2);
}
