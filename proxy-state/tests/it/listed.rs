//! Tables that somebody names outright: a balancer's virtual addresses, planned as Services are.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::world::{LIMITS, Meaning, meaning};
use proptest::prelude::*;
use proxy_abi::{
    Addr, Be16, Frontend, FrontendKey, Slot, SourceRangeKey, frontend_flag, frontend_kind, proto,
};
use proxy_state::{
    Actual, Backend, Dump, FrontendSpec, Layout, Limits, Listed, ObjectKey, Op, Plan, Refusal, Scope,
    ServicePortId, ServicePortTable, ServiceTables, Wants, plan,
};

/// One process and the maps, which outlive it.
struct Balancer {
    wants: Listed,
    actual: Actual,
    maps: Dump,
    limits: Limits,
    now_ms: u64,
}

impl Balancer {
    fn new(limits: Limits, maps: Dump) -> Balancer {
        let actual = Actual::restore(limits, maps.clone(), 0);
        Balancer { wants: Listed::default(), actual, maps, limits, now_ms: 0 }
    }

    /// Another process takes up what this one leaves.
    fn restart(&mut self) {
        let maps = std::mem::take(&mut self.maps);
        *self = Balancer::new(self.limits, maps);
    }

    fn set(&mut self, wanted: &[(&str, ServiceTables)], is_all: bool) -> &mut Balancer {
        let wanted = wanted.iter().map(|(owner, tables)| (ObjectKey::new("", owner), tables.clone()));
        self.wants.set(wanted.collect(), is_all);
        self
    }

    fn plan(&mut self) -> Plan {
        plan(&mut self.wants, &mut self.actual, self.now_ms)
    }

    fn sync(&mut self) -> Plan {
        let plan = self.plan();
        plan.ops.iter().for_each(|op| self.maps.execute(op));
        plan
    }
}

fn key(n: u8) -> FrontendKey {
    FrontendKey {
        addr: Addr::from_v4([192, 0, 2, n]),
        port: Be16::new(80),
        proto: proto::TCP,
        kind: frontend_kind::ADDRESS,
    }
}

fn backend(n: u8) -> Backend {
    Backend { addr: Addr::from_v4([10, 0, 0, n]), port: Be16::new(80), flags: 0 }
}

fn range(n: u8) -> (Addr, u32) {
    (Addr::from_v4([198, 51, n, 0]), 120)
}

/// Frontends with these backends; `ranges`: who may use them, `None`: everyone.
fn tables(frontends: &[u8], backends: &[u8], ranges: Option<&[u8]>) -> ServiceTables {
    let restricted = if ranges.is_some() { frontend_flag::SOURCE_RANGES } else { 0 };
    let flags = frontend_flag::LOAD_BALANCER | restricted;
    let table = ServicePortTable {
        id: ServicePortId { port: 80, proto: proto::TCP, is_v4: true, scope: Scope::Cluster },
        frontends: frontends.iter().map(|n| FrontendSpec { key: key(*n), flags, affinity_s: 0 }).collect(),
        layout: Layout::whole(backends.iter().map(|n| backend(*n)).collect()),
        source_ranges: ranges.unwrap_or_default().iter().map(|n| range(*n)).collect(),
    };
    ServiceTables { ports: vec![table], addresses: Vec::new() }
}

const SMALL: Limits = Limits { slots: 8, ..LIMITS };

