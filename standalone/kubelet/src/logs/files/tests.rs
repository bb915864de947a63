use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};

use super::*;

fn packed(path: &Path, text: &str) {
    let mut packer = GzEncoder::new(File::create(path).unwrap(), Compression::default());
    packer.write_all(text.as_bytes()).unwrap();
    packer.finish().unwrap();
}

/// A folder with a log `0.log` of three files.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("0.log");
    packed(&with_suffix(&log, "20260101-000001.gz"), "a\nb\n");
    fs::write(with_suffix(&log, "20260101-000002"), "c\nd\n").unwrap();
    fs::write(&log, "e\n").unwrap();
    (folder, log)
}

fn text(sources: Vec<Source>) -> String {
    let mut text = String::new();
    sources.into_iter().for_each(|mut source| _ = source.read_to_string(&mut text).unwrap());
    text
}

#[test]
fn a_logs_files_are_known_by_their_names_and_nothing_else_is() {
    let (folder, log) = folder();
    let others =
        ["1.log.20260101-000003", "0.log.bak", "0.log.20261301-000000", "0.log.20260101-000003.xz", "0.logs"];
    others.iter().for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
    let leavings = ["0.log.20260101-000001", "0.log.20260101-000002.gz.tmp"];
    leavings.iter().for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
    let mut found = Formers::of(&log).unwrap();
    let files: Vec<_> = found.files.iter().map(|file| (file.stamp.as_str(), file.packed)).collect();
    assert_eq!(files, [("20260101-000001", true), ("20260101-000002", false)]);
    found.leavings.sort();
    assert_eq!(found.leavings, leavings.map(|name| folder.path().join(name)));
    assert_eq!(text(open_all(&log, None).unwrap()), "a\nb\nc\nd\ne\n", "nothing twice");
    remove(&log);
    let mut left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    let mut others = others;
    others.sort_unstable();
    assert_eq!(left, others);
}

#[test]
fn names_go_up_even_when_the_clock_does_not() {
    let now = "2026-01-01T00:00:01.9Z".parse().unwrap();
    let name = |last| next_name(Path::new("/l/0.log"), last, now).0;
    assert_eq!(name(None), "20260101-000001");
    assert_eq!(name(Some("20251231-235959")), "20260101-000001");
    assert_eq!(name(Some("20260101-000001")), "20260101-000002");
    assert_eq!(name(Some("20260131-235959")), "20260201-000000");
}

#[test]
fn the_last_lines_are_found_through_all_files() {
    let last = |lines| {
        let (_folder, log) = folder();
        let mut sources = open_all(&log, None).unwrap();
        keep_last(&mut sources, lines).unwrap();
        text(sources)
    };
    assert_eq!([0, 1, 2, 3].map(last), ["", "e\n", "d\ne\n", "c\nd\ne\n"]);
    assert_eq!([4, 5, 9].map(last), ["b\nc\nd\ne\n", "a\nb\nc\nd\ne\n", "a\nb\nc\nd\ne\n"]);
}

#[test]
fn files_that_were_last_written_before_are_not_opened() {
    let (_folder, log) = folder();
    let old = SystemTime::from("2026-01-01T00:00:01Z".parse::<Timestamp>().unwrap());
    let file = File::options().write(true).open(with_suffix(&log, "20260101-000001.gz")).unwrap();
    file.set_modified(old).unwrap();
    let opened = |since: &str| text(open_all(&log, Some(since.parse().unwrap())).unwrap());
    assert_eq!(opened("2026-01-01T00:00:01.5Z"), "a\nb\nc\nd\ne\n");
    assert_eq!(opened("2026-01-01T00:00:03Z"), "c\nd\ne\n");
}
