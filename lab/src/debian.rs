//! Debian's packages: what is missing is installed, or only unpacked where a service would be started.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{command, paths};

/// Says no to every start of a service while packages are being installed.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Which of `packages` are not installed.
///
/// # Errors
/// On a machine without dpkg.
pub fn missing(packages: &[&str]) -> Result<Vec<String>> {
    let out = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .context("ask dpkg-query: is this Debian?")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let there: Vec<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().filter(|p| !there.contains(p)).map(|p| (*p).to_owned()).collect())
}

/// Installs `packages` without their recommendations and without starting a service.
///
/// # Errors
/// When apt-get fails; its last words are in the text.
pub fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let _lock = lock()?;
    update_once()?;
    let policy = NoServices::set()?;
    let result = command::output(
        Command::new("apt-get")
            .args(["install", "-y", "-q", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
    drop(policy);
    result.map(drop)
}

/// Unpacks `package` into `target/tools/debian/PACKAGE` without installing it, once.
///
/// # Errors
/// When it can't be downloaded or unpacked.
pub fn unpacked(package: &str) -> Result<PathBuf> {
    let dir = paths::target().join("tools/debian").join(package);
    if dir.is_dir() {
        return Ok(dir);
    }
    let _lock = lock()?;
    if dir.is_dir() {
        return Ok(dir);
    }
    update_once()?;
    let parent = dir.parent().context("a folder for packages")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent).context("make a folder to download to")?;
    // `_apt` may not write there: apt-get then warns and downloads as root, which is what is wanted.
    command::output(Command::new("apt-get").args(["download", "-q", package]).current_dir(work.path()))?;
    let deb = fs::read_dir(work.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt-get download {package} left no file"))?;
    let fresh = work.path().join("root");
    command::output(Command::new("dpkg").arg("-x").arg(&deb).arg(&fresh))?;
    fs::rename(&fresh, &dir).with_context(|| format!("keep {}", dir.display()))?;
    Ok(dir)
}

/// A fresh machine has no package lists, or those of the day that its image was made: they name versions that
/// are gone and lack packages that came since. Where the mirror can't be reached old lists must do.
fn update_once() -> Result<()> {
    static DONE: OnceLock<()> = OnceLock::new();
    if DONE.get().is_some() {
        return Ok(());
    }
    if let Err(error) = command::run("apt-get", &["update", "-q"]) {
        if !has_lists(Path::new("/var/lib/apt/lists")) {
            return Err(error);
        }
        eprintln!("the package lists could not be updated, the old ones must do: {error:#}");
    }
    DONE.get_or_init(|| ());
    Ok(())
}

fn has_lists(folder: &Path) -> bool {
    let Ok(lists) = fs::read_dir(folder) else { return false };
    lists.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// Two test processes on a fresh machine must not both call apt-get.
fn lock() -> Result<Flock<fs::File>> {
    let path = paths::target().join("tools/lock");
    let parent = path.parent().context("a folder for the lock")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let file = fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(lock),
        Err((_, errno)) => bail!("lock {}: {errno}", path.display()),
    }
}

struct NoServices {
    ours: bool,
}

impl NoServices {
    fn set() -> Result<NoServices> {
        use std::{io::Write, os::unix::fs::OpenOptionsExt};
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match made {
            Ok(mut file) => {
                file.write_all(b"#!/bin/sh\nexit 101\n").with_context(|| format!("write {POLICY}"))?;
                Ok(NoServices { ours: true })
            }
            // One that is there has the machine's own reasons.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(NoServices { ours: false }),
            Err(error) => Err(error).with_context(|| format!("write {POLICY}: are you root?")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("remove {POLICY}: {error}");
        }
    }
}
