//! Reads a folder back: every confirmed write, or the reason why the store must not be served.

use bytes::Bytes;

use crate::{
    StoreError,
    chain::{self, Kind, Manifest, Mark, Part},
    disk::{Folder, LogFile, MANIFEST_FILE, MARK_FILE},
    older,
    record::{self, Format, Found, GROUP_BYTES, Record},
    salvage,
    tree::Write,
};

/// What was found in the folder.
pub struct Recovered {
    /// Oldest first, to be restored one after the other.
    pub writes: Vec<Write>,
    /// The newest revision that any record names.
    pub revision: u64,
    /// Where the chain goes on.
    pub next: Next,
}

pub enum Next {
    /// In the open log.
    Log { log: LogFile, snapshot_bytes: u64 },
    /// With a new chain: there was none, or one in the first format.
    Begin { sequence: u64 },
}

impl Recovered {
    pub fn new() -> Recovered {
        Recovered { writes: Vec::new(), revision: 1, next: Next::Begin { sequence: 0 } }
    }

    /// Takes in the whole records from `offset` on. Returns where they end, and the room that the last one
    /// announced.
    pub fn take(&mut self, format: Format, data: &Bytes, offset: usize) -> (usize, usize) {
        let (mut end, mut room) = (offset, GROUP_BYTES);
        while let Found::Record { record, end: next } = record::decode(format, data, end) {
            (end, room) = (next, record.room);
            self.add(record);
        }
        (end, room)
    }

    pub fn add(&mut self, record: Record) {
        // A copy of its own for each value: the file's buffer would live as long as one of them.
        let own = |mut write: Write| {
            write.value = write.value.map(|value| Bytes::copy_from_slice(&value));
            write
        };
        self.revision = self.revision.max(record.revision);
        self.writes.extend(record.writes.into_iter().map(own));
    }
}

/// Reads what the manifest names, checks that it is all there, and cuts off a torn tail of the open log.
pub fn recover(folder: &Folder) -> Result<Recovered, StoreError> {
    if folder.is_to_be_salvaged()? {
        return salvage::recover(folder);
    }
    match folder.read(MANIFEST_FILE)? {
        Some(text) => {
            let manifest = std::str::from_utf8(&text).ok().and_then(Manifest::decode);
            recover_chain(
                folder,
                manifest.ok_or_else(|| refuse(folder, format!("{MANIFEST_FILE} is damaged")))?,
            )
        }
        None => older::recover(folder),
    }
}

/// The store does not start.
pub fn refuse(folder: &Folder, problem: String) -> StoreError {
    StoreError::Incomplete { problem, folder: folder.path().display().to_string() }
}

fn recover_chain(folder: &Folder, manifest: Manifest) -> Result<Recovered, StoreError> {
    check_names(folder, &manifest)?;
    let floor = floor(folder, &manifest)?;
    let mut found = Recovered::new();
    let settled = std::iter::once((Kind::Snapshot, &manifest.snapshot));
    for (kind, part) in settled.chain(manifest.full.iter().map(|log| (Kind::Log, log))) {
        let name = kind.file(part.sequence);
        let data = whole(folder, &name, *part)?;
        check_header(folder, kind, manifest.id, part.sequence, &data)?;
        let (end, _) = found.take(Format::Second, &data, chain::HEADER);
        if end != data.len() {
            return Err(damaged(folder, &name, end));
        }
    }
    let name = Kind::Log.file(manifest.open);
    let data = Bytes::from(present(folder, &name)?);
    check_floor(folder, &name, &data, floor)?;
    check_header(folder, Kind::Log, manifest.id, manifest.open, &data)?;
    let (end, room) = found.take(Format::Second, &data, chain::HEADER);
    if is_damage(&data, end, room, floor) {
        return Err(damaged(folder, &name, end));
    }
    if end < data.len() {
        tracing::warn!(log = name, offset = end, length = data.len(), "cut off a torn tail");
    }
    let durable =
        Part { sequence: manifest.open, length: end as u64, checksum: chain::extend(0, &data[..end]) };
    let snapshot_bytes = manifest.snapshot.length;
    found.next = Next::Log { log: folder.go_on(manifest, durable)?, snapshot_bytes };
    Ok(found)
}

/// Whether what follows the last whole record, at `end`, is more than a group that was being written.
fn is_damage(data: &Bytes, end: usize, room: usize, floor: Option<Part>) -> bool {
    let below_floor = floor.is_some_and(|floor| (end as u64) < floor.length);
    below_floor || data.len() - end > room || record::was_durable(Format::Second, data, end)
}

