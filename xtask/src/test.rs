//! `test`: every test of the workspace, one closing line, each skip by its name.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use skerry_lab::paths;

use crate::{
    build::{self, TestProgram},
    progress::Progress,
    say, setup,
    verdict::{self, Verdict},
};

/// How many test programs run at once: most wait for something most of the time.
const SIDE_BY_SIDE: usize = 2;
/// These measure time, or start a whole cluster: they run alone, after the others.
const ALONE: &[&str] = &["skerry-tests/e2e"];
/// A package's tests are one program: on a slow machine the largest takes ten minutes.
const LIMIT: Duration = Duration::from_secs(1_200);
/// These take longest, so they begin first.
const FIRST: &[&str] = &["proxy-agent/it", "skerry-packet-cases/it", "skerry-kubelet/agent"];
/// Why a test may be skipped, as the beginning of the reason that it gives.
const EXPECTED_SKIPS: &[&str] =
    &["no Kubernetes reference", "the accepted figures are of Linux", "in a virtual machine only: "];

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these packages
    #[arg(short, long = "package")]
    packages: Vec<String>,
    /// Only test programs whose name has this in it (`PACKAGE/TARGET`)
    #[arg(long)]
    only: Option<String>,
    /// Passed on to every test program
    #[arg(last = true)]
    rest: Vec<String>,
}

/// # Errors
/// When the tests can't be built or started. Tests that fail give exit code 1.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::run()?;
    let begun = Instant::now();
    build::programs(&Progress::new(build::STEPS))?;
    // An end-to-end case types `cargo xtask up --host` on a machine of its own.
    build::binaries(&["xtask"])?;
    let mut programs = build::tests(&args.packages)?;
    if let Some(only) = &args.only {
        programs.retain(|program| program.name.contains(only));
    }
    programs
        .sort_by_key(|program| FIRST.iter().position(|name| *name == program.name).unwrap_or(FIRST.len()));
    let compiled = begun.elapsed();
    let logs = paths::target().join("test-logs");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).with_context(|| format!("make {}", logs.display()))?;
    let skips = logs.join("skips");
    say(&format!("running {} test programs; their output is in {}", programs.len(), logs.display()));

    let runner = Runner { logs, skips: skips.clone(), rest: args.rest.clone(), verdicts: Mutex::default() };
    let (alone, together): (Vec<_>, Vec<_>) =
        programs.into_iter().partition(|program| ALONE.contains(&program.name.as_str()));
    runner.side_by_side(&together, SIDE_BY_SIDE);
    runner.side_by_side(&alone, 1);
    if args.packages.is_empty() && args.only.is_none() {
        runner.doc_tests()?;
    }
    let verdicts = runner.verdicts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let skips = verdict::read_skips(&fs::read_to_string(&skips).unwrap_or_default());
    let total = Total::of(&verdicts, &skips, EXPECTED_SKIPS);
    say(&format!(
        "compiling took {:.0} s, running {:.0} s (all test programs one after another: {:.0} s)",
        compiled.as_secs_f64(),
        (begun.elapsed() - compiled).as_secs_f64(),
        runner_time(&verdicts),
    ));
    total.print();
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Runner {
    logs: PathBuf,
    skips: PathBuf,
    rest: Vec<String>,
    verdicts: Mutex<Vec<Verdict>>,
}

impl Runner {
    fn side_by_side(&self, programs: &[TestProgram], threads: usize) {
        let next = Mutex::new(programs.iter());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(program) = next.lock().ok().and_then(|mut next| next.next()) {
                        self.run(program);
                    }
                });
            }
        });
    }

    fn run(&self, program: &TestProgram) {
        let log = self.log(&program.name);
        let mut command = std::process::Command::new(&program.path);
        command
            .args(&self.rest)
            .current_dir(&program.dir)
            .env("CARGO_MANIFEST_DIR", &program.dir)
            .env("SKERRY_BIN_DIR", paths::target().join("release"))
            .env(skerry_lab::SKIPS, &self.skips)
            .env("RUST_BACKTRACE", "1");
        self.judge(&program.name, command, &log);
    }

    /// The examples in the documentation of those crates that have any.
    fn doc_tests(&self) -> Result<()> {
        let packages = packages_with_examples(&paths::workspace())?;
        if packages.is_empty() {
            return Ok(());
        }
        let mut command = build::cargo();
        command.args(["test", "--release", "--doc"]);
        for package in &packages {
            command.args(["--package", package]);
        }
        self.judge("documentation", command, &self.log("documentation"));
        Ok(())
    }

    fn judge(&self, name: &str, command: std::process::Command, log: &Path) {
        let verdict = verdict::run(name, command, log, LIMIT);
        verdict.print(log);
        if let Ok(mut verdicts) = self.verdicts.lock() {
            verdicts.push(verdict);
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{}.log", name.replace(['/', ' '], "-")))
    }
}

