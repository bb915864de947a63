//! `mutants`: changes the code in small ways, one at a time, and asks the tests whether they notice
//! (cargo-mutants).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use skerry_lab::paths;

use crate::{build, say, setup};

/// What a run mutates: code that only computes, with the tests that are to notice.
struct Scope {
    package: &'static str,
    /// Of the package's files, as globs from the workspace's root; none: all.
    files: &'static [&'static str],
    /// Packages whose tests are asked; the package's own alone where there are none.
    tests: &'static [&'static str],
    /// For `cargo test`: what needs no root and no node.
    only: &'static [&'static str],
}

const SCOPES: &[Scope] = &[
    Scope { package: "proxy-abi", files: &[], tests: &["proxy-abi", "proxy-datapath"], only: &[] },
    Scope { package: "proxy-datapath", files: &[], tests: &[], only: &[] },
    Scope { package: "proxy-state", files: &[], tests: &[], only: &[] },
    Scope {
        package: "skerry-schema",
        files: &["standalone/schema/src/rules/*.rs", "standalone/schema/src/patch/*.rs"],
        tests: &[],
        only: &[],
    },
    Scope {
        package: "skerry-controllers",
        files: &[
            "standalone/controllers/src/**/plan.rs",
            "standalone/controllers/src/**/plan/*.rs",
            "standalone/controllers/src/deployment/*.rs",
            "standalone/controllers/src/endpointslice/*.rs",
            "standalone/controllers/src/**/judge.rs",
        ],
        tests: &[],
        only: &["--lib"],
    },
    Scope {
        package: "skerry-scheduler",
        files: &["standalone/scheduler/src/plugins.rs", "standalone/scheduler/src/plugins/*.rs"],
        tests: &[],
        only: &["--lib"],
    },
    Scope {
        package: "skerry-kubelet",
        files: &[
            "standalone/kubelet/src/pods/decide.rs",
            "standalone/kubelet/src/pods/decide/*.rs",
            "standalone/kubelet/src/pods/status.rs",
        ],
        tests: &[],
        only: &["--lib"],
    },
    Scope { package: "skerry-store", files: &[], tests: &[], only: &["--lib"] },
];

/// Worlds of the datapath's fuzzer for each mutant: a second's worth. A full run has ten times as many.
const FUZZ_WORLDS: &str = "2000";
/// A mutant whose tests take longer is one that they notice.
const LIMIT_S: &str = "120";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whole crates instead of the lines that this branch changes
    #[arg(short, long = "package")]
    packages: Vec<String>,
    /// So many mutants of each crate, drawn by the seed; all without it
    #[arg(long, requires = "packages")]
    sample: Option<usize>,
    /// Which ones a sample draws
    #[arg(long, default_value_t = 1, requires = "sample")]
    seed: u64,
    /// What the lines of this branch are compared with
    #[arg(long, default_value = "main", conflicts_with = "packages")]
    against: String,
    /// Percent of the mutants that the tests must notice
    #[arg(long, default_value_t = 90)]
    at_least: usize,
}

