//! When a look is taken: only when somebody asks. Who asks again within some minutes gets the rate since
//! then, who asks for the first time waits for a short one.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{reading::Reading, sample::Sample};

/// A reading this young is given to the next who asks.
const FRESH: Duration = Duration::from_secs(1);
/// What a rate is found over when nobody asked before. Longer than some periods of a cpu limit (100 ms).
const FIRST_WINDOW: Duration = Duration::from_millis(500);
/// What it is found over where there is a choice, upstream's resolution at its finest.
const WINDOW: Duration = Duration::from_secs(10);
/// Looks that are kept are so far apart …
const SPACING: Duration = Duration::from_secs(5);
/// … and none is older than this: a rate shall tell of now.
const OLDEST: Duration = Duration::from_secs(120);

/// Looks of the last minutes, and the reading that was made of the last.
#[derive(Default)]
pub struct Sampler {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Oldest first; at most `OLDEST / SPACING` of them.
    kept: VecDeque<Arc<Sample>>,
    last: Option<Arc<Reading>>,
}

impl Sampler {
    /// What is used now. All who ask at a time wait for one look.
    pub async fn reading<F: Future<Output = Sample>>(&self, look: impl Fn() -> F) -> Arc<Reading> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        if let Some(last) = state.fresh(now) {
            return last;
        }
        if let Some(at) = state.not_before(now) {
            tokio::time::sleep_until(at).await;
        } else {
            let first = look().await;
            let at = first.clock + FIRST_WINDOW;
            state.keep(Arc::new(first));
            tokio::time::sleep_until(at).await;
        }
        state.read(look().await)
    }
}

impl State {
    /// The last reading, where it is young enough for one more.
    fn fresh(&self, now: Instant) -> Option<Arc<Reading>> {
        let is_fresh = |last: &&Arc<Reading>| now.saturating_duration_since(last.newest.clock) < FRESH;
        self.last.as_ref().filter(is_fresh).cloned()
    }

    /// When the next look can be compared with one that is kept; `None` where none is any more.
    fn not_before(&mut self, now: Instant) -> Option<Instant> {
        self.kept.retain(|sample| now.saturating_duration_since(sample.clock) < OLDEST);
        self.kept.front().map(|oldest| oldest.clock + FIRST_WINDOW)
    }

    fn keep(&mut self, sample: Arc<Sample>) {
        let follows = |last: &Arc<Sample>| sample.clock.saturating_duration_since(last.clock) < SPACING;
        if !self.kept.back().is_some_and(follows) {
            self.kept.push_back(sample);
        }
    }

    fn read(&mut self, newest: Sample) -> Arc<Reading> {
        let newest = Arc::new(newest);
        let reading = match self.earlier(newest.clock) {
            Some(earlier) => Arc::new(Reading::of(earlier, newest.clone())),
            None => Arc::new(Reading::of(&newest, newest.clone())),
        };
        self.keep(newest);
        self.last = Some(reading.clone());
        reading
    }

    /// The look to compare one of `now` with: the newest that is far enough back, else the oldest.
    fn earlier(&self, now: Instant) -> Option<&Sample> {
        let far = |sample: &&Arc<Sample>| now.saturating_duration_since(sample.clock) >= WINDOW;
        self.kept.iter().rev().find(far).or_else(|| self.kept.front()).map(|sample| &**sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::fixture::sample;

    /// A sampler that is asked at moments of the test's own choice.
    struct Asked {
        state: State,
        now: Instant,
        looks: u64,
    }

    impl Asked {
        fn new() -> Asked {
            Asked { state: State::default(), now: Instant::now(), looks: 0 }
        }

        fn look(&mut self) -> Sample {
            self.looks += 1;
            Sample { clock: self.now, ..sample(0, &[("c", 0, self.looks)]) }
        }

        /// Asks `later` than the last time, as [`Sampler::reading`] does; over how long the rate was found.
        fn window(&mut self, later: Duration) -> Duration {
            self.now += later;
            let reading = match self.state.fresh(self.now) {
                Some(reading) => reading,
                None => {
                    if self.state.not_before(self.now).is_none() {
                        let first = self.look();
                        self.state.keep(Arc::new(first));
                    }
                    let at = self.state.not_before(self.now).expect("one is kept now");
                    self.now = self.now.max(at);
                    let newest = self.look();
                    self.state.read(newest)
                }
            };
            reading.containers["c"].window
        }
    }

    #[test]
    fn who_asks_first_gets_a_short_window_and_who_asks_again_one_since_then() {
        let mut asked = Asked::new();
        assert_eq!((asked.window(Duration::ZERO), asked.looks), (FIRST_WINDOW, 2));
        assert_eq!((asked.window(FRESH / 2), asked.looks), (FIRST_WINDOW, 2), "the same reading again");
        let later = Duration::from_secs(15);
        assert_eq!(asked.window(later), later + FRESH / 2 + FIRST_WINDOW);
        assert_eq!(asked.window(OLDEST), FIRST_WINDOW, "a rate over minutes tells of no now");
    }

    #[test]
    fn asking_all_the_time_keeps_few_looks_and_the_window_near() {
        let mut asked = Asked::new();
        for _ in 0..1000 {
            let window = asked.window(Duration::from_secs(2));
            assert!(window < WINDOW + 2 * SPACING, "{window:?}");
        }
        let kept = asked.state.kept.len() as u64;
        assert!(kept <= OLDEST.as_secs() / SPACING.as_secs() + 1, "{kept}");
    }

    #[tokio::test]
    async fn those_who_ask_at_one_time_share_a_look() {
        let (sampler, looks) = (Sampler::default(), std::sync::atomic::AtomicU64::new(0));
        let ask = || {
            sampler.reading(async || {
                let looked = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Sample { clock: Instant::now(), ..sample(0, &[("c", 0, looked)]) }
            })
        };
        let (one, other) = tokio::join!(ask(), ask());
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(looks.into_inner(), 2);
    }
}
