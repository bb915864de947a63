//! Folders as the first format left them.

use std::path::Path;

use super::*;
use crate::{LogStore, Options, Range, Store, StoreError};

/// A record of the first format: `(key, value or deletion)` at one revision.
fn record(durable_before: u64, revision: u64, writes: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(durable_before.to_le_bytes());
    payload.extend(revision.to_le_bytes());
    payload.extend((writes.len() as u32).to_le_bytes());
    for (key, value) in writes {
        payload.extend(revision.to_le_bytes());
        payload.extend(revision.to_le_bytes());
        payload.extend((key.len() as u32).to_le_bytes());
        payload.extend(value.map_or(u32::MAX, |value| value.len() as u32).to_le_bytes());
        payload.extend(key.bytes());
        payload.extend(value.unwrap_or_default().bytes());
    }
    let length = (payload.len() as u32).to_le_bytes();
    let crc = crc32fast::hash(&[&length[..], &payload].concat()).to_le_bytes();
    [&0x534b_5231_u32.to_le_bytes()[..], &length, &crc, &payload].concat()
}

fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::fs::write(folder.path().join("LOCK"), "").unwrap();
    folder
}

fn open(folder: &Path) -> Result<LogStore, StoreError> {
    LogStore::open(folder, Options::default())
}

async fn content(store: &LogStore) -> String {
    let all = store.list(Range { prefix: "/".into(), ..Range::default() }).await.unwrap();
    let pair = |entry: crate::Entry| format!("{}={} ", entry.key, String::from_utf8_lossy(&entry.value));
    all.entries.into_iter().map(pair).collect()
}

fn logs() -> Vec<(&'static str, Vec<u8>)> {
    let first = record(0, 7, &[("/b", Some("2"))]);
    let second = record(first.len() as u64, 8, &[("/a", None)]);
    vec![
        ("snapshot-0000000000000003", record(0, 6, &[("/a", Some("1"))])),
        ("log-0000000000000003", [first, second].concat()),
        ("log-0000000000000004", record(0, 9, &[("/c", Some("3"))])),
    ]
}

#[tokio::test]
async fn a_store_of_the_first_format_opens_and_goes_on_in_the_second() {
    let folder = folder(&logs());
    let store = open(folder.path()).unwrap();
    assert_eq!((content(&store).await.as_str(), store.revision()), ("/b=2 /c=3 ", 9));
    drop(store);
    assert!(folder.path().join(MANIFEST_FILE).exists() && !folder.path().join(logs()[0].0).exists());
    let store = open(folder.path()).unwrap();
    assert_eq!((content(&store).await.as_str(), store.revision()), ("/b=2 /c=3 ", 9));
}

#[tokio::test]
async fn a_first_store_without_snapshot_and_one_never_written_open() {
    let young = folder(&[("log-0000000000000000", record(0, 2, &[("/a", Some("1"))]))]);
    assert_eq!(content(&open(young.path()).unwrap()).await, "/a=1 ");
    let unused = folder(&[("log-0000000000000000", Vec::new())]);
    assert_eq!(content(&open(unused.path()).unwrap()).await, "");
}

#[tokio::test]
async fn a_torn_tail_of_the_first_format_is_left_out() {
    let mut files = logs();
    files[2].1.extend(&record(0, 10, &[("/d", Some("4"))])[..20]);
    assert_eq!(content(&open(folder(&files).path()).unwrap()).await, "/b=2 /c=3 ");
    let mut files = logs();
    files[2].1.extend([0; 4096]);
    assert_eq!(content(&open(folder(&files).path()).unwrap()).await, "/b=2 /c=3 ");
}

#[test]
fn losses_that_the_first_format_shows_are_refused() {
    let without = |at: usize| {
        let mut files = logs();
        files.remove(at);
        files
    };
    let with = |at: usize, change: fn(&mut Vec<u8>)| {
        let mut files = logs();
        change(&mut files[at].1);
        files
    };
    let cases = [
        (without(0), "log-0000000000000003 is missing"),
        (without(1), "log-0000000000000003 is missing"),
        (with(0, Vec::clear), "snapshot-0000000000000003 is damaged"),
        (with(0, |bytes| bytes.truncate(20)), "snapshot-0000000000000003 is damaged"),
        (with(0, |bytes| bytes.fill(0)), "snapshot-0000000000000003 is damaged"),
        (with(1, |bytes| bytes.truncate(70)), "log-0000000000000003 is damaged"),
        (with(1, |bytes| bytes[15] ^= 1), "log-0000000000000003 is damaged"),
    ];
    for (at, (files, part)) in cases.into_iter().enumerate() {
        let text = open(folder(&files).path()).err().unwrap().to_string();
        let part = if at == 0 { "the snapshot before log-0000000000000003 is missing" } else { part };
        assert!(text.contains(part), "case {at}: {text}");
    }
}

#[tokio::test]
async fn a_change_of_format_that_was_cut_short_begins_again() {
    let done = folder(&logs());
    drop(open(done.path()).unwrap());
    let mut files = logs();
    for name in ["snapshot-0000000000000005", "log-0000000000000005"] {
        files.push((name, std::fs::read(done.path().join(name)).unwrap()));
    }
    let cut_short = folder(&files);
    assert_eq!(content(&open(cut_short.path()).unwrap()).await, "/b=2 /c=3 ");
}
