//! What was said last, so that a process that has just begun knows the names while the API server is away.
//!
//! One file: eight bytes that say what it is, then records: the CRC-32 of a frame of [`crate::feed`], and the
//! frame. A change is appended when it comes; when the file is twice as long as what is in force it is
//! written anew, beside, and renamed. What follows a record that is not whole is not believed, and cut off.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    feed::{FrameError, Message, VERSION, encode, read_message},
    zone::{Change, Zone},
};

const MAGIC: [u8; 6] = *b"skdns\n";
const HEAD_BYTES: u64 = 8;
/// 250,000 endpoints have 8 MB.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Shorter files are not worth writing anew.
const REWRITE_FROM_BYTES: u64 = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("{path} is no state of this version: it is begun anew")]
    Foreign { path: PathBuf },
    #[error("{path} is damaged after {whole} bytes: what follows is left out")]
    Damaged { path: PathBuf, whole: u64 },
    #[error("keep a change in {path}")]
    Frame { path: PathBuf, source: FrameError },
}

/// The file, open at its end.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Of the file when it was written anew last.
    compact_bytes: u64,
}

/// What a start finds.
#[derive(Debug)]
pub struct Found {
    pub journal: Journal,
    /// In the order in which they came.
    pub changes: Vec<Change>,
    /// What is wrong with the file; `changes` are those before it.
    pub fault: Option<DiskError>,
}

