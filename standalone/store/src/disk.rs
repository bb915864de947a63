//! The store's folder: what `chain` describes, and a lock. With `recover` the only place that touches files.
//!
//! `snapshot-SEQ` holds everything up to the start of `log-SEQ`. Whatever becomes part of the chain is
//! durable before `MANIFEST` names it, and what a new `MANIFEST` leaves out is deleted after that.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    StoreError,
    chain::{self, Kind, Manifest, Mark, Part},
    record,
    tree::Write,
};

pub(crate) const MANIFEST_FILE: &str = "MANIFEST";
pub(crate) const MARK_FILE: &str = "MARK";
const LOCK_FILE: &str = "LOCK";
/// Made by people: see `salvage`.
const SALVAGE_FILE: &str = "SALVAGE";

/// Where the writer thread appends. A trait so that a test can put a faulty disk in its place.
pub trait Log: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything appended would survive a power cut.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the log back to what was durable, after a failed append.
    fn cut(&mut self) -> io::Result<()>;
    /// What of it is durable.
    fn durable(&self) -> Part;
    /// The last call: how far it came is made durable, too.
    fn close(&mut self) -> io::Result<()>;
}

/// A log in its file, and the mark that says how far it is durable.
pub struct LogFile {
    file: File,
    mark: File,
    id: u64,
    durable: Part,
    appended: Part,
}

impl LogFile {
    fn write_mark(&self) -> io::Result<()> {
        self.mark.write_all_at(&Mark { id: self.id, log: self.durable }.encode(), 0)
    }
}

impl Log for LogFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.appended.length += bytes.len() as u64;
        self.appended.checksum = chain::extend(self.appended.checksum, bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.durable = self.appended;
        // An older mark is as true as this one, only lower: no reason to refuse what is durable.
        if let Err(error) = self.write_mark() {
            tracing::warn!(%error, "write the store's MARK");
        }
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.durable.length)?;
        self.file.seek(io::SeekFrom::Start(self.durable.length))?;
        self.appended = self.durable;
        Ok(())
    }

    fn durable(&self) -> Part {
        self.durable
    }

    fn close(&mut self) -> io::Result<()> {
        self.mark.sync_data()
    }
}

pub struct Folder {
    path: PathBuf,
    lock: File,
    manifest: Mutex<Manifest>,
}

impl Drop for Folder {
    /// By hand: a child that is being started may hold a copy of the descriptor for a moment longer.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "unlock the store");
        }
    }
}

/// What could not be done, and whether the disk may now say other than memory.
pub struct Unfinished {
    pub error: StoreError,
    pub unknown: bool,
}

impl From<StoreError> for Unfinished {
    fn from(error: StoreError) -> Unfinished {
        Unfinished { error, unknown: false }
    }
}

