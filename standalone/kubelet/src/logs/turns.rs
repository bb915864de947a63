//! How often a log was turned over since this agent began: who follows it goes by that from one file to the
//! next, also where it is slow and the next file has been put aside, too.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

use super::files::{PACKED, Source, with_suffix};

/// Names of former files that are remembered of one log: as many as may be there, or as one may be behind.
const MOST_NAMES: usize = 1024;

/// All logs that somebody reads or sees to.
#[derive(Default)]
pub struct Logs {
    by_path: Mutex<HashMap<PathBuf, Weak<Turns>>>,
}

impl Logs {
    /// The turns of this log, shared with whoever asked before.
    pub fn of(&self, log: &Path) -> Arc<Turns> {
        let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = by_path.get(log).and_then(Weak::upgrade) {
            return found;
        }
        by_path.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Turns::default());
        by_path.insert(log.to_owned(), Arc::downgrade(&turns));
        turns
    }
}

/// One log's turns. Its files have the names that they are looked up by only while this is held: to read to
/// open them, to write to rename them.
pub struct Turns {
    past: RwLock<Past>,
    count: watch::Sender<u64>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns { past: RwLock::default(), count: watch::Sender::new(0) }
    }
}

/// The files that the log has been, by number.
#[derive(Debug, Default)]
pub struct Past {
    /// Number of the first of `stamps`.
    first: u64,
    stamps: VecDeque<String>,
}

impl Past {
    /// The number of the file that is written to.
    pub fn current(&self) -> u64 {
        self.first + u64::try_from(self.stamps.len()).unwrap_or(u64::MAX)
    }

    /// The first file from this number on that is still there, and its number.
    pub fn open(&self, log: &Path, from: u64) -> io::Result<(u64, Source)> {
        for number in from.max(self.first)..self.current() {
            let Some(stamp) = usize::try_from(number - self.first).ok().and_then(|at| self.stamps.get(at))
            else {
                break;
            };
            let path = with_suffix(log, stamp);
            let opened = Source::open(&with_suffix(&path, PACKED), true);
            if let Ok(source) = opened.or_else(|_| Source::open(&path, false)) {
                return Ok((number, source));
            }
        }
        Ok((self.current(), Source::open(log, false)?))
    }
}

impl Turns {
    pub async fn read(&self) -> RwLockReadGuard<'_, Past> {
        self.past.read().await
    }

    pub async fn write(&self) -> RwLockWriteGuard<'_, Past> {
        self.past.write().await
    }

    /// The file that was written to has this name from now on, and nobody writes to it any more.
    pub fn turned(&self, past: &mut Past, stamp: String) {
        past.stamps.push_back(stamp);
        while past.stamps.len() > MOST_NAMES {
            past.stamps.pop_front();
            past.first += 1;
        }
        self.count.send_replace(past.current());
    }

    /// The number of the file that is written to, as it changes.
    pub fn count(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }
}
