//! Folders that have lost something: refused, with the name of what is missing, and unchanged.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Expect, LogStore, Op, Options, Range, Store, Txn};

/// Every file of a folder and its bytes.
type Files = Vec<(String, Vec<u8>)>;

fn files(folder: &Path) -> Files {
    let mut files: Files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn put_down(files: &Files) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn options() -> Options {
    Options { snapshot_bytes: 512, ..Options::default() }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn put(store: &LogStore, key: &str, value: &[u8]) {
    let op = Op::Put { key: key.into(), value: Bytes::copy_from_slice(value), expect: Expect::Any };
    block_on(store.commit(Txn { ops: vec![op] })).unwrap();
}

fn content(store: &LogStore) -> Vec<(String, Bytes)> {
    let all = block_on(store.list(Range { prefix: "/".into(), ..Range::default() })).unwrap();
    all.entries.into_iter().map(|entry| (entry.key.to_string(), entry.value)).collect()
}

/// A store with a snapshot that is not its first and some records in its open log; and what it holds.
fn made() -> (Files, Vec<(String, Bytes)>) {
    static MADE: std::sync::OnceLock<(Files, Vec<(String, Bytes)>)> = std::sync::OnceLock::new();
    MADE.get_or_init(make).clone()
}

fn make() -> (Files, Vec<(String, Bytes)>) {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), options()).unwrap();
    for n in 0..12u8 {
        put(&store, &format!("/{n}"), &[n; 8]);
    }
    // What is left of the last log.
    drop(store);
    let store = LogStore::open(folder.path(), Options::default()).unwrap();
    for n in 0..5u8 {
        put(&store, &format!("/{n}"), &[n + 1; 9]);
    }
    let holds = content(&store);
    drop(store);
    let files = files(folder.path());
    assert!(files.iter().any(|(name, _)| name == "LOCK") && open_log(&files) > 0);
    (files, holds)
}

fn open_log(files: &Files) -> u64 {
    let name = files.iter().map(|(name, _)| name).rfind(|name| name.starts_with("log-")).unwrap();
    name["log-".len()..].parse().unwrap()
}

fn index(files: &Files, prefix: &str) -> usize {
    files.iter().rposition(|(name, _)| name.starts_with(prefix)).unwrap()
}

/// The text of the refusal; nothing may have changed by it.
#[track_caller]
fn refusal(files: &Files) -> String {
    let folder = put_down(files);
    let error = LogStore::open(folder.path(), Options::default()).err().expect("a refusal");
    let mut expected = files.clone();
    if !expected.iter().any(|(name, _)| name == "LOCK") {
        expected.push(("LOCK".into(), Vec::new()));
    }
    expected.sort();
    assert_eq!(self::files(folder.path()), expected, "a refusal changes nothing");
    let text = error.to_string();
    assert!(text.contains("backup") && text.contains("empty store"), "it says how to go on: {text}");
    text
}

#[test]
fn a_missing_file_is_named() {
    let (files, _) = made();
    for prefix in ["snapshot-", "log-", "MANIFEST", "MARK"] {
        let mut less = files.clone();
        let (name, _) = less.remove(index(&files, prefix));
        let text = refusal(&less);
        assert!(text.contains(&format!("{name} is missing")), "{text}");
    }
    let only_lock = files.into_iter().filter(|(name, _)| name == "LOCK").collect();
    assert!(refusal(&only_lock).contains("MANIFEST is missing"));
}

#[test]
fn without_manifest_and_lock_what_is_left_is_not_taken_for_a_new_store() {
    let (files, _) = made();
    let left =
        |kept: &str| files.iter().filter(|(name, _)| name.starts_with(kept)).cloned().collect::<Files>();
    for kept in ["log-", "snapshot-"] {
        assert!(refusal(&left(kept)).contains("MANIFEST is missing"), "{kept}");
    }
}

#[test]
fn an_empty_file_is_named_with_what_it_had() {
    let (files, _) = made();
    for prefix in ["snapshot-", "log-"] {
        let mut emptied = files.clone();
        let at = index(&files, prefix);
        let length = std::mem::take(&mut emptied[at].1).len();
        let text = refusal(&emptied);
        assert!(text.contains(&emptied[at].0) && text.contains("has 0 bytes"), "{text}");
        assert!(text.contains(&length.to_string()), "{text}");
    }
}

