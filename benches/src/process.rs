//! What the kernel says of a process.

use std::fs;

use anyhow::{Context, Result};

/// Its share of the memory it is in, in megabytes.
///
/// # Errors
/// When it is gone.
pub fn pss_mb(pid: u32) -> Result<f64> {
    Ok(kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss")? / 1024.0)
}

/// The value of a line `NAME:  VALUE kB`.
///
/// # Errors
/// When there is none.
pub fn kilobytes(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.with_context(|| format!("no {name} in {path}"))?;
    value
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .with_context(|| format!("read {name} of {path}: {value}"))
}
