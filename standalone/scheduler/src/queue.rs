//! Pods that wait: active, backing off, unschedulable. Pure: time comes in as a number.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use skerry_informer::ObjectKey;

use crate::pod::PodInfo;

/// Back-off after the first failed attempt, in milliseconds; doubles with each further one.
pub const FIRST_BACKOFF_MS: u64 = 1_000;
/// Longest back-off, in milliseconds.
pub const MAX_BACKOFF_MS: u64 = 10_000;

/// What happened in the cluster that may make a pod schedulable: a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events(u16);

impl Events {
    pub const NONE: Self = Self(0);
    pub const NODE_ADDED: Self = Self(1);
    pub const NODE_ALLOCATABLE: Self = Self(2);
    pub const NODE_LABELS: Self = Self(4);
    /// Taints, or whether a node is cordoned.
    pub const NODE_TAINTS: Self = Self(8);
    /// A pod was placed.
    pub const POD_PLACED: Self = Self(16);
    /// A placed pod went, or changed its labels.
    pub const POD_LEFT: Self = Self(32);
    /// A claim, a volume or a class came or changed.
    pub const VOLUMES: Self = Self(64);

    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether they have an event in common.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

struct Waiting {
    pod: Arc<PodInfo>,
    attempts: u32,
    /// Order of arrival; kept over attempts.
    ticket: u64,
    place: Place,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Active,
    /// Until this time.
    Backoff(u64),
    /// Until one of these events; then its back-off, which ends at the time given, must have passed too.
    Unschedulable(Events, u64),
    /// Handed out by `pop`.
    InFlight,
}

/// Bounded by the pods that are not bound: each stands here once.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<ObjectKey, Waiting>,
    active: BTreeSet<(std::cmp::Reverse<i32>, u64, ObjectKey)>,
    backoff: BTreeMap<(u64, u64), ObjectKey>,
    next_ticket: u64,
}

