//! cgroup folders of pods: the runtime makes them and leaves them behind. What a pod as a whole is limited to
//! is written into them here, since the runtime knows containers only.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::spec::resources::{CPU_PERIOD_US, PodLimits};

/// Limits a pod's folder that is there, in every cgroup tree whose controller can. Containers come below it.
///
/// # Errors
/// When a limit could be set nowhere: the pod would run without it.
pub fn limit(cgroup: &str, limits: &PodLimits) -> io::Result<()> {
    let relative = folder(cgroup);
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let folders: Vec<PathBuf> = roots(&mounts).into_iter().map(|root| root.join(&relative)).collect();
    if let Some(bytes) = limits.memory_bytes {
        write_first(
            &folders,
            &[("memory.max", bytes.to_string()), ("memory.limit_in_bytes", bytes.to_string())],
        )?;
    }
    if let Some(quota) = limits.cpu_quota_us {
        let both = format!("{quota} {CPU_PERIOD_US}");
        write_first(&folders, &[("cpu.max", both), ("cpu.cfs_quota_us", quota.to_string())])?;
    }
    Ok(())
}

/// Into the first of these files (of version 2, of version 1) that one of the folders has.
fn write_first(folders: &[PathBuf], files: &[(&str, String)]) -> io::Result<()> {
    for (name, value) in files {
        if let Some(path) = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists()) {
            return fs::write(path, value);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no cgroup of the pod has {}", files[0].0)))
}

/// Removes a pod's folder, and what is in it, from every cgroup tree that is mounted. Folders with processes
/// in them stay (the kernel refuses), as does what cannot be removed for another reason; the next pod's end
/// tries nothing of it.
pub fn remove(cgroup: &str) {
    let relative = folder(cgroup);
    let is_below = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    if relative.as_os_str().is_empty() || !relative.components().all(is_below) {
        return;
    }
    for root in mounted() {
        remove_tree(&root.join(&relative));
    }
}

/// The roots of all cgroup trees that are mounted.
pub fn mounted() -> Vec<PathBuf> {
    roots(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// Where a cgroup that the runtime was given stands below each root: a path as it is, or one of systemd's
/// slices, which stands in those that its name begins with (systemd.slice(5)).
pub fn folder(cgroup: &str) -> PathBuf {
    let Some(name) = cgroup.strip_suffix(".slice").filter(|name| !name.contains('/')) else {
        return PathBuf::from(cgroup.trim_matches('/'));
    };
    let dashes = name.match_indices('-').map(|(at, _)| at);
    dashes.chain([name.len()]).map(|end| format!("{}.slice", &name[..end])).collect()
}

/// The folder of one of a pod's containers, as containerd names it.
pub fn container(pod: &Path, id: &str, systemd: bool) -> PathBuf {
    pod.join(if systemd { format!("cri-containerd-{id}.scope") } else { id.to_owned() })
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

    #[test]
    fn a_slice_stands_in_those_that_it_is_named_after() {
        let nested = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice";
        assert_eq!(folder("kubepods-burstable-podu_1.slice"), PathBuf::from(nested));
        assert_eq!(folder("/lab/n1/kubepods/podu"), PathBuf::from("lab/n1/kubepods/podu"));
        assert_eq!((folder("/"), folder("")), (PathBuf::new(), PathBuf::new()));
        let slice = folder("kubepods-podu.slice");
        assert!(container(&slice, "c", true).ends_with("kubepods-podu.slice/cri-containerd-c.scope"));
        assert_eq!(container(Path::new("kubepods/podu"), "c", false), PathBuf::from("kubepods/podu/c"));
    }

    #[test]
    fn a_limit_goes_where_its_controller_is_and_nowhere_else_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        for (folder, file) in [(&old, "memory.limit_in_bytes"), (&new, "cpu.max")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join(file), "").unwrap();
        }
        let folders = [new.clone(), old.clone()];
        let memory = [("memory.max", "1".to_owned()), ("memory.limit_in_bytes", "2".to_owned())];
        write_first(&folders, &memory).unwrap();
        assert_eq!(fs::read_to_string(old.join("memory.limit_in_bytes")).unwrap(), "2");
        write_first(&folders, &[("cpu.max", "5 10".to_owned())]).unwrap();
        assert_eq!(fs::read_to_string(new.join("cpu.max")).unwrap(), "5 10");
        let error = write_first(&folders, &[("pids.max", "5".to_owned())]).unwrap_err();
        assert_eq!(error.to_string(), "no cgroup of the pod has pids.max");
    }
}
