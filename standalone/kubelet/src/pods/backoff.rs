//! Restart back-off: 10 s, doubled each time, up to 5 min; forgotten after 10 min of running.

use jiff::{SignedDuration, Timestamp};

pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// One container's (or image's) back-off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    state: Option<(SignedDuration, Timestamp)>,
}

impl Backoff {
    /// When the next try may be made after a failure at `failed`; `None` means at once.
    pub fn until(&self, failed: Timestamp) -> Option<Timestamp> {
        let (delay, updated) = self.state?;
        (!expired(failed, updated)).then(|| add(failed, delay))
    }

    /// The delay that is in force.
    pub fn delay(&self) -> SignedDuration {
        self.state.map_or(INITIAL, |(delay, _)| delay)
    }

    /// Counts a new try at `now` after a failure at `failed`.
    pub fn tried(&mut self, failed: Timestamp, now: Timestamp) {
        let delay = match self.state {
            Some((delay, updated)) if !expired(failed, updated) => (delay * 2).min(MAX),
            _ => INITIAL,
        };
        self.state = Some((delay, now));
    }
}

fn expired(failed: Timestamp, updated: Timestamp) -> bool {
    failed.duration_since(updated) > MAX * 2
}

/// Addition that stays inside the calendar.
pub fn add(at: Timestamp, delay: SignedDuration) -> Timestamp {
    at.checked_add(delay).unwrap_or(Timestamp::MAX)
}

/// `10s`, `1m20s`, `5m0s`: durations as Kubernetes' texts spell them.
pub fn show(delay: SignedDuration) -> String {
    let seconds = delay.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn the_first_restart_is_at_once_and_the_delay_then_doubles_to_five_minutes() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let failed = at(now);
            let next = backoff.until(failed).unwrap_or(failed);
            delays.push(next.duration_since(failed).as_secs());
            backoff.tried(failed, next);
            now = next.as_second() - 1_000_000 + 1;
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_forget_it() {
        let mut backoff = Backoff::default();
        backoff.tried(at(0), at(0));
        backoff.tried(at(10), at(20));
        assert_eq!(backoff.until(at(619)), Some(at(639)));
        assert_eq!(backoff.until(at(621)), None);
        backoff.tried(at(621), at(621));
        assert_eq!(backoff.delay(), INITIAL);
    }

    #[test]
    fn durations_are_spelt_as_in_go() {
        let shown: Vec<String> = [10, 80, 300, 3600].map(|s| show(SignedDuration::from_secs(s))).into();
        assert_eq!(shown, ["10s", "1m20s", "5m0s", "1h0m0s"]);
    }
}
