use std::io::Write as _;

use super::*;
use crate::logs::rotate;

const LOG: &str = "2026-01-01T00:00:01.0Z stdout F one\n2026-01-01T00:00:02.0Z stderr F two\n\
    2026-01-01T00:00:03.0Z stdout P thr\n2026-01-01T00:00:03.0Z stdout F ee\n";

async fn read(options: LogOptions) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(LOG.as_bytes()).unwrap();
    let (out, mut bytes) = mpsc::channel(16);
    stream(file.path(), &Turns::default(), &options, &out, std::future::pending()).await.unwrap();
    drop(out);
    let mut text = Vec::new();
    while let Some(piece) = bytes.recv().await {
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn options_choose_lines_and_bytes() {
    let base = LogOptions::default;
    assert_eq!(read(base()).await, "one\ntwo\nthree\n");
    assert_eq!(read(LogOptions { tail_lines: Some(3), ..base() }).await, "two\nthree\n");
    assert_eq!(read(LogOptions { tail_lines: Some(0), ..base() }).await, "");
    assert_eq!(read(LogOptions { limit_bytes: Some(6), ..base() }).await, "one\ntw");
    assert_eq!(read(LogOptions { stdout_only: Some(false), ..base() }).await, "two\n");
    let since = Some("2026-01-01T00:00:02Z".parse().unwrap());
    assert_eq!(read(LogOptions { since, ..base() }).await, "two\nthree\n");
    let stamped = read(LogOptions { timestamps: true, ..base() }).await;
    assert!(stamped.ends_with("2026-01-01T00:00:03.0Z three\n"), "{stamped}");
}

#[tokio::test]
async fn following_gives_new_lines_at_once_and_ends_with_the_container() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_owned();
    let (out, mut bytes) = mpsc::channel(16);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let options = LogOptions { follow: true, ..Default::default() };
        stream(&path, &Turns::default(), &options, &out, async { _ = ended.await }).await
    });
    for text in ["a", "b"] {
        writeln!(file, "2026-01-01T00:00:01Z stdout F {text}").unwrap();
        assert_eq!(bytes.recv().await.unwrap(), format!("{text}\n"));
    }
    end.send(()).unwrap();
    task.await.unwrap().unwrap();
}
fn line(text: &str) -> String {
    format!("2026-01-01T00:00:01Z stdout F {text}\n")
}

/// Puts the log aside as the keeper does it, with these last lines.
async fn turn(log: &Path, turns: &Turns, last: &str) {
    let mut past = turns.write().await;
    rotate::tidy(log, 5).unwrap();
    let (stamp, aside) = rotate::put_aside(log, Timestamp::now()).unwrap();
    let mut writer = std::fs::File::options().append(true).open(&aside).unwrap();
    std::fs::write(log, "").unwrap();
    writer.write_all(last.as_bytes()).unwrap();
    turns.turned(&mut past, stamp);
}

#[tokio::test]
async fn following_goes_on_in_the_next_file_whatever_was_written_to_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("0.log");
    std::fs::write(&log, line("0")).unwrap();
    let turns = std::sync::Arc::new(Turns::default());
    // Little room: the reader is behind when the log is turned over again and again.
    let (out, mut bytes) = mpsc::channel(1);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let task = {
        let (log, turns) = (log.clone(), turns.clone());
        tokio::spawn(async move {
            let options = LogOptions { follow: true, ..Default::default() };
            stream(&log, &turns, &options, &out, async { _ = ended.await }).await
        })
    };
    let mut text = bytes.recv().await.unwrap().to_vec();
    for n in 0..3 {
        let more = std::fs::File::options().append(true).open(&log).unwrap();
        (&more).write_all(line(&format!("{n}a")).as_bytes()).unwrap();
        turn(&log, &turns, &line(&format!("{n}b"))).await;
    }
    let mut more = std::fs::File::options().append(true).open(&log).unwrap();
    more.write_all(line("end").as_bytes()).unwrap();
    end.send(()).unwrap();
    while let Some(piece) = bytes.recv().await {
        text.extend_from_slice(&piece);
    }
    task.await.unwrap().unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), "0\n0a\n0b\n1a\n1b\n2a\n2b\nend\n");
}

#[tokio::test]
async fn what_the_log_was_before_is_read_first() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("0.log");
    let turns = Turns::default();
    std::fs::write(&log, line("0")).unwrap();
    turn(&log, &turns, "").await;
    turn(&log, &turns, &line("1")).await;
    std::fs::write(&log, line("2")).unwrap();
    let read = async |options: LogOptions| {
        let (out, mut bytes) = mpsc::channel(16);
        stream(&log, &turns, &options, &out, std::future::pending()).await.unwrap();
        drop(out);
        let mut text = Vec::new();
        while let Some(piece) = bytes.recv().await {
            text.extend_from_slice(&piece);
        }
        String::from_utf8(text).unwrap()
    };
    assert_eq!(read(LogOptions::default()).await, "0\n1\n2\n");
    assert_eq!(read(LogOptions { tail_lines: Some(2), ..LogOptions::default() }).await, "1\n2\n");
}
