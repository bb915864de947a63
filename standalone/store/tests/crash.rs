//! The store against real ends: a process killed with -9 in mid-write, a file system that is really full.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use bytes::Bytes;
use rand::RngExt;
use skerry_store::{Expect, LogStore, Op, Options, Range, Store, StoreError, Txn};

const CHILD_FOLDER: &str = "SKERRY_STORE_CRASH_FOLDER";
const KEYS: u64 = 40;

fn options() -> Options {
    // Small enough that kills hit snapshots and new logs as well.
    Options { snapshot_bytes: 64 << 10, ..Options::default() }
}

/// Two keys that every transaction writes alike: they must never differ.
fn txn(n: u64) -> Txn {
    let value = Bytes::from(format!("{n}:{}", "v".repeat((n % 700) as usize)));
    let put = |key: String| Op::Put { key: key.into(), value: value.clone(), expect: Expect::Any };
    Txn { ops: vec![put(format!("/a/{}", n % KEYS)), put(format!("/b/{}", n % KEYS))] }
}

/// Not a test of its own: the process that the next one kills. It says what was confirmed, after it was.
#[test]
fn child_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = std::sync::Arc::new(LogStore::open(Path::new(&folder), options()).unwrap());
        let start = store.revision() * 100;
        let lanes = (0..4u64).map(|lane| {
            let store = store.clone();
            tokio::spawn(async move {
                for step in 0.. {
                    let n = start + step * 4 + lane;
                    let revision = store.commit(txn(n)).await.unwrap();
                    let line = format!("{revision} {n}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        });
        for lane in lanes.collect::<Vec<_>>() {
            lane.await.unwrap();
        }
    });
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(CHILD_FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_hundred_kills_in_mid_write_lose_nothing_that_was_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    // key number → (revision, n) of the newest confirmed write
    let mut confirmed: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut newest = 0;
    for round in 0..100 {
        let mut child = spawn(folder.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let kill_after = rand::rng().random_range(1..120);
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            let Some((revision, n)) = line.split_once(' ') else { continue };
            let (Ok(revision), Ok(n)) = (revision.parse::<u64>(), n.parse::<u64>()) else { continue };
            let known = confirmed.entry(n % KEYS).or_default();
            *known = (*known).max((revision, n));
            newest = newest.max(revision);
            seen += 1;
            if seen == kill_after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= kill_after, "round {round}: the writer ended by itself after {seen}");
        let store = LogStore::open(folder.path(), options()).unwrap();
        assert!(store.revision() >= newest, "round {round}: revisions went back");
        let all = |prefix: &'static str| Range { prefix: prefix.into(), ..Range::default() };
        let (a, b) = (store.list(all("/a/")).await.unwrap(), store.list(all("/b/")).await.unwrap());
        assert_eq!(a.entries.len(), b.entries.len());
        for (a, b) in a.entries.iter().zip(&b.entries) {
            assert_eq!((&a.value, a.mod_revision), (&b.value, b.mod_revision), "half a transaction");
        }
        for (key, (revision, n)) in &confirmed {
            let entry = store.get(&format!("/a/{key}")).await.unwrap().unwrap();
            assert!(entry.mod_revision >= *revision, "round {round}: key {key} went back");
            if entry.mod_revision == *revision {
                let Op::Put { value, .. } = &txn(*n).ops[0] else { unreachable!() };
                assert_eq!(&entry.value, value, "round {round}: key {key}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_system_without_room_refuses_and_what_was_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let small = Some("size=256k");
    nix::mount::mount(Some("skerry"), folder.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), small)
        .unwrap();
    let store = LogStore::open(&folder.path().join("store"), Options::default()).unwrap();
    let mut confirmed = 0;
    let error = loop {
        match store.commit(txn(confirmed)).await {
            Ok(_) => confirmed += 1,
            Err(error) => break error,
        }
        assert!(confirmed < 10_000, "256 KB took all this");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    let filler = folder.path().join("store");
    drop(store);
    let store = LogStore::open(&filler, Options::default()).unwrap();
    let range = Range { prefix: "/a/".into(), ..Range::default() };
    assert_eq!(store.list(range).await.unwrap().entries.len() as u64, confirmed.min(KEYS));
    drop(store);
    // A child that the test beside this one has just forked may still hold what is open here.
    nix::mount::umount2(folder.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
}
