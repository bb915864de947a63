//! cgroup folders of pods: the runtime makes them and leaves them behind.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Removes a pod's folder, and what is in it, from every cgroup tree that is mounted. Folders with processes in them
/// stay (the kernel refuses), as does what cannot be removed for another reason; the next pod's end tries nothing of it.
pub fn remove(cgroup: &str) {
    let relative = cgroup.trim_start_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| part == "..") {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for root in roots(&mounts) {
        remove_tree(&root.join(relative));
    }
}

/// Removes the folders above the pods' own, as far as nothing is in them any more.
pub fn remove_parents(cgroup_parent: &str) {
    let parent = cgroup_parent.trim_matches('/');
    if parent.split('/').any(|part| part == "..") {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for root in roots(&mounts) {
        for folder in ["kubepods/burstable", "kubepods/besteffort", "kubepods"] {
            // The kernel refuses what is in use: it stays.
            let _ = fs::remove_dir(root.join(parent).join(folder));
        }
    }
}

/// Mount points of cgroup v1 hierarchies and of cgroup2.
fn roots(mountinfo: &str) -> Vec<PathBuf> {
    let lines = mountinfo.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let kind = file_system.split(' ').next()?;
        (kind == "cgroup" || kind == "cgroup2").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    });
    lines.collect()
}

/// Depth first; cgroup files need not and cannot be removed.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::debug!(cgroup = %dir.display(), %error, "cgroup folder stays");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_cgroup_trees_are_found() {
        let table = "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            31 23 0:27 / /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory\n\
            32 23 0:28 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(roots(table), ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"].map(PathBuf::from));
    }
}
