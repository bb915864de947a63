//! File systems, and what lies in folders.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use nix::sys::statvfs::statvfs;

/// Entries that are looked at in one folder's tree: beyond that its size is not told.
const MAX_ENTRIES: u64 = 200_000;

/// A file system as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    pub capacity: u64,
    /// To those who are not root.
    pub available: u64,
    pub used: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// What files use, bytes on the disk and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

impl Used {
    pub fn and(self, other: Used) -> Used {
        Used { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

/// The file system that a path is on.
pub fn file_system(path: &Path) -> Option<FileSystem> {
    let stat = statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Some(FileSystem {
        capacity: bytes(stat.blocks()),
        available: bytes(stat.blocks_available()),
        used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

/// What a folder's tree uses, without what is mounted below it; `None` where it can't be read or is too large
/// to count.
pub fn used(root: &Path) -> Option<Used> {
    let device = fs::symlink_metadata(root).ok()?.dev();
    let mut used = Used::default();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // What goes away meanwhile uses nothing.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != device {
                continue;
            }
            used = used.and(Used { bytes: metadata.blocks() * 512, inodes: 1 });
            if used.inodes > MAX_ENTRIES {
                return None;
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_counted_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/file"), vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a/root")).unwrap();
        let used = used(dir.path()).unwrap();
        assert_eq!(used.inodes, 3);
        assert!(used.bytes >= 10_000, "{used:?}");
        assert_eq!(super::used(&dir.path().join("not there")), None);
        assert!(file_system(dir.path()).is_some_and(|whole| whole.capacity > 0));
    }
}
