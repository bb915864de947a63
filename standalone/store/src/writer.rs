//! The one thread that writes: gathers what is pending, appends, flushes once, publishes, answers.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, PoisonError},
    thread::JoinHandle,
    time::Instant,
};

use crate::{
    StoreError,
    disk::{Folder, Log, Unfinished},
    engine::{Options, Pending, Shared},
    record::{self, GROUP_BYTES},
    tree::Write,
};

/// Revisions that relaxed transactions may use up before the log has to name a new ceiling.
const CEILING_STEP: u64 = 4096;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    folder: Arc<Folder>,
    log: Box<dyn Log>,
    snapshot_bytes: u64,
    snapshot: Option<JoinHandle<Result<u64, StoreError>>>,
    /// Revisions up to here are known to the log: after a crash the store goes on behind it.
    ceiling: u64,
    /// Relaxed keys whose newest value is not in the log, and since when.
    dirty: BTreeSet<Arc<str>>,
    dirty_since: Option<Instant>,
    options: Options,
    buffer: Vec<u8>,
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        folder: Folder,
        log: Box<dyn Log>,
        snapshot_bytes: u64,
        revision: u64,
        options: Options,
    ) -> Writer {
        Writer {
            shared,
            folder: Arc::new(folder),
            log,
            snapshot_bytes,
            snapshot: None,
            ceiling: revision,
            dirty: BTreeSet::new(),
            dirty_since: None,
            options,
            buffer: Vec::new(),
        }
    }

    pub fn run(mut self) {
        while let Some(batch) = self.wait() {
            self.write(batch);
            self.snapshot_if_due();
        }
        self.flush_on_close();
        self.finish_snapshot(true);
    }

    /// Blocks until something is pending or relaxed keys are due; `None`: closing and nothing is left. What
    /// is pending beyond a group's limit stays for the next one.
    fn wait(&self) -> Option<Vec<Pending>> {
        let mut queue = self.shared.queue();
        loop {
            if !queue.pending.is_empty() {
                let count = group(&queue.pending);
                return Some(queue.pending.drain(..count).collect());
            }
            if queue.closing {
                return None;
            }
            queue = match self.dirty_since {
                None => self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(since) => {
                    let left = self.options.relaxed_flush.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        return Some(Vec::new());
                    }
                    let (queue, _) =
                        self.shared.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
                    queue
                }
            };
        }
    }

    fn write(&mut self, batch: Vec<Pending>) {
        if self.shared.read().failed.is_some() {
            (self.dirty, self.dirty_since) = (BTreeSet::new(), None);
            return self.refuse(batch, io::Error::other("an earlier flush failed"), false);
        }
        if self.dirty_since.is_some_and(|since| since.elapsed() >= self.options.relaxed_flush)
            && let Err((error, fatal)) = self.flush_relaxed()
        {
            // Tried again after a whole interval, not at once.
            self.dirty_since = self.dirty_since.map(|_| Instant::now());
            if fatal {
                return self.refuse(batch, error, fatal);
            }
            tracing::error!(%error, "write relaxed keys");
        }
        self.buffer.clear();
        let (mut ceiling, durable) = (self.ceiling, self.log.durable().length);
        for pending in &batch {
            if !pending.relaxed {
                record::encode(&mut self.buffer, durable, pending.revision, &pending.writes);
                ceiling = ceiling.max(pending.revision);
            } else if pending.revision > ceiling {
                ceiling = pending.revision + CEILING_STEP;
                record::encode(&mut self.buffer, durable, ceiling, &[]);
            }
        }
        if let Err((error, fatal)) = self.append() {
            return self.refuse(batch, error, fatal);
        }
        self.ceiling = ceiling;
        for pending in &batch {
            for write in &pending.writes {
                if pending.relaxed {
                    self.dirty.insert(write.key.clone());
                    self.dirty_since.get_or_insert_with(Instant::now);
                } else {
                    self.dirty.remove(&write.key);
                }
            }
        }
        self.publish(batch);
    }

    /// Makes the buffer durable. The error says whether the store must stop taking writes.
    fn append(&mut self) -> Result<(), (io::Error, bool)> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.buffer.len() > GROUP_BYTES {
            // One large transaction: were it torn, the tail would be longer than one that nobody has
            // announced.
            let mut announcement = Vec::new();
            let (durable, room) = (self.log.durable().length, self.buffer.len());
            record::encode_with_room(&mut announcement, durable, self.ceiling, room, &[]);
            self.flush(&announcement)?;
        }
        let buffer = std::mem::take(&mut self.buffer);
        let flushed = self.flush(&buffer);
        self.buffer = buffer;
        flushed
    }

    fn flush(&mut self, bytes: &[u8]) -> Result<(), (io::Error, bool)> {
        if let Err(error) = self.log.append(bytes) {
            let cut = self.log.cut();
            return Err((error, cut.is_err()));
        }
        // After a failed fsync the kernel may have dropped the pages and marked them clean: no second try
        // tells.
        self.log.sync().map_err(|error| (error, true))?;
        let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.flushes += 1;
        stats.bytes += bytes.len() as u64;
        Ok(())
    }

    fn publish(&mut self, batch: Vec<Pending>) {
        let mut state = self.shared.write();
        let mut answers = Vec::with_capacity(batch.len());
        for pending in batch {
            let changes = state.tree.publish(pending.revision, pending.writes);
            state.hub.publish(&changes);
            answers.push((pending.revision, pending.done));
        }
        drop(state);
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).commits += answers.len() as u64;
        for (revision, done) in answers {
            // Whoever asked may have gone; the write stands.
            drop(done.send(Ok(revision)));
        }
    }

    /// Takes back the batch and all that was applied after it, since that may rest on it.
    fn refuse(&mut self, mut batch: Vec<Pending>, error: io::Error, fatal: bool) {
        tracing::error!(%error, fatal, "write the store's log");
        let mut state = self.shared.write();
        if fatal {
            state.failed = Some(error.to_string().into());
        }
        batch.append(&mut self.shared.queue().pending);
        let mut refused = Vec::with_capacity(batch.len());
        let mut writes: Vec<Write> = Vec::new();
        for pending in batch {
            writes.extend(pending.writes);
            refused.push(pending.done);
        }
        state.tree.roll_back(writes);
        drop(state);
        for done in refused {
            let copy = io::Error::new(error.kind(), error.to_string());
            drop(done.send(Err(self.folder.full_or_io("append to the log".to_owned(), copy))));
        }
    }

    /// Writes the newest values of relaxed keys, a group at a time.
    fn flush_relaxed(&mut self) -> Result<(), (io::Error, bool)> {
        let writes: Vec<Write> = {
            let state = self.shared.read();
            self.dirty.iter().map(|key| state.tree.current(key)).collect()
        };
        for group in groups(&writes) {
            self.buffer.clear();
            record::encode(&mut self.buffer, self.log.durable().length, self.ceiling, group);
            self.append()?;
        }
        self.dirty.clear();
        self.dirty_since = None;
        Ok(())
    }

    fn flush_on_close(&mut self) {
        if self.shared.read().failed.is_some() {
            return;
        }
        if let Err((error, _)) = self.flush_relaxed() {
            tracing::error!(%error, "write relaxed keys at the end");
        }
        if let Err(error) = self.log.close() {
            tracing::error!(%error, "close the store's log");
        }
    }

    fn snapshot_if_due(&mut self) {
        self.finish_snapshot(false);
        let due = self.options.snapshot_bytes.max(2 * self.snapshot_bytes);
        let full = self.log.durable();
        if self.snapshot.is_some() || full.length < due || self.shared.read().failed.is_some() {
            return;
        }
        let log = match self.folder.rotate(full) {
            Ok(log) => log,
            Err(Unfinished { error, unknown }) => {
                tracing::error!(%error, "begin a new log");
                if unknown {
                    // Nobody knows which log the disk calls the open one.
                    self.shared.write().failed = Some(error.to_string().into());
                }
                // Not before the log has grown by as much again.
                self.snapshot_bytes = full.length;
                return;
            }
        };
        // All that is published is in the older logs or dirty, and this thread alone publishes.
        let content = self.shared.read().tree.dump();
        let sequence = log.durable().sequence;
        self.log = Box::new(log);
        let (folder, revision) = (self.folder.clone(), self.ceiling);
        self.snapshot = Some(std::thread::spawn(move || folder.write_snapshot(sequence, revision, &content)));
    }

    fn finish_snapshot(&mut self, wait: bool) {
        if !self.snapshot.as_ref().is_some_and(|thread| wait || thread.is_finished()) {
            return;
        }
        let Some(thread) = self.snapshot.take() else { return };
        match thread.join() {
            Ok(Ok(bytes)) => {
                self.snapshot_bytes = bytes;
                self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner).snapshots += 1;
            }
            // The logs still hold everything; the next try comes when the new log has grown.
            Ok(Err(error)) => tracing::error!(%error, "write a snapshot"),
            Err(_) => tracing::error!("the snapshot thread panicked"),
        }
    }
}

/// How many of the pending transactions make the next group: as many as fit, one at least.
fn group(pending: &[Pending]) -> usize {
    fitting(pending.iter().map(|pending| record::encoded_length(&pending.writes)))
}

/// Splits writes into records that fit a group each; one that is larger stands alone.
fn groups(mut writes: &[Write]) -> impl Iterator<Item = &[Write]> {
    std::iter::from_fn(move || {
        let count = fitting(writes.iter().map(|write| record::encoded_length([write])));
        let (first, rest) = writes.split_at_checked(count)?;
        writes = rest;
        (!first.is_empty()).then_some(first)
    })
}

fn fitting(lengths: impl Iterator<Item = usize>) -> usize {
    let mut total = 0;
    let fits = |length: &usize| {
        total += length;
        total <= GROUP_BYTES
    };
    let mut lengths = lengths.peekable();
    let least = usize::from(lengths.peek().is_some());
    lengths.take_while(fits).count().max(least)
}
