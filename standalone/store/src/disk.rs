//! The store's folder: one snapshot, the logs after it, a lock. The only place that touches files.
//!
//! `snapshot-SEQ` holds everything up to the start of `log-SEQ`; recovery reads the newest snapshot and every log from
//! its number on. A snapshot becomes visible by rename, and what it makes superfluous is deleted after that.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use crate::{
    StoreError,
    record::{self, Found},
    tree::Write,
};

/// Where the writer thread appends. A trait so that a test can put a faulty disk in its place.
pub trait Log: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns once everything appended would survive a power cut.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the log back to `length` bytes after a failed append.
    fn cut(&mut self, length: u64) -> io::Result<()>;
}

impl Log for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        io::Seek::seek(self, io::SeekFrom::Start(length)).map(|_| ())
    }
}

/// What was found in the folder.
pub struct Recovered {
    /// Oldest first, to be restored one after the other.
    pub writes: Vec<Write>,
    /// The newest revision that any record names.
    pub revision: u64,
    /// Number and length of the log to go on with.
    pub sequence: u64,
    pub length: u64,
    /// Bytes of the snapshot that the logs follow.
    pub snapshot_bytes: u64,
}

pub struct Folder {
    path: PathBuf,
    lock: File,
}

impl Drop for Folder {
    /// By hand: a child that is being started may hold a copy of the descriptor for a moment longer.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "unlock the store");
        }
    }
}

impl Folder {
    /// Makes the folder (0700) where it is missing and takes its lock.
    pub fn open(path: &Path) -> Result<Folder, StoreError> {
        let made = std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(path);
        made.map_err(|source| io_error(format!("make the folder {}", path.display()), source))?;
        let lock_path = path.join("LOCK");
        let lock = private(OpenOptions::new().create(true).truncate(false).write(true))
            .open(&lock_path)
            .map_err(|source| io_error(format!("open {}", lock_path.display()), source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), lock }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(StoreError::InUse { path: path.display().to_string() })
            }
            Err(std::fs::TryLockError::Error(source)) => {
                Err(io_error(format!("lock {}", lock_path.display()), source))
            }
        }
    }

    /// Reads the newest snapshot and the logs after it; cuts off a torn tail of the last log.
    pub fn recover(&self) -> Result<Recovered, StoreError> {
        let snapshots = self.numbered("snapshot-")?;
        let first = snapshots.last().copied().unwrap_or(0);
        let mut found =
            Recovered { writes: Vec::new(), revision: 1, sequence: first, length: 0, snapshot_bytes: 0 };
        if !snapshots.is_empty() {
            found.snapshot_bytes = self.read_into(&mut found, &self.snapshot(first), false)?;
        }
        let logs: Vec<u64> = self.numbered("log-")?.into_iter().filter(|n| *n >= first).collect();
        for (at, sequence) in logs.iter().enumerate() {
            found.sequence = *sequence;
            found.length = self.read_into(&mut found, &self.log(*sequence), at + 1 == logs.len())?;
        }
        Ok(found)
    }

    /// Opens log `sequence` to append at `length`; what lies behind is cut off.
    pub fn append_to(&self, sequence: u64, length: u64) -> Result<File, StoreError> {
        let path = self.log(sequence);
        let open = || {
            let mut file =
                private(OpenOptions::new().create(true).truncate(false).write(true)).open(&path)?;
            file.cut(length)?;
            file.sync_all()?;
            self.sync_folder()?;
            Ok(file)
        };
        open().map_err(|source| self.full_or_io(format!("open {}", path.display()), source))
    }

    /// Writes a snapshot that the logs from `sequence` on follow, then deletes what is older. Returns its length.
    pub fn write_snapshot(&self, sequence: u64, revision: u64, writes: &[Write]) -> Result<u64, StoreError> {
        let (path, temporary) = (self.snapshot(sequence), self.path.join("snapshot.tmp"));
        let mut bytes = 0;
        let mut write = || {
            let mut file =
                private(OpenOptions::new().create(true).truncate(true).write(true)).open(&temporary)?;
            let mut buffer = Vec::new();
            // An empty store has a snapshot as well: its revision counts.
            for chunk in writes.chunks(1024).chain(writes.is_empty().then_some(&[][..])) {
                buffer.clear();
                record::encode(&mut buffer, 0, revision, chunk);
                bytes += buffer.len() as u64;
                file.write_all(&buffer)?;
            }
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            self.sync_folder()
        };
        write().map_err(|source| self.full_or_io(format!("write {}", path.display()), source))?;
        for old in self.numbered("snapshot-")?.into_iter().filter(|n| *n < sequence) {
            self.remove(&self.snapshot(old))?;
        }
        for old in self.numbered("log-")?.into_iter().filter(|n| *n < sequence) {
            self.remove(&self.log(old))?;
        }
        Ok(bytes)
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

    fn read_into(&self, found: &mut Recovered, path: &Path, may_be_torn: bool) -> Result<u64, StoreError> {
        let data = std::fs::read(path).map_err(|e| io_error(format!("read {}", path.display()), e))?;
        let data = Bytes::from(data);
        let mut offset = 0;
        loop {
            match record::decode(&data, offset) {
                Found::Record { record, end } => {
                    // A copy of its own for each value: the file's buffer would live as long as one of them.
                    let own = |mut write: Write| {
                        write.value = write.value.map(|value| Bytes::copy_from_slice(&value));
                        write
                    };
                    found.writes.extend(record.writes.into_iter().map(own));
                    found.revision = found.revision.max(record.revision);
                    offset = end;
                }
                Found::End => return Ok(offset as u64),
                Found::Broken if may_be_torn && !record::was_durable(&data, offset) => {
                    tracing::warn!(path = %path.display(), offset, length = data.len(), "cut off a torn tail");
                    return Ok(offset as u64);
                }
                Found::Broken => {
                    return Err(StoreError::Damaged {
                        path: path.display().to_string(),
                        offset: offset as u64,
                    });
                }
            }
        }
    }

    fn snapshot(&self, sequence: u64) -> PathBuf {
        self.path.join(format!("snapshot-{sequence:016}"))
    }

    fn log(&self, sequence: u64) -> PathBuf {
        self.path.join(format!("log-{sequence:016}"))
    }

    fn numbered(&self, prefix: &str) -> Result<Vec<u64>, StoreError> {
        let operation = || format!("list {}", self.path.display());
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(|e| io_error(operation(), e))? {
            let name = entry.map_err(|e| io_error(operation(), e))?.file_name();
            numbers.extend(
                name.to_str().and_then(|n| n.strip_prefix(prefix)).and_then(|n| n.parse::<u64>().ok()),
            );
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        std::fs::remove_file(path).map_err(|source| io_error(format!("delete {}", path.display()), source))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

fn io_error(operation: String, source: io::Error) -> StoreError {
    StoreError::Io { operation, source }
}
