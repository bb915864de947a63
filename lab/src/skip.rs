//! A test that cannot run here says so in a place that the test runner reads.

use std::{fs::OpenOptions, io::Write};

/// Names the file to which skipped tests are written, one `TEST\tWHY` a line. `cargo xtask test` sets it.
pub const SKIPS: &str = "SKERRY_SKIPS";

/// Records that `test` is not run, and why; the caller then returns.
///
/// The line goes to standard error and, where `$SKERRY_SKIPS` names a file, to its end. The runner names each
/// skip in its summary and fails on one that it did not expect: a skip must never look like a pass.
pub fn skipped(test: &str, why: &str) {
    let (test, why) = (one_line(test), one_line(why));
    eprintln!("skipped: {test}: {why}");
    let Some(path) = std::env::var_os(SKIPS) else { return };
    // One write of less than a page with O_APPEND: lines of test processes that run side by side don't mix.
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| file.write_all(format!("{test}\t{why}\n").as_bytes()));
    if let Err(error) = written {
        // Unrecorded, it would count as passed.
        panic!("record the skip of {test} in {}: {error}", path.display());
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
