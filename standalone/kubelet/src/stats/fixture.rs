//! Samples that tests are written with.

use std::{sync::OnceLock, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{
    cgroup::{Counters, Memory},
    network::{Direction, Interface},
    sample::{ContainerSample, PodSample, Sample},
};
use crate::spec::PodId;

/// Seconds after a test's second 0.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_700_000_000 + seconds)
}

fn clock(seconds: u64) -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now) + Duration::from_secs(seconds)
}

/// A look at second `now`, at pods of one container each: its id (the pod is named so too), its start, and
/// its processor time in ms. The node has used as much as all of them.
pub fn sample(now: u64, containers: &[(&str, i64, u64)]) -> Sample {
    let counters = |ms: u64| Counters { cpu_ns: Some(ms * 1_000_000), memory: Some(memory()) };
    let pods = containers.iter().map(|(id, started, ms)| PodSample {
        id: PodId { namespace: "ns".to_owned(), name: (*id).to_owned(), uid: format!("uid-{id}") },
        started: Some(at(*started)),
        whole: counters(*ms),
        processes: Some(2),
        interfaces: Some(vec![Interface {
            name: "eth0".to_owned(),
            rx: Direction { bytes: 10, packets: 1, ..Default::default() },
            tx: Direction { bytes: 20, packets: 2, ..Default::default() },
        }]),
        containers: vec![ContainerSample {
            name: format!("c-{id}"),
            id: (*id).to_owned(),
            image: "image".to_owned(),
            started: at(*started),
            counters: counters(*ms),
        }],
    });
    Sample {
        at: at(i64::try_from(now).unwrap()),
        clock: clock(now),
        node: counters(containers.iter().map(|(_, _, ms)| ms).sum()),
        interfaces: Some(Vec::new()),
        pods: pods.collect(),
    }
}

fn memory() -> Memory {
    Memory {
        usage: 200 << 20,
        working_set: 150 << 20,
        rss: 140 << 20,
        cache: 60 << 20,
        faults: 9,
        major_faults: 1,
        limit: Some(256 << 20),
    }
}