#[test]
fn a_renamed_log_is_missed_by_its_name() {
    let (mut files, _) = made();
    let (at, sequence) = (index(&files, "log-"), open_log(&files));
    files[at].0 = Kind::Log.file(sequence + 1);
    let text = refusal(&files);
    assert!(text.contains(&format!("{} is missing", Kind::Log.file(sequence))), "{text}");
    assert!(text.contains(&Kind::Log.file(sequence + 1)), "{text}");
}

#[test]
fn a_second_log_is_not_chosen_from_but_named() {
    let (mut files, _) = made();
    let second = Kind::Log.file(open_log(&files) + 1);
    let copy = files[index(&files, "log-")].1.clone();
    files.push((second.clone(), copy));
    let text = refusal(&files);
    assert!(text.contains(&second) && text.contains("not known to MANIFEST"), "{text}");
}

#[test]
fn an_older_copy_of_a_file_is_told_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), Options::default()).unwrap();
    put(&store, "/a", b"1");
    let older = files(folder.path());
    put(&store, "/a", b"2");
    drop(store);
    let newer = files(folder.path());
    let mut swapped = newer.clone();
    swapped[index(&newer, "log-")] = older[index(&older, "log-")].clone();
    assert!(refusal(&swapped).contains("where at least"));
    // A snapshot of an earlier number under the name of a later one, and a chain that has gone on without its
    // manifest.
    let (made, _) = made();
    let mut swapped = made.clone();
    swapped[index(&made, "snapshot-")].1 = older[index(&older, "snapshot-")].1.clone();
    refusal(&swapped);
    let mut swapped = made.clone();
    swapped[index(&made, "MANIFEST")] = newer[index(&newer, "MANIFEST")].clone();
    refusal(&swapped);
    let mut swapped = made.clone();
    let other = chain::header(Kind::Log, 77, open_log(&made));
    swapped[index(&made, "log-")].1[..chain::HEADER].copy_from_slice(&other);
    assert!(refusal(&swapped).contains("another"));
}

#[test]
fn a_log_of_the_same_length_and_other_content_is_refused() {
    let write = |value: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let store = LogStore::open(folder.path(), Options::default()).unwrap();
        put(&store, "/a", value);
        drop(store);
        files(folder.path())
    };
    let (mut one, other) = (write(b"1"), write(b"2"));
    let at = index(&one, "log-");
    let tail = other[at].1[chain::HEADER..].to_vec();
    one[at].1.truncate(chain::HEADER);
    one[at].1.extend(tail);
    assert!(refusal(&one).contains("another log"));
}

#[test]
fn a_zeroed_half_of_the_log_is_damage_and_says_where_it_begins() {
    let (mut files, _) = made();
    let at = index(&files, "log-");
    let half = files[at].1.len() / 2;
    files[at].1[half..].fill(0);
    let text = refusal(&files);
    assert!(text.contains("damaged at offset"), "{text}");
}

/// The mark may have been lost by a power cut: it says less then, and the tail alone must tell.
fn with_low_mark(files: &Files) -> Files {
    let mut files = files.clone();
    let at = index(&files, "MARK");
    let mut mark = Mark::decode(&files[at].1).unwrap();
    let header = chain::header(Kind::Log, mark.id, mark.log.sequence);
    (mark.log.length, mark.log.checksum) = (header.len() as u64, chain::extend(0, &header));
    files[at].1 = mark.encode().to_vec();
    files
}

#[test]
fn a_tail_longer_than_one_group_is_damage_also_when_nothing_follows_it() {
    let (files, holds) = made();
    let files = with_low_mark(&files);
    let at = index(&files, "log-");
    for byte in [0, 0x55] {
        let mut torn = files.clone();
        let length = torn[at].1.len();
        torn[at].1.resize(length + GROUP_BYTES, byte);
        let folder = put_down(&torn);
        let store = LogStore::open(folder.path(), Options::default()).unwrap();
        assert_eq!(content(&store), holds);
        torn[at].1.push(byte);
        assert!(refusal(&torn).contains(&format!("damaged at offset {length}")));
    }
}

#[test]
fn a_transaction_larger_than_a_group_is_announced_so_that_its_torn_tail_is_none_of_damage() {
    let folder = tempfile::tempdir().unwrap();
    let store = LogStore::open(folder.path(), Options::default()).unwrap();
    put(&store, "/small", b"1");
    let before = files(folder.path());
    put(&store, "/large", &vec![7; 3 * GROUP_BYTES]);
    assert_eq!(store.stats().flushes, 3, "one more for what is large, and only for that");
    drop(store);
    let mut torn = files(folder.path());
    let at = index(&torn, "log-");
    torn[index(&before, "MARK")] = before[index(&before, "MARK")].clone();
    let length = torn[at].1.len();
    torn[at].1.truncate(length - 10);
    let folder = put_down(&torn);
    let store = LogStore::open(folder.path(), Options::default()).unwrap();
    assert_eq!(content(&store).len(), 1);
}

