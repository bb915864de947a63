//! Goes on with what can be read of a damaged folder, once, because somebody has asked for it: by a file
//! `SALVAGE` in it.
//!
//! Nothing is deleted: what is not taken over as it stands is moved into a folder beside.

use bytes::Bytes;

use crate::{
    StoreError,
    chain::Kind,
    disk::Folder,
    record,
    recover::{Next, Recovered},
};

/// What was lost had revisions, and clients that know them: they are not given out again, and who asks for
/// what came after them is told to list anew.
const REVISIONS_LEFT_OUT: u64 = 1 << 20;

pub fn recover(folder: &Folder) -> Result<Recovered, StoreError> {
    let (snapshots, logs) = (folder.numbered(Kind::Snapshot)?, folder.numbered(Kind::Log)?);
    let newest = snapshots.iter().chain(&logs).max().copied();
    let mut found = Recovered::new();
    // The newest snapshot of which anything is left; the logs before it only repeat what it has.
    let mut first = 0;
    for sequence in snapshots.into_iter().rev() {
        if take(folder, &Kind::Snapshot.file(sequence), &mut found)? > 0 {
            first = sequence;
            break;
        }
    }
    for sequence in logs.into_iter().filter(|sequence| *sequence >= first) {
        take(folder, &Kind::Log.file(sequence), &mut found)?;
    }
    found.revision += REVISIONS_LEFT_OUT;
    found.next = Next::Begin { sequence: newest.map_or(0, |newest| newest + 1) };
    tracing::warn!(folder = %folder.path().display(), writes = found.writes.len(), "go on with what can be read");
    Ok(found)
}

/// Takes every whole record of a file, whatever lies between. Returns how many there are.
fn take(folder: &Folder, name: &str, found: &mut Recovered) -> Result<usize, StoreError> {
    let data = Bytes::from(folder.read(name)?.unwrap_or_default());
    let records = record::whole(&data);
    let count = records.len();
    for record in records {
        found.add(record);
    }
    tracing::info!(file = name, bytes = data.len(), records = count, "read what is whole");
    Ok(count)
}

#[cfg(test)]
mod tests {
    use crate::{Expect, LogStore, Op, Options, Range, Store, StoreError, Txn};

    async fn put(store: &LogStore, key: &str) {
        let op = Op::Put { key: key.into(), value: "v".into(), expect: Expect::Any };
        store.commit(Txn { ops: vec![op] }).await.unwrap();
    }

    async fn keys(store: &LogStore) -> Vec<String> {
        let all = store.list(Range { prefix: "/".into(), ..Range::default() }).await.unwrap();
        all.entries.iter().map(|entry| entry.key.to_string()).collect()
    }

    #[tokio::test]
    async fn what_can_be_read_is_gone_on_with_once_and_nothing_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let open = || LogStore::open(folder.path(), Options::default());
        let store = open().unwrap();
        for key in ["/a", "/b", "/c"] {
            put(&store, key).await;
        }
        let newest = store.revision();
        drop(store);
        // A broken record in the middle, and no mark.
        let log = path("log-0000000000000000");
        let mut bytes = std::fs::read(&log).unwrap();
        let at = bytes.windows(2).position(|two| two == b"/b").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&log, &bytes).unwrap();
        std::fs::remove_file(path("MARK")).unwrap();
        let error = open().err().unwrap();
        assert!(
            matches!(error, StoreError::Incomplete { .. }) && error.to_string().contains("/SALVAGE`"),
            "{error}"
        );
        std::fs::write(path("SALVAGE"), "").unwrap();
        let store = open().unwrap();
        assert_eq!(keys(&store).await, ["/a", "/c"]);
        assert!(store.revision() > newest + 1000, "revisions that were lost are not given out again");
        put(&store, "/d").await;
        drop(store);
        assert!(!path("SALVAGE").exists(), "once");
        assert_eq!(std::fs::read(path("salvaged-0000000000000001/log-0000000000000000")).unwrap(), bytes);
        assert_eq!(keys(&open().unwrap()).await, ["/a", "/c", "/d"]);
    }
}
