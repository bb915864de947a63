//! What the kernel says of a process.

use std::{fs, path::Path};

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

/// Bytes that it has caused to be written to a disk.
///
/// # Errors
/// When it is gone.
pub fn written_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    let value = value.with_context(|| format!("no write_bytes in {path}"))?.trim();
    value.parse().with_context(|| format!("read write_bytes of {path}: {value}"))
}

/// CPU time that a process and the children it waits for have used, threads together.
///
/// # Errors
/// When it is gone.
pub fn cpu_ns(pid: u32) -> Result<u64> {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let mut sum = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("read {}", tasks.display()))?.flatten() {
        // Time on the CPU in nanoseconds is its first number (Documentation/scheduler/sched-stats.rst).
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}
