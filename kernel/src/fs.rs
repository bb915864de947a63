use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{Error, sys};

/// `BPF_FS_MAGIC` and `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const BPF_MAGIC: i64 = 0xcafe_4a11;
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Whether `path` lies on a BPF file system. `false` where there is nothing at all.
pub fn is_bpffs(path: &Path) -> Result<bool, Error> {
    is_type(path, BPF_MAGIC)
}

/// Whether `path` lies in a cgroup v2 hierarchy.
pub fn is_cgroup2(path: &Path) -> Result<bool, Error> {
    is_type(path, CGROUP2_MAGIC)
}

fn is_type(path: &Path, magic: i64) -> Result<bool, Error> {
    match sys::filesystem_type(path) {
        // Some C libraries have the field 32 bits wide and signed.
        Ok(found) => Ok(found as u32 == magic as u32),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::system("ask for the file system of", path.display(), e)),
    }
}

/// Mounts a BPF file system on a folder (made if absent), unless there is one. Only root sees it (mode 0700).
pub fn mount_bpffs(path: &Path) -> Result<(), Error> {
    if is_bpffs(path)? {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(|e| Error::system("make folder", path.display(), e))?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount(c"bpf", path, flags, c"mode=0700")
        .map_err(|e| Error::system("mount a BPF file system on", path.display(), e))
}

/// Takes a mount off its folder, also while files on it are open.
pub fn unmount(path: &Path) -> Result<(), Error> {
    sys::unmount(path).map_err(|e| Error::system("unmount", path.display(), e))
}

/// Where the cgroup v2 hierarchy is mounted in the caller's mount namespace: `/sys/fs/cgroup` on systemd
/// machines of today, `/sys/fs/cgroup/unified` on hybrid ones, wherever a container has the host's. `None`:
/// nowhere.
pub fn cgroup2_mount() -> Result<Option<PathBuf>, Error> {
    const PATH: &str = "/proc/self/mountinfo";
    let text = std::fs::read_to_string(PATH).map_err(|e| Error::system("read", PATH, e))?;
    Ok(find_mount(&text, "cgroup2"))
}

/// `proc_pid_mountinfo(5)`: the mount point is field five, the type the first after a lone dash. Only a mount
/// of the hierarchy's root counts (field four), or of the highest folder above the caller's own cgroup where
/// the caller has a cgroup namespace: a container sees its own cgroup as `/`, and the host's hierarchy that
/// was mounted into it as `/../..`.
fn find_mount(mountinfo: &str, kind: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let levels = levels_above(fields.get(3)?)?;
        let is_it = filesystem.split(' ').next() == Some(kind);
        is_it.then(|| fields.get(4).map(|path| (levels, PathBuf::from(unescape(path)))))?
    });
    // Of several equal ones the first.
    mounts.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, path)| path)
}

/// 0 for `/`, 1 for `/..` and so on; `None` for a folder that does not lie above.
fn levels_above(root: &str) -> Option<usize> {
    let mut parts = root.split('/').filter(|part| !part.is_empty());
    let levels = parts.clone().count();
    parts.all(|part| part == "..").then_some(levels)
}

/// Blank, tab, newline and backslash stand there as three octal digits.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (from, to)| path.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_among_others() {
        let text = "24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            25 24 0:23 / /sys/fs/cgroup/cpu rw,nosuid shared:9 - cgroup cgroup rw,cpu\n\
            26 24 0:24 /inner /elsewhere rw - cgroup2 cgroup2 rw\n\
            27 24 0:24 / /mnt/a\\040b rw,relatime shared:4 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(text, "cgroup2"), Some("/mnt/a b".into()));
        assert_eq!(find_mount(text, "bpf"), None);
    }

    #[test]
    fn in_a_container_the_hosts_hierarchy_is_found_and_not_its_own() {
        let text = "30 1 0:24 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
            31 1 0:24 /../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup rw\n\
            32 1 0:24 /../other /mnt rw - cgroup2 cgroup rw\n\
            33 1 0:24 /../../.. /host/again ro - cgroup2 cgroup rw\n";
        assert_eq!(find_mount(text, "cgroup2"), Some("/host/sys/fs/cgroup".into()));
    }
}
