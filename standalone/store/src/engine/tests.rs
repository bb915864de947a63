use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
};

use bytes::Bytes;
use futures::StreamExt;

use super::*;
use crate::{Change, Expect, WatchItem, chain::Part};

fn put(key: &str, value: &str, expect: Expect) -> Txn {
    Txn { ops: vec![Op::Put { key: key.into(), value: Bytes::from(value.to_owned()), expect }] }
}

fn open(path: &Path) -> LogStore {
    let options =
        Options { relaxed_prefixes: vec!["/leases/".into()], snapshot_bytes: 16 << 10, ..Options::default() };
    LogStore::open(path, options).unwrap()
}

async fn value(store: &LogStore, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|entry| String::from_utf8_lossy(&entry.value).into_owned())
}

/// A disk whose faults a test switches on.
#[derive(Default)]
struct Faults {
    append: AtomicBool,
    sync: AtomicBool,
    syncs: AtomicU64,
    /// When set, each flush waits for a word.
    gate: Mutex<Option<mpsc::Receiver<()>>>,
}

struct Faulty(Arc<Faults>, Vec<u8>, Part);

impl Log for Faulty {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.0.append.load(Ordering::SeqCst) {
            self.1.extend_from_slice(&bytes[..bytes.len() / 2]);
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.1.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(gate) = &*self.0.gate.lock().unwrap() {
            gate.recv().map_err(io::Error::other)?;
        }
        self.0.syncs.fetch_add(1, Ordering::SeqCst);
        if self.0.sync.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.2.length = self.1.len() as u64;
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.1.truncate(self.2.length as usize);
        Ok(())
    }

    fn durable(&self) -> Part {
        self.2
    }

    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn faulty(path: &Path, faults: &Arc<Faults>) -> LogStore {
    let options = Options { relaxed_prefixes: vec!["/leases/".into()], ..Options::default() };
    let tree = Tree::new(options.retention);
    let folder = Folder::open(path).unwrap();
    let none = Part { sequence: 0, length: 0, checksum: 0 };
    LogStore::start(folder, Box::new(Faulty(faults.clone(), Vec::new(), none)), tree, 0, options)
}

#[tokio::test]
async fn what_was_confirmed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let revision = store.commit(put("/a", "1", Expect::Absent)).await.unwrap();
    store.commit(put("/b", "1", Expect::Absent)).await.unwrap();
    let delete = Txn { ops: vec![Op::Delete { key: "/b".into(), expect: Expect::Any }] };
    let last = store.commit(delete).await.unwrap();
    drop(store);
    let store = open(folder.path());
    let entry = store.get("/a").await.unwrap().unwrap();
    assert_eq!((entry.mod_revision, entry.create_revision), (revision, revision));
    assert_eq!(value(&store, "/b").await, None);
    assert_eq!(store.revision(), last);
    assert!(store.commit(put("/c", "1", Expect::Any)).await.unwrap() > last);
}

#[tokio::test]
async fn a_watch_replays_then_follows_and_knows_what_was_there_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let first = store.commit(put("/p/a", "1", Expect::Any)).await.unwrap();
    let second = store.commit(put("/p/a", "2", Expect::Any)).await.unwrap();
    let mut watch = store.watch("/p/", first).unwrap();
    store.commit(put("/other", "1", Expect::Any)).await.unwrap();
    store.commit(Txn { ops: vec![Op::Delete { key: "/p/a".into(), expect: Expect::Any }] }).await.unwrap();
    store.request_progress();
    let WatchItem::Change(change) = watch.next().await.unwrap() else { panic!("replay comes first") };
    assert_eq!(change.revision(), second);
    let Change::Put { previous: Some(previous), .. } = &*change else { panic!("an update: {change:?}") };
    assert_eq!(previous.value, "1");
    assert!(matches!(watch.next().await.unwrap(), WatchItem::Progress(at) if at == second));
    let WatchItem::Change(change) = watch.next().await.unwrap() else { panic!("the deletion") };
    assert!(matches!(&*change, Change::Delete { previous, .. } if previous.value == "2"));
    assert!(matches!(watch.next().await.unwrap(), WatchItem::Progress(at) if at == store.revision()));
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_let_go_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), Options { watch_queue: 3, ..Options::default() }).unwrap();
    let watch = store.watch("/", store.revision()).unwrap();
    for n in 0..10 {
        store.commit(put("/k", &n.to_string(), Expect::Any)).await.unwrap();
    }
    let items: Vec<WatchItem> = watch.collect().await;
    assert_eq!(items.len(), 1 + 3 + 1);
    assert!(matches!(items.last(), Some(WatchItem::Lagged)));
}

