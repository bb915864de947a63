//! Wanted tables → map operations, in an order in which every packet can be served: a run of slots is written before a
//! frontend points to it, and used again only when its readers are long gone. Pure: no map is touched here.

use std::collections::{BTreeMap, BTreeSet};

use proxy_abi::{Addr, Be16, Frontend, FrontendKey, Slot, SourceRangeKey, Window, frontend_flag};
use proxy_state::{Backend, Op, RunAllocator, RunsFull};

/// A program that read a frontend just before it flipped reads its slot well within this time.
pub const GRACE_MS: u64 = 1_000;

/// A virtual address and the elements of its window.
#[derive(Clone, PartialEq, Debug)]
pub struct Wanted {
    pub key: FrontendKey,
    /// `frontend_flag` bits.
    pub flags: u32,
    pub elements: Vec<Backend>,
    /// Prefixes with their length in the 128-bit form; they count if `flags` has `SOURCE_RANGES`.
    pub ranges: BTreeSet<(Addr, u32)>,
}

#[derive(Debug)]
struct Known {
    frontend: Frontend,
    elements: Vec<Backend>,
    ranges: BTreeSet<(Addr, u32)>,
}

/// What is in the maps.
#[derive(Debug)]
pub struct Tables {
    runs: RunAllocator,
    known: BTreeMap<FrontendKey, Known>,
    retired: Vec<(u64, Window)>,
    /// Ranges that no frontend has: an earlier process ended between two operations.
    stray: Vec<SourceRangeKey>,
    next_id: u32,
}

impl Tables {
    /// From what an earlier process left in the maps; `slots` by index.
    pub fn restore(
        capacity: u32,
        frontends: &[(FrontendKey, Frontend)],
        slots: &[(u32, Slot)],
        ranges: &[SourceRangeKey],
    ) -> Tables {
        let slots: BTreeMap<u32, Slot> = slots.iter().copied().collect();
        let owned: BTreeSet<u32> = frontends.iter().map(|(_, frontend)| frontend.service_id).collect();
        let (ours, stray): (Vec<_>, Vec<_>) =
            ranges.iter().copied().partition(|range| owned.contains(&range.of.service_id));
        let mut runs = RunAllocator::new(capacity);
        let mut known = BTreeMap::new();
        for (key, frontend) in frontends {
            let Window { first, count } = frontend.outside;
            let mut frontend = *frontend;
            let mut elements: Vec<Backend> = (first..first.saturating_add(count))
                .filter_map(|index| slots.get(&index))
                .map(|slot| Backend { addr: slot.addr, port: slot.port, flags: slot.flags })
                .collect();
            if count > 0 && !runs.reserve(first, count) {
                frontend.outside = Window::default();
                elements.clear();
            }
            let ranges = ours
                .iter()
                .filter(|range| range.of.service_id == frontend.service_id)
                .map(|range| (range.of.addr, range.prefix_len.saturating_sub(u32::BITS)))
                .collect();
            known.insert(*key, Known { frontend, elements, ranges });
        }
        let next_id = known.values().map(|known| known.frontend.service_id).max().unwrap_or(0) + 1;
        Tables { runs, known, retired: Vec::new(), stray, next_id }
    }

    /// The operations that lead to `wanted`; this value is then what the maps hold. What is not wanted is removed, unless
    /// `is_all` says that more may still be asked for.
    ///
    /// # Errors
    /// No room for a set; the operations until then are returned with it and must be executed.
    pub fn plan(&mut self, wanted: &[Wanted], is_all: bool, now_ms: u64) -> (Vec<Op>, Option<RunsFull>) {
        let mut ops: Vec<Op> = std::mem::take(&mut self.stray)
            .into_iter()
            .map(|range| Op::DeleteSourceRange { range })
            .collect();
        let runs = &mut self.runs;
        self.retired.retain(|(since_ms, run)| {
            let rested = since_ms + GRACE_MS <= now_ms;
            if rested {
                runs.free(run.first);
            }
            !rested
        });
        let mut full = None;
        for vip in wanted {
            full = full.or(self.vip(vip, now_ms, &mut ops).err());
        }
        let stays: BTreeSet<FrontendKey> = wanted.iter().map(|vip| vip.key).collect();
        let gone: Vec<FrontendKey> =
            self.known.keys().filter(|key| is_all && !stays.contains(key)).copied().collect();
        for key in gone {
            ops.push(Op::DeleteFrontend { key });
            if let Some(known) = self.known.remove(&key) {
                self.retire(known.frontend.outside, now_ms);
                let id = known.frontend.service_id;
                ops.extend(known.ranges.iter().map(|range| delete_range(id, range)));
            }
        }
        (ops, full)
    }

