use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use tokio::time::Instant;

/// How many at once, and one more each interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub burst: u32,
    pub refill: Duration,
}

/// A token bucket, as the moment at which it would be full again. Time is an argument.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    full_at: Instant,
}

impl Bucket {
    pub fn new(rate: Rate, now: Instant) -> Bucket {
        Bucket { rate, full_at: now }
    }

    /// From when on there is one.
    pub fn next(&self) -> Instant {
        self.full_at.checked_sub(self.rate.refill * (self.rate.burst - 1)).unwrap_or(self.full_at)
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.full_at > now + self.rate.refill * (self.rate.burst - 1) {
            return false;
        }
        self.full_at = self.full_at.max(now) + self.rate.refill;
        true
    }
}

/// A bucket for each of many.
#[derive(Debug)]
pub(super) struct Buckets<T> {
    rate: Rate,
    most: usize,
    of: HashMap<T, Bucket>,
    order: VecDeque<T>,
}

impl<T: Clone + Eq + Hash> Buckets<T> {
    /// `most` are remembered; the oldest is forgotten first, and has a full one when it comes again.
    pub fn new(rate: Rate, most: usize) -> Buckets<T> {
        Buckets { rate, most, of: HashMap::new(), order: VecDeque::new() }
    }

    pub fn take(&mut self, who: T, now: Instant) -> bool {
        if let Some(bucket) = self.of.get_mut(&who) {
            return bucket.take(now);
        }
        if self.order.len() >= self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.of.remove(&oldest);
        }
        self.order.push_back(who.clone());
        self.of.entry(who).or_insert(Bucket::new(self.rate, now)).take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 25, refill: Duration::from_secs(5) };

    #[test]
    fn a_burst_and_then_one_by_one() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        let mut taken = 0;
        for second in 0..=600 {
            let now = start + Duration::from_secs(second);
            while bucket.take(now) {
                taken += 1;
            }
            assert!(bucket.next() > now && bucket.next() <= now + RATE.refill);
        }
        assert_eq!(taken, 25 + 600 / 5);
    }

    #[test]
    fn one_who_floods_leaves_the_others_theirs_and_memory_is_bounded() {
        let now = Instant::now();
        let mut buckets = Buckets::new(RATE, 100);
        assert_eq!((0..1000).filter(|_| buckets.take(0, now)).count(), 25);
        assert!((1..1000).all(|n| buckets.take(n, now)));
        assert_eq!((buckets.of.len(), buckets.order.len()), (100, 100));
        assert!(buckets.take(0, now), "it was forgotten");
    }
}
