//! Two looks made one: what is used now, and at which rate.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::sample::{ContainerSample, Sample};

/// A container that started after the earlier look has its average since its start, once it is this old:
/// starts are known to the second.
const LEAST_AGE: Duration = Duration::from_secs(1);

/// Processor time used per time, and over how long that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub nano_cores: u64,
    pub window: Duration,
}

/// The newest look, with rates.
#[derive(Debug)]
pub struct Reading {
    pub newest: Arc<Sample>,
    pub node: Option<Rate>,
    /// By uid.
    pub pods: HashMap<String, Rate>,
    /// By id.
    pub containers: HashMap<String, Rate>,
}

impl Reading {
    pub fn of(earlier: &Sample, newest: Arc<Sample>) -> Reading {
        let window = newest.clock.saturating_duration_since(earlier.clock);
        let before: HashMap<&str, u64> = earlier
            .pods
            .iter()
            .flat_map(|pod| &pod.containers)
            .filter_map(|container| Some((container.id.as_str(), container.counters.cpu_ns?)))
            .collect();
        let pods_before: HashMap<&str, u64> =
            earlier.pods.iter().filter_map(|pod| Some((pod.id.uid.as_str(), pod.whole.cpu_ns?))).collect();
        let container = |container: &ContainerSample| {
            let now = container.counters.cpu_ns?;
            let found = match before.get(container.id.as_str()) {
                Some(before) => rate(*before, now, window),
                None => {
                    let age = newest.at.duration_since(container.started);
                    let age = Duration::try_from(age).ok().filter(|age| *age >= LEAST_AGE);
                    age.and_then(|age| rate(0, now, age))
                }
            };
            Some((container.id.clone(), found?))
        };
        let containers = newest.pods.iter().flat_map(|pod| &pod.containers).filter_map(container).collect();
        let pods = newest.pods.iter().filter_map(|pod| {
            let found = rate(*pods_before.get(pod.id.uid.as_str())?, pod.whole.cpu_ns?, window)?;
            Some((pod.id.uid.clone(), found))
        });
        let pods = pods.collect();
        let node = earlier.node.cpu_ns.zip(newest.node.cpu_ns);
        let node = node.and_then(|(before, now)| rate(before, now, window));
        Reading { node, pods, containers, newest }
    }
}

/// `None` where no time has passed, or the counter began anew.
fn rate(before_ns: u64, now_ns: u64, window: Duration) -> Option<Rate> {
    let used = u128::from(now_ns.checked_sub(before_ns)?);
    let nano_cores = (used * 1_000_000_000).checked_div(window.as_nanos())?;
    Some(Rate { nano_cores: u64::try_from(nano_cores).ok()?, window })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::fixture::{at, sample};

    #[test]
    fn a_rate_is_what_was_used_between_two_looks() {
        let reading = Reading::of(&sample(0, &[("c", 0, 1_000)]), Arc::new(sample(10, &[("c", 0, 6_000)])));
        let rate = Rate { nano_cores: 500_000_000, window: Duration::from_secs(10) };
        assert_eq!(reading.containers["c"], rate);
        assert_eq!(reading.pods["uid-c"], rate);
        assert_eq!(reading.node, Some(rate));
    }

    #[test]
    fn a_container_that_came_in_between_has_its_average() {
        let reading = Reading::of(&sample(0, &[]), Arc::new(sample(10, &[("c", 6, 1_000)])));
        let rate = Rate { nano_cores: 250_000_000, window: Duration::from_secs(4) };
        assert_eq!(reading.containers.get("c"), Some(&rate));
        let younger = Reading::of(&sample(0, &[]), Arc::new(sample(10, &[("c", 10, 1_000)])));
        assert_eq!(younger.containers.get("c"), None, "its start is known to the second");
    }

    #[test]
    fn a_counter_that_began_anew_has_no_rate_and_harms_no_other() {
        let now = sample(10, &[("c", 0, 1_000), ("d", 0, 2_000)]);
        let reading = Reading::of(&sample(0, &[("c", 0, 9_000), ("d", 0, 1_000)]), Arc::new(now));
        assert!(!reading.containers.contains_key("c") && reading.containers.contains_key("d"));
        let same = sample(0, &[("c", 0, 1_000)]);
        assert!(Reading::of(&same.clone(), Arc::new(same)).containers.is_empty(), "no time has passed");
        assert_eq!(at(0).as_second(), 1_700_000_000);
    }
}