#[test]
fn a_set_is_written_apart_and_then_switched_to() {
    let mut balancer = Balancer::new(SMALL, Dump::default());
    let first = balancer.set(&[("a", tables(&[1], &[1, 2], None))], true).sync().ops;
    assert!(matches!(first[..], [Op::WriteSlots { first: 0, .. }, Op::SetFrontend { .. }]), "{first:?}");
    balancer.now_ms = 1;
    assert_eq!(balancer.set(&[("a", tables(&[1], &[1, 2], None))], true).sync().ops, []);
    balancer.now_ms = 2;
    let second = balancer.set(&[("a", tables(&[1], &[2, 3], None))], true).sync().ops;
    assert!(matches!(second[..], [Op::WriteSlots { first: 2, .. }, Op::SetFrontend { .. }]), "{second:?}");
    let has = |balancer: &Balancer, n: u8| {
        balancer.actual.backends(&key(1)).is_some_and(|all| all.contains(&(backend(n).addr, backend(n).port)))
    };
    assert!(has(&balancer, 3) && !has(&balancer, 1));
    balancer.now_ms = 3;
    let third = balancer.set(&[], true).sync().ops;
    assert_eq!(third, [Op::DeleteFrontend { key: key(1) }]);
    assert!(balancer.actual.backends(&key(1)).is_none());
    // Rested by now: the first slots are used again.
    balancer.now_ms = 3 + SMALL.grace_ms;
    let fourth = balancer.set(&[("a", tables(&[1], &[1, 2, 3, 4, 5, 6, 7, 8], None))], true).sync();
    assert!(fourth.refused.is_empty(), "{:?}", fourth.refused);
    let new: Vec<&Op> = fourth.ops.iter().filter(|op| !matches!(op, Op::ClearSlots { .. })).collect();
    assert!(matches!(new[..], [Op::WriteSlots { first: 0, .. }, Op::SetFrontend { .. }]), "{new:?}");
}

#[test]
fn a_set_that_finds_no_room_leaves_what_was_and_lets_others_be_served() {
    let mut balancer = Balancer::new(SMALL, Dump::default());
    let count = |balancer: &Balancer, n: u8| balancer.actual.backends(&key(n)).map(|all| all.len());
    balancer.set(&[("a", tables(&[1], &[1, 2, 3, 4, 5, 6], None))], true).sync();
    let many = tables(&[1], &[1, 2, 3, 4, 5, 6, 7], None);
    let plan = balancer.set(&[("a", many), ("b", tables(&[2], &[9], None))], true).sync();
    assert!(matches!(&plan.refused[..], [Refusal::Slots { .. }]), "{:?}", plan.refused);
    assert_eq!((count(&balancer, 1), count(&balancer, 2)), (Some(6), Some(1)));
    // One that only has to wait for what rests is no refusal, and the plan says when to try again.
    let plan = balancer.set(&[("a", tables(&[1], &[7], None))], false).sync();
    assert_eq!((plan.refused, plan.due_ms), (vec![], Some(SMALL.grace_ms)));
    let plan = balancer.set(&[("b", tables(&[2], &[1, 2, 3, 4, 5], None))], false).sync();
    assert_eq!((plan.refused, plan.due_ms), (vec![], Some(SMALL.grace_ms)));
    assert_eq!(count(&balancer, 2), Some(1));
    balancer.now_ms = SMALL.grace_ms;
    assert!(balancer.sync().refused.is_empty());
    assert_eq!(count(&balancer, 2), Some(5));
}

#[test]
fn what_an_earlier_process_left_is_taken_up() {
    let mut balancer = Balancer::new(SMALL, Dump::default());
    balancer.set(&[("a", tables(&[1], &[1, 2], None))], true).sync();
    balancer.restart();
    assert_eq!(balancer.set(&[("a", tables(&[1], &[1, 2], None))], true).sync().ops, []);
    let ops = balancer.set(&[("a", tables(&[1], &[2], None))], true).sync().ops;
    assert!(matches!(
        ops[..],
        [Op::WriteSlots { first: 2, .. }, Op::SetFrontend { value: Frontend { generation: 2, .. }, .. }]
    ));
}

