//! inotify as a source of events for tokio.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use nix::sys::inotify::{InitFlags, Inotify, WatchDescriptor};
use tokio::net::unix::pipe;

pub use nix::sys::inotify::AddWatchFlags as Flags;

/// Room for some dozens of records; one is as long as a file's name and 16 bytes.
const BUFFER: usize = 4096;
const HEAD: usize = 16;

/// One inotify instance: the kernel allows a user some hundred of them, and each any number of watches.
pub struct Watcher {
    inotify: Inotify,
    /// The same descriptor, read as tokio reads a pipe's: both become readable and hold bytes.
    records: pipe::Receiver,
}

impl Watcher {
    /// # Errors
    /// When the user has all the instances that the kernel allows.
    pub fn new() -> io::Result<Watcher> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let same: OwnedFd = inotify.as_fd().try_clone_to_owned()?;
        Ok(Watcher { inotify, records: pipe::Receiver::from_file_unchecked(File::from(same))? })
    }

    /// Watches a path; of one that is watched already the flags are replaced.
    ///
    /// # Errors
    /// When it is not there, or the user has all the watches that the kernel allows.
    pub fn add(&self, path: &Path, flags: Flags) -> io::Result<WatchDescriptor> {
        Ok(self.inotify.add_watch(path, flags)?)
    }

    pub fn remove(&self, watch: WatchDescriptor) {
        // It may have gone with its file, or by its first event.
        let _ = self.inotify.rm_watch(watch);
    }

    /// The numbers of the watches that have something to tell, -1 where the kernel's queue ran over; waits for
    /// the first. Nothing is lost by dropping it half-way.
    ///
    /// # Errors
    /// When the descriptor can't be read.
    pub async fn events(&self) -> io::Result<Vec<i32>> {
        let mut records = [0; BUFFER];
        loop {
            self.records.readable().await?;
            match self.records.try_read(&mut records) {
                Ok(length) => return Ok(watches(&records[..length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Of each `struct inotify_event` (inotify(7)) the watch: its first field; the fourth is the length of the
/// name behind it.
fn watches(mut records: &[u8]) -> Vec<i32> {
    let mut watches = Vec::new();
    while let Some((head, rest)) = records.split_first_chunk::<HEAD>() {
        let [a, b, c, d, .., w, x, y, z] = *head;
        watches.push(i32::from_ne_bytes([a, b, c, d]));
        let name = usize::try_from(u32::from_ne_bytes([w, x, y, z])).unwrap_or(usize::MAX);
        records = rest.get(name..).unwrap_or_default();
    }
    watches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_are_told_by_the_watch_that_saw_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "").unwrap();
        let watcher = Watcher::new().unwrap();
        let of_folder = watcher.add(folder.path(), Flags::IN_CREATE).unwrap();
        let of_file = watcher.add(&path, Flags::IN_MODIFY).unwrap();
        std::fs::write(folder.path().join("a-longer-name-than-sixteen-bytes"), "").unwrap();
        std::fs::write(&path, "x").unwrap();
        let mut told = Vec::new();
        while told.len() < 2 {
            told.extend(watcher.events().await.unwrap());
        }
        assert_eq!(told, [of_folder.as_raw(), of_file.as_raw()]);
    }
}
