//! Sees that no running container's log grows beyond its size.
//!
//! The kernel tells of the first write to a log; from then on its size is looked at, ever less often and the
//! more often the sooner it may be full, until nothing was written between two looks. So a container that
//! writes nothing costs nothing, and one that writes much is not told of line by line.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use nix::sys::inotify::WatchDescriptor;
use tokio::{sync::Notify, time::Instant};

use super::{
    rotate::{self, Limits, RotateError},
    turns::{Logs, Turns},
};
use crate::{
    cri::CriError,
    inotify::{Flags, Watcher},
};

/// Between two looks at a log that is written to: at first …
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// … and at most; as often as the upstream node agent looks.
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// The runtime closes a file some moments after it has opened the next one.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A container whose log is looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub container_id: String,
    pub log: PathBuf,
}

/// The runtime, which writes the logs.
pub trait Reopen {
    /// What the container writes from now on goes into a file that is opened anew by the log's name.
    fn reopen_log(&self, container_id: &str) -> impl Future<Output = Result<(), CriError>> + Send;
}

/// What the node's workers tell of their containers, and who turns the logs over.
#[derive(Default)]
pub struct Keeper {
    pub logs: Logs,
    /// By pod uid.
    running: Mutex<HashMap<String, Vec<Kept>>>,
    changed: Notify,
}

impl Keeper {
    /// These are the containers of the pod that run now.
    pub fn keep(&self, uid: &str, running: Vec<Kept>) {
        let mut all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match running.is_empty() {
            true => all.remove(uid).unwrap_or_default(),
            false => all.insert(uid.to_owned(), running.clone()).unwrap_or_default(),
        };
        if before != running {
            self.changed.notify_one();
        }
    }

    fn running(&self) -> Vec<Kept> {
        let all = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flatten().cloned().collect()
    }

