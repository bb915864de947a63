//! `dist`: one archive for machines that have no toolchain.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use skerry_lab::{output, paths};

use crate::{
    build::{self, WORKSPACE},
    progress::Progress,
    say, setup,
};

/// The profile of its programs: smaller, and longer to build.
const PROFILE: &str = "dist";
const PROGRAMS: [&str; 2] = ["skerry", "skerry-cni"];
/// What else is in it, as it lies in the workspace.
const FILES: [&str; 5] = [
    "deploy/dist/install.sh",
    "deploy/systemd/skerry.service",
    "deploy/systemd/skerry-node.service",
    "LICENSE",
    "LICENSES",
];
/// The goal of docs/budgets.md, bytes.
const GOAL: u64 = 25_000_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take the programs as `cargo xtask up` and the tests have built them last (release), and build nothing
    #[arg(long)]
    built: bool,
    /// The folder that the archive is written to
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// # Errors
/// When the programs can't be built, or the archive not be written.
pub fn run(args: &Args) -> Result<()> {
    let profile = if args.built { "release" } else { PROFILE };
    if !args.built {
        let progress = Progress::new(3);
        progress.step("looking for what is missing");
        setup::run()?;
        progress.step("compiling the kernel programs");
        ebpf_build::build_by(|command| progress.run(command)).context("build the kernel programs")?;
        let what = PROGRAMS.join(" and ");
        progress.step(&format!("compiling {what} (profile {PROFILE}: the last takes minutes)"));
        let bins = PROGRAMS.iter().flat_map(|name| ["--bin", name]);
        progress.cargo(build::cargo().args(["build", "--profile", PROFILE]).args(WORKSPACE).args(bins))?;
    }
    let out = args.out.clone().unwrap_or_else(|| paths::target().join("dist-archive"));
    let archive = pack(&paths::target().join(profile), &out)?;
    let size = |path: &Path| fs::metadata(path).map(|file| file.len());
    say(&format!("{} ({:.1} MB)", archive.display(), size(&archive)? as f64 / 1e6));
    Ok(())
}

/// Writes `skerry-VERSION-linux-ARCH.tar.gz` of the programs in `built`, and returns its path.
fn pack(built: &Path, out: &Path) -> Result<PathBuf> {
    let arch = std::env::consts::ARCH;
    let name = format!("skerry-{}-linux-{arch}", env!("CARGO_PKG_VERSION"));
    let stage = out.join(&name);
    let _ = fs::remove_dir_all(&stage);
    for folder in ["bin", "systemd"] {
        let folder = stage.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    }
    for program in PROGRAMS {
        let to = stage.join("bin").join(program);
        // Of the release profile they have their symbols.
        output(Command::new("strip").arg("-o").arg(&to).arg(built.join(program))).with_context(|| {
            format!("strip {}: `cargo xtask build` makes it", built.join(program).display())
        })?;
        let bytes = fs::metadata(&to)?.len();
        let beyond = if bytes > GOAL { ", beyond its goal" } else { "" };
        say(&format!("{program}: {:.1} MB stripped{beyond}", bytes as f64 / 1e6));
    }
    for file in FILES {
        let from = paths::workspace().join(file);
        let folder = if file.contains("systemd") { stage.join("systemd") } else { stage.clone() };
        output(Command::new("cp").arg("-r").arg(&from).arg(folder))?;
    }
    fs::write(stage.join("ARCHITECTURE"), format!("{arch}\n")).context("write ARCHITECTURE")?;
    fs::set_permissions(stage.join("install.sh"), fs::Permissions::from_mode(0o755)).context("set a mode")?;
    let archive = out.join(format!("{name}.tar.gz"));
    // The same programs make the same archive, whoever packs them and when.
    let mut tar = Command::new("tar");
    tar.env("GZIP", "-9n").arg("-C").arg(out).args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
    ]);
    output(tar.args(["--mtime=@0", "--mode=u+rw,go=rX", "-czf"]).arg(&archive).arg(&name))?;
    fs::remove_dir_all(&stage).with_context(|| format!("remove {}", stage.display()))?;
    Ok(archive)
}
