use std::collections::{BTreeMap, BTreeSet};

/// Hands out contiguous runs of slots: the smallest hole that fits, sizes rounded up to four classes a
/// doubling (at most a quarter is wasted, and a hole that a run leaves fits the next run of its class).
#[derive(Clone, Debug)]
pub struct RunAllocator {
    capacity: u32,
    /// Holes by position, for joining neighbours, and by size, for finding the best.
    holes: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    /// Lengths of the runs in use, by first slot.
    used: BTreeMap<u32, u32>,
    used_slots: u32,
}

/// No hole is big enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "map SLOTS full ({capacity}): a run of {wanted} does not fit, {free} slots are free, {largest} in one piece: raise the size of SLOTS"
)]
pub struct RunsFull {
    /// Elements of the map.
    pub capacity: u32,
    /// Elements of the run.
    pub wanted: u32,
    /// Elements that no run has; those that rest still have theirs.
    pub free: u32,
    /// The most that are free side by side.
    pub largest: u32,
}

impl RunAllocator {
    pub fn new(capacity: u32) -> RunAllocator {
        let mut all = RunAllocator {
            capacity,
            holes: BTreeMap::new(),
            by_size: BTreeSet::new(),
            used: BTreeMap::new(),
            used_slots: 0,
        };
        all.add_hole(0, capacity);
        all
    }

    /// First slot of a run that holds `count` (> 0).
    pub fn allocate(&mut self, count: u32) -> Result<u32, RunsFull> {
        let rounded = size_class(count);
        let hole = [rounded, count].iter().find_map(|len| {
            let (hole_len, first) = self.by_size.range((*len, 0)..).next().copied()?;
            Some((first, hole_len, *len))
        });
        let Some((first, hole_len, len)) = hole else {
            let largest = self.by_size.last().map_or(0, |(len, _)| *len);
            let free = self.capacity - self.used_slots;
            return Err(RunsFull { capacity: self.capacity, wanted: count, free, largest });
        };
        self.remove_hole(first, hole_len);
        self.add_hole(first + len, hole_len - len);
        self.used.insert(first, len);
        self.used_slots += len;
        Ok(first)
    }

    /// Marks a run that is in the map already. False if it overlaps another or leaves the map; nothing
    /// changes then.
    pub fn reserve(&mut self, first: u32, count: u32) -> bool {
        let Some((hole, hole_len)) = self.holes.range(..=first).next_back().map(|(a, b)| (*a, *b)) else {
            return false;
        };
        let (before, needed) = (first - hole, u64::from(first - hole) + u64::from(count));
        if count == 0 || needed > u64::from(hole_len) {
            return false;
        }
        self.remove_hole(hole, hole_len);
        self.add_hole(hole, before);
        self.add_hole(first + count, hole_len - before - count);
        self.used.insert(first, count);
        self.used_slots += count;
        true
    }

    /// Gives a run back by its first slot; one that is not in use is ignored.
    pub fn free(&mut self, first: u32) {
        let Some(mut len) = self.used.remove(&first) else { return };
        self.used_slots -= len;
        let mut start = first;
        if let Some((hole, hole_len)) = self.holes.range(..first).next_back().map(|(a, b)| (*a, *b))
            && hole + hole_len == first
        {
            self.remove_hole(hole, hole_len);
            (start, len) = (hole, len + hole_len);
        }
        if let Some(hole_len) = self.holes.get(&(start + len)).copied() {
            self.remove_hole(start + len, hole_len);
            len += hole_len;
        }
        self.add_hole(start, len);
    }

    pub fn used_slots(&self) -> u32 {
        self.used_slots
    }

    fn add_hole(&mut self, first: u32, len: u32) {
        if len > 0 {
            self.holes.insert(first, len);
            self.by_size.insert((len, first));
        }
    }

    fn remove_hole(&mut self, first: u32, len: u32) {
        self.holes.remove(&first);
        self.by_size.remove(&(len, first));
    }
}

/// `count` rounded up to one of 1–8, then 10, 12, 14, 16, 20, 24, 28, 32, 40 …
pub(crate) fn size_class(count: u32) -> u32 {
    if count <= 8 {
        return count;
    }
    let step = 1 << (29 - (count - 1).leading_zeros());
    count.checked_next_multiple_of(step).unwrap_or(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_to_four_classes_a_doubling() {
        let classes: Vec<u32> = [1, 7, 8, 9, 10, 11, 16, 17, 21, 33, 1000].map(size_class).to_vec();
        assert_eq!(classes, [1, 7, 8, 10, 10, 12, 16, 20, 24, 40, 1024]);
        assert!((1..100_000).all(|n| size_class(n) >= n && size_class(n) - n <= n / 4 + 1));
        assert_eq!(size_class(u32::MAX), u32::MAX);
    }

    #[test]
    fn a_full_map_is_refused_and_holes_join_again() {
        let mut runs = RunAllocator::new(10);
        let firsts: Vec<u32> = (0..5).map(|_| runs.allocate(2).unwrap()).collect();
        assert_eq!(firsts, [0, 2, 4, 6, 8]);
        runs.free(2);
        runs.free(6);
        let full = runs.allocate(3).unwrap_err();
        assert_eq!(full, RunsFull { capacity: 10, wanted: 3, free: 4, largest: 2 });
        assert!(full.to_string().starts_with("map SLOTS full (10): "), "{full}");
        runs.free(4);
        runs.free(4);
        assert_eq!(runs.allocate(6), Ok(2));
        assert_eq!(runs.used_slots(), 10);
        for first in [0, 2, 8] {
            runs.free(first);
        }
        assert_eq!(runs.allocate(10), Ok(0));
    }

    #[test]
    fn a_run_that_is_there_already_is_reserved_once() {
        let mut runs = RunAllocator::new(16);
        assert!(runs.reserve(4, 4));
        assert!(
            !runs.reserve(6, 4) && !runs.reserve(2, 3) && !runs.reserve(14, 3) && !runs.reserve(u32::MAX, 2)
        );
        assert!(!runs.reserve(0, 0));
        assert_eq!(runs.allocate(4), Ok(0));
        assert_eq!(runs.allocate(8), Ok(8));
    }
}