/// The sums, and what is to be named below them.
#[derive(Debug, Default)]
pub struct Total {
    passed: usize,
    pub failed: usize,
    skipped: BTreeMap<String, String>,
    failures: Vec<String>,
}

impl Total {
    /// `expected`: why a test may be skipped, as the beginning of the reason that it gives.
    pub fn of(verdicts: &[Verdict], skips: &[(String, String)], expected: &[&str]) -> Total {
        let mut total = Total::default();
        for verdict in verdicts {
            total.passed += verdict.passed;
            total.failed += verdict.failed.len();
            total.failures.extend(verdict.failed.iter().map(|test| format!("{}: {test}", verdict.name)));
            for test in &verdict.ignored {
                total.skip(&format!("{}: {test}", verdict.name), "marked #[ignore]", expected);
            }
        }
        for (test, why) in skips {
            // It returned early, which its own program counts as passed.
            total.passed = total.passed.saturating_sub(1);
            total.skip(test, why, expected);
        }
        total
    }

    fn skip(&mut self, test: &str, why: &str, expected: &[&str]) {
        if expected.iter().any(|expected| why.starts_with(expected)) {
            self.skipped.insert(test.to_owned(), why.to_owned());
        } else {
            self.failed += 1;
            self.failures.push(format!("{test}: skipped unexpectedly: {why}"));
        }
    }

    pub fn print(&self) {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        for (test, why) in &self.skipped {
            println!("skipped: {test}: {why}");
        }
        println!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped.len());
    }
}

fn runner_time(verdicts: &[Verdict]) -> f64 {
    verdicts.iter().map(|verdict| verdict.took.as_secs_f64()).sum()
}

/// Packages of the workspace that have a library and a code block in a documentation comment.
fn packages_with_examples(workspace: &Path) -> Result<Vec<String>> {
    let out = build::cargo().args(["metadata", "--format-version=1", "--no-deps"]).output();
    let metadata: serde_json::Value = serde_json::from_slice(&out.context("start cargo metadata")?.stdout)?;
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let library = package["targets"].as_array().into_iter().flatten().find(|t| t["kind"][0] == "lib");
        let source =
            library.and_then(|target| target["src_path"].as_str()).map(Path::new).and_then(Path::parent);
        let (Some(name), Some(source)) = (package["name"].as_str(), source) else { continue };
        if source.starts_with(workspace) && has_example(source)? {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

fn has_example(dir: &Path) -> Result<bool> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?.flatten() {
        let path = entry.path();
        let found = if path.is_dir() {
            has_example(&path)?
        } else {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let plain = |line: &str| {
                let doc = line.trim_start();
                let doc = doc.strip_prefix("///").or_else(|| doc.strip_prefix("//!")).map(str::trim);
                matches!(doc, Some("```" | "```rust" | "```no_run"))
            };
            path.extension().is_some_and(|e| e == "rs") && text.lines().any(plain)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_no_pass_and_an_unexpected_one_fails() {
        let verdict = Verdict { passed: 5, ignored: vec!["slow".into()], ..Verdict::named("a") };
        let skips = [
            ("x".to_owned(), "no Kubernetes reference here".to_owned()),
            ("y".to_owned(), "no idea".to_owned()),
        ];
        let total = Total::of(&[verdict], &skips, EXPECTED_SKIPS);
        assert_eq!((total.passed, total.failed, total.skipped.len()), (3, 2, 1));
        assert!(total.failures.iter().any(|f| f.contains("a: slow")));
    }
}
