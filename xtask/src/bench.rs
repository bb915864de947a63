//! `bench`: builds, runs the benchmarks asked for, and shows where their figures are.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use skerry_lab::paths;

use crate::{build, progress::Progress, say, setup};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// P1, P4, P8 …
    ids: Vec<String>,
    /// Keep P16's figures as those that later ones are compared with
    #[arg(long)]
    accept: bool,
    /// As few runs as show that a benchmark works; its figures are worth nothing
    #[arg(long)]
    quick: bool,
}

/// # Errors
/// When a benchmark can't be built or started.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::run()?;
    build::programs(&Progress::new(build::STEPS))?;
    build::binaries(&["skerry-benches"])?;
    say("measuring: leave the machine alone meanwhile");
    let release = paths::target().join("release");
    let flags = [("--accept", args.accept), ("--quick", args.quick)];
    let status = Command::new(release.join("skerry-benches"))
        .args(&args.ids)
        .args(flags.iter().filter(|(_, on)| *on).map(|(flag, _)| flag))
        .env("SKERRY_BIN_DIR", &release)
        .current_dir(paths::workspace())
        .status()
        .context("start the benchmarks")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
