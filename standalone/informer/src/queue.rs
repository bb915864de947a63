//! Work queue keyed by object: each key waits at most once, is worked on by one worker at a time, and backs
//! off on its own when it fails.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Delay after the first failure of a key; doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(5);
/// Longest delay between two tries of a failing key.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Bounded by the number of distinct keys, which is the number of objects in the cache: a key that is added
/// while it waits is not added again.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Keys in `ready`.
    waiting: HashSet<T>,
    /// Keys that a worker holds; true when the key was added again meanwhile.
    active: HashMap<T, bool>,
    failures: HashMap<T, u32>,
    delayed: BTreeMap<(Instant, u64), T>,
    /// For each delayed key its place in `delayed`; the earliest wish wins.
    due: HashMap<T, (Instant, u64)>,
    next_ticket: u64,
}

impl<T: Clone + Eq + Hash> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                waiting: HashSet::new(),
                active: HashMap::new(),
                failures: HashMap::new(),
                delayed: BTreeMap::new(),
                due: HashMap::new(),
                next_ticket: 0,
            }),
            changed: Notify::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Queue<T> {
    /// Wants the key worked on, as soon as a worker is free.
    pub fn add(&self, key: T) {
        self.lock().add(key);
        self.changed.notify_one();
    }

    /// Wants the key worked on after `delay`; an earlier wish for the same key stands.
    pub fn add_after(&self, key: T, delay: Duration) {
        self.lock().delay(key, Instant::now() + delay);
        self.changed.notify_one();
    }

    /// The next key; it belongs to the caller until [`Queue::done`].
    pub async fn take(&self) -> T {
        loop {
            let next_due = {
                let mut state = self.lock();
                let now = Instant::now();
                state.ripen(now);
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.active.insert(key.clone(), false);
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.delayed.keys().next().map(|(due, _)| *due)
            };
            match next_due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, self.changed.notified()).await;
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Gives the key back. `failed` keys come again after their back-off; a key that was added meanwhile
    /// comes again at once.
    pub fn done(&self, key: T, failed: bool) {
        {
            let mut state = self.lock();
            let again = state.active.remove(&key).unwrap_or(false);
            if failed {
                let failures = state.failures.entry(key.clone()).or_insert(0);
                let delay = FIRST_BACKOFF.saturating_mul(1 << (*failures).min(20)).min(MAX_BACKOFF);
                *failures = failures.saturating_add(1);
                state.delay(key, Instant::now() + delay);
            } else {
                state.failures.remove(&key);
                if again {
                    state.add(key);
                }
            }
        }
        self.changed.notify_one();
    }

    /// Keys that wait, are delayed or are being worked on.
    pub fn depth(&self) -> usize {
        let state = self.lock();
        state.ready.len() + state.delayed.len() + state.active.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().expect("not poisoned")
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T) {
        if let Some(again) = self.active.get_mut(&key) {
            *again = true;
        } else if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: T, due: Instant) {
        if let Some(&place) = self.due.get(&key) {
            if place.0 <= due {
                return;
            }
            self.delayed.remove(&place);
        }
        let place = (due, self.next_ticket);
        self.next_ticket += 1;
        self.due.insert(key.clone(), place);
        self.delayed.insert(place, key);
    }

    fn ripen(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn key_added_twice_is_worked_on_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.take().await, "a");
        assert_eq!(queue.take().await, "b");
        assert_eq!(queue.depth(), 2);
    }

    #[tokio::test]
    async fn key_added_while_active_comes_again_after_done_and_not_before() {
        let queue = Queue::default();
        queue.add("a");
        let key = queue.take().await;
        queue.add("a");
        assert!(tokio::time::timeout(Duration::from_millis(50), queue.take()).await.is_err());
        queue.done(key, false);
        assert_eq!(queue.take().await, "a");
    }

    #[tokio::test]
    async fn failing_key_backs_off_and_success_forgets() {
        let queue = Queue::default();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..4 {
            let before = Instant::now();
            let key = queue.take().await;
            waits.push(before.elapsed().as_millis());
            queue.done(key, true);
        }
        assert_eq!(waits[0], 0);
        assert!(waits[1] >= 5 && waits[2] >= 10 && waits[3] >= 20, "{waits:?}");
        let key = queue.take().await;
        queue.done(key, false);
        assert!(queue.lock().failures.is_empty());
    }

    #[tokio::test]
    async fn earliest_wish_wins_among_delays() {
        let queue = Queue::default();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_millis(20));
        queue.add_after("a", Duration::from_secs(30));
        let before = Instant::now();
        assert_eq!(queue.take().await, "a");
        assert!(before.elapsed() < Duration::from_secs(10));
        queue.done("a", false);
        assert_eq!(queue.depth(), 0);
    }
}
