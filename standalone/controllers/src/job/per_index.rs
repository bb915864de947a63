//! Failures that are limited index by index (`backoffLimitPerIndex`, KEP-3850). Pure.
//!
//! How often an index has failed stands in an annotation of its newest pod. A failed pod therefore keeps its
//! finalizer until the next one of its index is there, or the index is done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::plan::{ended_at, rest_of_pause};
use super::pods::{FAILURES, IGNORED, index};
use super::policy::{Verdict, verdict};
use crate::pod::phase;

/// When an index gets its next pod, and what that pod carries: failures that count and those that do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    Now((i32, i32)),
    /// Seconds.
    In(u64),
    Never,
}

#[derive(Debug, Default)]
pub struct Failures {
    /// Indexes that have failed for good.
    pub failed: BTreeSet<i32>,
    /// Of the others the newest failed pod, with the failures that count and those that do not up to it.
    last: BTreeMap<i32, (Arc<Pod>, (i32, i32))>,
    /// Failures that the newest pod of each index carries.
    carried: BTreeMap<i32, (i32, i32)>,
    done: BTreeSet<i32>,
}

/// What a pod carries of its predecessors.
fn carried(pod: &Pod) -> (i32, i32) {
    let number = |name| pod.annotations().get(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    (number(FAILURES), number(IGNORED))
}

impl Failures {
    pub fn of(
        spec: &JobSpec,
        limit: i32,
        pods: &[Arc<Pod>],
        failed: BTreeSet<i32>,
        done: &BTreeSet<i32>,
    ) -> Self {
        let mut failures = Self { failed, done: done.clone(), ..Self::default() };
        for pod in pods {
            let Some(index) = index(pod) else { continue };
            let had = carried(pod);
            let newest = failures.carried.entry(index).or_insert(had);
            *newest = (*newest).max(had);
            if phase(pod) != "Failed" {
                continue;
            }
            let verdict = verdict(spec, pod);
            let now = match verdict {
                Verdict::Ignore => (had.0, had.1 + 1),
                _ => (had.0 + 1, had.1),
            };
            if !done.contains(&index) && (now.0 > limit || verdict == Verdict::FailIndex) {
                failures.failed.insert(index);
            }
            let is_newer = failures.last.get(&index).is_none_or(|(_, before)| sum(now) > sum(*before));
            if is_newer {
                failures.last.insert(index, (pod.clone(), now));
            }
        }
        failures
    }

    /// Whether this failed pod alone says how often its index has failed, and somebody is still to know.
    pub fn is_last_record(&self, pod: &Pod) -> bool {
        let Some(index) = index(pod) else { return false };
        let is_settled = self.failed.contains(&index) || self.done.contains(&index);
        let Some((last, now)) = self.last.get(&index).filter(|_| !is_settled) else { return false };
        let is_taken_over = self.carried.get(&index).is_some_and(|carried| sum(*carried) >= sum(*now));
        last.metadata.uid == pod.metadata.uid && !is_taken_over && pod.metadata.deletion_timestamp.is_none()
    }

    pub fn retry(&self, index: i32, now: &Time) -> Retry {
        if self.failed.contains(&index) {
            return Retry::Never;
        }
        let carried = self.carried.get(&index).copied().unwrap_or_default();
        let Some((pod, failures)) = self.last.get(&index) else { return Retry::Now(carried) };
        let times = u32::try_from(sum(*failures)).unwrap_or(0);
        match ended_at(pod).and_then(|at| rest_of_pause(times, at, now)) {
            Some(seconds) => Retry::In(seconds),
            None => Retry::Now((failures.0.max(carried.0), failures.1.max(carried.1))),
        }
    }
}

fn sum((counted, ignored): (i32, i32)) -> i32 {
    counted.saturating_add(ignored)
}
