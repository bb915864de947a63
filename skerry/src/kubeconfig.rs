//! `skerry kubeconfig`.

use std::process::ExitCode;

use anyhow::Context;

use crate::{args::FolderArgs, paths::Paths};

pub fn run(args: FolderArgs) -> anyhow::Result<ExitCode> {
    let path = Paths(&args).kubeconfig("admin");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "read {}: no cluster was made here; start one with `skerry up`, or name its --data-dir",
            path.display()
        )
    })?;
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}