#[tokio::test]
async fn one_flush_serves_all_that_gathered_and_nothing_is_seen_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let (open_gate, gate) = mpsc::channel();
    *faults.gate.lock().unwrap() = Some(gate);
    let store = Arc::new(faulty(folder.path(), &faults));
    let before = store.revision();
    let answers: Vec<_> =
        (0..100).map(|n| store.submit(put(&format!("/{n}"), "x", Expect::Absent)).unwrap()).collect();
    assert_eq!(store.revision(), before);
    assert!(store.get("/7").await.unwrap().is_none());
    assert!(
        matches!(store.submit(put("/7", "y", Expect::Absent)), Err(StoreError::Conflict { .. })),
        "an expectation sees what is on its way"
    );
    // However the hundred fell into groups, three words are enough only if groups were made.
    for _ in 0..3 {
        open_gate.send(()).unwrap();
    }
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    assert!(faults.syncs.load(Ordering::SeqCst) <= 3);
    assert_eq!(store.revision(), before + 100);
    drop(open_gate);
}

#[tokio::test]
async fn a_full_disk_refuses_the_write_keeps_the_rest_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let store = faulty(folder.path(), &faults);
    store.commit(put("/a", "1", Expect::Any)).await.unwrap();
    faults.append.store(true, Ordering::SeqCst);
    let error = store.commit(put("/a", "2", Expect::Any)).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(value(&store, "/a").await.as_deref(), Some("1"));
    store.commit(put("/leases/n", "kept in memory", Expect::Any)).await.unwrap_err();
    faults.append.store(false, Ordering::SeqCst);
    store.commit(put("/a", "3", Expect::Any)).await.unwrap();
    assert_eq!(value(&store, "/a").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn after_a_failed_flush_nothing_more_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let store = faulty(folder.path(), &faults);
    store.commit(put("/a", "1", Expect::Any)).await.unwrap();
    faults.sync.store(true, Ordering::SeqCst);
    assert!(matches!(store.commit(put("/a", "2", Expect::Any)).await, Err(StoreError::Io { .. })));
    faults.sync.store(false, Ordering::SeqCst);
    assert!(matches!(store.commit(put("/a", "3", Expect::Any)).await, Err(StoreError::Failed { .. })));
    assert_eq!(value(&store, "/a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn leases_cost_no_flush_each_and_their_revisions_never_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for n in 0..500 {
        store.commit(put("/leases/node", &n.to_string(), Expect::Any)).await.unwrap();
    }
    assert_eq!(store.stats().flushes, 1, "one for the ceiling");
    let used = store.revision();
    // A crash: the writer never gets to its last flush.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let crashed = open(copy.path());
    assert!(crashed.revision() >= used);
    // An orderly end keeps the newest value.
    drop(store);
    let store = open(folder.path());
    assert_eq!(value(&store, "/leases/node").await.as_deref(), Some("499"));
    assert!(store.revision() >= used);
}

#[tokio::test]
async fn snapshots_bound_the_folder_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let large = "x".repeat(1000);
    let mut n = 0;
    // However slow the thread that writes them is.
    while store.stats().snapshots < 6 {
        store.commit(put(&format!("/{}", n % 10), &format!("{n}{large}"), Expect::Any)).await.unwrap();
        n += 1;
        assert!(n < 100_000, "no snapshots");
    }
    let (last, written) = (store.revision(), store.stats().bytes);
    drop(store);
    let bytes: u64 =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < written / 2, "{bytes} bytes of {written}");
    let store = open(folder.path());
    assert_eq!(store.revision(), last);
    for n in n - 10..n {
        assert!(value(&store, &format!("/{}", n % 10)).await.unwrap().starts_with(&n.to_string()));
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let _store = open(folder.path());
    let error = LogStore::open(folder.path(), Options::default()).err().unwrap();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn damage_in_what_was_confirmed_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for n in 0..3 {
        store.commit(put("/a", &n.to_string(), Expect::Any)).await.unwrap();
    }
    drop(store);
    let log = folder.path().join("log-0000000000000000");
    let mut bytes = std::fs::read(&log).unwrap();
    let first = crate::chain::HEADER;
    bytes[first + 20] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let error = LogStore::open(folder.path(), Options::default()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { offset, .. } if offset == first as u64), "{error}");
}