impl Queue {
    /// A pod that wants a node, new or changed. A change of the pod itself may have made it schedulable.
    pub fn offer(&mut self, pod: Arc<PodInfo>) {
        let key = pod.key.clone();
        if let Some(there) = self.pods.get(&key) {
            if there.pod.uid == pod.uid && there.place == Place::InFlight {
                return;
            }
            let (ticket, attempts) = (there.ticket, there.attempts);
            self.leave(&key);
            self.enter(pod, ticket, attempts, Place::Active);
            return;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.enter(pod, ticket, 0, Place::Active);
    }

    /// The pod is bound or gone.
    pub fn forget(&mut self, key: &ObjectKey) {
        self.leave(key);
        self.pods.remove(key);
    }

    /// The next pod: highest priority first, then the one that came first.
    pub fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, _, key) = self.active.pop_first()?;
        let waiting = self.pods.get_mut(&key)?;
        waiting.place = Place::InFlight;
        waiting.attempts = waiting.attempts.saturating_add(1);
        Some(waiting.pod.clone())
    }

    /// No node fits; one of `events` may change that.
    pub fn unschedulable(&mut self, key: &ObjectKey, events: Events, now_ms: u64) {
        self.back(key, now_ms, |until| Place::Unschedulable(events, until));
    }

    /// The attempt failed for a reason that passes by itself (a write that was refused).
    pub fn retry(&mut self, key: &ObjectKey, now_ms: u64) {
        self.back(key, now_ms, Place::Backoff);
    }

    /// Wakes pods that wait for one of these events.
    pub fn happened(&mut self, events: Events, now_ms: u64) {
        let woken: Vec<(ObjectKey, u64)> = self
            .pods
            .iter()
            .filter_map(|(key, waiting)| match waiting.place {
                Place::Unschedulable(wanted, until) if wanted.meets(events) => Some((key.clone(), until)),
                _ => None,
            })
            .collect();
        for (key, until) in woken {
            let place = if until <= now_ms { Place::Active } else { Place::Backoff(until) };
            self.go_to(&key, place);
        }
    }

    /// Makes pods active whose back-off has passed; when the next one does.
    pub fn ripen(&mut self, now_ms: u64) -> Option<u64> {
        while let Some((&(until, _), key)) = self.backoff.first_key_value() {
            if until > now_ms {
                return Some(until);
            }
            let key = key.clone();
            self.go_to(&key, Place::Active);
        }
        None
    }

    /// Whether this very pod waits here for an event, its spec and labels as they were: then a change of its
    /// status is no reason to try again.
    pub fn waits_unchanged(&self, pod: &PodInfo) -> bool {
        self.pods.get(&pod.key).is_some_and(|waiting| {
            let was = &waiting.pod;
            waiting.place != Place::Active
                && was.uid == pod.uid
                && was.labels == pod.labels
                && was.tolerations == pod.tolerations
                && was.requests == pod.requests
                && was.node_selector == pod.node_selector
                && was.required_nodes == pod.required_nodes
                && was.gated == pod.gated
        })
    }

    fn back(&mut self, key: &ObjectKey, now_ms: u64, place: impl Fn(u64) -> Place) {
        let Some(waiting) = self.pods.get(key) else { return };
        let doublings = waiting.attempts.saturating_sub(1).min(16);
        let until = now_ms + (FIRST_BACKOFF_MS << doublings).min(MAX_BACKOFF_MS);
        self.go_to(key, place(until));
    }

    fn go_to(&mut self, key: &ObjectKey, place: Place) {
        self.leave(key);
        if let Some(waiting) = self.pods.remove(key) {
            self.enter(waiting.pod, waiting.ticket, waiting.attempts, place);
        }
    }

    fn enter(&mut self, pod: Arc<PodInfo>, ticket: u64, attempts: u32, place: Place) {
        let key = pod.key.clone();
        match place {
            Place::Active => {
                self.active.insert((std::cmp::Reverse(pod.priority), ticket, key.clone()));
            }
            Place::Backoff(until) => {
                self.backoff.insert((until, ticket), key.clone());
            }
            Place::Unschedulable(..) | Place::InFlight => {}
        }
        self.pods.insert(key, Waiting { pod, attempts, ticket, place });
    }

    fn leave(&mut self, key: &ObjectKey) {
        let Some(waiting) = self.pods.get(key) else { return };
        match waiting.place {
            Place::Active => {
                let priority = std::cmp::Reverse(waiting.pod.priority);
                self.active.remove(&(priority, waiting.ticket, key.clone()));
            }
            Place::Backoff(until) => {
                self.backoff.remove(&(until, waiting.ticket));
            }
            Place::Unschedulable(..) | Place::InFlight => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Pod, PodSpec};
    use kube::api::ObjectMeta;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(PodInfo::of(&Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("ns".into()),
                uid: Some(name.into()),
                ..Default::default()
            },
            spec: Some(PodSpec { priority: Some(priority), ..Default::default() }),
            status: None,
        }))
    }

    fn popped(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|pod| pod.key.name().to_string()).collect()
    }

    #[test]
    fn higher_priority_goes_first_and_equals_in_order_of_arrival() {
        let mut queue = Queue::default();
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.offer(pod(name, priority));
        }
        assert_eq!(popped(&mut queue), ["b", "d", "a", "c"]);
    }

    #[test]
    fn unschedulable_pod_wakes_only_by_an_event_that_may_help_and_after_its_backoff() {
        let mut queue = Queue::default();
        queue.offer(pod("a", 0));
        let a = queue.pop().unwrap();
        queue.unschedulable(&a.key, Events::NODE_ADDED.or(Events::POD_LEFT), 0);
        queue.happened(Events::NODE_TAINTS, 5_000);
        assert!(popped(&mut queue).is_empty());
        queue.happened(Events::POD_LEFT, 500);
        assert_eq!(queue.ripen(500), Some(1_000));
        assert!(popped(&mut queue).is_empty());
        queue.ripen(1_000);
        assert_eq!(popped(&mut queue), ["a"]);
        queue.unschedulable(&a.key, Events::NODE_ADDED, 2_000);
        queue.happened(Events::NODE_ADDED, 4_500);
        assert_eq!(popped(&mut queue), ["a"], "its back-off of 2 s has passed already");
    }

    #[test]
    fn forgotten_pod_does_not_come_back_and_a_namesake_is_new() {
        let mut queue = Queue::default();
        queue.offer(pod("a", 0));
        let a = queue.pop().unwrap();
        queue.forget(&a.key);
        queue.retry(&a.key, 0);
        assert!(queue.pods.is_empty());
        queue.offer(pod("a", 0));
        assert_eq!(popped(&mut queue), ["a"]);
    }
}
