//! Where things lie: the build folder, the tools, the lab's own folders.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Everything of every lab that should outlive a reboot: `STATE/LAB/NODE/…`.
pub const STATE: &str = "/var/lib/skerry-lab";
/// Sockets and claims: `RUN/LAB/NODE` is a node's `/run`. Short, since a socket's path may have 107 bytes.
pub const RUN: &str = "/run/skerry-lab";

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// A program of this workspace: from `$SKERRY_BIN_DIR`, else from beside the running test, else
/// `target/release`.
///
/// # Errors
/// When none of the three has it; the text names the command that builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| {
        let dir = exe.parent()?;
        // Only a test program takes what was built with it: xtask itself is a debug build that starts release
        // builds.
        dir.ends_with("deps").then(|| dir.parent().map(Path::to_path_buf))?
    });
    let dirs =
        [std::env::var_os("SKERRY_BIN_DIR").map(PathBuf::from), beside, Some(target().join("release"))];
    for dir in dirs.into_iter().flatten() {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("no program {name} in the build folder: run `cargo xtask build`");
}
