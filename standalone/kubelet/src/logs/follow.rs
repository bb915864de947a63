//! A log as a stream of bytes, followed by inotify until the container has ended.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    files::{self, Source},
    line,
    turns::Turns,
};
use crate::inotify::{Flags, Watcher};

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

/// Sends the log's bytes into `out` until its end, those that it was turned over with first; when following,
/// until `ended` completes and the rest is read. Returns early, without an error, when nobody takes the bytes
/// any more.
pub async fn stream(
    path: &Path,
    turns: &Turns,
    options: &LogOptions,
    out: &mpsc::Sender<Bytes>,
    ended: impl Future<Output = ()>,
) -> Result<(), LogError> {
    let read = |source| LogError::Read { path: path.to_owned(), source };
    let watch = |source| LogError::Watch { path: path.to_owned(), source };
    let changes = if options.follow { Some(Watcher::new().map_err(watch)?) } else { None };
    let watch_it = || changes.iter().try_for_each(|changes| changes.add(path, Flags::IN_MODIFY).map(drop));
    let mut turned = turns.count();
    // Number of the newest file that was opened.
    let mut number;
    let mut files = {
        let past = turns.read().await;
        number = past.current();
        watch_it().map_err(watch)?;
        VecDeque::from(open(path, options).await.map_err(read)?)
    };
    let mut filter = Filter { options, left: options.limit_bytes, pending: Vec::new(), fresh: [true, true] };
    let mut ended = std::pin::pin!(ended);
    let mut over = false;
    let mut block = vec![0; READ_BYTES];
    while let Some(file) = files.front_mut() {
        // Asked before the read: of a file that was put aside by now this reads all.
        let is_former = *turned.borrow_and_update() > number;
        let length = match file.read(&mut block) {
            Err(error) if files.len() > 1 => {
                tracing::warn!(log = %path.display(), %error, "a part of the log can't be read");
                0
            }
            other => other.map_err(read)?,
        };
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
        if files.len() > 1 || (options.follow && is_former) {
            files.pop_front();
            filter.pending.clear();
            if files.is_empty() {
                let past = turns.read().await;
                watch_it().map_err(watch)?;
                let (opened, file) = past.open(path, number + 1).map_err(read)?;
                number = opened;
                files.push_back(file);
            }
            continue;
        }
        let Some(changes) = changes.as_ref().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            changed = changes.events() => drop(changed.map_err(watch)?),
            Ok(()) = turned.changed() => {}
            () = &mut ended => over = true,
            () = out.closed() => return Ok(()),
        }
    }
    Ok(())
}

/// The files that are read. To find a line of a compressed one all of it is unpacked: that blocks.
async fn open(path: &Path, options: &LogOptions) -> io::Result<Vec<Source>> {
    let (path, since, last) = (path.to_owned(), options.since, options.tail_lines);
    let opened = tokio::task::spawn_blocking(move || {
        let mut files = files::open_all(&path, since)?;
        if let Some(lines) = last {
            files::keep_last(&mut files, lines)?;
        }
        Ok(files)
    });
    opened.await.unwrap_or_else(|error| Err(io::Error::other(error)))
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

#[cfg(test)]
mod tests;