/// Every prefix of the operations leaves a restricted address closed to who was never allowed.
#[test]
fn ranges_are_there_before_a_frontend_asks_for_them_and_go_after_it() {
    let only = |ranges: &[u8]| [("a", tables(&[1], &[1], Some(ranges)))];
    let mut balancer = Balancer::new(SMALL, Dump::default());
    let ops = balancer.set(&only(&[1, 2]), true).sync().ops;
    let [Op::WriteSlots { .. }, Op::SetSourceRange { .. }, Op::SetSourceRange { .. }, set] = &ops[..] else {
        panic!("{ops:?}");
    };
    let Op::SetFrontend { value, .. } = *set else { panic!("{set:?}") };
    let set_range = |n| SourceRangeKey::new(value.service_id, range(n).0, range(n).1);
    let ops = balancer.set(&only(&[2, 3]), true).sync().ops;
    assert_eq!(
        ops,
        [Op::SetSourceRange { range: set_range(3) }, Op::DeleteSourceRange { range: set_range(1) }]
    );
    // From restricted to open the frontend flips before its ranges go; the other way round after they came.
    let ops = balancer.set(&[("a", tables(&[1], &[1], None))], true).sync().ops;
    assert!(
        matches!(
            ops[..],
            [Op::SetFrontend { .. }, Op::DeleteSourceRange { .. }, Op::DeleteSourceRange { .. }]
        ),
        "{ops:?}"
    );
    balancer.set(&only(&[2, 3]), true).sync();
    assert_eq!(balancer.set(&[], false).sync().ops, [], "more may still be asked for");
    let gone = balancer.set(&[], true).sync().ops;
    assert_eq!(gone[0], Op::DeleteFrontend { key: key(1) });
    assert_eq!(gone.len(), 3);

    // Another process: the ranges of its frontend are known, those of no frontend go.
    let stray = SourceRangeKey::new(99, range(9).0, range(9).1);
    let maps = Dump {
        frontends: [(key(1), value)].into(),
        source_ranges: [set_range(1), stray].into(),
        ..Dump::default()
    };
    let mut again = Balancer::new(SMALL, maps);
    let ops = again.set(&only(&[]), true).sync().ops;
    let at = |wanted: &Op| ops.iter().position(|op| op == wanted);
    let flipped = ops.iter().position(|op| matches!(op, Op::SetFrontend { .. }));
    assert!(at(&Op::DeleteSourceRange { range: stray }).is_some(), "{ops:?}");
    assert!(at(&Op::DeleteSourceRange { range: set_range(1) }) > flipped && flipped.is_some(), "{ops:?}");
}

#[test]
fn of_two_that_name_one_frontend_the_first_has_it_until_it_lets_go() {
    let mut balancer = Balancer::new(SMALL, Dump::default());
    let (a, b) = (("a", tables(&[1], &[1], None)), ("b", tables(&[1, 2], &[2], None)));
    balancer.set(&[a, b.clone()], true).sync();
    let backends = |balancer: &Balancer, n: u8| balancer.actual.backends(&key(n)).unwrap_or_default();
    let only = |n: u8| HashSet::from([(backend(n).addr, backend(n).port)]);
    assert_eq!((backends(&balancer, 1), backends(&balancer, 2)), (only(1), only(2)));
    balancer.set(&[b], true).sync();
    assert_eq!((backends(&balancer, 1), backends(&balancer, 2)), (only(2), only(2)));
}

/// Owners and what they want, from small pools: they fight over frontends.
type Wish = BTreeMap<u8, (BTreeSet<u8>, Vec<u8>, Option<BTreeSet<u8>>)>;

#[derive(Clone, Debug)]
enum Event {
    Set {
        wish: Wish,
        is_all: bool,
    },
    /// Applies a plan, but is killed after this share of its operations; the next process knows nothing of
    /// what is wanted.
    Killed {
        share: f64,
    },
    /// Applies a plan to its end and lets time pass.
    Synced {
        after_ms: u64,
    },
}

