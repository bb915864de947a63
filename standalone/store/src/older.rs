//! What a folder without a manifest holds: nothing, a store of the first format, or a loss.
//!
//! The first format knew its files by their names alone: the newest snapshot and every log from its number
//! on. It is read once; the store then goes on in a chain of the second.

use bytes::Bytes;

use crate::{
    StoreError,
    chain::{self, Kind},
    disk::{Folder, MANIFEST_FILE},
    record::{self, Format},
    recover::{Next, Recovered, damaged, refuse},
};

struct Named {
    name: String,
    sequence: u64,
    data: Bytes,
}

pub fn recover(folder: &Folder) -> Result<Recovered, StoreError> {
    let (snapshots, logs) = (read(folder, Kind::Snapshot)?, read(folder, Kind::Log)?);
    let newest = snapshots.iter().chain(&logs).map(|file| file.sequence).max();
    let is_second = |kind: Kind| move |file: &Named| chain::is_of_this_format(kind, &file.data);
    let (new_snapshots, snapshots): (Vec<_>, Vec<_>) =
        snapshots.into_iter().partition(is_second(Kind::Snapshot));
    let (new_logs, logs): (Vec<_>, Vec<_>) = logs.into_iter().partition(is_second(Kind::Log));
    // A begin that was cut short leaves a snapshot and an empty log, beside what they were made of.
    let is_begun = new_logs.iter().all(|log| log.data.len() <= chain::HEADER);
    let is_lost = folder.was_begun()? || !is_begun;
    let has_older = !snapshots.is_empty() || logs.iter().any(|log| log.sequence > 0 || !log.data.is_empty());
    // The snapshot of a begin without older files is one of an empty store.
    if is_lost || (!has_older && new_snapshots.iter().any(|file| !holds_nothing(file))) {
        return Err(refuse(
            folder,
            format!("{MANIFEST_FILE} is missing, which names what belongs to the store"),
        ));
    }
    let mut found = Recovered::new();
    found.next = Next::Begin { sequence: newest.map_or(0, |newest| newest + 1) };
    if has_older {
        read_first_format(folder, &snapshots, &logs, &mut found)?;
        tracing::info!(folder = %folder.path().display(), "the store goes on in the second format");
    }
    Ok(found)
}

fn holds_nothing(snapshot: &Named) -> bool {
    let mut content = Recovered::new();
    content.take(Format::Second, &snapshot.data, chain::HEADER);
    content.writes.is_empty() && content.revision == 1
}

fn read_first_format(
    folder: &Folder,
    snapshots: &[Named],
    logs: &[Named],
    found: &mut Recovered,
) -> Result<(), StoreError> {
    if snapshots.is_empty()
        && let Some(log) = logs.first().filter(|log| log.sequence > 0)
    {
        return Err(refuse(folder, format!("the snapshot before {} is missing", log.name)));
    }
    let first = snapshots.last().map_or(0, |snapshot| snapshot.sequence);
    if let Some(snapshot) = snapshots.last() {
        let (end, _) = found.take(Format::First, &snapshot.data, 0);
        if end == 0 || end != snapshot.data.len() {
            return Err(damaged(folder, &snapshot.name, end));
        }
    }
    let logs: Vec<&Named> = logs.iter().filter(|log| log.sequence >= first).collect();
    let last = logs.last().map_or(first, |log| log.sequence);
    // Each log is begun before the snapshot of its number, and deleted after a later one was there.
    for sequence in first..=last {
        if !logs.iter().any(|log| log.sequence == sequence) {
            return Err(refuse(folder, format!("{} is missing", Kind::Log.file(sequence))));
        }
    }
    for (at, log) in logs.iter().enumerate() {
        let (end, _) = found.take(Format::First, &log.data, 0);
        let rest = log.data.get(end..).unwrap_or_default();
        let is_torn = at + 1 == logs.len() && !record::was_durable(Format::First, &log.data, end);
        if !is_torn && rest.iter().any(|byte| *byte != 0) {
            return Err(damaged(folder, &log.name, end));
        }
        if !rest.is_empty() {
            tracing::warn!(log = log.name, offset = end, length = log.data.len(), "left out a torn tail");
        }
    }
    Ok(())
}

fn read(folder: &Folder, kind: Kind) -> Result<Vec<Named>, StoreError> {
    let read = |sequence| {
        let name = kind.file(sequence);
        let data = Bytes::from(folder.read(&name)?.unwrap_or_default());
        Ok(Named { name, sequence, data })
    };
    folder.numbered(kind)?.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests;