    fn vip(&mut self, vip: &Wanted, now_ms: u64, ops: &mut Vec<Op>) -> Result<(), RunsFull> {
        let before = self.known.get(&vip.key).map(|known| known.frontend);
        let had = self.known.get(&vip.key).map(|known| known.ranges.clone()).unwrap_or_default();
        let same = self.known.get(&vip.key).is_some_and(|known| {
            known.elements == vip.elements && known.frontend.flags == vip.flags && had == vip.ranges
        });
        if same {
            return Ok(());
        }
        let count = vip.elements.len() as u32;
        let window = match count {
            0 => Window::default(),
            count => Window { first: self.runs.allocate(count)?, count },
        };
        let service_id = before.map_or(self.next_id, |frontend| frontend.service_id);
        self.next_id = self.next_id.max(service_id + 1);
        let generation = before.map_or(1, |frontend| frontend.generation.wrapping_add(1));
        let slot = |backend: &Backend| Slot {
            addr: backend.addr,
            port: backend.port,
            flags: backend.flags,
            service_id,
            generation,
        };
        if count > 0 {
            let slots = vip.elements.iter().map(slot).collect();
            ops.push(Op::WriteSlots { first: window.first, slots });
        }
        // Ranges are there before the frontend looks for them, and as long as it does.
        for (addr, len) in vip.ranges.difference(&had) {
            ops.push(Op::SetSourceRange { range: SourceRangeKey::new(service_id, *addr, *len) });
        }
        let frontend = Frontend {
            service_id,
            generation,
            outside: window,
            inside: window,
            flags: vip.flags,
            affinity_s: 0,
        };
        ops.push(Op::SetFrontend { key: vip.key, value: frontend });
        ops.extend(had.difference(&vip.ranges).map(|range| delete_range(service_id, range)));
        if let Some(before) = before {
            self.retire(before.outside, now_ms);
        }
        self.known
            .insert(vip.key, Known { frontend, elements: vip.elements.clone(), ranges: vip.ranges.clone() });
        Ok(())
    }

    fn retire(&mut self, run: Window, now_ms: u64) {
        if run.count > 0 {
            self.retired.push((now_ms, run));
        }
    }

    /// Whether new flows to a virtual address may still go to a backend.
    pub fn holds(&self, key: &FrontendKey, addr: Addr, port: Be16) -> bool {
        self.known.get(key).is_some_and(|known| {
            known.elements.iter().any(|element| element.addr == addr && element.port == port)
        })
    }

    /// The addresses of all that is served.
    pub fn addresses(&self) -> impl Iterator<Item = Addr> + '_ {
        self.known.keys().map(|key| key.addr)
    }

    pub fn has(&self, key: &FrontendKey) -> bool {
        self.known.contains_key(key)
    }
}

fn delete_range(service_id: u32, (addr, len): &(Addr, u32)) -> Op {
    Op::DeleteSourceRange { range: SourceRangeKey::new(service_id, *addr, *len) }
}