fn wish() -> impl Strategy<Value = Wish> {
    let frontends = prop::collection::btree_set(0u8..5, 1..3);
    let backends = prop::collection::vec(0u8..8, 0..6);
    let ranges = prop::option::of(prop::collection::btree_set(0u8..4, 0..3));
    prop::collection::btree_map(0u8..4, (frontends, backends, ranges), 0..4)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (wish(), any::<bool>()).prop_map(|(wish, is_all)| Event::Set { wish, is_all }),
        2 => (0.0..1.0).prop_map(|share| Event::Killed { share }),
        4 => (0u64..1500).prop_map(|after_ms| Event::Synced { after_ms }),
    ]
}

fn told(wish: &Wish) -> BTreeMap<ObjectKey, ServiceTables> {
    let list = |set: &BTreeSet<u8>| set.iter().copied().collect::<Vec<u8>>();
    wish.iter()
        .map(|(owner, (frontends, backends, ranges))| {
            let ranges = ranges.as_ref().map(list);
            let tables = tables(&list(frontends), backends, ranges.as_deref());
            (ObjectKey::new("", &format!("o{owner}")), tables)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is wanted in the end is all that is there, from any interrupted apply; and until all is known
    /// nothing that an earlier process served, and that nobody has named since, changes.
    #[test]
    fn any_interrupted_apply_converges_to_what_is_named(
        events in prop::collection::vec(event(), 1..40),
        last in wish(),
    ) {
        let mut balancer = Balancer::new(LIMITS, Dump::default());
        let mut left: BTreeMap<FrontendKey, Meaning> = BTreeMap::new();
        for event in &events {
            match event {
                Event::Set { wish, is_all } => {
                    balancer.wants.set(told(wish), *is_all);
                    left.retain(|key, _| !balancer.wants.is_complete() && !balancer.wants.is_wanted(key));
                }
                Event::Killed { share } => {
                    let ops = balancer.plan().ops;
                    for op in &ops[..(ops.len() as f64 * share) as usize] {
                        balancer.maps.execute(op);
                        meaning(&balancer.maps);
                    }
                    balancer.restart();
                    left = meaning(&balancer.maps);
                }
                Event::Synced { after_ms } => {
                    for op in balancer.plan().ops {
                        balancer.maps.execute(&op);
                        meaning(&balancer.maps);
                    }
                    prop_assert_eq!(balancer.actual.divergence(&balancer.maps), 0);
                    balancer.now_ms += after_ms;
                }
            }
            let now = meaning(&balancer.maps);
            for (key, before) in &left {
                prop_assert_eq!(now.get(key), Some(before));
            }
        }
        balancer.wants.set(told(&last), true);
        let plan = balancer.sync();
        prop_assert_eq!(plan.refused, vec![]);
        let mut fresh = Balancer::new(LIMITS, Dump::default());
        fresh.wants.set(told(&last), true);
        fresh.sync();
        prop_assert_eq!(meaning(&balancer.maps), meaning(&fresh.maps));

        // What rests is freed, and then there is nothing left to do: not now, and not for another process.
        balancer.now_ms += LIMITS.grace_ms;
        balancer.sync();
        let rest = balancer.plan();
        prop_assert_eq!((&rest.ops, rest.due_ms), (&vec![], None));
        let used = balancer.maps.slots.iter().filter(|slot| slot.service_id != 0).count();
        let pointed_to: HashSet<u32> = balancer.maps.frontends.values().flat_map(|f| f.outside.first..f.outside.end()).collect();
        prop_assert_eq!(used, pointed_to.len());
        let ids: HashSet<u32> = balancer.maps.frontends.values().map(|f| f.service_id).collect();
        prop_assert!(balancer.maps.source_ranges.iter().all(|range| ids.contains(&range.of.service_id)));
        balancer.restart();
        balancer.wants.set(told(&last), true);
        prop_assert_eq!(balancer.plan().ops, vec![]);
    }
}

/// A slot that is free says nothing.
#[test]
fn nothing_named_and_nothing_there_needs_nothing() {
    let mut balancer = Balancer::new(LIMITS, Dump { slots: vec![Slot::default()], ..Dump::default() });
    assert_eq!(balancer.set(&[], true).plan().ops, []);
}
