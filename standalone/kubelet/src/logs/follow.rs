//! A log as a stream of bytes, followed by inotify until the container has ended.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::{net::unix::pipe, sync::mpsc};

use super::{line, tail};

/// Longer lines (the runtime splits at 16 KiB) are cut.
const LINE_LIMIT: usize = 1 << 20;
const READ_BYTES: usize = 64 << 10;

/// What `kubectl logs` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    /// Lines before this are left out.
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// Only this stream, if one is named.
    pub stdout_only: Option<bool>,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("read log {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("watch log {}", path.display())]
    Watch { path: PathBuf, source: io::Error },
}

/// Sends the log's bytes into `out` until its end; when following, until `ended` completes and the rest is
/// read. Returns early, without an error, when nobody takes the bytes any more.
pub async fn stream(
    path: &Path,
    options: &LogOptions,
    out: &mpsc::Sender<Bytes>,
    ended: impl Future<Output = ()>,
) -> Result<(), LogError> {
    let read = |source| LogError::Read { path: path.to_owned(), source };
    let watch = |source| LogError::Watch { path: path.to_owned(), source };
    let changes = if options.follow { Some(Changes::of(path).map_err(watch)?) } else { None };
    let mut file = File::open(path).map_err(read)?;
    let start = match options.tail_lines {
        Some(lines) => tail::offset_of_last(&mut file, lines).map_err(read)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).map_err(read)?;
    let mut filter = Filter { options, left: options.limit_bytes, pending: Vec::new(), fresh: [true, true] };
    let mut ended = std::pin::pin!(ended);
    let mut over = false;
    let mut block = vec![0; READ_BYTES];
    loop {
        let length = file.read(&mut block).map_err(read)?;
        if length > 0 {
            let bytes = filter.take(&block[..length]);
            if !bytes.is_empty() && out.send(bytes).await.is_err() {
                return Ok(());
            }
            if filter.left == Some(0) {
                return Ok(());
            }
            continue;
        }
        let Some(changes) = changes.as_ref().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            changed = changes.next() => changed.map_err(watch)?,
            () = &mut ended => over = true,
            () = out.closed() => return Ok(()),
        }
    }
}

/// Turns file lines into what the client sees.
struct Filter<'a> {
    options: &'a LogOptions,
    left: Option<u64>,
    /// The start of a line whose end was not read yet.
    pending: Vec<u8>,
    /// Whether the next text of stdout, stderr begins a line.
    fresh: [bool; 2],
}

impl Filter<'_> {
    fn take(&mut self, bytes: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(bytes.len());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.pending.len() + piece.len() > LINE_LIMIT {
                self.pending.clear();
                continue;
            }
            self.pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.pending);
                self.line(&line, &mut out);
            }
        }
        if let Some(left) = &mut self.left {
            let allowed = usize::try_from(*left).unwrap_or(usize::MAX);
            out.truncate(allowed);
            *left -= u64::try_from(out.len()).unwrap_or(0);
        }
        Bytes::from(out)
    }

    fn line(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = line::parse(raw) else { return };
        if self.options.stdout_only.is_some_and(|stdout| stdout != line.stdout) {
            return;
        }
        if let Some(since) = self.options.since
            && line.timestamp().is_none_or(|time| time < since)
        {
            return;
        }
        let fresh = &mut self.fresh[usize::from(!line.stdout)];
        if self.options.timestamps && *fresh {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        *fresh = !line.partial;
    }
}

/// inotify on one file. Its descriptor is read as tokio reads a pipe's: both become readable and hold
/// records.
struct Changes {
    inotify: pipe::Receiver,
}

impl Changes {
    fn of(path: &Path) -> io::Result<Changes> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        let file = File::from(OwnedFd::from(inotify));
        Ok(Changes { inotify: pipe::Receiver::from_file_unchecked(file)? })
    }

    /// Returns once the file has been written to since the last call.
    async fn next(&self) -> io::Result<()> {
        let mut records = [0; 4096];
        loop {
            self.inotify.readable().await?;
            match self.inotify.try_read(&mut records) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.0Z stdout F one\n2026-01-01T00:00:02.0Z stderr F two\n\
        2026-01-01T00:00:03.0Z stdout P thr\n2026-01-01T00:00:03.0Z stdout F ee\n";

    async fn read(options: LogOptions) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(LOG.as_bytes()).unwrap();
        let (out, mut bytes) = mpsc::channel(16);
        stream(file.path(), &options, &out, std::future::pending()).await.unwrap();
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
            stream(&path, &options, &out, async { _ = ended.await }).await
        });
        for text in ["a", "b"] {
            writeln!(file, "2026-01-01T00:00:01Z stdout F {text}").unwrap();
            assert_eq!(bytes.recv().await.unwrap(), format!("{text}\n"));
        }
        end.send(()).unwrap();
        task.await.unwrap().unwrap();
    }
}
