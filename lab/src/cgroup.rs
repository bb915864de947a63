//! A cgroup folder of the lab's own: in cgroup2, and whatever the runtime made of that name in the v1 trees.

use std::{
    fs,
    io::{Read as _, Seek as _},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long killed processes may take to be gone: a process that writes a core or waits for a disk needs a
/// while.
const EMPTY: Duration = Duration::from_secs(20);
/// Between two looks at what sends no event (v1 folders).
const LOOK: Duration = Duration::from_millis(5);

/// A folder below the root of every cgroup tree of the machine.
#[derive(Clone, Debug)]
pub struct Cgroup {
    mount: PathBuf,
    path: String,
}

impl Cgroup {
    /// Makes `/PATH` in the cgroup2 tree; every folder above it hands its controllers down
    /// (a folder that is to hold others and no processes gets them when the first of those is made).
    ///
    /// # Errors
    /// Where no cgroup2 is mounted or the folder can't be made.
    pub fn create(path: &str) -> Result<Cgroup> {
        let cgroup = Cgroup::at(path)?;
        fs::create_dir_all(cgroup.dir()).with_context(|| format!("make {}", cgroup.dir().display()))?;
        cgroup.hand_down_controllers();
        Ok(cgroup)
    }

    /// One that may be there or not.
    ///
    /// # Errors
    /// Where no cgroup2 is mounted.
    pub fn at(path: &str) -> Result<Cgroup> {
        Ok(Cgroup { mount: v2_mount()?, path: path.trim_matches('/').to_owned() })
    }

    /// The folder in the cgroup2 tree.
    pub fn dir(&self) -> PathBuf {
        self.mount.join(&self.path)
    }

    pub fn child(&self, name: &str) -> Cgroup {
        Cgroup { mount: self.mount.clone(), path: format!("{}/{name}", self.path) }
    }

    /// The processes in this very folder, without those further down.
    pub fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.dir().join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills every process below and waits until none is left. Nothing to do is fine.
    ///
    /// # Errors
    /// When some are still there after 20 seconds.
    pub fn kill(&self) -> Result<()> {
        let dir = self.dir();
        if !dir.is_dir() {
            return Ok(());
        }
        let kill = dir.join("cgroup.kill");
        fs::write(&kill, "1").with_context(|| format!("write {}: Linux 5.14 or newer?", kill.display()))?;
        wait_empty(&dir)
    }

    /// Removes the folder from every tree, children first. Nothing to do is fine.
    ///
    /// # Errors
    /// When a folder stays busy for 20 seconds.
    pub fn remove(&self) -> Result<()> {
        let trees = trees()?;
        let deadline = Instant::now() + EMPTY;
        for tree in trees {
            let dir = tree.join(&self.path);
            // A v1 folder is busy until the last killed process has been reaped, and says nothing when that
            // was.
            while let Err(error) = remove_tree(&dir) {
                if Instant::now() > deadline {
                    return Err(error).with_context(|| format!("remove {}", dir.display()));
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    fn hand_down_controllers(&self) {
        let mut dir = self.mount.clone();
        for part in Path::new(&self.path) {
            let have = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
            for controller in have.split_whitespace() {
                // Refused where processes stand in `dir` itself: then limits don't bind, which tests of
                // limits show.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            dir.push(part);
        }
    }
}

fn wait_empty(dir: &Path) -> Result<()> {
    let path = dir.join("cgroup.events");
    let deadline = Instant::now() + EMPTY;
    let mut file = fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    loop {
        let mut events = String::new();
        file.rewind()
            .and_then(|()| file.read_to_string(&mut events))
            .with_context(|| format!("read {}", path.display()))?;
        if events.contains("populated 0") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("processes in {} are still there {EMPTY:?} after they were killed", dir.display());
        }
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        // The file signals each change since it was read last through this descriptor.
        let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
    }
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or a folder in it beside the v1 trees.
///
/// # Errors
/// Where it is not.
pub fn v2_mount() -> Result<PathBuf> {
    let found = mounts("cgroup2")?.into_iter().find(|path| path.starts_with("/sys/fs/cgroup"));
    found.context("no cgroup2 below /sys/fs/cgroup: mount one with `mount -t cgroup2 cgroup2 DIR` there")
}

fn trees() -> Result<Vec<PathBuf>> {
    let mut trees = mounts("cgroup2")?;
    trees.extend(mounts("cgroup")?);
    Ok(trees)
}

fn mounts(kind: &str) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(parse_mounts(&text, kind))
}

/// The mount points of one type of file system (mountinfo: proc_pid_mountinfo(5)).
fn parse_mounts(mountinfo: &str, kind: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        (right.split(' ').next() == Some(kind)).then(|| left.split(' ').nth(4).map(PathBuf::from))?
    };
    mountinfo.lines().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_type() {
        let text = "25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    26 25 0:23 / /sys/fs/cgroup/cpu rw,relatime shared:3 - cgroup cgroup rw,cpu\n\
                    27 25 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_mounts(text, "cgroup2"), [PathBuf::from("/sys/fs/cgroup/unified")]);
        assert_eq!(parse_mounts(text, "cgroup"), [PathBuf::from("/sys/fs/cgroup/cpu")]);
    }

    #[test]
    fn killing_ends_every_process_and_leaves_no_folder() {
        let cgroup = Cgroup::create(&format!("skerry-lab-unit-{}", std::process::id())).unwrap();
        let leaf = cgroup.child("leaf");
        fs::create_dir_all(leaf.dir()).unwrap();
        let line = format!("echo 0 > {}/cgroup.procs; sleep 100 & sleep 100", leaf.dir().display());
        let mut child = std::process::Command::new("sh").args(["-c", &line]).spawn().unwrap();
        while leaf.processes().len() < 2 {
            std::thread::sleep(LOOK);
        }
        cgroup.kill().unwrap();
        child.wait().unwrap();
        cgroup.remove().unwrap();
        assert!(!cgroup.dir().exists());
        cgroup.kill().unwrap();
        cgroup.remove().unwrap();
    }
}
