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
    disk::{Folder, Log},
    engine::{Options, Pending, Shared},
    record,
    tree::Write,
};

/// Revisions that relaxed transactions may use up before the log has to name a new ceiling.
const CEILING_STEP: u64 = 4096;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    folder: Arc<Folder>,
    log: Box<dyn Log>,
    sequence: u64,
    /// Bytes of the log that are durable.
    length: u64,
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
    #[expect(clippy::too_many_arguments, reason = "built in one place, by name")]
    pub fn new(
        shared: Arc<Shared>,
        folder: Folder,
        log: Box<dyn Log>,
        sequence: u64,
        length: u64,
        snapshot_bytes: u64,
        revision: u64,
        options: Options,
    ) -> Writer {
        Writer {
            shared,
            folder: Arc::new(folder),
            log,
            sequence,
            length,
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

    /// Blocks until something is pending or relaxed keys are due; `None`: closing and nothing is left.
    fn wait(&self) -> Option<Vec<Pending>> {
        let mut queue = self.shared.queue();
        loop {
            if !queue.pending.is_empty() {
                return Some(std::mem::take(&mut queue.pending));
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
        self.buffer.clear();
        let flushing = self.dirty_since.is_some_and(|since| since.elapsed() >= self.options.relaxed_flush);
        if flushing {
            self.encode_dirty();
        }
        let mut ceiling = self.ceiling;
        for pending in &batch {
            if !pending.relaxed {
                record::encode(&mut self.buffer, self.length, pending.revision, &pending.writes);
                ceiling = ceiling.max(pending.revision);
            } else if pending.revision > ceiling {
                ceiling = pending.revision + CEILING_STEP;
                record::encode(&mut self.buffer, self.length, ceiling, &[]);
            }
        }
        if let Err((error, fatal)) = self.append() {
            // What is relaxed is tried again after a whole interval, not at once.
            self.dirty_since = self.dirty_since.map(|_| Instant::now());
            return self.refuse(batch, error, fatal);
        }
        self.ceiling = ceiling;
        if flushing {
            self.dirty.clear();
            self.dirty_since = None;
        }
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

    /// The error and whether the store must stop taking writes.
    fn append(&mut self) -> Result<(), (io::Error, bool)> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.log.append(&self.buffer) {
            let cut = self.log.cut(self.length);
            return Err((error, cut.is_err()));
        }
        // After a failed fsync the kernel may have dropped the pages and marked them clean: no second try tells.
        self.log.sync().map_err(|error| (error, true))?;
        self.length += self.buffer.len() as u64;
        let mut stats = self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.flushes += 1;
        stats.bytes += self.buffer.len() as u64;
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

    fn encode_dirty(&mut self) {
        let state = self.shared.read();
        let writes: Vec<Write> = self.dirty.iter().map(|key| state.tree.current(key)).collect();
        record::encode(&mut self.buffer, self.length, self.ceiling, &writes);
    }

    fn flush_on_close(&mut self) {
        if self.dirty.is_empty() || self.shared.read().failed.is_some() {
            return;
        }
        self.buffer.clear();
        self.encode_dirty();
        if let Err((error, _)) = self.append() {
            tracing::error!(%error, "write relaxed keys at the end");
        }
    }

    fn snapshot_if_due(&mut self) {
        self.finish_snapshot(false);
        let due = self.options.snapshot_bytes.max(2 * self.snapshot_bytes);
        if self.snapshot.is_some() || self.length < due || self.shared.read().failed.is_some() {
            return;
        }
        let sequence = self.sequence + 1;
        let log = match self.folder.append_to(sequence, 0) {
            Ok(log) => log,
            Err(error) => {
                tracing::error!(%error, "begin a new log");
                // Not before the log has grown by as much again.
                self.snapshot_bytes = self.length;
                return;
            }
        };
        // All that is published is in the older logs or dirty, and this thread alone publishes.
        let content = self.shared.read().tree.dump();
        (self.log, self.sequence, self.length) = (Box::new(log), sequence, 0);
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