impl Journal {
    /// Reads the file, or begins one.
    ///
    /// # Errors
    /// When it can't be read or made at all.
    pub fn open(path: &Path) -> Result<Found, DiskError> {
        let read = |source| DiskError::Read { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(read)?;
        let bytes = match file.metadata().map_err(read)?.len() {
            length if length > MAX_FILE_BYTES => Vec::new(),
            _ => fs::read(path).map_err(read)?,
        };
        let (changes, whole) = contents(&bytes);
        let write = |source| DiskError::Write { path: path.to_owned(), source };
        let fault = match (whole, bytes.len() as u64) {
            (0, 0) => None,
            (0, _) => Some(DiskError::Foreign { path: path.to_owned() }),
            (whole, length) if whole < length => Some(DiskError::Damaged { path: path.to_owned(), whole }),
            _ => None,
        };
        file.set_len(whole).map_err(write)?;
        file.seek(io::SeekFrom::End(0)).map_err(write)?;
        if whole == 0 {
            file.write_all(&head()).map_err(write)?;
        }
        let bytes = whole.max(HEAD_BYTES);
        let journal = Journal { path: path.to_owned(), file, bytes, compact_bytes: bytes };
        Ok(Found { journal, changes, fault })
    }

    /// Keeps what has changed. It outlives the process, and the machine once the kernel has written it back.
    ///
    /// # Errors
    /// When the disk is full or gone.
    pub fn add(&mut self, changes: &[Change]) -> Result<(), DiskError> {
        let records = self.records(changes.iter().cloned())?;
        let written = self.file.write_all(&records);
        written.map_err(|source| DiskError::Write { path: self.path.clone(), source })?;
        self.bytes += records.len() as u64;
        Ok(())
    }

    /// Whether the file is twice as long as it would have to be.
    pub fn is_long(&self) -> bool {
        self.bytes > REWRITE_FROM_BYTES.max(self.compact_bytes * 2)
    }

    /// What a rewritten file holds. Apart from [`Journal::replace`], since that waits for the disk and the
    /// zone may not.
    ///
    /// # Errors
    /// When a change is too long for a frame.
    pub fn compacted(&self, zone: &Zone) -> Result<Vec<u8>, DiskError> {
        let mut content = head().to_vec();
        content.extend(self.records(zone.contents())?);
        Ok(content)
    }

    /// Puts this in the place of the file.
    ///
    /// # Errors
    /// When it can't be written; the file is then as before.
    pub fn replace(&mut self, content: &[u8]) -> Result<(), DiskError> {
        let temporary = self.path.with_extension("new");
        let write = || -> io::Result<File> {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(content)?;
            // Renamed before its content is durable, it could be found empty after the machine has fallen.
            file.sync_data()?;
            fs::rename(&temporary, &self.path)?;
            Ok(file)
        };
        self.file = write().map_err(|source| DiskError::Write { path: self.path.clone(), source })?;
        (self.bytes, self.compact_bytes) = (content.len() as u64, content.len() as u64);
        Ok(())
    }

    fn records(&self, changes: impl Iterator<Item = Change>) -> Result<Vec<u8>, DiskError> {
        let (mut records, mut frame) = (Vec::new(), Vec::new());
        for change in changes {
            frame.clear();
            encode(&Message::Change(change), &mut frame)
                .map_err(|source| DiskError::Frame { path: self.path.clone(), source })?;
            records.extend(crc32fast::hash(&frame).to_le_bytes());
            records.extend(&frame);
        }
        Ok(records)
    }
}

fn head() -> [u8; HEAD_BYTES as usize] {
    let mut head = [0; HEAD_BYTES as usize];
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
    head[MAGIC.len()..].copy_from_slice(&VERSION.to_le_bytes());
    head
}

/// The changes of the whole records, and where these end; 0: the file is none of ours.
fn contents(bytes: &[u8]) -> (Vec<Change>, u64) {
    let Some(mut rest) = bytes.strip_prefix(&head()[..]) else { return (Vec::new(), 0) };
    let (mut changes, mut buffer) = (Vec::new(), Vec::new());
    while let Some((sum, frames)) = rest.split_first_chunk::<4>() {
        let mut after = frames;
        let Ok(Some(Message::Change(change))) = read_message(&mut after, &mut buffer) else { break };
        let frame = &frames[..frames.len() - after.len()];
        if crc32fast::hash(frame) != u32::from_le_bytes(*sum) {
            break;
        }
        changes.push(change);
        rest = after;
    }
    (changes, (bytes.len() - rest.len()) as u64)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::{Place, Service};

    fn change(number: u8, address: u8) -> Change {
        let place = Place::Addresses([Ipv4Addr::new(10, 96, 0, address).into()].into());
        Change::Service(format!("ns/web-{number}").into(), Some(Service { place, ports: [].into() }))
    }

    fn zone(changes: &[Change]) -> Zone {
        let mut zone = Zone::new("cluster.local.".parse().unwrap(), Vec::new(), Vec::new());
        changes.iter().for_each(|change| assert!(zone.apply(change.clone())));
        zone
    }

    #[test]
    fn what_was_kept_is_there_again_also_after_it_was_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let mut found = Journal::open(&path).unwrap();
        assert!(found.changes.is_empty() && found.fault.is_none());
        found.journal.add(&[change(1, 1), change(2, 2)]).unwrap();
        found.journal.add(&[change(1, 3)]).unwrap();
        drop(found);
        let mut found = Journal::open(&path).unwrap();
        assert_eq!(found.changes, [change(1, 1), change(2, 2), change(1, 3)]);
        let long = fs::metadata(&path).unwrap().len();
        let content = found.journal.compacted(&zone(&found.changes)).unwrap();
        found.journal.replace(&content).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < long);
        found.journal.add(&[change(4, 4)]).unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!((zone(&again.changes).counts(), again.fault.is_none()), ((3, 0), true));
    }

    #[test]
    fn what_is_not_whole_is_cut_off_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        Journal::open(&path).unwrap().journal.add(&[change(1, 1), change(2, 2)]).unwrap();
        let whole = fs::read(&path).unwrap();
        let second = HEAD_BYTES as usize + (whole.len() - HEAD_BYTES as usize) / 2;
        for at in [second, second + 5, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let mut found = Journal::open(&path).unwrap();
            assert_eq!(found.changes, [change(1, 1)], "byte {at}");
            assert!(matches!(found.fault, Some(DiskError::Damaged { .. })), "byte {at}");
            found.journal.add(&[change(3, 3)]).unwrap();
            let again = Journal::open(&path).unwrap();
            assert_eq!((again.changes, again.fault.is_none()), (vec![change(1, 1), change(3, 3)], true));
        }
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(Journal::open(&path).unwrap().changes, [change(1, 1)]);
        fs::write(&path, b"something else").unwrap();
        let found = Journal::open(&path).unwrap();
        assert!(matches!(found.fault, Some(DiskError::Foreign { .. })) && found.changes.is_empty());
        assert!(Journal::open(&path).unwrap().fault.is_none());
    }

    #[test]
    fn a_file_that_only_grows_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(&dir.path().join("state")).unwrap().journal;
        let many: Vec<Change> = (0..200).map(|number| change(number, number)).collect();
        let mut rounds = 0;
        while !journal.is_long() {
            journal.add(&many).unwrap();
            rounds += 1;
            assert!(rounds < 1000);
        }
        let content = journal.compacted(&zone(&many)).unwrap();
        journal.replace(&content).unwrap();
        assert!(!journal.is_long());
    }
}