    /// Turns logs over for as long as it is awaited.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance.
    pub async fn run(&self, limits: Limits, runtime: &impl Reopen) -> io::Result<()> {
        let watcher = Watcher::new()?;
        let mut round = Round { limits, runtime, watcher: &watcher, logs: HashMap::new() };
        loop {
            let due = round.logs.values().filter_map(|log| log.due).min();
            tokio::select! {
                () = self.changed.notified() => round.take(self.running(), &self.logs),
                events = watcher.events() => round.written(&events?),
                () = until(due) => round.look().await,
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Round<'a, R> {
    limits: Limits,
    runtime: &'a R,
    watcher: &'a Watcher,
    /// By container id.
    logs: HashMap<String, Watched>,
}

struct Watched {
    path: PathBuf,
    turns: Arc<Turns>,
    seen: Seen,
    /// When it is looked at; else the kernel tells of the next write.
    due: Option<Instant>,
    watch: Option<WatchDescriptor>,
}

/// What the last look found.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    bytes: u64,
    at: Instant,
    pause: Duration,
}

impl Seen {
    fn new(bytes: u64, at: Instant) -> Seen {
        Seen { bytes, at, pause: Duration::ZERO }
    }

    /// Takes a look in; how long until the next one, if anything was written since the last.
    fn look(&mut self, bytes: u64, now: Instant, max_bytes: u64) -> Option<Duration> {
        let (grown, elapsed) = (bytes.saturating_sub(self.bytes), now - self.at);
        let before = std::mem::replace(self, Seen::new(bytes, now)).pause;
        if grown == 0 {
            return None;
        }
        // Half of the time in which what is left would be written.
        let left = max_bytes.saturating_sub(bytes);
        let soon = elapsed.as_micros() * u128::from(left) / u128::from(grown) / 2;
        let soon = Duration::from_micros(u64::try_from(soon).unwrap_or(u64::MAX));
        self.pause = (before * 2).min(LAST_PAUSE).min(soon).max(FIRST_PAUSE);
        Some(self.pause)
    }
}

impl<R: Reopen> Round<'_, R> {
    fn take(&mut self, running: Vec<Kept>, logs: &Logs) {
        let mut before = std::mem::take(&mut self.logs);
        for Kept { container_id, log } in running {
            let known = before.remove(&container_id).unwrap_or_else(|| Watched {
                turns: logs.of(&log),
                path: log,
                seen: Seen::new(0, Instant::now()),
                due: Some(Instant::now()),
                watch: None,
            });
            self.logs.insert(container_id, known);
        }
        before.into_values().filter_map(|gone| gone.watch).for_each(|watch| self.watcher.remove(watch));
    }

    /// A watch that nobody has is one of those that go with their first event, or that the kernel's queue ran
    /// over: everything is looked at.
    fn written(&mut self, watches: &[i32]) {
        let now = Instant::now();
        for watch in watches {
            let has_it = |log: &&mut Watched| log.watch.is_some_and(|has| has.as_raw() == *watch);
            if *watch < 0 {
                self.logs.values_mut().for_each(|log| log.due = Some(now));
            } else if let Some(log) = self.logs.values_mut().find(has_it) {
                (log.watch, log.due) = (None, Some(now));
            }
        }
    }

    async fn look(&mut self) {
        let now = Instant::now();
        for (id, log) in self.logs.iter_mut().filter(|(_, log)| log.due.is_some_and(|due| due <= now)) {
            log.due = match see_to(self.limits, self.runtime, self.watcher, id, log).await {
                Ok(pause) => pause.map(|pause| Instant::now() + pause),
                Err(error) => {
                    let error = skerry_vocabulary::chain(&*error);
                    tracing::warn!(container = id, error, "log not turned over, trying again");
                    Some(Instant::now() + LAST_PAUSE)
                }
            };
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long until the next look; `None` once the log is watched instead.
async fn see_to(
    limits: Limits,
    runtime: &impl Reopen,
    watcher: &Watcher,
    id: &str,
    log: &mut Watched,
) -> Result<Option<Duration>, Failure> {
    let Some(bytes) = size(&log.path)? else {
        // Somebody moved it, or an agent ended between two steps: what the runtime still writes there, and
        // from here on in the log.
        runtime.reopen_log(id).await?;
        log.seen = Seen::new(0, Instant::now());
        return Ok(Some(FIRST_PAUSE));
    };
    if bytes >= limits.max_bytes {
        turn(limits, runtime, id, log).await?;
        log.seen = Seen::new(0, Instant::now());
        return Ok(Some(FIRST_PAUSE));
    }
    if let Some(pause) = log.seen.look(bytes, Instant::now(), limits.max_bytes) {
        return Ok(Some(pause));
    }
    let flags = Flags::IN_MODIFY | Flags::IN_MOVE_SELF | Flags::IN_DELETE_SELF | Flags::IN_ONESHOT;
    let watch = watcher.add(&log.path, flags);
    log.watch = Some(watch.map_err(|source| RotateError::Watch { path: log.path.clone(), source })?);
    // What was written before the watch stood it does not tell of.
    Ok((size(&log.path)? != Some(bytes)).then_some(Duration::ZERO))
}

/// `None` where there is no such file.
fn size(path: &Path) -> io::Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn turn(limits: Limits, runtime: &impl Reopen, id: &str, log: &Watched) -> Result<(), Failure> {
    let path = &log.path;
    let mut past = log.turns.write().await;
    let (tidied, max_files) = (path.clone(), limits.max_files);
    tokio::task::spawn_blocking(move || rotate::tidy(&tidied, max_files)).await??;
    let closing = Watcher::new()?;
    closing
        .add(path, Flags::IN_CLOSE_WRITE)
        .map_err(|source| RotateError::Watch { path: path.clone(), source })?;
    let (stamp, aside) = rotate::put_aside(path, Timestamp::now())?;
    if let Err(error) = runtime.reopen_log(id).await
        && !rotate::put_back(path, &aside)?
    {
        return Err(error.into());
    }
    // Its last lines come after the runtime's answer: whoever reads on in the next file has them by then.
    if tokio::time::timeout(CLOSE_LIMIT, closing.events()).await.is_err() {
        tracing::warn!(container = id, "the runtime has not closed the log that was turned over");
    }
    log.turns.turned(&mut past, stamp);
    Ok(())
}

#[cfg(test)]
mod tests;