/// Flags of a virtual address.
pub fn flags(is_direct: bool, is_maglev: bool, is_restricted: bool) -> u32 {
    let mut flags = frontend_flag::LOAD_BALANCER;
    if is_direct {
        flags |= frontend_flag::DIRECT;
    }
    if is_maglev {
        flags |= frontend_flag::MAGLEV;
    }
    if is_restricted {
        flags |= frontend_flag::SOURCE_RANGES;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(n: u8) -> Backend {
        Backend { addr: Addr::from_v4([10, 0, 0, n]), port: Be16::new(80), flags: 0 }
    }

    fn wanted(backends: &[u8]) -> Wanted {
        let key = FrontendKey { addr: Addr::from_v4([192, 0, 2, 1]), port: Be16::new(80), proto: 6, kind: 0 };
        Wanted {
            key,
            flags: flags(false, true, false),
            elements: backends.iter().map(|n| backend(*n)).collect(),
            ranges: BTreeSet::new(),
        }
    }

    #[test]
    fn a_set_is_written_apart_and_then_switched_to() {
        let mut tables = Tables::restore(8, &[], &[], &[]);
        let (first, _) = tables.plan(&[wanted(&[1, 2])], true, 0);
        assert!(matches!(first[..], [Op::WriteSlots { first: 0, .. }, Op::SetFrontend { .. }]), "{first:?}");
        assert_eq!(tables.plan(&[wanted(&[1, 2])], true, 1).0, []);
        let (second, _) = tables.plan(&[wanted(&[2, 3])], true, 2);
        assert!(matches!(second[..], [Op::WriteSlots { first: 2, .. }, Op::SetFrontend { .. }]));
        let vip = wanted(&[]);
        assert!(tables.holds(&vip.key, backend(3).addr, Be16::new(80)));
        assert!(!tables.holds(&vip.key, backend(1).addr, Be16::new(80)));
        let (third, _) = tables.plan(&[], true, 3);
        assert_eq!(third, [Op::DeleteFrontend { key: vip.key }]);
        // Rested by now: the first slots are used again.
        let (fourth, full) = tables.plan(&[wanted(&[1, 2, 3, 4, 5, 6, 7, 8])], true, 3 + GRACE_MS);
        assert!(full.is_none() && fourth.len() == 2);
    }

    #[test]
    fn what_an_earlier_process_left_is_taken_up() {
        let mut tables = Tables::restore(8, &[], &[], &[]);
        let (ops, _) = tables.plan(&[wanted(&[1, 2])], true, 0);
        let (mut frontends, mut slots) = (Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::WriteSlots { first, slots: written } => slots.extend((first..).zip(written)),
                Op::SetFrontend { key, value } => frontends.push((key, value)),
                _ => {}
            }
        }
        let mut again = Tables::restore(8, &frontends, &slots, &[]);
        assert_eq!(again.plan(&[wanted(&[1, 2])], true, 0).0, []);
        let (ops, _) = again.plan(&[wanted(&[2])], true, 0);
        assert!(matches!(
            ops[..],
            [Op::WriteSlots { first: 2, .. }, Op::SetFrontend { value: Frontend { generation: 2, .. }, .. }]
        ));
    }
    /// Every prefix of the operations leaves a restricted address closed to who was never allowed.
    #[test]
    fn ranges_are_there_before_a_frontend_asks_for_them_and_go_after_it() {
        let range = |n: u8| (Addr::from_v4([198, 51, n, 0]), 120);
        let only = |ranges: &[u8]| Wanted {
            flags: flags(false, false, true),
            ranges: ranges.iter().map(|n| range(*n)).collect(),
            ..wanted(&[1])
        };
        let mut tables = Tables::restore(8, &[], &[], &[]);
        let (ops, _) = tables.plan(&[only(&[1, 2])], true, 0);
        let [Op::WriteSlots { .. }, Op::SetSourceRange { .. }, Op::SetSourceRange { .. }, set] = &ops[..]
        else {
            panic!("{ops:?}");
        };
        let Op::SetFrontend { key, value } = *set else { panic!("{set:?}") };
        let set_range = |n| SourceRangeKey::new(value.service_id, range(n).0, range(n).1);
        let (ops, _) = tables.plan(&[only(&[2, 3])], true, 1);
        assert_eq!(ops[1], Op::SetSourceRange { range: set_range(3) });
        assert!(matches!(ops[2], Op::SetFrontend { .. }));
        assert_eq!(ops[3..], [Op::DeleteSourceRange { range: set_range(1) }]);
        assert_eq!(tables.plan(&[], false, 2).0, [], "more may still be asked for");
        let gone = tables.plan(&[], true, 3).0;
        assert_eq!(gone[0], Op::DeleteFrontend { key });
        assert_eq!(gone.len(), 3);

        // Another process: the ranges of its frontend are known, those of no frontend go.
        let stray = SourceRangeKey::new(99, range(9).0, range(9).1);
        let mut again = Tables::restore(8, &[(key, value)], &[], &[set_range(1), stray]);
        let (ops, _) = again.plan(&[only(&[])], true, 0);
        assert_eq!(ops[0], Op::DeleteSourceRange { range: stray });
        assert_eq!(ops.last(), Some(&Op::DeleteSourceRange { range: set_range(1) }));
    }
}
