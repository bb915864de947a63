//! tmpfs for volumes that shall not reach a disk.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount as mount_call, umount2};

use super::VolumeError;

/// Mounts a tmpfs of at most `size` bytes (the kernel's half of the memory without).
pub fn mount(path: &Path, size: Option<u64>, mode: u32) -> Result<(), VolumeError> {
    let mut options = format!("mode={mode:o}");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    mount_call(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(|errno| VolumeError::Io {
        operation: "mount tmpfs on",
        path: path.to_owned(),
        source: errno.into(),
    })
}

pub fn is_mount_point(path: &Path) -> bool {
    mount_points().iter().any(|point| point == path)
}

/// Unmounts everything below a folder, innermost first; the folder can then be removed without reaching
/// elsewhere.
pub fn unmount_below(dir: &Path) -> Result<(), VolumeError> {
    let mut points: Vec<PathBuf> =
        mount_points().into_iter().filter(|point| point.starts_with(dir)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        umount2(&point, MntFlags::MNT_DETACH).map_err(|errno| VolumeError::Io {
            operation: "unmount",
            path: point.clone(),
            source: errno.into(),
        })?;
    }
    Ok(())
}

fn mount_points() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .collect()
}

/// mountinfo writes space, tab, newline and backslash as `\ooo`.
fn unescape(point: &str) -> String {
    let spelt = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    spelt.iter().fold(point.to_owned(), |text, (code, plain)| text.replace(code, plain))
}