/// Every file of the chain is there, and none that only a later chain can have.
fn check_names(folder: &Folder, manifest: &Manifest) -> Result<(), StoreError> {
    let (snapshots, logs) = (folder.numbered(Kind::Snapshot)?, folder.numbered(Kind::Log)?);
    let mut missing = Vec::new();
    if !snapshots.contains(&manifest.snapshot.sequence) {
        missing.push(Kind::Snapshot.file(manifest.snapshot.sequence));
    }
    let expected = manifest.snapshot.sequence..=manifest.open;
    missing.extend(expected.filter(|number| !logs.contains(number)).map(|number| Kind::Log.file(number)));
    let mut foreign = Vec::new();
    for number in logs.into_iter().filter(|number| *number > manifest.open) {
        let name = Kind::Log.file(number);
        // A start of a log that was cut short has a header at most.
        let is_begun = number == manifest.open + 1 && present(folder, &name)?.len() <= chain::HEADER;
        if !is_begun {
            foreign.push(name);
        }
    }
    foreign.extend(snapshots.into_iter().filter(|n| *n > manifest.open).map(|n| Kind::Snapshot.file(n)));
    let mut problems = Vec::new();
    if !missing.is_empty() {
        problems.push(format!("{} missing", list(&missing)));
    }
    if !foreign.is_empty() {
        problems
            .push(format!("{} not known to {MANIFEST_FILE}, which is older or another's", list(&foreign)));
    }
    if problems.is_empty() { Ok(()) } else { Err(refuse(folder, problems.join("; "))) }
}

fn list(names: &[String]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// What of the open log was durable at least; `None`: the mark is of the log before it.
fn floor(folder: &Folder, manifest: &Manifest) -> Result<Option<Part>, StoreError> {
    let bytes = folder.read(MARK_FILE)?.ok_or_else(|| refuse(folder, format!("{MARK_FILE} is missing")))?;
    let mark = Mark::decode(&bytes).ok_or_else(|| refuse(folder, format!("{MARK_FILE} is damaged")))?;
    if mark.id != manifest.id {
        return Err(refuse(folder, format!("{MARK_FILE} and {MANIFEST_FILE} are of two different stores")));
    }
    if mark.log.sequence > manifest.open {
        let newer = Kind::Log.file(mark.log.sequence);
        return Err(refuse(folder, format!("{newer} was written, and {MANIFEST_FILE} is older than it")));
    }
    Ok(Some(mark.log).filter(|log| log.sequence == manifest.open))
}

/// The bytes of a file that must be as the manifest says.
fn whole(folder: &Folder, name: &str, part: Part) -> Result<Bytes, StoreError> {
    let data = present(folder, name)?;
    if data.len() as u64 != part.length {
        let problem = format!("{name} has {} bytes where {} were written", data.len(), part.length);
        return Err(refuse(folder, problem));
    }
    if chain::extend(0, &data) != part.checksum {
        return Err(refuse(folder, format!("{name} is damaged, or an older copy: its checksum is another")));
    }
    Ok(Bytes::from(data))
}

/// What was durable of the open log is there. Where a part of it is broken, the records say where: not here.
fn check_floor(folder: &Folder, name: &str, data: &Bytes, floor: Option<Part>) -> Result<(), StoreError> {
    let Some(floor) = floor else { return Ok(()) };
    let length = data.len() as u64;
    if length < floor.length {
        let problem = format!("{name} has {length} bytes where at least {} were written", floor.length);
        return Err(refuse(folder, problem));
    }
    // In range: not longer than the data.
    let durable = data.slice(..floor.length as usize);
    if chain::extend(0, &durable) == floor.checksum {
        return Ok(());
    }
    let (end, _) = Recovered::new().take(Format::Second, &durable, chain::HEADER);
    if end < durable.len() {
        return Ok(());
    }
    Err(refuse(folder, format!("{name} is another log than the one that was written")))
}

fn check_header(folder: &Folder, kind: Kind, id: u64, sequence: u64, data: &Bytes) -> Result<(), StoreError> {
    if data.starts_with(&chain::header(kind, id, sequence)) {
        return Ok(());
    }
    let name = kind.file(sequence);
    Err(refuse(
        folder,
        format!("{name} begins as no file of this name and store: another was put in its place"),
    ))
}

fn present(folder: &Folder, name: &str) -> Result<Vec<u8>, StoreError> {
    folder.read(name)?.ok_or_else(|| refuse(folder, format!("{name} is missing")))
}

pub fn damaged(folder: &Folder, name: &str, offset: usize) -> StoreError {
    StoreError::Damaged { path: folder.path().join(name).display().to_string(), offset: offset as u64 }
}

#[cfg(test)]
mod tests;
