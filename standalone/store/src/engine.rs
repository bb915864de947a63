//! The embedded store: the tables in memory, an append-only log with group commit below them.
//!
//! A transaction is checked and applied under the lock, invisible; one writer thread appends whatever has
//! gathered, flushes once, then makes the whole group visible in revision order and answers. Readers never
//! see what a power cut could take back.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    Entry, Listing, Op, Range, Store, StoreError, Txn, Watch,
    disk::{Folder, Log},
    hub::Hub,
    recover::{Next, recover},
    tree::{Retention, Tree, Write},
    writer::Writer,
};

/// How the embedded store behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much of the past lists and watches may begin at.
    pub retention: Retention,
    /// Keys below these prefixes are confirmed from memory and written at most every `relaxed_flush`: after a
    /// crash they may be that much older. Their revisions are never used again all the same.
    pub relaxed_prefixes: Vec<String>,
    /// See `relaxed_prefixes`.
    pub relaxed_flush: Duration,
    /// A snapshot is taken once the log has more bytes than this and than twice the last snapshot.
    pub snapshot_bytes: u64,
    /// Changes a watcher may leave unread before it is let go.
    pub watch_queue: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            retention: Retention { max_changes: 10_000, max_bytes: 8 << 20 },
            relaxed_prefixes: Vec::new(),
            relaxed_flush: Duration::from_secs(60),
            snapshot_bytes: 4 << 20,
            watch_queue: 4096,
        }
    }
}

/// What the writer has done since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transactions that were confirmed, relaxed ones included.
    pub commits: u64,
    /// Appends to the log, each with one fsync; one serves all transactions that came together.
    pub flushes: u64,
    /// Appended to the log; snapshots don't count.
    pub bytes: u64,
    /// Snapshots that were begun and finished.
    pub snapshots: u64,
}

/// One transaction on its way to the disk.
pub(crate) struct Pending {
    pub revision: u64,
    pub writes: Vec<Write>,
    pub relaxed: bool,
    pub done: oneshot::Sender<Result<u64, StoreError>>,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub pending: Vec<Pending>,
    pub closing: bool,
}

pub(crate) struct State {
    pub tree: Tree,
    pub hub: Hub,
    /// Set after a flush failed.
    pub failed: Option<Arc<str>>,
}

pub(crate) struct Shared {
    state: RwLock<State>,
    queue: Mutex<Queue>,
    pub wake: Condvar,
    pub stats: Mutex<Stats>,
}

impl Shared {
    // A panic while a lock is held leaves no half-done state: each section's last step is the one that
    // counts.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The embedded store: tables in memory, and an append-only log with group commit below them. Dropping it
/// flushes what is relaxed and ends the writer.
pub struct LogStore {
    shared: Arc<Shared>,
    relaxed_prefixes: Vec<String>,
    writer: Option<JoinHandle<()>>,
}

impl LogStore {
    /// Opens or makes the store in a folder of its own; recovers every confirmed transaction.
    pub fn open(path: &Path, options: Options) -> Result<LogStore, StoreError> {
        let folder = Folder::open(path)?;
        let found = recover(&folder)?;
        let mut tree = Tree::new(options.retention);
        for write in found.writes {
            tree.restore(write);
        }
        tree.start_at(found.revision);
        let (log, snapshot_bytes) = match found.next {
            Next::Log { log, snapshot_bytes } => (log, snapshot_bytes),
            Next::Begin { sequence } => (folder.begin(sequence, found.revision, &tree.dump())?, 0),
        };
        Ok(LogStore::start(folder, Box::new(log), tree, snapshot_bytes, options))
    }

    pub(crate) fn start(
        folder: Folder,
        log: Box<dyn Log>,
        tree: Tree,
        snapshot_bytes: u64,
        options: Options,
    ) -> LogStore {
        let revision = tree.visible();
        let shared = Arc::new(Shared {
            state: RwLock::new(State { tree, hub: Hub::new(options.watch_queue), failed: None }),
            queue: Mutex::default(),
            wake: Condvar::new(),
            stats: Mutex::default(),
        });
        let relaxed_prefixes = options.relaxed_prefixes.clone();
        let writer = Writer::new(shared.clone(), folder, log, snapshot_bytes, revision, options);
        let writer = Some(std::thread::spawn(move || writer.run()));
        LogStore { shared, relaxed_prefixes, writer }
    }

    /// For metrics; counted from [`LogStore::open`] on.
    pub fn stats(&self) -> Stats {
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_relaxed(&self, ops: &[Op]) -> bool {
        !ops.is_empty()
            && ops.iter().all(|op| {
                let (Op::Put { key, .. } | Op::Delete { key, .. }) = op;
                self.relaxed_prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
            })
    }

    /// Applies the transaction and hands it to the writer.
    fn submit(&self, txn: Txn) -> Result<oneshot::Receiver<Result<u64, StoreError>>, StoreError> {
        let relaxed = self.is_relaxed(&txn.ops);
        let (done, answer) = oneshot::channel();
        let mut state = self.shared.write();
        if let Some(why) = &state.failed {
            return Err(StoreError::Failed { why: why.clone() });
        }
        let (revision, writes) = state.tree.apply(&txn.ops)?;
        // Still under the state's lock: the queue is in revision order.
        self.shared.queue().pending.push(Pending { revision, writes, relaxed, done });
        drop(state);
        self.shared.wake.notify_one();
        Ok(answer)
    }
}

#[async_trait::async_trait]
impl Store for LogStore {
    fn revision(&self) -> u64 {
        self.shared.read().tree.visible()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.shared.read().tree.get(key))
    }

    async fn list(&self, range: Range) -> Result<Listing, StoreError> {
        self.shared.read().tree.list(&range)
    }

    async fn commit(&self, txn: Txn) -> Result<u64, StoreError> {
        let answer = self.submit(txn)?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Failed { why: "the writer thread ended".into() }))
    }

    fn watch(&self, prefix: &str, after: u64) -> Result<Watch, StoreError> {
        let mut state = self.shared.write();
        let replay = state.tree.since(prefix, after)?;
        let visible = state.tree.visible();
        Ok(Box::pin(state.hub.subscribe(prefix, replay, visible)))
    }

    fn request_progress(&self) {
        let mut state = self.shared.write();
        let visible = state.tree.visible();
        state.hub.progress(visible);
    }

    async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        self.shared.write().tree.compact(revision);
        Ok(())
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.shared.queue().closing = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
