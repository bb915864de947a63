//! Cargo, called so that `up`, tests and benches share every artifact.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use skerry_lab::paths;

use crate::{progress::Progress, say};

/// The kernel programs' package: its panic handler breaks builds for the host.
pub const KERNEL_PROGRAMS: &str = "proxy-ebpf";
/// Writes down what the API server's schemas are made of; compiles for half a minute.
const DEFINITIONS: &str = "skerry-schema-definitions";
/// Every package that is built for the host by `up` and the tests.
pub const WORKSPACE: &[&str] = &["--workspace", "--exclude", KERNEL_PROGRAMS, "--exclude", DEFINITIONS];

/// A test program that cargo built.
#[derive(Clone, Debug)]
pub struct TestProgram {
    /// `PACKAGE` for unit tests, `PACKAGE/TARGET` for the others.
    pub name: String,
    pub path: PathBuf,
    /// The package's folder, in which cargo runs tests.
    pub dir: PathBuf,
}

/// What `up` starts: the binary that a person types, with all daemons, and the CNI plugin.
const PROGRAMS: &[&str] = &["skerry", "skerry-cni"];

/// The kernel programs, then the programs of a node, in the release profile.
///
/// # Errors
/// When a compiler says no; its messages are above.
pub fn programs(progress: &Progress) -> Result<()> {
    progress.step("compiling the kernel programs");
    ebpf_build::build_by(|command| progress.run(command)).context("build the kernel programs")?;
    progress.step(&format!("compiling {} (release)", PROGRAMS.join(" and ")));
    progress.cargo(&mut binaries_command(PROGRAMS))
}

/// How many steps [`programs`] has.
pub const STEPS: usize = 2;

/// # Errors
/// When a compiler says no; its messages are above.
pub fn binaries(names: &[&str]) -> Result<()> {
    succeed(&mut binaries_command(names))
}

fn binaries_command(names: &[&str]) -> Command {
    // All packages are selected, though few are compiled: so cargo chooses the same features of every
    // dependency as for the tests and benches, and nothing is built twice.
    let bins = names.iter().flat_map(|name| ["--bin", name]);
    let mut command = cargo();
    command.args(["build", "--release"]).args(WORKSPACE).args(bins);
    command
}

/// Every test program of the workspace, or of some packages, in the release profile.
///
/// # Errors
/// When a compiler says no; its messages are above.
pub fn tests(packages: &[String]) -> Result<Vec<TestProgram>> {
    say("building the tests (release)");
    let mut command = cargo();
    command.args(["test", "--release", "--no-run", "--message-format=json-render-diagnostics"]);
    if packages.is_empty() {
        command.args(WORKSPACE);
    }
    for package in packages {
        command.args(["--package", package]);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().context("start cargo test --no-run")?;
    let stdout = child.stdout.take().context("cargo's messages")?;
    let mut programs = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read cargo's messages")?;
        let message: Value =
            serde_json::from_str(&line).with_context(|| format!("read a message of cargo: {line}"))?;
        programs.extend(test_program(&message));
    }
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("cargo test --no-run: {status}");
    }
    Ok(programs)
}

/// Writes `standalone/schema/build/definitions.json.gz` anew, from the k8s-openapi that Cargo.lock names.
///
/// # Errors
/// When it can't be built, run or written.
pub fn definitions() -> Result<()> {
    let lock = fs::read_to_string(paths::workspace().join("Cargo.lock")).context("read Cargo.lock")?;
    let version = locked(&lock, "k8s-openapi").context("Cargo.lock names no k8s-openapi")?;
    let made = cargo().args(["run", "--quiet", "--package", DEFINITIONS, "--", version]).output();
    let made = made.context("start cargo run")?;
    if !made.status.success() {
        bail!("{DEFINITIONS}: {}: {}", made.status, String::from_utf8_lossy(&made.stderr));
    }
    let path = paths::workspace().join("standalone/schema/build/definitions.json.gz");
    fs::write(&path, made.stdout).with_context(|| format!("write {}", path.display()))
}

/// The version of a package in the text of a Cargo.lock.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split_once('"').map(|(version, _)| version)
}

/// Runs a command whose output the person sees.
///
/// # Errors
/// When it ends with another code than 0.
pub fn succeed(command: &mut Command) -> Result<()> {
    let shown = skerry_lab::shown(command);
    let status =
        command.current_dir(paths::workspace()).status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}`: {status}");
    }
    Ok(())
}

/// Cargo as a person would start it: what `cargo run` tells xtask of its own package stays behind, since
/// build scripts that look at it (ring's) would run again, and all that rests on them would be built again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::workspace());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|start| text.starts_with(start))
        {
            command.env_remove(&name);
        }
    }
    command
}

fn test_program(message: &Value) -> Option<TestProgram> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let package = package_name(message["package_id"].as_str()?)?;
    let target = message["target"]["name"].as_str()?;
    let kind = message["target"]["kind"][0].as_str()?;
    let name = match kind {
        "lib" => package,
        "bin" => format!("{package}/bin {target}"),
        _ => format!("{package}/{target}"),
    };
    Some(TestProgram { name, path, dir })
}

/// `path+file:///…/lab#skerry-lab@0.1.0`, or `…/proxy-abi#0.1.0` where the folder has the package's name.
fn package_name(id: &str) -> Option<String> {
    let (path, version) = id.rsplit_once('#')?;
    match version.split_once('@') {
        Some((name, _)) => Some(name.to_owned()),
        None => Some(path.rsplit('/').next()?.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_cargo_becomes_a_test_program() {
        let message = serde_json::json!({
            "reason": "compiler-artifact", "package_id": "path+file:///w/lab#skerry-lab@0.1.0",
            "manifest_path": "/w/lab/Cargo.toml", "target": {"kind": ["test"], "name": "nodes"},
            "profile": {"test": true}, "executable": "/w/target/release/deps/nodes-1",
        });
        let program = test_program(&message).unwrap();
        assert_eq!((program.name.as_str(), program.dir), ("skerry-lab/nodes", PathBuf::from("/w/lab")));
        assert_eq!(package_name("path+file:///w/proxy-abi#0.1.0").unwrap(), "proxy-abi");
    }
}