#[test]
fn what_a_crash_leaves_between_two_steps_of_a_change_of_the_chain_is_no_loss() {
    let (files, holds) = made();
    let (id, open) = (
        Manifest::decode(std::str::from_utf8(&files[index(&files, "MANIFEST")].1).unwrap()).unwrap().id,
        open_log(&files),
    );
    let next_log = (Kind::Log.file(open + 1), chain::header(Kind::Log, id, open + 1).to_vec());
    let unnamed = (Kind::Snapshot.file(open), b"a snapshot that no manifest names".to_vec());
    let old = (Kind::Snapshot.file(0), b"not deleted yet".to_vec());
    let old_log = (Kind::Log.file(0), b"not deleted yet".to_vec());
    for left in [next_log, unnamed, old, old_log, ("snapshot.tmp".into(), vec![1])] {
        if files.iter().any(|(name, _)| *name == left.0) {
            continue;
        }
        let mut files = files.clone();
        files.push(left.clone());
        let folder = put_down(&files);
        let store = LogStore::open(folder.path(), Options::default()).unwrap();
        assert_eq!(content(&store), holds, "{}", left.0);
        put(&store, "/more", b"x");
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_named_and_not_made_anew() {
    let (files, _) = made();
    let folder = put_down(&files);
    // A folder where a file should be: its like for a process without root's rights.
    let log = folder.path().join(Kind::Log.file(open_log(&files)));
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    let error = LogStore::open(folder.path(), Options::default()).err().unwrap();
    assert!(matches!(&error, StoreError::Io { operation, .. } if operation.contains("log-")), "{error}");
    let file: PathBuf = folder.path().join("MANIFEST");
    let error = LogStore::open(&file, Options::default()).err().unwrap();
    assert!(error.to_string().contains("make the folder"), "{error}");
}

#[test]
fn every_truncation_of_every_file_is_refused_or_loses_nothing() {
    let (files, holds) = made();
    for at in 0..files.len() {
        let (name, bytes) = &files[at];
        for length in 0..bytes.len() {
            let mut cut = files.clone();
            cut[at].1.truncate(length);
            let folder = put_down(&cut);
            let opened = LogStore::open(folder.path(), Options::default());
            assert_eq!(opened.is_ok(), name == "LOCK", "{name} cut to {length} of {}", bytes.len());
            if let Ok(store) = opened {
                assert_eq!(content(&store), holds, "{name} cut to {length}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After a power cut the mark may be older; whatever it covers is there or missed.
    #[test]
    fn a_cut_log_with_an_older_mark_holds_all_up_to_the_mark_or_is_refused(marked in 0usize..6, cut in 0usize..600) {
        static MARKS: std::sync::OnceLock<Vec<Files>> = std::sync::OnceLock::new();
        let marks = MARKS.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let store = LogStore::open(folder.path(), Options::default()).unwrap();
            let mut marks = vec![files(folder.path())];
            for n in 0..5u8 {
                put(&store, &format!("/{n}"), &[n; 40]);
                marks.push(files(folder.path()));
            }
            marks
        });
        let mut torn = marks[5].clone();
        let (mark, log) = (index(&torn, "MARK"), index(&torn, "log-"));
        torn[mark] = marks[marked][mark].clone();
        let floor = Mark::decode(&torn[mark].1).unwrap().log.length as usize;
        let length = cut.min(torn[log].1.len());
        torn[log].1.truncate(length);
        let folder = put_down(&torn);
        let opened = LogStore::open(folder.path(), Options::default());
        prop_assert_eq!(opened.is_ok(), length >= floor);
        if let Ok(store) = opened {
            prop_assert!(content(&store).len() >= marked);
        }
    }

    #[test]
    fn a_flipped_byte_is_refused_or_loses_nothing(at in any::<prop::sample::Index>(), offset in any::<prop::sample::Index>()) {
        let (mut files, holds) = made();
        let at = at.index(files.len());
        let offset = offset.index(files[at].1.len());
        files[at].1[offset] ^= 0x10;
        let folder = put_down(&files);
        if let Ok(store) = LogStore::open(folder.path(), Options::default()) {
            prop_assert_eq!(content(&store), holds, "{} at {}", &files[at].0, offset);
        }
    }
}