impl Folder {
    /// Makes the folder (0700) where it is missing and takes its lock.
    pub fn open(path: &Path) -> Result<Folder, StoreError> {
        let made = std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(path);
        made.map_err(|source| io_error(format!("make the folder {}", path.display()), source))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = private(OpenOptions::new().create(true).truncate(false).read(true).write(true))
            .open(&lock_path)
            .map_err(|source| io_error(format!("open {}", lock_path.display()), source))?;
        let none = Part { sequence: 0, length: 0, checksum: 0 };
        let manifest = Manifest { id: rand::random(), snapshot: none, full: Vec::new(), open: 0 };
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), lock, manifest: Mutex::new(manifest) }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(StoreError::InUse { path: path.display().to_string() })
            }
            Err(std::fs::TryLockError::Error(source)) => {
                Err(io_error(format!("lock {}", lock_path.display()), source))
            }
        }
    }

    /// Begins a chain at `sequence` with what there is to hold, and deletes whatever else is there.
    pub fn begin(&self, sequence: u64, revision: u64, content: &[Write]) -> Result<LogFile, StoreError> {
        let snapshot = self.write_snapshot_file(sequence, revision, content)?;
        let log = self.make_log(sequence)?;
        let marked = log.write_mark().and_then(|()| log.mark.sync_all());
        marked.map_err(|source| self.full_or_io(format!("write {MARK_FILE}"), source))?;
        self.replace_manifest(|manifest| {
            (manifest.snapshot, manifest.full, manifest.open) = (snapshot, Vec::new(), sequence);
        })
        .map_err(|unfinished| unfinished.error)?;
        self.settle()?;
        Ok(log)
    }

    /// Goes on with the open log behind what is durable of it; what lies there is cut off.
    pub fn go_on(&self, manifest: Manifest, durable: Part) -> Result<LogFile, StoreError> {
        let (id, path) = (manifest.id, self.file(Kind::Log, durable.sequence));
        *self.manifest() = manifest;
        let open = || {
            let file = private(OpenOptions::new().write(true)).open(&path)?;
            let mark = private(OpenOptions::new().write(true)).open(self.path.join(MARK_FILE))?;
            let mut log = LogFile { file, mark, id, durable, appended: durable };
            log.cut()?;
            log.file.sync_all()?;
            log.write_mark()?;
            Ok(log)
        };
        let log = open().map_err(|source| self.full_or_io(format!("open {}", path.display()), source))?;
        self.settle()?;
        Ok(log)
    }

    /// Settles the open log and begins the next one.
    pub fn rotate(&self, full: Part) -> Result<LogFile, Unfinished> {
        let next = full.sequence + 1;
        let log = self.make_log(next)?;
        self.replace_manifest(|manifest| {
            manifest.full.push(full);
            manifest.open = next;
        })?;
        // The mark of the full log stands for nothing that the manifest does not say.
        if let Err(error) = log.write_mark() {
            tracing::warn!(%error, "write the store's MARK");
        }
        Ok(log)
    }

    /// Writes a snapshot that the logs from `sequence` on follow, then deletes what is older. Returns its
    /// length.
    pub fn write_snapshot(&self, sequence: u64, revision: u64, content: &[Write]) -> Result<u64, StoreError> {
        let snapshot = self.write_snapshot_file(sequence, revision, content)?;
        // Both the old chain and the new one are whole until the new one is known to be durable.
        self.replace_manifest(|manifest| {
            manifest.snapshot = snapshot;
            manifest.full.retain(|log| log.sequence >= sequence);
        })
        .map_err(|unfinished| unfinished.error)?;
        for kind in [Kind::Snapshot, Kind::Log] {
            for old in self.numbered(kind)?.into_iter().filter(|number| *number < sequence) {
                self.remove(kind, old)?;
            }
        }
        Ok(snapshot.length)
    }

    /// ENOSPC and EDQUOT become [`StoreError::Full`].
    pub fn full_or_io(&self, operation: String, source: io::Error) -> StoreError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::Full { path: self.path.display().to_string() }
            }
            _ => io_error(operation, source),
        }
    }

    /// The file's bytes; `None`: it is missing.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(data) => Ok(Some(data)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error(format!("read {}", path.display()), source)),
        }
    }

    /// Whether a chain was begun here: the lock file has the note of it.
    pub fn was_begun(&self) -> Result<bool, StoreError> {
        let note = self.note();
        let note = note.map_err(|source| io_error(format!("read {LOCK_FILE}"), source))?;
        Ok(!note.is_empty())
    }

    pub fn is_to_be_salvaged(&self) -> Result<bool, StoreError> {
        Ok(self.read(SALVAGE_FILE)?.is_some())
    }

    fn note(&self) -> io::Result<String> {
        let (mut lock, mut text) = (&self.lock, String::new());
        lock.rewind()?;
        lock.read_to_string(&mut text)?;
        Ok(text)
    }

    pub fn numbered(&self, kind: Kind) -> Result<Vec<u64>, StoreError> {
        let operation = || format!("list {}", self.path.display());
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(|e| io_error(operation(), e))? {
            let name = entry.map_err(|e| io_error(operation(), e))?.file_name();
            let number =
                name.to_str().and_then(|n| n.strip_prefix(kind.prefix())).and_then(|n| n.parse().ok());
            numbers.extend(number.filter(|number| kind.file(*number).as_str() == name));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Durable once the folder is, in no chain yet.
    fn write_snapshot_file(
        &self,
        sequence: u64,
        revision: u64,
        content: &[Write],
    ) -> Result<Part, StoreError> {
        let (path, temporary) = (self.file(Kind::Snapshot, sequence), self.path.join("snapshot.tmp"));
        let mut part = Part { sequence, length: 0, checksum: 0 };
        let header = chain::header(Kind::Snapshot, self.manifest().id, sequence);
        let mut write = || {
            let mut file =
                private(OpenOptions::new().create(true).truncate(true).write(true)).open(&temporary)?;
            let mut put = |bytes: &[u8]| {
                part.length += bytes.len() as u64;
                part.checksum = chain::extend(part.checksum, bytes);
                file.write_all(bytes)
            };
            put(&header)?;
            let mut buffer = Vec::new();
            // An empty store has a record as well: its revision counts.
            for chunk in content.chunks(1024).chain(content.is_empty().then_some(&[][..])) {
                buffer.clear();
                record::encode(&mut buffer, 0, revision, chunk);
                put(&buffer)?;
            }
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| self.full_or_io(format!("write {}", path.display()), source))?;
        Ok(part)
    }

    /// An empty log, durable once the folder is, in no chain yet.
    fn make_log(&self, sequence: u64) -> Result<LogFile, StoreError> {
        let (path, temporary) = (self.file(Kind::Log, sequence), self.path.join("log.tmp"));
        let id = self.manifest().id;
        let header = chain::header(Kind::Log, id, sequence);
        let durable = Part { sequence, length: header.len() as u64, checksum: chain::extend(0, &header) };
        let make = || {
            let mut file =
                private(OpenOptions::new().create(true).truncate(true).write(true)).open(&temporary)?;
            file.write_all(&header)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            let mark = private(OpenOptions::new().create(true).truncate(false).write(true))
                .open(self.path.join(MARK_FILE))?;
            Ok(LogFile { file, mark, id, durable, appended: durable })
        };
        make().map_err(|source| self.full_or_io(format!("make {}", path.display()), source))
    }

    fn replace_manifest(&self, change: impl FnOnce(&mut Manifest)) -> Result<(), Unfinished> {
        let mut current = self.manifest();
        let mut next = current.clone();
        change(&mut next);
        let (path, temporary) = (self.path.join(MANIFEST_FILE), self.path.join("MANIFEST.tmp"));
        let failed = |source| self.full_or_io(format!("write {}", path.display()), source);
        let write = || {
            let mut file =
                private(OpenOptions::new().create(true).truncate(true).write(true)).open(&temporary)?;
            file.write_all(next.encode().as_bytes())?;
            file.sync_all()?;
            // What it names is there before it is.
            self.sync_folder()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(failed)?;
        *current = next;
        self.sync_folder().map_err(|source| Unfinished { error: failed(source), unknown: true })
    }

    /// Notes in the lock file that a chain was begun, and deletes what is not of it.
    fn settle(&self) -> Result<(), StoreError> {
        let manifest = self.manifest().clone();
        let note = format!("{:016x}\n", manifest.id);
        let write = || {
            if self.note()? == note {
                return Ok(());
            }
            self.lock.set_len(0)?;
            self.lock.write_all_at(note.as_bytes(), 0)?;
            self.lock.sync_all()
        };
        write().map_err(|source| self.full_or_io(format!("write {LOCK_FILE}"), source))?;
        let (first, last) = (manifest.snapshot.sequence, manifest.open);
        let snapshots = self.numbered(Kind::Snapshot)?.into_iter().filter(|number| *number != first);
        let logs = self.numbered(Kind::Log)?.into_iter().filter(|number| !(first..=last).contains(number));
        let logs = logs.map(|number| (Kind::Log, number));
        let rest: Vec<(Kind, u64)> = snapshots.map(|number| (Kind::Snapshot, number)).chain(logs).collect();
        if self.is_to_be_salvaged()? {
            let beside = self.path.join(format!("salvaged-{last:016}"));
            return self.move_beside(&beside, &rest).map_err(|source| {
                self.full_or_io(format!("move what was salvaged to {}", beside.display()), source)
            });
        }
        rest.into_iter().try_for_each(|(kind, number)| self.remove(kind, number))
    }

    fn move_beside(&self, folder: &Path, files: &[(Kind, u64)]) -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for (kind, number) in files {
            std::fs::rename(self.file(*kind, *number), folder.join(kind.file(*number)))?;
        }
        std::fs::remove_file(self.path.join(SALVAGE_FILE))?;
        self.sync_folder()
    }

    fn file(&self, kind: Kind, sequence: u64) -> PathBuf {
        self.path.join(kind.file(sequence))
    }

    fn remove(&self, kind: Kind, sequence: u64) -> Result<(), StoreError> {
        let path = self.file(kind, sequence);
        std::fs::remove_file(&path).map_err(|source| io_error(format!("delete {}", path.display()), source))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

pub(crate) fn io_error(operation: String, source: io::Error) -> StoreError {
    StoreError::Io { operation, source }
}
