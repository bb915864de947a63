use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How many names may be under way to other resolvers: altogether, and for one client, which can't take the
/// others' places.
#[derive(Debug)]
pub struct Limits {
    all: usize,
    each: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    by_client: HashMap<IpAddr, usize>,
    /// When a client was named last. At most [`MAX_NAMED`] of them.
    named: HashMap<IpAddr, Instant>,
}

const MAX_NAMED: usize = 1024;
const NAME_AGAIN: Duration = Duration::from_secs(60);

/// A place that is free again when this is dropped.
#[derive(Debug)]
pub struct Seat {
    limits: Arc<Limits>,
    client: IpAddr,
}

/// There was no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turned {
    /// Its own share was full; else all places were.
    pub is_own: bool,
    /// It has not been named for a while.
    pub is_to_be_named: bool,
}

impl Limits {
    /// `each` for one client of `all`.
    pub fn new(all: usize, each: usize) -> Arc<Limits> {
        Arc::new(Limits { all, each, state: Mutex::default() })
    }

    /// # Errors
    /// When there is no place.
    pub fn take(self: &Arc<Limits>, client: IpAddr, now: Instant) -> Result<Seat, Turned> {
        let mut state = self.state();
        let own = state.by_client.get(&client).copied().unwrap_or_default();
        if own >= self.each || state.taken >= self.all {
            let is_named = state.named.get(&client).is_some_and(|at| now.duration_since(*at) < NAME_AGAIN);
            if !is_named {
                if state.named.len() >= MAX_NAMED {
                    state.named.retain(|_, at| now.duration_since(*at) < NAME_AGAIN);
                }
                if state.named.len() < MAX_NAMED {
                    state.named.insert(client, now);
                }
            }
            return Err(Turned { is_own: own >= self.each, is_to_be_named: !is_named });
        }
        state.taken += 1;
        *state.by_client.entry(client).or_default() += 1;
        Ok(Seat { limits: self.clone(), client })
    }

    pub fn taken(&self) -> usize {
        self.state().taken
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.limits.state();
        state.taken -= 1;
        if let Some(own) = state.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                state.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_its_share_and_is_named_once_a_minute() {
        let limits = Limits::new(3, 2);
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let now = Instant::now();
        let first = limits.take(a, now).unwrap();
        let second = limits.take(a, now).unwrap();
        let turned = |is_own, is_to_be_named| Turned { is_own, is_to_be_named };
        assert_eq!(limits.take(a, now).unwrap_err(), turned(true, true));
        assert_eq!(limits.take(a, now).unwrap_err(), turned(true, false));
        assert_eq!(limits.take(a, now + NAME_AGAIN).unwrap_err(), turned(true, true));
        let _others = limits.take(b, now).unwrap();
        assert_eq!(limits.take(b, now).unwrap_err(), turned(false, true));
        drop(first);
        assert!(limits.take(b, now).is_ok());
        drop(second);
        assert_eq!(limits.taken(), 1);
        assert!(limits.state().by_client.len() == 1);
    }
}