/// # Errors
/// When a crate is none of those that only compute, its tests fail as it is, or cargo-mutants can't be had.
/// Survivors beyond what is allowed give exit code 1.
pub fn run(args: &Args) -> Result<ExitCode> {
    let scopes = scopes(&args.packages)?;
    setup::cargo_tool(&setup::CARGO_MUTANTS)?;
    let diff = if args.packages.is_empty() { Some(changes_against(&args.against)?) } else { None };
    let mut total = Outcome::default();
    for scope in scopes {
        say(&format!("mutants of {}", scope.package));
        let chosen = match args.sample {
            Some(count) => Some(draw(names(scope)?, count, args.seed)),
            None => None,
        };
        let outcome = scope.test(diff.as_deref(), chosen.as_deref())?;
        println!("{}: {}", scope.package, outcome.line());
        total.add(outcome);
    }
    for survivor in &total.survivors {
        println!("not noticed: {survivor}");
    }
    println!("{}", total.line());
    // Where nothing could be changed nothing went unnoticed.
    let is_enough = total.percent().is_none_or(|percent| percent >= args.at_least);
    Ok(if is_enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn scopes(packages: &[String]) -> Result<Vec<&'static Scope>> {
    if packages.is_empty() {
        return Ok(SCOPES.iter().collect());
    }
    let one = |name: &String| {
        let known = || SCOPES.iter().map(|scope| scope.package).collect::<Vec<_>>().join(", ");
        let found = SCOPES.iter().find(|scope| scope.package == name);
        found.with_context(|| {
            format!("--package {name}: not among the crates that only compute ({})", known())
        })
    };
    packages.iter().map(one).collect()
}

/// A file with what this branch changes, committed or not.
fn changes_against(revision: &str) -> Result<PathBuf> {
    let git = |args: &[&str]| -> Result<Vec<u8>> {
        let done = Command::new("git").args(args).current_dir(paths::workspace()).output();
        let done = done.context("start git")?;
        ensure!(
            done.status.success(),
            "git {}: {} (--against names another revision, --package whole crates)",
            args.join(" "),
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(done.stdout)
    };
    let base = String::from_utf8(git(&["merge-base", revision, "HEAD"])?).context("read git's answer")?;
    let folder = out();
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join("changes.diff");
    fs::write(&path, git(&["diff", base.trim()])?).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

fn out() -> PathBuf {
    paths::target().join("mutants")
}

/// All mutants of a scope, by name: place, and what is changed.
fn names(scope: &Scope) -> Result<Vec<String>> {
    let done = scope.command().args(["--list", "--json"]).output().context("start cargo mutants --list")?;
    if !done.status.success() {
        bail!("cargo mutants --list: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    let list: Value = serde_json::from_slice(&done.stdout).context("read cargo-mutants' list")?;
    let names = list.as_array().into_iter().flatten().filter_map(|mutant| mutant["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// `count` of them: the same ones for the same seed and code.
fn draw(mut names: Vec<String>, count: usize, seed: u64) -> Vec<String> {
    let mut state = seed;
    let mut random = || {
        // splitmix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    for place in 0..count.min(names.len()) {
        let rest = (names.len() - place) as u64;
        names.swap(place, place + (random() % rest) as usize);
    }
    names.truncate(count);
    names
}

impl Scope {
    fn command(&self) -> Command {
        let mut command = build::cargo();
        command.args(["mutants", "--colors=never", "--package", self.package]);
        for file in self.files {
            command.args(["--file", file]);
        }
        command
    }

    fn test(&self, diff: Option<&Path>, chosen: Option<&[String]>) -> Result<Outcome> {
        let folder = out().join(self.package);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let mut command = self.command();
        command.args(["--timeout", LIMIT_S, "--no-shuffle", "--output"]).arg(&folder);
        command.env("SKERRY_FUZZ_WORLDS", FUZZ_WORLDS);
        if !self.tests.is_empty() {
            command.args(["--test-package", &self.tests.join(",")]);
        }
        if let Some(diff) = diff {
            command.arg("--in-diff").arg(diff);
        }
        for name in chosen.into_iter().flatten() {
            command.args(["--re", &exactly(name)]);
        }
        if !self.only.is_empty() {
            command.arg("--").args(self.only);
        }
        let status = command.status().context("start cargo mutants")?;
        // Survivors and time-outs have codes of their own: they are counted below.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            bail!("cargo mutants --package {}: {status}; its messages are above", self.package);
        }
        let outcomes = folder.join("mutants.out/outcomes.json");
        if !outcomes.exists() {
            return Ok(Outcome::default());
        }
        let text = fs::read(&outcomes).with_context(|| format!("read {}", outcomes.display()))?;
        let outcome = Outcome::read(&serde_json::from_slice(&text).context("read cargo-mutants' outcomes")?)?;
        if let Some(chosen) = chosen {
            // It adds fields that are left out of a structure, whatever the names say.
            let tested = outcome.noticed() + outcome.unviable + outcome.survivors.len();
            ensure!(tested >= chosen.len(), "{} mutants were drawn, and {tested} tested", chosen.len());
        }
        Ok(outcome)
    }
}

/// A regular expression that matches this text and no other.
fn exactly(text: &str) -> String {
    let mut pattern = String::from("^");
    for letter in text.chars() {
        // No other is to be escaped: `\>` is the end of a word.
        if r"\.+*?()|[]{}^$".contains(letter) {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern + "$"
}

/// How a run went.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    caught: usize,
    /// Their tests never came to an end, which is noticed, too.
    timed_out: usize,
    /// Did not compile: no mutants.
    unviable: usize,
    survivors: Vec<String>,
}

impl Outcome {
    fn read(outcomes: &Value) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for one in outcomes["outcomes"].as_array().context("cargo-mutants' outcomes hold no list")? {
            // The first is the code as it is.
            let Some(name) = one["scenario"]["Mutant"]["name"].as_str() else { continue };
            match one["summary"].as_str() {
                Some("CaughtMutant") => outcome.caught += 1,
                Some("Timeout") => outcome.timed_out += 1,
                Some("Unviable") => outcome.unviable += 1,
                Some("MissedMutant") => outcome.survivors.push(name.to_owned()),
                other => bail!("cargo-mutants' outcome of {name} is {other:?}"),
            }
        }
        Ok(outcome)
    }

    fn add(&mut self, other: Outcome) {
        self.caught += other.caught;
        self.timed_out += other.timed_out;
        self.unviable += other.unviable;
        self.survivors.extend(other.survivors);
    }

    const fn noticed(&self) -> usize {
        self.caught + self.timed_out
    }

    /// Of those that compile, rounded down; none where there are none.
    const fn percent(&self) -> Option<usize> {
        (self.noticed() * 100).checked_div(self.noticed() + self.survivors.len())
    }

    fn line(&self) -> String {
        let Outcome { caught, timed_out, unviable, survivors } = self;
        let missed = survivors.len();
        match self.percent() {
            Some(percent) => format!(
                "{caught} mutants caught, {missed} missed, {timed_out} timed out, {unviable} unviable: {percent}% noticed"
            ),
            None => format!("no mutants, {unviable} unviable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_and_survivors_named() {
        let mutant = |name: &str, summary: &str| serde_json::json!({"scenario": {"Mutant": {"name": name}}, "summary": summary});
        let outcomes = serde_json::json!({"outcomes": [
            {"scenario": "Baseline", "summary": "Success"},
            mutant("a.rs:1:2: replace a with 0", "CaughtMutant"),
            mutant("a.rs:3:4: replace + with -", "MissedMutant"),
            mutant("a.rs:5:6: replace < with <=", "Timeout"),
            mutant("a.rs:7:8: replace b with Default::default()", "Unviable"),
        ]});
        let outcome = Outcome::read(&outcomes).unwrap();
        assert_eq!(outcome.survivors, ["a.rs:3:4: replace + with -"]);
        assert_eq!(outcome.line(), "1 mutants caught, 1 missed, 1 timed out, 1 unviable: 66% noticed");
        assert!(Outcome::read(&serde_json::json!({"outcomes": [mutant("x", "Failure")]})).is_err());
        assert_eq!(Outcome::default().percent(), None);
    }

    #[test]
    fn a_sample_is_drawn_by_its_seed_and_has_no_mutant_twice() {
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let one = draw(names.clone(), 30, 7);
        assert_eq!(one, draw(names.clone(), 30, 7));
        assert_ne!(one, draw(names.clone(), 30, 8));
        let mut unique = one.clone();
        unique.sort();
        unique.dedup();
        assert_eq!((one.len(), unique.len()), (30, 30));
        assert_eq!(draw(names, 200, 7).len(), 100, "no more than there are");
    }

    #[test]
    fn a_name_is_matched_as_it_is() {
        assert_eq!(exactly("a-b.rs:1:2: x -> u8 with 1 + 1"), r"^a-b\.rs:1:2: x -> u8 with 1 \+ 1$");
    }

    #[test]
    fn only_crates_that_compute_are_mutated() {
        let error = scopes(&["proxy-agent".to_owned()]).err().unwrap().to_string();
        assert!(error.starts_with("--package proxy-agent: not among"), "{error}");
        assert_eq!(scopes(&[]).unwrap().len(), SCOPES.len());
        for file in SCOPES.iter().flat_map(|scope| scope.files) {
            let folder = file.split("/*").next().unwrap();
            assert!(paths::workspace().join(folder).exists(), "{file}: no such files");
        }
    }
}
