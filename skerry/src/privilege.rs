//! Giving up root.

use std::{fs, os::unix::fs::lchown, path::Path};

use anyhow::{Context, ensure};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

/// Hands `dir` to user and group `id` and becomes them; nothing that is executed later can get more again.
/// Must be called before the first thread is started. Does nothing where the process is not root.
pub fn drop_to(id: u32, dir: &Path) -> anyhow::Result<()> {
    if !Uid::effective().is_root() {
        return Ok(());
    }
    ensure!(id != 0, "the server does not run as root: give --server-uid another number");
    hand_over(dir, id).with_context(|| format!("hand {} to user {id}", dir.display()))?;
    setgroups(&[]).context("leave all groups")?;
    setgid(Gid::from_raw(id)).with_context(|| format!("change to group {id}"))?;
    setuid(Uid::from_raw(id)).with_context(|| format!("change to user {id}"))?;
    nix::sys::prctl::set_no_new_privs().context("give up new privileges")?;
    ensure!(setuid(Uid::from_raw(0)).is_err(), "user {id} could become root again");
    Ok(())
}

fn hand_over(path: &Path, id: u32) -> std::io::Result<()> {
    lchown(path, Some(id), Some(id))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            hand_over(&entry?.path(), id)?;
        }
    }
    Ok(())
}
